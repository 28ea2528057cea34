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

	"go.opentelemetry.io/otel/propagation"
	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/internal/egress"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
	"github.com/caddy-replicate/replicate-webhook/store"
)

const (
	// idleTimeout is shorter than that of common servers (5 s in Node.js). An
	// attempt on a connection that the other end is closing would fail
	// without need.
	idleTimeout = 4 * time.Second
	// minIdle is the least bound on idle connections, all endpoints
	// together.
	minIdle = 512
)

// client makes attempts.
type client struct {
	conf      *Config
	life      context.Context // ends with the engine
	transport http.RoundTripper
	targets   targets
}

// newTransport returns what makes the requests. It is used without http.Client,
// whose redirects and cookies are not wanted here.
func newTransport(conf *Config) http.RoundTripper {
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

// closeIdle closes the connections that are not in use.
func (c *client) closeIdle() {
	if t, ok := c.transport.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

// errNoSecret says that nothing can be sent because there is no signature.
var errNoSecret = errors.New("signing: the client has no secret")

// attempt makes one attempt. Every failure is in the result. holds is asked at the last
// moment whether the attempt may still be made.
func (c *client) attempt(d *store.Delivery, number int, at time.Time, holds func() bool) (r result) {
	defer func() {
		if v := recover(); v != nil {
			r = result{outcome: OutcomeInternal, text: "internal error", cause: fmt.Errorf("panic: %v", v)}
			c.conf.Logger.Error("panic in a delivery attempt", zap.String("delivery", d.ID),
				zap.Any("panic", v), zap.ByteString("stack", debug.Stack()))
		}
	}()
	ctx, cancel := context.WithTimeout(c.life, time.Duration(c.conf.Timeout))
	defer cancel()

	secrets, err := c.conf.Secrets(ctx, d.Client)
	if err == nil && len(secrets) == 0 {
		err = errNoSecret
		c.conf.Logger.Error("delivery can't be signed", zap.String("delivery", d.ID), zap.Error(err))
	}
	if err != nil {
		return result{outcome: OutcomeInternal, text: "signing secret is not available", cause: err, unsigned: !errors.Is(err, errNoSecret)}
	}
	target, err := c.target(d.URL)
	if err != nil {
		r.failed(ctx, err, connecting, time.Duration(c.conf.Timeout))
		return r
	}

	h := make(http.Header, 10)
	h["Content-Type"] = []string{"application/json"}
	h["User-Agent"] = []string{c.conf.UserAgent}
	h["X-Replicate-Delivery"] = []string{d.ID}
	h["X-Replicate-Attempt"] = []string{strconv.Itoa(number)}
	if d.Native {
		if name := d.Event.NativeName(); name != "" { // a notice has none
			h["X-Replicate-Event"] = []string{name}
		}
		signature.Standard.Sign(h, secrets, d.ID, at, d.Payload)
	} else {
		h["X-Replicate-Event"] = []string{d.Event.Name()}
		signature.Sign(h, secrets, d.ID, at, d.Payload)
	}
	setTraceparent(h, d.Traceparent)
	if c.conf.Trace != nil {
		var end func(int, error)
		ctx, end = c.conf.Trace(ctx, d, number, h)
		defer func() { end(r.status, r.err()) }()
	}
	// The claim is checked at the last moment before the request is written:
	// the process may have been suspended for longer than its lease.
	var lost atomic.Bool
	c.exchange(ctx, &r, target, h, d.Payload, func(conn net.Conn) {
		if !holds() {
			lost.Store(true)
			cancel()
			_ = conn.Close()
		}
	})
	if lost.Load() {
		return result{outcome: OutcomeInternal, text: errClaimLost.Error(), cause: errClaimLost}
	}
	return r
}

// target checks and parses a URL. It checks the URL when it is used, because the
// configuration may have become stricter since the URL was captured. The URL is
// shared and must not be changed.
func (c *client) target(raw string) (*url.URL, error) {
	if c.conf.Guard != nil {
		return c.targets.get(raw, c.conf.Guard.CheckURL)
	}
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" {
		// The text of the parser's error would quote the URL.
		return nil, &egress.URLError{Problem: "must be a valid URL"}
	}
	return u, nil
}

// maxTargets bounds the URLs in targets.
const maxTargets = 1024

// targets caches URLs that passed the check. The check looks at the text alone,
// so its result holds as long as the guard does. Addresses are checked at each
// dial. The zero value is ready.
type targets struct {
	mu    sync.Mutex
	known map[string]*url.URL
}

func (t *targets) get(raw string, check func(string) (*url.URL, error)) (*url.URL, error) {
	t.mu.Lock()
	u := t.known[raw]
	t.mu.Unlock()
	if u != nil {
		return u, nil
	}
	u, err := check(raw)
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
func (c *client) exchange(ctx context.Context, r *result, target *url.URL, h http.Header, payload []byte, connected func(net.Conn)) {
	ctx, w := c.watch(ctx, connected)
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
	resp, err := c.transport.RoundTrip(req)
	r.exception = w.exception()
	if err != nil {
		at := connecting
		if w.connected() {
			at = awaiting
		}
		r.failed(ctx, err, at, time.Duration(c.conf.Timeout))
		return
	}
	r.read(ctx, resp, c.conf.Now(), time.Duration(c.conf.Timeout))
}

// watcher knows whether an attempt got a connection, and to where.
type watcher struct {
	trace *egress.Trace // of the guard, which has the hooks then
	got   atomic.Bool
}

func (c *client) watch(ctx context.Context, connected func(net.Conn)) (context.Context, *watcher) {
	w := new(watcher)
	if c.conf.Guard != nil {
		ctx, w.trace = c.conf.Guard.Trace(ctx, connected)
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

// setTraceparent adds the trace context that is stored with a delivery. It came
// with a client's request, and is sent only if it is valid.
func setTraceparent(h http.Header, traceparent string) {
	if traceparent == "" {
		return
	}
	format := propagation.TraceContext{}
	ctx := format.Extract(context.Background(), propagation.MapCarrier{"traceparent": traceparent})
	format.Inject(ctx, propagation.HeaderCarrier(h))
}
