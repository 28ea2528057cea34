package route_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/internal/inbox/route"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
)

// TestTheAppGetsWhatItGetsWithoutAnInbox: the request that is passed on later is the
// one that is passed on at once, but for what says that it is stored.
func TestTheAppGetsWhatItGetsWithoutAnInbox(t *testing.T) {
	app := caddyrun.NewApp(t)
	t.Setenv("APP", app.Addr())
	s := caddyrun.New(t)
	tests := []struct {
		name     string
		handlers string
		trusted  bool // the sender is a trusted proxy
		headers  map[string]string
		uri      string
		body     string
		scheme   signature.Scheme
	}{
		{name: "a proxy", handlers: `reverse_proxy {$APP}`},
		{name: "a query", handlers: `reverse_proxy {$APP}`, uri: "/hooks/a%2Fb/c%20d?x=1&y=%20&z"},
		{name: "an empty query", handlers: `reverse_proxy {$APP}`, uri: "/hooks/a?"},
		{name: "no path", handlers: `reverse_proxy {$APP}`, uri: "/hooks/"},
		{name: "slashes", handlers: `reverse_proxy {$APP}`, uri: "/hooks//a//b"},
		{name: "headers", handlers: `reverse_proxy {$APP}`, headers: map[string]string{"X-Own": "1", "Accept-Encoding": "gzip", "Accept": "*/*", "Te": "trailers", "Upgrade": "websocket", "Connection": "upgrade, x-own-2", "X-Own-2": "2", "Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}},
		{name: "forwarded by a client", handlers: `reverse_proxy {$APP}`, headers: map[string]string{"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https", "Forwarded": "for=203.0.113.9"}},
		{name: "forwarded by a proxy", handlers: `reverse_proxy {$APP}`, trusted: true, headers: map[string]string{"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}},
		{name: "placeholders", handlers: `reverse_proxy {$APP} {
			header_up X-Original {http.request.orig_uri}
			header_up X-Uri {uri}
			header_up X-Client {client_ip}
			header_up X-Remote {remote}
			header_up X-Local {http.request.local}
			header_up X-Event {http.replicate_webhook.event}
			header_up X-Prediction {http.replicate_webhook.prediction_id}
			header_up X-Status {http.replicate_webhook.status}
			header_up X-Scheme {http.replicate_webhook.scheme}
			header_up X-Message {http.replicate_webhook.message_id}
			header_up X-Duplicate {http.replicate_webhook.duplicate}
			header_up X-Length {http.request.header.content-length}
			header_up Host {host}.internal
		}`, trusted: true, headers: map[string]string{"X-Forwarded-For": "203.0.113.9"}},
		{name: "a rewrite", handlers: "rewrite * /api{uri}\nreverse_proxy {$APP}"},
		{name: "handle_path", handlers: "handle_path /replicate/* {\nreverse_proxy {$APP}\n}", uri: "/hooks/replicate/a?b"},
		{name: "a body in its form", handlers: `reverse_proxy {$APP}`, body: `{ "id" : "p1" , "status" : "succeeded" }`, scheme: signature.Replicate, headers: map[string]string{"Content-Digest": "sha-256=:x:"}},
		{name: "long signed values", handlers: `reverse_proxy {$APP}`, body: fmt.Sprintf(`{"id":%q,"status":"succeeded"}`, strings.Repeat("p", 300))},
		{name: "signed text", handlers: `reverse_proxy {$APP}`, body: `{"id":"p 1é","status":"succeeded"}`},
		{name: "a large body", handlers: `reverse_proxy {$APP}`, body: fmt.Sprintf(`{"id":"p1","status":"succeeded","logs":%q}`, strings.Repeat("x", 3<<20))},
		{name: "buffers and retries", handlers: "reverse_proxy {$APP} {\nrequest_buffers 4k\nlb_retries 2\n}"},
	}
	var handlers []string
	globals := ""
	for i, test := range tests {
		handlers = append(handlers, test.handlers)
		if test.trusted {
			globals += fmt.Sprintf("servers 127.0.0.1:{$PORT%d} {\n trusted_proxies static 127.0.0.1\n}\n", i)
		}
	}
	routes := load(t, s, route.Options{Timeout: time.Minute}, globals, handlers...)
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			app.Forget()
			world.Lock()
			world.kept = nil
			world.Unlock()
			body, uri := test.body, test.uri
			if body == "" {
				body = payload
			}
			if uri == "" {
				uri = "/hooks/replicate?q=1"
			}
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL(fmt.Sprintf("PORT%d", i), uri), strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", "application/json")
			if test.scheme == signature.Replicate {
				r.Header.Set("X-Replicate-Signature", secret.SignReplicate([]byte(payload)))
			} else {
				signature.Sign(r.Header, []signature.Secret{secret}, "msg_1", time.Now(), []byte(body))
			}
			for name, value := range test.headers {
				r.Header.Set(name, value)
			}
			resp, err := s.Client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			said, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK || app.Count() != 1 || len(world.kept) != 1 {
				t.Fatalf("%d %s; the app has %d requests, %d are kept", resp.StatusCode, said, app.Count(), len(world.kept))
			}
			now := show(app.Last())

			got := routes[i].Pass(t.Context(), world.kept[0], 3)
			if got.Status != http.StatusOK || got.Err != nil || !got.Sent || app.Count() != 2 {
				t.Fatalf("passed on: %+v; the app has %d requests", got, app.Count())
			}
			later := app.Last()
			for name, want := range map[string]string{"X-Replicate-Event-Id": "evt_1", "X-Replicate-Attempt": "3"} {
				if later.Header.Get(name) != want {
					t.Errorf("%s is %q, want %q", name, later.Header.Get(name), want)
				}
				later.Header.Del(name)
			}
			if show(later) != now {
				t.Errorf("the app got at once\n%s\n\nand from the inbox\n%s", now, show(later))
			}
		})
	}
}
