package route_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/internal/inbox"
	"github.com/caddy-replicate/replicate-webhook/internal/inbox/route"
)

// TestCaddysHandlersWorkInAnInbox: what leads to an app, or is in the way to it.
func TestCaddysHandlersWorkInAnInbox(t *testing.T) {
	app := caddyrun.NewApp(t)
	checked := make(chan struct{}, 1)
	app.Answer(func(w http.ResponseWriter, r *caddyrun.Request) {
		w.Header().Set("Connection", "close")
		switch r.URL.Path {
		case "/health":
			checked <- struct{}{}
		case "/auth":
			w.Header().Set("X-User", "u1")
		case "/no", "/auth/no":
			w.WriteHeader(http.StatusForbidden)
		case "/header":
			w.Header().Set("X-Result", "later")
			w.WriteHeader(http.StatusInternalServerError)
		default:
			_, _ = io.WriteString(w, strings.Repeat("this is compressed. ", 100))
		}
	})
	none, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	none.Close()
	t.Setenv("APP", app.Addr())
	t.Setenv("NONE", none.Addr().String())
	socket := filepath.Join(t.TempDir(), "app.sock")
	onSocket, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	unixApp := &http.Server{Handler: app.Config.Handler}
	go func() { _ = unixApp.Serve(onSocket) }()
	t.Setenv("SOCKET", socket)
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "t.html"), []byte(`{{.Req.Method}} {{.RemoteIP}} {{.OriginalReq.URL.Path}} {{placeholder "http.replicate_webhook.event"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("ROOT", root)
	tests := []struct {
		name, handlers string
		status         int
		body           string
		path           string            // that the app saw last, "" for none
		header         map[string]string // that it got
		encoded        string
	}{
		{name: "several upstreams, one of which is down", handlers: "reverse_proxy {$NONE} {$APP} {\nlb_policy round_robin\nlb_retries 3\n}", status: 200, path: "/replicate"},
		{name: "the sender's address chooses", handlers: "reverse_proxy {$APP} {$APP} {\nlb_policy client_ip_hash\n}", status: 200, path: "/replicate"},
		{name: "a cookie chooses", handlers: "reverse_proxy {$APP} {$APP} {\nlb_policy cookie\n}", status: 200, path: "/replicate"},
		{name: "active health checks", handlers: "reverse_proxy {$APP} {\nhealth_uri /health\nhealth_interval 1h\n}", status: 200, path: "/replicate"},
		{name: "a socket", handlers: "reverse_proxy unix/{$SOCKET}", status: 200, path: "/replicate"},
		{name: "handle_response", handlers: "reverse_proxy {$APP} {\nrewrite /header\n@later header X-Result later\nhandle_response @later {\nrespond 503\n}\n}", status: 503, path: "/header"},
		{name: "replace_status", handlers: "reverse_proxy {$APP} {\n@ok status 2xx\nreplace_status @ok 202\n}", status: 202, path: "/replicate"},
		{name: "copy_response", handlers: "reverse_proxy {$APP} {\n@ok status 2xx\nhandle_response @ok {\ncopy_response 201\n}\n}", status: 201, path: "/replicate"},
		{name: "intercept", handlers: "intercept {\n@no status 403\nhandle_response @no {\nrespond 410\n}\n}\nreverse_proxy {$APP} {\nrewrite /no\n}", status: 410, path: "/no"},
		{name: "forward_auth", handlers: "forward_auth {$APP} {\nuri /auth\ncopy_headers X-User\n}\nreverse_proxy {$APP}", status: 200, path: "/replicate", header: map[string]string{"X-User": "u1"}},
		{name: "forward_auth that refuses", handlers: "forward_auth {$APP} {\nuri /auth/no\n}\nreverse_proxy {$APP}", status: 403, path: "/auth/no"},
		{name: "encode", handlers: "encode gzip\nreverse_proxy {$APP} {\nheader_up -Accept-Encoding\n}", status: 200, path: "/replicate", encoded: "gzip"},
		{name: "templates", handlers: "root * {$ROOT}\ntemplates\nrespond `{{include \"/t.html\"}}` 200", status: 200, body: "POST 192.0.2.7 /hooks/replicate prediction.completed"},
		{name: "a map and a matcher", handlers: "map {http.replicate_webhook.event} {target} {\nprediction.completed /done\ndefault /other\n}\nrewrite * {target}\nreverse_proxy {$APP}", status: 200, path: "/done"},
		{name: "an expression", handlers: "@done `{http.replicate_webhook.status} == 'succeeded' && header({'Content-Type': 'application/json'})`\nhandle @done {\nreverse_proxy {$APP} {\nrewrite /done\n}\n}\nhandle {\nrespond 404\n}", status: 200, path: "/done"},
		{name: "client_ip", handlers: "@here client_ip 192.0.2.0/24\nhandle @here {\nreverse_proxy {$APP}\n}\nrespond 403", status: 200, path: "/replicate"},
		{name: "remote_ip and host", handlers: "@here {\nremote_ip 192.0.2.0/24\nhost hooks.example.com\nmethod POST\n}\nhandle @here {\nreverse_proxy {$APP}\n}\nrespond 403", status: 200, path: "/replicate"},
		{name: "handle_path", handlers: "handle_path /replicate {\nreverse_proxy {$APP}\n}", status: 200, path: "/"},
		{name: "vars and request_header", handlers: "vars who me\nrequest_header X-Who {vars.who}\nreverse_proxy {$APP}", status: 200, path: "/replicate", header: map[string]string{"X-Who": "me"}},
		{name: "request_body", handlers: "request_body {\nmax_size 10\n}\nreverse_proxy {$APP} {\nrequest_buffers 1k\n}", status: 413},
		{name: "method", handlers: "method PUT\nreverse_proxy {$APP}", status: 200, path: "/replicate"},
		{name: "the local address", handlers: "respond {http.request.local}/{http.request.local.host}/{http.request.local.port}", status: 200, body: "192.0.2.1:443/192.0.2.1/443"},
		{name: "an address of one's own", handlers: "reverse_proxy {$APP} {\nheader_up Host {upstream_hostport}\n}", status: 200, path: "/replicate"},
	}
	var handlers []string
	for _, test := range tests {
		handlers = append(handlers, test.handlers)
	}
	_, routes := start(t, route.Options{Timeout: time.Minute}, handlers...)
	t.Cleanup(func() { unixApp.Close() })
	// It is under way from the start, before any event.
	<-checked
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			app.Forget()
			d := changed(t, event(), func(h *inbox.Head) { h.Header.Set("Accept-Encoding", "gzip") })
			got := routes[i].Pass(t.Context(), d, 1)
			if got.Status != test.status {
				t.Fatalf("status %d, %v, %q", got.Status, got.Err, got.Body)
			}
			if test.body != "" && got.Body != test.body {
				t.Errorf("body %q, want %q", got.Body, test.body)
			}
			if test.encoded != "" && !strings.HasPrefix(got.Body, "this is compressed. this") {
				t.Errorf("the log shows %q", got.Body)
			}
			path := ""
			if app.Count() > 0 {
				path = app.Last().URL.Path
			}
			if test.path != "" && path != test.path {
				t.Errorf("the app saw %q, want %q", path, test.path)
			}
			for name, want := range test.header {
				if got := app.Last().Header.Get(name); got != want {
					t.Errorf("%s is %q, want %q", name, got, want)
				}
			}
		})
	}
}

// TestPHPBehindAnInbox: php_fastcgi gets what it gets of a request.
func TestPHPBehindAnInbox(t *testing.T) {
	dir := t.TempDir()
	script := `<?php
$body = file_get_contents('php://input');
http_response_code(isset($_GET['status']) ? (int) $_GET['status'] : 200);
echo implode(' ', [$_SERVER['REQUEST_METHOD'], $_SERVER['REQUEST_URI'], $_SERVER['SCRIPT_NAME'], $_SERVER['REMOTE_ADDR'], $_SERVER['SERVER_ADDR'],
	$_SERVER['HTTP_HOST'], $_SERVER['HTTPS'] ?? '', $_SERVER['HTTP_X_REPLICATE_EVENT_ID'], $_SERVER['HTTP_X_REPLICATE_VERIFIED'],
	$_SERVER['CONTENT_LENGTH'], $body]);
`
	if err := os.WriteFile(filepath.Join(dir, "index.php"), []byte(script), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("FPM", caddyrun.StartFPM(t))
	t.Setenv("ROOT", dir)
	_, routes := start(t, route.Options{Timeout: time.Minute}, "root * {$ROOT}\nphp_fastcgi unix/{$FPM}", "root * {$ROOT}\nrewrite * /index.php?status=410\nphp_fastcgi unix/{$FPM}")
	want := "POST /hooks/replicate?q=1 /index.php 192.0.2.7 192.0.2.1 hooks.example.com  evt_1 standard " + fmt.Sprint(len(payload)) + " " + payload
	got := routes[0].Pass(t.Context(), event(), 1)
	if got.Status != 200 || got.Body != want || !got.Sent {
		t.Errorf("%+v\nwant %q", got, want)
	}
	if got := routes[1].Pass(t.Context(), event(), 1); got.Status != 410 {
		t.Errorf("%+v", got)
	}
	d := changed(t, event(), func(h *inbox.Head) { h.TLS = 0x304 })
	if got := routes[0].Pass(t.Context(), d, 1); !strings.Contains(got.Body, "hooks.example.com on evt_1") {
		t.Errorf("an event that came by TLS: %+v", got)
	}
}
