package predictions

import (
	"io"
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-replicate/replicate-webhook/internal/prediction"
	"github.com/caddy-replicate/replicate-webhook/internal/tracker"
)

// keptHeaders are those of a response that are kept with it.
var keptHeaders = []string{"Content-Type", "Content-Encoding", "Content-Language", "Content-Disposition", "Content-Location", statusHeader}

// contentHeader returns a copy of what is kept of a header.
func contentHeader(h http.Header) http.Header {
	out := make(http.Header)
	for _, name := range keptHeaders {
		if values := h.Values(name); len(values) > 0 {
			out[http.CanonicalHeaderKey(name)] = slices.Clone(values)
		}
	}
	return out
}

// keeps reports whether a response of that status is kept: the API would respond
// alike to the same request again, or has accepted it.
func keeps(status int) bool {
	switch status {
	case http.StatusBadRequest, http.StatusNotFound, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity:
		return true
	}
	return accepted(status)
}

func accepted(status int) bool { return status >= 200 && status <= 299 }

// keptResponse is the ResponseWriter of a create under an Idempotency-Key. It holds
// the response until it is committed, or the prediction's id where it is larger than
// what is kept.
type keptResponse struct {
	*caddyhttp.ResponseWriterWrapper
	k      *keyed
	charge interface {
		Take(n int) bool
		Return()
	}

	status  int
	passing bool // nothing is held any more
	buf     []byte
	scanner prediction.Scanner
	large   bool // the scanner has seen buf
}

// WriteHeader decides on the first final status.
func (a *keptResponse) WriteHeader(status int) {
	switch {
	case status < 200 && status != http.StatusSwitchingProtocols:
		a.ResponseWriterWrapper.WriteHeader(status)
		return
	case a.status != 0:
		return
	}
	a.status = status
	if a.k.x.Open() && !keeps(status) {
		a.k.release()
	}
	if !a.k.x.Open() || !keeps(status) {
		a.leave()
	}
}

func (a *keptResponse) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	if a.passing {
		return a.ResponseWriterWrapper.Write(p)
	}
	fits := a.charge.Take(len(p))
	a.buf = append(a.buf, p...)
	if a.large {
		_, _ = a.scanner.Write(p)
	}
	if len(a.buf) > tracker.MaxAnswer || !fits {
		a.overflow(fits && int64(len(a.buf)) <= a.k.h.MaxBody)
	}
	return len(p), nil
}

// overflow handles a response that is larger than what is kept. wait reports whether
// more of it can be held until its id comes.
func (a *keptResponse) overflow(wait bool) {
	id := a.id()
	switch {
	case !accepted(a.status):
		a.k.release() // nothing was created
	case id != "":
		a.k.settle(&tracker.Answer{Status: a.status, ID: id, IDOnly: true})
	case wait:
		return
	default:
		a.k.forget("the response is too large to be kept, and has no id")
	}
	a.leave()
}

// id returns the valid id of what is held, or empty.
func (a *keptResponse) id() string {
	if !a.large {
		a.large, a.scanner = true, prediction.NewScanner()
		_, _ = a.scanner.Write(a.buf)
	}
	if id := a.scanner.ID(); accepted(a.status) && prediction.ValidID(id) {
		return id
	}
	return ""
}

// leave sends what is held. What follows passes.
func (a *keptResponse) leave() {
	a.passing = true
	a.ResponseWriterWrapper.WriteHeader(a.status)
	if len(a.buf) > 0 {
		_, _ = a.ResponseWriterWrapper.Write(a.buf)
		a.buf = nil
	}
}

// FlushError flushes what passes.
func (a *keptResponse) FlushError() error {
	if !a.passing {
		return nil
	}
	return http.NewResponseController(a.ResponseWriter).Flush()
}

// ReadFrom is that of the connection once the response passes.
func (a *keptResponse) ReadFrom(r io.Reader) (int64, error) {
	if a.passing {
		return a.ResponseWriterWrapper.ReadFrom(r)
	}
	return io.Copy(struct{ io.Writer }{a}, r)
}

// finish commits what came of the create, and sends what is held.
func (a *keptResponse) finish(complete bool) {
	switch {
	case a.passing:
		return
	case a.status == 0:
		switch {
		case !a.k.x.Open():
		case a.k.lost():
			a.k.forget("the connection to the API broke before a response")
		default:
			a.k.release()
		}
		return
	}
	switch id := a.id(); {
	case !a.k.x.Open():
	case complete && len(a.buf) <= tracker.MaxAnswer:
		a.k.settle(&tracker.Answer{Status: a.status, Header: contentHeader(a.Header()), Body: a.buf, ID: id})
	case !accepted(a.status):
		a.k.release()
	case id != "":
		a.k.settle(&tracker.Answer{Status: a.status, ID: id, IDOnly: true})
	default:
		a.k.forget("the response broke off, or is too large to be kept, and has no id")
	}
	a.leave()
	if !complete {
		_ = a.FlushError()
	}
}

// Interface guard.
var _ io.ReaderFrom = (*keptResponse)(nil)
