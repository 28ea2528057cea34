// Package exchange watches the answer to a request that is passed on, so that
// what has to be committed is committed before the answer leaves.
package exchange

import (
	"bufio"
	"io"
	"net"
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Writer is the ResponseWriter of one exchange. Nothing of a 2xx leaves before
// accept has committed it; when that fails, nothing of it leaves at all.
// Answers stream: nothing is buffered.
type Writer struct {
	*caddyhttp.ResponseWriterWrapper
	accept   func() error
	before   http.Header
	decided  bool
	accepted bool
	refused  http.Header // what is added to an answer that does not leave
	err      error
}

// NewWriter wraps w. accept is called once, at the first sign of a 2xx.
func NewWriter(w http.ResponseWriter, accept func() error) *Writer {
	return &Writer{
		ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w},
		accept:                accept,
		before:                w.Header().Clone(),
	}
}

// Finish is told that the handler returned without an error: net/http answers
// 200 for one that wrote nothing.
func (x *Writer) Finish() { x.decide(http.StatusOK) }

// Accepted reports a 2xx that was committed.
func (x *Writer) Accepted() bool { return x.accepted }

// Err is why a 2xx could not be committed, and so did not leave.
func (x *Writer) Err() error { return x.err }

func (x *Writer) decide(status int) {
	if x.decided {
		return
	}
	x.decided = true
	if status < 200 || status > 299 {
		return
	}
	if x.err = x.accept(); x.err == nil {
		x.accepted = true
		return
	}
	// The app's headers do not belong to the 503 that takes its place, nor do
	// the trailers that a proxy adds after the body.
	h := x.Header()
	clear(h)
	for name, values := range x.before {
		h[name] = values
	}
	x.refused = make(http.Header)
}

// Header is the answer's header, and nobody's once it has been refused.
func (x *Writer) Header() http.Header {
	if x.refused != nil {
		return x.refused
	}
	return x.ResponseWriterWrapper.Header()
}

// WriteHeader decides on the first final status. Informational ones pass.
func (x *Writer) WriteHeader(status int) {
	if status < 200 && status != http.StatusSwitchingProtocols {
		x.ResponseWriterWrapper.WriteHeader(status)
		return
	}
	x.decide(status)
	if x.err == nil {
		x.ResponseWriterWrapper.WriteHeader(status)
	}
}

func (x *Writer) Write(p []byte) (int, error) {
	x.decide(http.StatusOK)
	if x.err != nil {
		return len(p), nil
	}
	return x.ResponseWriterWrapper.Write(p)
}

// ReadFrom keeps the fast path of copying an answer's body.
func (x *Writer) ReadFrom(r io.Reader) (int64, error) {
	x.decide(http.StatusOK)
	if x.err != nil {
		return io.Copy(io.Discard, r)
	}
	return x.ResponseWriterWrapper.ReadFrom(r)
}

// FlushError keeps a flush from sending the header before the decision.
func (x *Writer) FlushError() error {
	x.decide(http.StatusOK)
	if x.err != nil {
		return nil
	}
	return http.NewResponseController(x.ResponseWriter).Flush()
}

// Hijack takes the connection away, which is no 2xx.
func (x *Writer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	x.decide(http.StatusSwitchingProtocols)
	return http.NewResponseController(x.ResponseWriter).Hijack()
}

// Interface guards.
var (
	_ io.ReaderFrom = (*Writer)(nil)
	_ http.Hijacker = (*Writer)(nil)
)
