package route

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/internal/body"
	"github.com/caddy-replicate/replicate-webhook/internal/delivery"
	"github.com/caddy-replicate/replicate-webhook/internal/inbox"
	"github.com/caddy-replicate/replicate-webhook/store"
)

const (
	// returnWait is how long an attempt whose time is over waits for its handler
	// to return. Most do at once; a transport of FastCGI goes on until the app
	// responds.
	returnWait = time.Second
	// maxAbandoned bounds the handlers that have not returned.
	maxAbandoned = 64
)

// Errors of an attempt.
var (
	errTimeout   = errors.New("the app did not respond in time: see upstream_timeout")
	errAborted   = errors.New("the handler gave up the response")
	errAbandoned = fmt.Errorf("%d attempts whose time was over still wait for the app: limit its time, such as by read_timeout in php_fastcgi", maxAbandoned)
)

// Pass makes one attempt. It implements delivery.App.
//
// The first final status decides, and what breaks after it changes nothing. It
// returns within the time of an attempt and a second, whatever the handlers do.
func (t *Route) Pass(ctx context.Context, d *store.Delivery, attempt int) (resp delivery.AppResponse) {
	head, err := inbox.DecodeHead(d.Inbound.Head)
	if err != nil {
		return delivery.AppResponse{Err: err}
	}
	if t.abandoned.Load() >= maxAbandoned {
		return delivery.AppResponse{Err: errAbandoned, TimedOut: true}
	}
	a := &attemptInFlight{response: newResponse(t.Now), done: make(chan struct{})}
	// The handlers see a client that leaves, not a deadline or another cause: a
	// proxy would count that against its upstream and try the next, for which
	// there is no time.
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	if t.Trace != nil {
		var end func(int, error)
		own, end = t.Trace(own, d, attempt, head.Header)
		defer func() { end(resp.Status, failure(&resp)) }()
	}
	var timer <-chan time.Time
	if t.Timeout > 0 {
		timeout := time.NewTimer(t.Timeout)
		defer timeout.Stop()
		timer = timeout.C
	}
	r, err := t.newRequest(a.watch(own), a.response, d, attempt, &head)
	if err != nil {
		return delivery.AppResponse{Err: fmt.Errorf("building the request of an event: %w", err)}
	}
	a.payload.Reader = bytes.NewReader(d.Payload)
	r.Body = &a.payload
	go a.run(t, r, d)
	select {
	case <-a.done:
		return a.result(nil)
	case <-timer:
		err = errTimeout
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	cancel()
	if !a.returns(returnWait) {
		t.abandoned.Add(1)
		go func() {
			<-a.done
			t.abandoned.Add(-1)
		}()
	}
	return a.result(err)
}

// failure returns why the app has not taken an event, nil if it has.
func failure(resp *delivery.AppResponse) error {
	if resp.Err == nil && (resp.Status < 200 || resp.Status > 299) {
		return fmt.Errorf("status %d", resp.Status)
	}
	return resp.Err
}

// attemptInFlight is an attempt under way.
type attemptInFlight struct {
	*response
	payload payload
	wire    wire

	done chan struct{} // closed when the handler has returned
	err  error         // what it returned. Set before done is closed
}

// run calls the handlers.
func (a *attemptInFlight) run(t *Route, r *http.Request, d *store.Delivery) {
	defer close(a.done)
	defer func() {
		switch v := recover(); v {
		case nil:
		case http.ErrAbortHandler: //nolint:errorlint // as net/http compares it
			a.err = errAborted
		default:
			a.err = fmt.Errorf("panic: %v", v)
			t.Logger.Error("panic in a handler of an inbox", zap.String("event_id", d.ID),
				zap.Any("panic", v), zap.ByteString("stack", debug.Stack()))
		}
	}()
	a.err = t.handler.ServeHTTP(a.response, r)
}

// returns reports whether the handler returns within a time.
func (a *attemptInFlight) returns(wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-a.done:
		return true
	case <-timer.C:
		return false
	}
}

// result returns what came of the attempt. cut is why it was ended before its
// handler returned, nil if it was not.
func (a *attemptInFlight) result(cut error) delivery.AppResponse {
	taken := a.end()
	resp := delivery.AppResponse{Status: taken.status, RetryAfter: taken.retryAfter, Body: taken.text(), Sent: a.sent()}
	switch {
	case cut != nil && (taken.status == 0 || taken.status == body.StatusClientClosedRequest):
		// A proxy writes that status itself.
		return delivery.AppResponse{Err: cut, TimedOut: errors.Is(cut, errTimeout) || errors.Is(cut, context.DeadlineExceeded), Sent: resp.Sent}
	case taken.status != 0:
		return resp
	case a.err == nil:
		resp.Err = errNoStatus
		return resp
	}
	resp.Status, resp.Err = statusOf(a.err)
	resp.TimedOut = resp.Status == http.StatusGatewayTimeout
	return resp
}

// statusOf returns the status that an error of a handler stands for, and the error
// in the words of its cause. Errors without a status, and those that claim to be a
// success, have that of a failure of the app's.
func statusOf(err error) (int, error) {
	var he caddyhttp.HandlerError
	switch {
	case errors.Is(err, errNoStatus):
		return 0, errNoStatus
	case !errors.As(err, &he) || he.StatusCode == 0:
		return http.StatusInternalServerError, err
	}
	status := he.StatusCode
	if he.Err == nil || he.Err.Error() == "" {
		he.Err = fmt.Errorf("a handler ended with status %d", status)
	}
	if status < 300 {
		status = http.StatusInternalServerError
	}
	return status, he.Err
}

// payload is the body of an attempt's request.
type payload struct {
	*bytes.Reader
	eof atomic.Bool
}

func (p *payload) Read(b []byte) (int, error) {
	n, err := p.Reader.Read(b)
	if p.Reader.Len() == 0 {
		p.eof.Store(true)
	}
	return n, err
}

// Close does nothing.
func (*payload) Close() error { return nil }

// wire knows whether the last request that net/http sent was written.
type wire struct {
	mu            sync.Mutex
	used, written bool
}

func (w *wire) set(used, written bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.used, w.written = used, written
}

// watch returns a context by which the requests of net/http's transports are
// watched.
func (a *attemptInFlight) watch(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn:      func(string) { a.wire.set(true, false) },
		WroteHeaders: func() { a.wire.set(true, true) },
	})
}

// sent reports whether the app has the request: its header was written by a
// transport of net/http, or another one has read its body.
func (a *attemptInFlight) sent() bool {
	a.wire.mu.Lock()
	defer a.wire.mu.Unlock()
	if a.wire.used {
		return a.wire.written
	}
	return a.payload.eof.Load()
}

// text returns the kept part of the body in a form that can be shown.
func (t *taken) text() string {
	switch encoding := strings.ToLower(t.encoding); {
	case len(t.body) == 0:
		return ""
	case encoding == "" || encoding == "identity":
		return delivery.Printable(t.body, t.read > len(t.body))
	case encoding == "gzip" || encoding == "x-gzip":
		z, err := gzip.NewReader(bytes.NewReader(t.body))
		if err != nil {
			break
		}
		plain, err := io.ReadAll(io.LimitReader(z, maxKept))
		if len(plain) > 0 {
			return delivery.Printable(plain, err != nil || len(plain) == maxKept)
		}
	}
	return fmt.Sprintf("(%d bytes with the encoding %s)", t.read, delivery.Printable([]byte(t.encoding), false))
}

// Interface guards.
var _ delivery.App = (*Route)(nil)
