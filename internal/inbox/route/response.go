package route

import (
	"bufio"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/retryafter"
)

const (
	// maxRead is how much of a response's body is read. The connection of a
	// longer response is closed.
	maxRead = 64 << 10
	// maxKept is how much of it is kept for the log.
	maxKept = 4 << 10
)

// Errors of writing a response.
var (
	errRead  = errors.New("the rest of the response is not read: its status said all")
	errEnded = errors.New("the attempt has ended")
)

// response is the ResponseWriter of an attempt. It takes the first final status,
// which decides. It is safe for concurrent use, because a handler may go on after
// its attempt has ended: see Route.Pass.
type response struct {
	now func() time.Time

	mu      sync.Mutex
	header  http.Header
	decided bool // a final status came, or one that is not valid
	ended   bool // the attempt has
	taken   taken
}

// taken is what is known of a response.
type taken struct {
	status int // the first final status, 0 if there was none
	body   []byte
	read   int // bytes of the body
	// encoding is the Content-Encoding of body.
	encoding   string
	retryAfter time.Duration
}

func newResponse(now func() time.Time) *response {
	return &response{now: now, header: make(http.Header)}
}

// end returns what came of the response. What still comes is refused.
func (x *response) end() taken {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.ended = true
	return x.taken
}

// Header returns the header of the response.
func (x *response) Header() http.Header { return x.header }

// WriteHeader takes the first final status. Informational ones are dropped, and so
// is a response that switches protocols: nothing on a tunnel is an event. A status
// at which net/http panics, such as the 0 that intercept writes if no handler
// stands behind it, counts as none.
func (x *response) WriteHeader(status int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.writeHeader(status)
}

func (x *response) writeHeader(status int) {
	switch {
	case x.decided || x.ended:
	case status == http.StatusSwitchingProtocols || status < 100 || status > 999:
		x.decided = true
	case status < 200:
	default:
		x.decided = true
		x.taken.status = status
		x.taken.encoding = x.header.Get("Content-Encoding")
		x.taken.retryAfter, _ = retryafter.Wait(x.header, x.now())
	}
}

// Write keeps the beginning of the body, and returns an error once enough of it was
// read.
func (x *response) Write(p []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.writeHeader(http.StatusOK)
	switch {
	case x.ended:
		return 0, errEnded
	case x.taken.read+len(p) > maxRead:
		return 0, errRead
	}
	x.taken.read += len(p)
	if room := maxKept - len(x.taken.body); room > 0 {
		x.taken.body = append(x.taken.body, p[:min(room, len(p))]...)
	}
	return len(p), nil
}

// Flush decides on 200, as that of net/http does, if nothing was decided.
func (x *response) Flush() { x.WriteHeader(http.StatusOK) }

// Hijack refuses: there is no connection.
func (x *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return nil, nil, http.ErrNotSupported
}

// Interface guards.
var (
	_ http.Flusher  = (*response)(nil)
	_ http.Hijacker = (*response)(nil)
)
