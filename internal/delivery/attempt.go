package delivery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/internal/egress"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
	"github.com/caddy-replicate/replicate-webhook/store"
)

const (
	// idleTimeout ends connections before common servers do (Node.js after
	// 5 s): an attempt on a connection that the other end is just closing
	// would fail for nothing.
	idleTimeout = 4 * time.Second
	// minIdle is the least number of connections kept, all endpoints
	// together.
	minIdle = 512
)

// transport is what makes the requests. It is used without http.Client, whose
// redirects and cookies have no place here.
func transport(conf *Config) http.RoundTripper {
	if conf.Client != nil {
		if conf.Client.Transport == nil {
			return http.DefaultTransport
		}
		return conf.Client.Transport
	}
	t := conf.Guard.Transport()
	t.IdleConnTimeout = idleTimeout
	t.MaxIdleConnsPerHost = conf.Endpoint.Concurrency
	t.MaxIdleConns = max(minIdle, 2*conf.Endpoint.Concurrency)
	return t
}

// errNoSecret says that nothing can be sent for want of a signature.
var errNoSecret = errors.New("signing: the client has no secret")

// attempt makes one attempt. Whatever goes wrong is in the answer.
func (e *Engine) attempt(d *store.Delivery, number int, at time.Time) (a answer) {
	defer func() {
		if v := recover(); v != nil {
			a = answer{kind: kindInternal, text: "internal error", cause: fmt.Errorf("panic: %v", v)}
			e.conf.Logger.Error("panic in a delivery attempt", zap.String("delivery", d.ID),
				zap.Any("panic", v), zap.ByteString("stack", debug.Stack()))
		}
	}()
	ctx, cancel := context.WithTimeout(e.life, e.conf.Timeout)
	defer cancel()

	secrets, err := e.conf.Secrets(ctx, d.Client)
	if err == nil && len(secrets) == 0 {
		err = errNoSecret
		e.conf.Logger.Error("delivery can't be signed", zap.String("delivery", d.ID), zap.Error(err))
	}
	if err != nil {
		return answer{kind: kindInternal, text: "signing secret is not available", cause: err, unsigned: !errors.Is(err, errNoSecret)}
	}
	target, err := e.target(d.URL)
	if err != nil {
		a.failed(ctx, err, connecting, e.conf.Timeout)
		return a
	}

	h := make(http.Header, 10)
	h["Content-Type"] = []string{"application/json"}
	h["User-Agent"] = []string{e.conf.UserAgent}
	h["X-Replicate-Event"] = []string{d.Event.Name()}
	h["X-Replicate-Delivery"] = []string{d.ID}
	h["X-Replicate-Attempt"] = []string{strconv.Itoa(number)}
	signature.Sign(h, secrets, d.ID, at, d.Payload)
	if isTraceparent(d.Traceparent) {
		h["Traceparent"] = []string{d.Traceparent}
	}
	if e.conf.Trace != nil {
		var end func(int, error)
		ctx, end = e.conf.Trace(ctx, d, number, h)
		defer func() { end(a.status, a.err()) }()
	}
	// The last moment before the request is written: the process may have
	// been stopped for longer than its claims last.
	var lost atomic.Bool
	e.exchange(ctx, &a, target, h, d.Payload, func(c net.Conn) {
		if !e.conf.Store.Holds(*d) {
			lost.Store(true)
			cancel()
			_ = c.Close()
		}
	})
	if lost.Load() {
		return answer{kind: kindInternal, text: errClaimLost.Error(), cause: errClaimLost}
	}
	return a
}

// target judges a URL as it is when it is used: the configuration may have
// become stricter since it was captured. The URL is shared and not to be changed.
func (e *Engine) target(raw string) (*url.URL, error) {
	if e.conf.Guard != nil {
		return e.targets.get(raw, e.conf.Guard.CheckURL)
	}
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" {
		// The parser's own words would quote the URL.
		return nil, &egress.URLError{Problem: "must be a valid URL"}
	}
	return u, nil
}

// maxTargets bounds the URLs that are remembered as judged.
const maxTargets = 1024

// targets remembers URLs that were admitted. The judgement is of the text
// alone, so it holds as long as the engine and its guard do; addresses are
// judged at each dial. The zero value is ready.
type targets struct {
	mu    sync.Mutex
	known map[string]*url.URL
}

func (t *targets) get(raw string, judge func(string) (*url.URL, error)) (*url.URL, error) {
	t.mu.Lock()
	u := t.known[raw]
	t.mu.Unlock()
	if u != nil {
		return u, nil
	}
	u, err := judge(raw)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.known == nil || len(t.known) >= maxTargets {
		t.known = make(map[string]*url.URL)
	}
	t.known[raw] = u
	return u, nil
}

// exchange posts the payload and reads the response. It calls connected with the
// connection before it writes the request.
func (e *Engine) exchange(ctx context.Context, a *answer, target *url.URL, h http.Header, payload []byte, connected func(net.Conn)) {
	ctx, w := e.watch(ctx, connected)
	req := (&http.Request{
		Method: http.MethodPost, URL: target, Host: target.Host, Header: h,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		ContentLength: int64(len(payload)),
		Body:          io.NopCloser(bytes.NewReader(payload)),
		// With GetBody the transport takes another connection when the one
		// from the pool turns out closed before anything was written. It
		// repeats nothing that the receiver may have seen: the request does
		// not count as idempotent.
		GetBody: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(payload)), nil },
	}).WithContext(ctx)
	resp, err := e.transport.RoundTrip(req)
	a.exception = w.exception()
	if err != nil {
		at := connecting
		if w.connected() {
			at = awaiting
		}
		a.failed(ctx, err, at, e.conf.Timeout)
		return
	}
	a.read(ctx, resp, e.conf.Now(), e.conf.Timeout)
}

// watcher knows whether an attempt got a connection, and to where.
type watcher struct {
	trace *egress.Trace // of the guard, which has the hooks then
	got   atomic.Bool
}

func (e *Engine) watch(ctx context.Context, connected func(net.Conn)) (context.Context, *watcher) {
	w := new(watcher)
	if e.conf.Guard != nil {
		ctx, w.trace = e.conf.Guard.Trace(ctx, connected)
		return ctx, w
	}
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(got httptrace.GotConnInfo) {
			w.got.Store(true)
			connected(got.Conn)
		},
	}), w
}

func (w *watcher) connected() bool {
	if w.trace != nil {
		return w.trace.Remote().IsValid()
	}
	return w.got.Load()
}

func (w *watcher) exception() bool { return w.trace != nil && w.trace.ByException() }

// isTraceparent reports whether a stored trace context is one (W3C Trace
// Context, section 3.2): 00-<32 hex>-<16 hex>-<2 hex>, or a later version's
// longer form. It came with a client's request.
func isTraceparent(s string) bool {
	if len(s) < 55 || len(s) > 255 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case i == 2 || i == 35 || i == 52 || i == 55:
			if c != '-' {
				return false
			}
		case i < 55:
			if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
				return false
			}
		case c <= ' ' || c > '~':
			return false
		}
	}
	return true
}
