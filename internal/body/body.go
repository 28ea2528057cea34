// Package body reads request bodies within limits of size, time and memory.
package body

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"time"
)

// StatusClientClosedRequest is the status that logs have for a request whose
// client no longer waits for a response, as in nginx and Caddy.
const StatusClientClosedRequest = 499

// Errors of Read. Any other error is one of the request's own body.
var (
	// ErrTooLarge means that the body is longer than Limits.Size.
	ErrTooLarge = errors.New("the body is too large")
	// ErrBudget means that the budget has no room for the body.
	ErrBudget = errors.New("too many request bytes are buffered: see body_budget")
	// ErrTimeout means that the body did not arrive within Limits.Timeout.
	ErrTimeout = fmt.Errorf("the body did not arrive in time: %w", os.ErrDeadlineExceeded)
)

// Limits bound the reading of a body.
type Limits struct {
	// Size is the number of bytes that the body may have.
	Size int64
	// Timeout is the time for the whole body to arrive.
	Timeout time.Duration
	// Charge is charged with each byte that is read.
	Charge *Charge
	// First is the size of the buffer that a body begins with, unless the
	// request says that the body is shorter. The buffer grows as bytes
	// arrive, never because a header promises them.
	First int
	// Grow returns a larger buffer that begins with the given bytes. The
	// default doubles it.
	Grow func([]byte) []byte
}

// Read reads the body of r. The bytes that it returns with an error are those
// that had been read.
//
// After ErrTooLarge the rest can be read from r.Body, without a time limit. If
// the budget has no room for what was read of such a body, or the body breaks off
// there, the error is ErrTooLarge and ErrBudget or the error of the body. After any
// other error the time limit stays on the connection, whose unread rest net/http
// would otherwise wait for.
func Read(w http.ResponseWriter, r *http.Request, l Limits) ([]byte, error) {
	deadline := SetReadTimeout(w, l.Timeout)
	buf, err := l.read(r, deadline)
	if err == nil || errors.Is(err, ErrTooLarge) {
		// net/http watches the connection for its end while the handler
		// works.
		ClearReadTimeout(w)
	}
	return buf, err
}

func (l *Limits) read(r *http.Request, deadline time.Time) ([]byte, error) {
	size := int64(l.First)
	if r.ContentLength >= 0 {
		// With one byte more than the body has, the last Read can return
		// io.EOF.
		size = min(size, r.ContentLength+1)
	}
	buf := make([]byte, 0, size)
	for {
		if len(buf) == cap(buf) {
			buf = l.grow(buf)
		}
		n, err := r.Body.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		charged := l.Charge.Take(n)
		switch {
		case int64(len(buf)) > l.Size && !charged:
			return buf, errors.Join(ErrTooLarge, ErrBudget)
		case int64(len(buf)) > l.Size && err != nil && err != io.EOF:
			return buf, errors.Join(ErrTooLarge, err)
		case int64(len(buf)) > l.Size:
			return buf, ErrTooLarge
		case !charged:
			return buf, ErrBudget
		case err == io.EOF:
			return buf, nil
		case err == nil && time.Now().Before(deadline):
		case err == nil, errors.Is(err, os.ErrDeadlineExceeded) && !time.Now().Before(deadline):
			return buf, ErrTimeout
		default:
			return buf, err
		}
	}
}

func (l *Limits) grow(buf []byte) []byte {
	if l.Grow != nil {
		return l.Grow(buf)
	}
	return slices.Grow(buf, len(buf))
}

// SetReadTimeout bounds the time in which the request's body can be read, and
// returns its end.
func SetReadTimeout(w http.ResponseWriter, timeout time.Duration) (deadline time.Time) {
	deadline = time.Now().Add(timeout)
	_ = http.NewResponseController(w).SetReadDeadline(deadline)
	return deadline
}

// ClearReadTimeout removes the bound of SetReadTimeout.
func ClearReadTimeout(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
}

// unreadTimeout is the time for which the rest of a body is read after a response
// that does not wait for it. A connection that is closed while bytes of the
// sender are unread is reset, and the reset may overtake the response. This is
// the time for a body that was sent with the headers to arrive.
const unreadTimeout = 250 * time.Millisecond

// CloseAfter ends the connection after a response that is sent before the end of
// the body. Otherwise net/http would first read up to 256 KiB of the body, however
// long the sender takes.
func CloseAfter(w http.ResponseWriter) {
	w.Header().Set("Connection", "close")
	SetReadTimeout(w, unreadTimeout)
}
