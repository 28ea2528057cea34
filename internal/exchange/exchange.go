// Package exchange watches the answer to a request that is passed on, so that
// what has to be committed is committed before the answer leaves.
package exchange

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// ErrNoStatus says that no final status came, which every response of an app has.
var ErrNoStatus = errors.New("the handlers behind replicate_webhook returned no final status: no handler such as reverse_proxy is there, or the app's status is 101 or not valid")

// small is the longest answer that is held back until it is complete. It is
// what net/http keeps to itself, too, until the handler returns, so that nobody
// waits longer for one.
const small = 2048

// Writer is the ResponseWriter of one exchange. Nothing of a 2xx leaves before
// accept has committed it; when that fails, nothing of it leaves at all.
//
// A small answer is taken in whole before it is committed, so that a proxy has
// its connection to the app back while the commit waits for the disk. Any other
// is committed at its first byte and streams.
type Writer struct {
	*caddyhttp.ResponseWriterWrapper
	accept   func(whole bool) error
	before   http.Header
	decided  bool
	accepted bool
	ended    bool
	refused  http.Header // what is added to an answer that does not leave
	err      error

	// status is that of the answer that is held back, or 0, and held what
	// came of its body, with room for what it says of its length. Its header
	// is not copied: handlers must not change it once they have written it.
	status int
	held   []byte
}

// NewWriter wraps w. accept is called once, when a 2xx is about to leave, and is
// told whether the handler has ended, so that the whole answer is here.
func NewWriter(w http.ResponseWriter, accept func(whole bool) error) *Writer {
	return &Writer{
		ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w},
		accept:                accept,
		before:                w.Header().Clone(),
	}
}

// Finish is told that the handler returned, and whether without an error. One
// that wrote nothing returned no final status: net/http would make a 200 of that, and
// an event would count as accepted that no app has seen.
func (x *Writer) Finish(ok bool) {
	x.ended = true
	switch {
	case x.status != 0:
		x.settle(http.StatusOK)
	case ok && !x.decided:
		x.refuse(ErrNoStatus)
	}
}

// Accepted reports a 2xx that was committed.
func (x *Writer) Accepted() bool { return x.accepted }

// Err is why a response did not leave: a 2xx that could not be committed, or
// ErrNoStatus.
func (x *Writer) Err() error { return x.err }

// hold begins to hold an answer back, and reports false if it is not one to be.
func (x *Writer) hold(status int) bool {
	if x.decided || status < 200 || status > 299 {
		return false
	}
	length, err := strconv.ParseUint(x.Header().Get("Content-Length"), 10, 63)
	if err != nil || length > small {
		return false
	}
	x.status, x.held = status, make([]byte, 0, length)
	return true
}

// settle decides, and lets go of what was held back. The status is that of an
// answer which has none yet.
func (x *Writer) settle(status int) {
	if x.status == 0 {
		x.decide(status)
		return
	}
	status, x.status = x.status, 0
	x.decide(status)
	if x.err != nil {
		return
	}
	x.ResponseWriterWrapper.WriteHeader(status)
	if len(x.held) > 0 {
		// An error shows again at the next write, or as an answer cut short.
		_, _ = x.ResponseWriterWrapper.Write(x.held)
	}
}

func (x *Writer) decide(status int) {
	if x.decided {
		return
	}
	x.decided = true
	if status < 200 || status > 299 {
		return
	}
	if err := x.accept(x.ended); err != nil {
		x.refuse(err)
		return
	}
	x.accepted = true
}

// refuse drops the response, and what may still come of it. The app's headers do
// not belong to the response that takes its place, nor do the trailers that a
// proxy adds after the body.
func (x *Writer) refuse(err error) {
	x.decided, x.err = true, err
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

// WriteHeader takes the first final status. Informational ones pass, except that
// protocols are not switched: a tunnel would lead round the edge. A status at
// which net/http panics, such as the 0 that intercept writes when no handler
// stands behind it, is no status.
func (x *Writer) WriteHeader(status int) {
	switch {
	case x.status != 0 || x.err != nil:
		// There is one final status.
	case !x.decided && (status == http.StatusSwitchingProtocols || status < 100 || status > 999):
		x.refuse(ErrNoStatus)
	case status < 200:
		x.ResponseWriterWrapper.WriteHeader(status)
	case x.hold(status):
	default:
		x.decide(status)
		if x.err == nil {
			x.ResponseWriterWrapper.WriteHeader(status)
		}
	}
}

func (x *Writer) Write(p []byte) (int, error) {
	if x.status != 0 && len(x.held)+len(p) <= cap(x.held) {
		x.held = append(x.held, p...)
		return len(p), nil
	}
	x.settle(http.StatusOK)
	if x.err != nil {
		return len(p), nil
	}
	return x.ResponseWriterWrapper.Write(p)
}

// ReadFrom keeps the fast path of copying an answer's body.
func (x *Writer) ReadFrom(r io.Reader) (int64, error) {
	if x.status != 0 {
		return io.Copy(struct{ io.Writer }{x}, r)
	}
	x.settle(http.StatusOK)
	if x.err != nil {
		return io.Copy(io.Discard, r)
	}
	return x.ResponseWriterWrapper.ReadFrom(r)
}

// FlushError keeps a flush from sending the header before the decision.
func (x *Writer) FlushError() error {
	x.settle(http.StatusOK)
	if x.err != nil {
		return nil
	}
	return http.NewResponseController(x.ResponseWriter).Flush()
}

// Hijack refuses to give the connection away: what is sent on it afterwards is not
// verified.
func (x *Writer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return nil, nil, http.ErrNotSupported
}

// Interface guards.
var (
	_ io.ReaderFrom = (*Writer)(nil)
	_ http.Hijacker = (*Writer)(nil)
)
