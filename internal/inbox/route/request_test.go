package route_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/internal/clock/clocktest"
	"github.com/caddy-replicate/replicate-webhook/internal/inbox"
	"github.com/caddy-replicate/replicate-webhook/internal/inbox/route"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
	"github.com/caddy-replicate/replicate-webhook/internal/spans"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// toApp starts an app, and an inbox that leads to it.
func toApp(t *testing.T, o route.Options) (*caddyrun.App, *route.Route) {
	t.Helper()
	app := caddyrun.NewApp(t)
	t.Setenv("APP", app.Addr())
	_, routes := start(t, o, "reverse_proxy {$APP}")
	return app, routes[0]
}

// verifies reports whether an app that verifies itself takes a request at a time.
func verifies(r *caddyrun.Request, s signature.Secret, now time.Time) bool {
	claim, err := signature.ParseHeaders(r.Header, signature.Standard)
	if err != nil {
		return false
	}
	result, err := claim.Verify([]signature.Secret{s}, r.Got, nil)
	return err == nil && result.ID == "msg_1" && signature.Fresh(result.SignedAt, now, 5*time.Minute)
}

// TestAppsThatVerifyThemselvesAcceptLateAttempts: an attempt whose signed time is
// older than half the tolerance is signed again, over the same id and bytes.
func TestAppsThatVerifyThemselvesAcceptLateAttempts(t *testing.T) {
	signed := time.Now().Truncate(time.Second)
	clock := clocktest.At(signed)
	other := parse("whsec_" + strings.Repeat("QUJD", 8))
	core, logs := observer.New(zap.WarnLevel)
	current := []signature.Secret{other, secret}
	app, r := toApp(t, route.Options{
		Timeout: time.Minute, Resign: true, Tolerance: 4 * time.Minute,
		Secrets: func() []signature.Secret { return current }, Now: clock.Now, Logger: zap.New(core),
	})
	original := eventAt(signed)
	headers := func() [4]string {
		h := app.Last().Header
		return [4]string{h.Get("Webhook-Id"), h.Get("Webhook-Timestamp"), h.Get("Webhook-Signature"), h.Get("X-Replicate-Signature")}
	}
	pass := func() [4]string {
		t.Helper()
		if got := r.Pass(t.Context(), original, 1); got.Status != 200 {
			t.Fatalf("%+v", got)
		}
		return headers()
	}
	first := pass()
	clock.Set(signed.Add(2 * time.Minute))
	if again := pass(); again != first {
		t.Errorf("at half the tolerance, the headers are %q, want %q", again, first)
	}
	for _, age := range []time.Duration{2*time.Minute + time.Second, time.Hour, 72 * time.Hour} {
		clock.Set(signed.Add(age))
		late := pass()
		if late[0] != first[0] || late[3] != first[3] || late[1] == first[1] {
			t.Errorf("after %s, the headers are %q, were %q", age, late, first)
		}
		if !verifies(app.Last(), secret, clock.Now()) || string(app.Last().Got) != payload {
			t.Errorf("after %s, an app that verifies refuses %q", age, late)
		}
	}
	if logs.Len() != 0 {
		t.Errorf("logged: %v", logs.All())
	}

	// The secret that verified is gone.
	current = []signature.Secret{other}
	for range 2 {
		if gone := pass(); gone != first {
			t.Errorf("without the secret, the headers are %q, want %q", gone, first)
		}
	}
	if logs.FilterMessageSnippet("not configured any more").Len() != 1 || logs.Len() != 1 {
		t.Errorf("logged: %v", logs.All())
	}
}

// TestAppsThatVerifySvixsHeadersAcceptLateAttempts: they are signed again as well,
// where they came.
func TestAppsThatVerifySvixsHeadersAcceptLateAttempts(t *testing.T) {
	late := func() time.Time { return time.Now().Add(time.Hour) }
	app, r := toApp(t, route.Options{
		Timeout: time.Minute, Resign: true, Now: late, Secrets: func() []signature.Secret { return []signature.Secret{secret} },
	})
	d := changed(t, event(), func(h *inbox.Head) {
		for _, name := range []string{"Id", "Timestamp", "Signature"} {
			h.Header["Svix-"+name] = h.Header["Webhook-"+name]
		}
	})
	if got := r.Pass(t.Context(), d, 1); got.Status != 200 {
		t.Fatalf("%+v", got)
	}
	h := app.Last().Header
	for _, name := range []string{"Id", "Timestamp", "Signature"} {
		if h.Get("Svix-"+name) == "" || h.Get("Svix-"+name) != h.Get("Webhook-"+name) {
			t.Errorf("Svix-%s is %q, Webhook-%s is %q", name, h.Get("Svix-"+name), name, h.Get("Webhook-"+name))
		}
	}
	if !verifies(app.Last(), secret, late()) {
		t.Error("an app that verifies refuses it")
	}
}

// TestAllSecretsThatVerifiedSignAgain: during a rotation a sender signs with two, and
// the app may know either.
func TestAllSecretsThatVerifiedSignAgain(t *testing.T) {
	other := parse("whsec_" + strings.Repeat("QUJD", 8))
	late := func() time.Time { return time.Now().Add(time.Hour) }
	app, r := toApp(t, route.Options{
		Timeout: time.Minute, Resign: true, Now: late,
		Secrets: func() []signature.Secret { return []signature.Secret{other, secret} },
	})
	d := changed(t, event(), func(h *inbox.Head) { h.Signers = append(h.Signers, other.Fingerprint()) })
	if got := r.Pass(t.Context(), d, 1); got.Status != 200 {
		t.Fatalf("%+v", got)
	}
	for name, s := range map[string]signature.Secret{"the first": secret, "the second": other} {
		if !verifies(app.Last(), s, late()) {
			t.Errorf("an app with %s secret refuses %q", name, app.Last().Header["Webhook-Signature"])
		}
	}
}

// TestResignOffKeepsWhatCame, as does an event that the standard scheme has not
// verified, whatever its headers say.
func TestResignOffKeepsWhatCame(t *testing.T) {
	late := func() time.Time { return time.Now().Add(time.Hour) }
	secrets := func() []signature.Secret { return []signature.Secret{secret} }
	app := caddyrun.NewApp(t)
	t.Setenv("APP", app.Addr())
	s := caddyrun.New(t)
	for name, test := range map[string]struct {
		resign bool
		change func(*inbox.Head)
	}{
		"off": {false, func(*inbox.Head) {}},
		"replicate alone": {true, func(h *inbox.Head) {
			h.Schemes, h.MessageID, h.Signers, h.SignedAt = signature.Replicate, "", nil, time.Time{}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			r := load(t, s, route.Options{Resign: test.resign, Now: late, Secrets: secrets}, "", "reverse_proxy {$APP}")[0]
			d := changed(t, event(), test.change)
			head, err := inbox.DecodeHead(d.Inbound.Head)
			if err != nil {
				t.Fatal(err)
			}
			if got := r.Pass(t.Context(), d, 1); got.Status != 200 {
				t.Fatalf("%+v", got)
			}
			for _, name := range []string{"Webhook-Id", "Webhook-Timestamp", "Webhook-Signature", "X-Replicate-Signature"} {
				if got := app.Last().Header.Get(name); got != head.Header.Get(name) {
					t.Errorf("%s is %q, want %q", name, got, head.Header.Get(name))
				}
			}
		})
	}
}

// TestMarkedAttempts: replays and overtaken events say so.
func TestMarkedAttempts(t *testing.T) {
	app, r := toApp(t, route.Options{Timeout: time.Minute})
	d := event()
	d.Replay, d.Overtaken = true, true
	if got := r.Pass(t.Context(), d, 12); got.Status != 200 {
		t.Fatalf("%+v", got)
	}
	for name, want := range map[string]string{
		"X-Replicate-Event-Id": "evt_1", "X-Replicate-Attempt": "12", "X-Replicate-Replay": "true", "X-Replicate-Overtaken": "true",
		"X-Replicate-Verified": "standard", "X-Replicate-Event": "prediction.completed", "X-Replicate-Prediction-Id": "p1",
	} {
		if got := app.Last().Header[name]; len(got) != 1 || got[0] != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if got := r.Pass(t.Context(), event(), 1); got.Status != 200 || app.Last().Header["X-Replicate-Replay"] != nil || app.Last().Header["X-Replicate-Overtaken"] != nil {
		t.Errorf("an ordinary attempt: %+v, %q", got, app.Last().Header)
	}
}

// TestAnEventThatCameByTLSIsPassedOnAsOne: apps that force https answer 301
// otherwise, for ever.
func TestAnEventThatCameByTLSIsPassedOnAsOne(t *testing.T) {
	app := caddyrun.NewApp(t)
	t.Setenv("APP", app.Addr())
	_, routes := start(t, route.Options{Timeout: time.Minute}, `
		@https protocol https
		@plain protocol http
		respond @plain 301
		reverse_proxy @https {$APP} {
			header_up X-Scheme {scheme}
			header_up X-Version {http.request.tls.version}
			header_up X-Proto {http.request.proto}
		}`)
	d := changed(t, event(), func(h *inbox.Head) { h.TLS, h.ProtoMajor, h.ProtoMinor = tls.VersionTLS13, 2, 0 })
	if got := routes[0].Pass(t.Context(), d, 1); got.Status != 200 {
		t.Fatalf("%+v", got)
	}
	h := app.Last().Header
	if h.Get("X-Forwarded-Proto") != "https" || h.Get("X-Scheme") != "https" || h.Get("X-Version") != "tls1.3" || h.Get("X-Proto") != "HTTP/2.0" || h.Get("Early-Data") != "" {
		t.Errorf("headers are %q", h)
	}
	if got := routes[0].Pass(t.Context(), event(), 1); got.Status != 301 {
		t.Errorf("an event that came without TLS: %+v", got)
	}
}

// TestTheAttemptContinuesTheSendersTrace, with a span of its own where the plugin
// has seen tracing, and as it came otherwise.
func TestTheAttemptContinuesTheSendersTrace(t *testing.T) {
	const sender = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	const own = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01"
	var tracer spans.Tracer // without a provider
	app, r := toApp(t, route.Options{Timeout: time.Minute, Trace: tracer.Attempt})
	d := changed(t, event(), func(h *inbox.Head) {
		h.Header.Set("Traceparent", sender)
		h.Header.Set("Tracestate", "a=b")
	})
	if got := r.Pass(t.Context(), d, 1); got.Status != 200 || app.Last().Header.Get("Traceparent") != sender {
		t.Fatalf("%+v, traceparent is %q", got, app.Last().Header.Get("Traceparent"))
	}

	var ended string
	r.Trace = func(ctx context.Context, traced *store.Delivery, attempt int, h http.Header) (context.Context, func(int, error)) {
		if traced.ID != d.ID || attempt != 2 || h.Get("Traceparent") != sender {
			t.Errorf("attempt %d of %s is traced from %q", attempt, traced.ID, h.Get("Traceparent"))
		}
		h.Set("Traceparent", own)
		return ctx, func(status int, err error) { ended = fmt.Sprint(status, " ", err) }
	}
	app.AnswerStatus(http.StatusTeapot)
	if got := r.Pass(t.Context(), d, 2); got.Status != http.StatusTeapot || ended != "418 status 418" {
		t.Fatalf("%+v, the span ended with %s", got, ended)
	}
	if got := app.Last().Header; got.Get("Traceparent") != own || got.Get("Tracestate") != "a=b" {
		t.Errorf("traceparent is %q; tracestate is %q", got.Get("Traceparent"), got.Get("Tracestate"))
	}
}

// TestAnInboxNeedsHandlersAndAServer.
func TestAnInboxNeedsHandlersAndAServer(t *testing.T) {
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	if _, err := route.New(ctx, caddyhttp.RouteList{{}}, route.Options{}); err == nil || !strings.Contains(err.Error(), "HTTP server") {
		t.Errorf("without a server: %v", err)
	}
	ctx = ctx.WithValue(caddyhttp.ServerCtxKey, new(caddyhttp.Server))
	if _, err := route.New(ctx, nil, route.Options{}); err == nil || !strings.Contains(err.Error(), "inbox is empty") {
		t.Errorf("without handlers: %v", err)
	}
	if _, err := route.New(ctx, caddyhttp.RouteList{{HandlersRaw: nil}, {}}, route.Options{}); err != nil {
		t.Errorf("with routes: %v", err)
	}
}

// TestAHandlerKnowsThatItIsInside of an inbox: when it is provisioned, and for a
// request that comes to it by a named route.
func TestAHandlerKnowsThatItIsInside(t *testing.T) {
	app := caddyrun.NewApp(t)
	t.Setenv("APP", app.Addr())
	s := caddyrun.New(t)
	world.Lock()
	world.options, world.routes, world.inside = route.Options{Timeout: time.Minute}, make(map[string]*route.Route), nil
	world.Unlock()
	s.Reload("{\n{$GLOBALS}\n}\nhttp://:{$PORT0} {\nroute {\ninbox_test {\nroute {\ninbox_test {\nrespond 200\n}\n}\n}\n}\n}\n")
	if len(world.inside) != 2 || world.inside[0] || !world.inside[1] {
		t.Errorf("inside are %v, want the outer one outside and the inner one inside", world.inside)
	}
	r := load(t, s, route.Options{Timeout: time.Minute}, "}\n&(named) {\ninbox_within\n", "invoke named")[0]
	if got := r.Pass(t.Context(), event(), 1); got.Status != http.StatusNoContent {
		t.Errorf("the handler does not know that it is inside: %+v", got)
	}
}
