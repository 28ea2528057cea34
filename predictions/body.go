package predictions

import (
	"errors"
	"io"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-replicate/replicate-webhook/internal/body"
	"github.com/caddy-replicate/replicate-webhook/internal/ecmajson"
)

// A request body begins in a buffer of its own, of no more than smallBody: what
// a header promises costs nothing until it arrives. When it does, the body moves
// to a buffer of pooledBody out of a pool.
const (
	smallBody  = 4 << 10
	pooledBody = 64 << 10
)

// A body may take readGrace and the time in which readRate, in bytes a second,
// moves it. A sender that stops, or trickles, would otherwise keep its share of
// the budget from others for as long as it likes.
const (
	readGrace = 30 * time.Second
	readRate  = 64 << 10
)

var bodies = sync.Pool{New: func() any {
	b := make([]byte, 0, pooledBody+1)
	return &b
}}

// buffered is a request body that was read, and is replayed to the next
// handler. A transport may still read from it in another goroutine after that
// handler has returned, so all is under a lock until close.
type buffered struct {
	mu     sync.Mutex
	data   []byte
	at     int
	rest   io.ReadCloser // what follows data, nil when that is all
	charge *body.Charge
	pooled *[]byte
	closed bool
	// watch searches the rest as it is read, if it is set.
	watch *ecmajson.KeyFinder
}

// errNamed ends a body in which a member of ours was found too late.
var errNamed = errors.New("the body is over max_body and names a webhook")

func tooBusy() *problem {
	return &problem{status: http.StatusServiceUnavailable, retry: budgetRetry, closing: true,
		detail: "too many request bytes are being received at the moment"}
}

// readBody reads a request's body up to limit bytes. Of a longer one the rest
// stays to be read from the buffered, at the pace of its reader. Errors
// are *problem.
func readBody(w http.ResponseWriter, r *http.Request, limit int64, charge *body.Charge) (*buffered, error) {
	size := limit
	if r.ContentLength >= 0 {
		size = min(size, r.ContentLength)
	}
	return readBodyIn(w, r, limit, readGrace+time.Duration(size)*time.Second/readRate, charge)
}

func readBodyIn(w http.ResponseWriter, r *http.Request, limit int64, timeout time.Duration, charge *body.Charge) (*buffered, error) {
	b := &buffered{charge: charge}
	var err error
	b.data, err = body.Read(w, r, body.Limits{Size: limit, Timeout: timeout, Charge: charge, First: smallBody, Grow: b.grow})
	switch {
	case err == nil:
	case errors.Is(err, body.ErrBudget):
		b.Close()
		return nil, tooBusy()
	case err == body.ErrTooLarge: // alone: there is a rest
		b.rest = r.Body
	default:
		b.Close()
		return nil, readProblem(err)
	}
	return b, nil
}

// grow moves a full buffer to one of the pool, and doubles one that is larger.
func (b *buffered) grow(data []byte) []byte {
	if b.pooled != nil || len(data) > pooledBody {
		return slices.Grow(data, len(data))
	}
	b.pooled = bodies.Get().(*[]byte)
	return append((*b.pooled)[:0], data...)
}

func readProblem(err error) *problem {
	p := &problem{status: http.StatusBadRequest, detail: "the body could not be read", closing: true, cause: err}
	var tooLarge *http.MaxBytesError
	var other caddyhttp.HandlerError
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		p.status, p.detail = http.StatusRequestTimeout, "the body did not arrive in time"
	case errors.As(err, &tooLarge):
		p.status, p.detail = http.StatusRequestEntityTooLarge, "the body is too large"
	case errors.As(err, &other) && other.StatusCode >= 400 && other.StatusCode < 500:
		p.status, p.detail = other.StatusCode, http.StatusText(other.StatusCode)
	}
	return p
}

// replace puts another body in the place of what was read. The bytes read are
// given back: nothing may refer to them any more.
func (b *buffered) replace(data []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.recycle()
	b.data = data
}

// Read reads the buffered bytes, then the rest.
func (b *buffered) Read(p []byte) (int, error) {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return 0, http.ErrBodyReadAfterClose
	}
	if b.at < len(b.data) {
		n := copy(p, b.data[b.at:])
		b.at += n
		b.mu.Unlock()
		return n, nil
	}
	// What has been sent is not held until the response comes.
	b.free()
	rest := b.rest
	b.mu.Unlock()
	if rest == nil {
		return 0, io.EOF
	}
	n, err := rest.Read(p)
	if b.watch != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		if _, _ = b.watch.Write(p[:n]); b.watch.Found() != "" {
			return 0, errNamed
		}
	}
	return n, err
}

// seen returns the member that was found in the rest, or empty.
func (b *buffered) seen() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.watch.Found()
}

// Close ends reading and releases everything.
func (b *buffered) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.free()
	return nil
}

func (b *buffered) free() {
	b.recycle()
	b.data, b.at = nil, 0
	b.charge.Return()
}

func (b *buffered) recycle() {
	if b.pooled != nil {
		// One that had to grow is left to the collector, the pool keeps
		// the one it knows.
		bodies.Put(b.pooled)
		b.pooled = nil
	}
}

// Interface guards.
var _ io.ReadCloser = (*buffered)(nil)
