package route_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/internal/edge"
	"github.com/caddy-replicate/replicate-webhook/internal/inbox"
	"github.com/caddy-replicate/replicate-webhook/internal/inbox/route"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
	"github.com/caddy-replicate/replicate-webhook/store"
)

func init() {
	caddy.RegisterModule(new(handler))
	httpcaddyfile.RegisterHandlerDirective("inbox_test", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		h.Next()
		sub, err := httpcaddyfile.ParseSegmentAsSubroute(h.WithDispenser(h.NewFromNextSegment()))
		if err != nil {
			return nil, err
		}
		return &handler{Routes: sub.(*caddyhttp.Subroute).Routes}, nil
	})
}

// handler stands where an edge with an inbox does. A request that it gets is
// forwarded as an edge without an inbox does, and kept as one with an inbox does.
type handler struct {
	Routes caddyhttp.RouteList `json:"routes,omitempty"`
}

func (*handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.inbox_test", New: func() caddy.Module { return new(handler) }}
}

// world is what the handlers of a test share. There is one Caddy in a process, and
// one test at a time.
var world struct {
	sync.Mutex
	options route.Options
	routes  map[string]*route.Route // by the port of their server
	kept    []*store.Delivery
	inside  []bool
}

func (h *handler) Provision(ctx caddy.Context) error {
	world.Lock()
	world.inside = append(world.inside, route.Inside(ctx))
	o := world.options
	world.Unlock()
	r, err := route.New(ctx, h.Routes, o)
	if err != nil {
		return err
	}
	_, port, _ := net.SplitHostPort(ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server).Listen[0])
	world.Lock()
	defer world.Unlock()
	world.routes[port] = r
	return nil
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	claim, err := signature.ParseHeaders(r.Header, signature.Replicate|signature.Standard)
	if err != nil {
		return caddyhttp.Error(http.StatusUnauthorized, err)
	}
	verifier := edge.Verifier{Secrets: []signature.Secret{secret}, Accept: signature.Replicate | signature.Standard}
	hook, refused := verifier.Verify(claim, raw, time.Now())
	if refused != nil {
		return caddyhttp.Error(http.StatusUnauthorized, refused)
	}
	uri, from := route.Received(r)
	head, _ := hook.Head(r, uri, from)
	keep(&head, hook.Body)
	r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).Map(hook.Placeholder)
	hook.Prepare(r)
	// Through the same handlers, on the request.
	return h.Routes.Compile(next).ServeHTTP(w, r)
}

// keep stores an event as a store does.
func keep(head *inbox.Head, body []byte) *store.Delivery {
	world.Lock()
	defer world.Unlock()
	d := &store.Delivery{
		ID: "evt_1", Payload: bytes.Clone(body), PredictionID: head.PredictionID,
		Inbound: &store.Inbound{ID: "evt_1", Scope: "default", Name: head.Name, PredictionID: head.PredictionID, Head: head.Encode()},
	}
	world.kept = append(world.kept, d)
	return d
}

const secretText = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

var secret = parse(secretText)

func parse(text string) signature.Secret {
	s, err := signature.ParseSecret(text)
	if err != nil {
		panic(err)
	}
	return s
}

// start runs Caddy with an inbox for each of the given handlers, and returns their
// routes. The sites have the ports PORT0, PORT1 and so on.
func start(t testing.TB, o route.Options, handlers ...string) (*caddyrun.Server, []*route.Route) {
	t.Helper()
	s := caddyrun.New(t)
	return s, load(t, s, o, "", handlers...)
}

// load loads a configuration with an inbox for each of the given handlers.
func load(t testing.TB, s *caddyrun.Server, o route.Options, globals string, handlers ...string) []*route.Route {
	t.Helper()
	world.Lock()
	world.options, world.routes, world.kept = o, make(map[string]*route.Route), nil
	world.Unlock()
	config := "{\n\t{$GLOBALS}\n" + globals + "\n}\n"
	for i, h := range handlers {
		config += fmt.Sprintf("http://:{$PORT%d} {\n\troute {\n\t\turi strip_prefix /hooks\n\t\tinbox_test {\n%s\n\t\t}\n\t}\n}\n", i, h)
	}
	s.Reload(config)
	world.Lock()
	defer world.Unlock()
	routes := make([]*route.Route, len(handlers))
	for i := range handlers {
		if routes[i] = world.routes[strconv.Itoa(s.Port(fmt.Sprintf("PORT%d", i)))]; routes[i] == nil {
			t.Fatalf("inbox %d of %d was not provisioned", i, len(handlers))
		}
	}
	return routes
}

const payload = `{"id":"p1","status":"succeeded"}`

// event returns an event that both schemes signed now.
func event() *store.Delivery { return eventAt(time.Now()) }

func eventAt(at time.Time) *store.Delivery {
	h := http.Header{"Content-Type": {"application/json"}, "User-Agent": {"test"}}
	signature.Sign(h, []signature.Secret{secret}, "msg_1", at, []byte(payload))
	return keep(&inbox.Head{
		Method: http.MethodPost, OriginalURI: "/hooks/replicate?q=1", URI: "/replicate?q=1", Host: "hooks.example.com",
		ProtoMajor: 1, ProtoMinor: 1, Header: h,
		Origin: inbox.Origin{RemoteAddr: "192.0.2.7:4321", LocalAddr: "192.0.2.1:443", ClientIP: "192.0.2.7"},
		Verified: inbox.Verified{
			Schemes: signature.Replicate | signature.Standard, MessageID: "msg_1", SignedAt: at.Truncate(time.Second),
			Signers: []signature.Fingerprint{secret.Fingerprint()},
			Name:    "prediction.completed", PredictionID: "p1", Status: "succeeded",
		},
	}, []byte(payload))
}

// changed returns a copy of an event with another head.
func changed(t testing.TB, d *store.Delivery, change func(*inbox.Head)) *store.Delivery {
	t.Helper()
	head, err := inbox.DecodeHead(d.Inbound.Head)
	if err != nil {
		t.Fatal(err)
	}
	change(&head)
	return keep(&head, d.Payload)
}

// show returns what the app got of a request, in a form that can be compared.
func show(r *caddyrun.Request) string {
	var b strings.Builder
	b.WriteString(r.Method + " " + r.RequestURI + " " + r.Proto + "\nHost: " + r.Host + "\n")
	_ = r.Header.Write(&b)
	b.Write(r.Got)
	return b.String()
}

// Interface guards.
var (
	_ caddy.Provisioner           = (*handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*handler)(nil)
)

func init() {
	caddy.RegisterModule(new(within))
	httpcaddyfile.RegisterHandlerDirective("inbox_within", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		h.Next()
		return new(within), nil
	})
	httpcaddyfile.RegisterDirectiveOrder("inbox_within", httpcaddyfile.Before, "respond")
}

// within responds with 204 to a request that is inside of a route, and with 404 to
// others.
type within struct{}

func (*within) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.inbox_within", New: func() caddy.Module { return new(within) }}
}

func (*within) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	if route.Inside(r.Context()) {
		w.WriteHeader(http.StatusNoContent)
	} else {
		w.WriteHeader(http.StatusNotFound)
	}
	return nil
}
