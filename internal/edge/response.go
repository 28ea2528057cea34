package edge

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
)

// errNoStatus means that no final status came, which every response of an app has.
var errNoStatus = errors.New("the handlers behind replicate_webhook returned no final status: no handler such as reverse_proxy is there, or the app's status is 101 or not valid")

// maxHeld is the longest response that is held until it is complete. net/http
// keeps as much to itself, too, until the handler returns, so that no sender waits
// longer for one.
const maxHeld = 2048

// committer commits an event that the app responded to with a status. whole means
// that the app's handler has returned, and held is what of the body is known, with
// the capacity of all of it. It is nil for a body that is not held.
type committer interface {
	commit(whole bool, status int, held []byte) error
}

// response is the ResponseWriter that the app's handler gets. Nothing of a 2xx
// leaves before the event is committed; if that fails, nothing of it leaves at all.
//
// A small response is read whole before its event is committed, so that a proxy
// can use its connection to the app again while the commit waits for the disk. Of
// any other the event is committed at the first byte, and the response streams.
type response struct {
	w         http.ResponseWriter
	committer committer
	before    http.Header // what w had
	decided   bool
	accepted  bool // a 2xx that was committed
	ended     bool // the handler has returned
	// withheld collects what is added to the header of a response that does
	// not leave.
	withheld http.Header
	// err is why a response did not leave: a 2xx that could not be committed,
	// or errNoStatus.
	err error

	// status is that of the response that is held, 0 if none is, and held is
	// what came of its body, with the capacity of its Content-Length. Its
	// header is not copied: handlers must not change it once they have written
	// it.
	status int
	held   []byte
}

func (x *response) init(w http.ResponseWriter, c committer) {
	x.w, x.committer, x.before = w, c, w.Header().Clone()
}

// finish ends the response because the handler returned, without an error if ok
// is set. A handler that wrote nothing returned no final status: net/http would
// make a 200 of that, and an event would count as accepted that no app has seen.
func (x *response) finish(ok bool) {
	x.ended = true
	switch {
	case x.status != 0:
		x.settle(http.StatusOK)
	case ok && !x.decided:
		x.withhold(errNoStatus)
	}
}

// hold begins to hold a response, and reports whether it does.
func (x *response) hold(status int) bool {
	if x.decided || status < 200 || status > 299 {
		return false
	}
	length, err := strconv.ParseUint(x.Header().Get("Content-Length"), 10, 63)
	if err != nil || length > maxHeld {
		return false
	}
	x.status, x.held = status, make([]byte, 0, length)
	return true
}

// settle decides on the response and sends what was held of it. The given status
// is that of a response which has none yet.
func (x *response) settle(status int) {
	if x.status == 0 {
		x.decide(status)
		return
	}
	status, x.status = x.status, 0
	x.decide(status)
	if x.err != nil {
		return
	}
	x.w.WriteHeader(status)
	if len(x.held) > 0 {
		// An error shows again at the next write, or as a response that is
		// cut short.
		_, _ = x.w.Write(x.held)
	}
}

// decide commits the event if the status is a 2xx.
func (x *response) decide(status int) {
	if x.decided {
		return
	}
	x.decided = true
	// It would say that this server has stored the event.
	delete(x.w.Header(), headerInbox)
	if status < 200 || status > 299 {
		return
	}
	if err := x.committer.commit(x.ended, status, x.held); err != nil {
		x.withhold(err)
		return
	}
	x.accepted = true
}

// withhold drops the response, and what may still come of it. The app's header
// does not belong to the response that takes its place, nor do the trailers that a
// proxy adds after the body.
func (x *response) withhold(err error) {
	x.decided, x.err = true, err
	h := x.w.Header()
	clear(h)
	for name, values := range x.before {
		h[name] = values
	}
	x.withheld = make(http.Header)
}

// Header returns the header of the response, or one that is dropped if the
// response is.
func (x *response) Header() http.Header {
	if x.withheld != nil {
		return x.withheld
	}
	return x.w.Header()
}

// WriteHeader takes the first final status. Informational ones are sent, except
// that protocols are not switched: a tunnel would lead around the edge. A status
// at which net/http panics, such as the 0 that intercept writes if no handler
// stands behind it, counts as none.
func (x *response) WriteHeader(status int) {
	switch {
	case x.status != 0 || x.err != nil:
		// There is one final status.
	case !x.decided && (status == http.StatusSwitchingProtocols || status < 100 || status > 999):
		x.withhold(errNoStatus)
	case status < 200:
		x.w.WriteHeader(status)
	case x.hold(status):
	default:
		x.decide(status)
		if x.err == nil {
			x.w.WriteHeader(status)
		}
	}
}

func (x *response) Write(p []byte) (int, error) {
	if x.status != 0 && len(x.held)+len(p) <= cap(x.held) {
		x.held = append(x.held, p...)
		return len(p), nil
	}
	x.settle(http.StatusOK)
	if x.err != nil {
		return len(p), nil
	}
	return x.w.Write(p)
}

// ReadFrom copies a body by the means of the underlying writer, if it has any.
func (x *response) ReadFrom(r io.Reader) (int64, error) {
	if x.status != 0 {
		return io.Copy(struct{ io.Writer }{x}, r)
	}
	x.settle(http.StatusOK)
	if x.err != nil {
		return io.Copy(io.Discard, r)
	}
	return io.Copy(x.w, r)
}

// FlushError sends what has been written, once the decision is made.
func (x *response) FlushError() error {
	x.settle(http.StatusOK)
	if x.err != nil {
		return nil
	}
	return http.NewResponseController(x.w).Flush()
}

// Hijack refuses to give the connection away: what is sent on it afterwards is not
// verified.
func (x *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return nil, nil, http.ErrNotSupported
}

// Unwrap returns the underlying writer, for http.ResponseController.
func (x *response) Unwrap() http.ResponseWriter { return x.w }

// Interface guards.
var (
	_ io.ReaderFrom = (*response)(nil)
	_ http.Hijacker = (*response)(nil)
)
