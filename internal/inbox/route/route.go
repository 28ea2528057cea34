// Package route passes stored events through a route of Caddy's handlers, off the
// request that brought them.
package route

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/internal/inbox"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// Options are what a Route works with.
type Options struct {
	// Timeout is how long an attempt may take. 0 is any time.
	Timeout time.Duration

	// Resign has events that the standard scheme verified signed again once
	// their webhook-timestamp is older than half of Tolerance, so that apps
	// which verify themselves go on accepting them.
	Resign bool
	// Tolerance is that of the edge. 0, which is any, stands for 5m here, the
	// tolerance of the published libraries.
	Tolerance time.Duration
	// Secrets returns the current signing secrets. Required for Resign.
	Secrets func() []signature.Secret

	// Trace starts a span for an attempt, as a child of the trace context that
	// the headers hold, and puts its own there. Default: the headers stay as
	// they are.
	Trace func(ctx context.Context, d *store.Delivery, attempt int, h http.Header) (_ context.Context, end func(status int, err error))

	// Now is the clock. Default: time.Now.
	Now func() time.Time
	// Logger gets what operators have to know. Default: none.
	Logger *zap.Logger
}

// Route passes events to the app of a scope. It is safe for concurrent use. New
// makes one.
type Route struct {
	Options
	server  *caddyhttp.Server
	handler caddyhttp.Handler

	// abandoned is how many handlers go on after their attempt has ended.
	abandoned atomic.Int32
	// unsigned makes the log say once that a secret is gone.
	unsigned sync.Once
}

// standardTolerance is that of the published libraries of Standard Webhooks.
const standardTolerance = 5 * time.Minute

// insideKey is the key of the marker that a context has inside of a route.
type insideKey struct{}

// Inside reports whether a handler is provisioned, or a request handled, inside of a
// route. An edge there would wait for a signature that it is itself to give.
func Inside(ctx context.Context) bool { return ctx.Value(insideKey{}) != nil }

// New provisions routes for the configuration of ctx, which is that of a handler.
func New(ctx caddy.Context, routes caddyhttp.RouteList, o Options) (*Route, error) {
	server, _ := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	switch {
	case server == nil:
		return nil, errors.New("inbox works in a handler of an HTTP server, and this one belongs to none")
	case len(routes) == 0:
		return nil, errors.New("inbox is empty: name the app, as in inbox app:3000, or what leads to it in inbox { handle { … } }")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.Tolerance <= 0 {
		o.Tolerance = standardTolerance
	}
	if err := routes.Provision(ctx.WithValue(insideKey{}, true)); err != nil {
		return nil, fmt.Errorf("inbox: %w", err)
	}
	return &Route{Options: o, server: server, handler: routes.Compile(caddyhttp.HandlerFunc(noHandler))}, nil
}

// errNoStatus means that no final status came, which every response of an app has.
var errNoStatus = errors.New("the inbox's handlers returned no final status: no handler such as reverse_proxy is there for this event, or the app's status is 101 or not valid")

// noHandler stands behind the last handler of a route.
func noHandler(http.ResponseWriter, *http.Request) error { return errNoStatus }

// Received returns what an inbox keeps of a request that Caddy knows: its URI
// before any handler changed it, and where it came from.
func Received(r *http.Request) (originalURI string, from inbox.Origin) {
	originalURI = r.RequestURI
	if original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		originalURI = original.RequestURI
		from.RemoteAddr = original.RemoteAddr
	}
	from.ClientIP, _ = caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	from.Trusted, _ = caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool)
	return originalURI, from
}
