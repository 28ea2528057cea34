package dashboard_test

import (
	"bufio"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/dashrun"
)

// listenLive opens a page's stream of events.
func listenLive(v *dashrun.Visitor) *bufio.Reader {
	v.T.Helper()
	req, err := http.NewRequest(http.MethodGet, v.URL("PORT1", "/_webhooks/live"), nil)
	if err != nil {
		v.T.Fatal(err)
	}
	req.SetBasicAuth(dashrun.User, dashrun.Password)
	resp, err := v.Client.Do(req)
	if err != nil {
		v.T.Fatal(err)
	}
	v.T.Cleanup(func() { _ = resp.Body.Close() })
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" {
		v.T.Fatalf("the stream is %d %s", resp.StatusCode, resp.Header.Get("Content-Type"))
	}
	return bufio.NewReader(resp.Body)
}

// awaitEvent reads up to an event.
func awaitEvent(t *testing.T, r *bufio.Reader, name string) {
	t.Helper()
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatalf("waiting for %s: %v", name, err)
		}
		if strings.TrimSpace(line) == "event: "+name {
			return
		}
	}
}

// TestLive: what happens is told, and the stream ends with its configuration: a
// reload waits for nobody who watches.
func TestLive(t *testing.T) {
	s := dashrun.Start(t, nil)
	v := s.Visitor()
	stream := listenLive(v)
	awaitEvent(t, stream, "hello")
	s.Create("/hook")
	awaitEvent(t, stream, "changed")

	began := time.Now()
	s.Reload(s.Config + "\n# changed\n")
	if _, err := io.Copy(io.Discard, stream); err != nil {
		t.Errorf("the stream did not end but broke: %v", err)
	}
	// The grace period of these tests is 10 s: nobody used it up.
	if took := time.Since(began); took > 9*time.Second {
		t.Errorf("the reload took %s", took)
	}
	// Streams of the new configuration go on telling, the history with them.
	stream = listenLive(v)
	awaitEvent(t, stream, "hello")
	s.Create("/hook")
	awaitEvent(t, stream, "changed")
	began = time.Now()
	s.Stop()
	if _, err := io.Copy(io.Discard, stream); err != nil {
		t.Errorf("the stream did not end with the server: %v", err)
	}
	if took := time.Since(began); took > 9*time.Second {
		t.Errorf("stopping took %s", took)
	}
}

// TestWhere: the prefix follows from the matcher, or is given, or is none; links
// work below each, and behind a handle_path that takes it away.
func TestWhere(t *testing.T) {
	s := caddyrun.Start(t, `{
	{$GLOBALS}
	replicate_webhook {
		store sqlite {$DIR}/webhook.db
	}
}
http://127.0.0.1:{$PORT1} {
	replicate_dashboard /ops/webhooks/* {
		public
	}
	handle /inside/* {
		replicate_dashboard {
			prefix /inside
			public
		}
	}
	handle_path /stripped/* {
		replicate_dashboard {
			public
		}
	}
}
http://127.0.0.1:{$PORT2} {
	replicate_dashboard {
		user {http.request.header.Remote-User}
	}
}
`)
	if len(s.Logs.Lines("the dashboard is public")) == 0 {
		t.Error("no warning of a public dashboard")
	}
	get := func(url, user string) int {
		t.Helper()
		req, err := http.NewRequest(http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if user != "" {
			req.Header.Set("Remote-User", user)
		}
		resp, err := s.Client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	for path, want := range map[string]int{
		"/ops/webhooks/": 200, "/ops/webhooks/deliveries": 200, "/ops/webhooks": 301, "/inside/": 200, "/inside/assets/app.css": 200,
		"/stripped/": 200, "/stripped/deliveries": 200, "/ops/webhooks/none": 404, "/inside/inside/": 404,
	} {
		if got := get(s.URL("PORT1", path), ""); got != want {
			t.Errorf("%s is %d, want %d", path, got, want)
		}
	}
	for user, want := range map[string]int{"alice": 200, "": 403, " ": 403} {
		if got := get(s.URL("PORT2", "/"), user); got != want {
			t.Errorf("user %q gets %d, want %d", user, got, want)
		}
	}
}

// TestNoSecrets: pages show no secret, and no credential of a client's.
func TestNoSecrets(t *testing.T) {
	s := dashrun.Start(t, dashrun.OneFailed(t))
	v := s.Visitor()
	s.Create("/hook")
	s.Receiver.Wait(2)
	for _, path := range pages(v) {
		body := v.Page(path)
		for _, secret := range []string{dashrun.SigningSecret, strings.TrimPrefix(dashrun.SigningSecret, "whsec_"), "r8_token", dashrun.Password} {
			if strings.Contains(body, secret) {
				t.Errorf("%s shows %s", path, secret)
			}
		}
	}
}
