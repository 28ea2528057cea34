// Package inbox_test runs edges with an inbox as users do: a real Caddy and SQLite
// between a sender and an app that is not always there.
package inbox_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	_ "github.com/caddy-replicate/replicate-webhook"
	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
)

const secretText = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"

// site is a Caddy whose edge has an inbox.
type site struct {
	*caddyrun.Server
	t      *testing.T
	secret signature.Secret
	// app is where the inbox's app is to be found.
	app string
}

// config returns a Caddyfile with the options of the edge. APP is the app's address.
func config(options string) string {
	return `{
	{$GLOBALS}
	replicate_webhook {
		store sqlite {$DATABASE}
	}
}
http://127.0.0.1:{$PORT1} {
	handle /webhooks/replicate {
		replicate_webhook {
			secret {env.INBOX_SECRET}
			` + options + `
		}
		reverse_proxy {$APP}
	}
	handle {
		respond 404
	}
}
`
}

// inbox returns the option of an inbox that tries again soon.
func inbox(options ...string) string {
	return "inbox {$APP} {\nmax_delay 10ms\n" + strings.Join(options, "\n") + "\n}"
}

// newSite starts Caddy with the options of the edge. The app is down.
func newSite(t *testing.T, options string) *site {
	t.Helper()
	secret, err := signature.ParseSecret(secretText)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("INBOX_SECRET", secretText)
	t.Setenv("DATABASE", filepath.Join(t.TempDir(), "webhook.db"))
	s := &site{t: t, secret: secret, Server: caddyrun.New(t)}
	s.app = s.Addr("PORT_APP")
	t.Setenv("APP", s.app)
	s.Reload(config(options))
	return s
}

// restart stops Caddy and starts another one with the same database.
func (s *site) restart(options string) {
	s.t.Helper()
	s.Stop()
	s.Server = caddyrun.New(s.t)
	s.Reload(config(options))
}

// event returns the body of an event.
func event(name, id string) string {
	status := map[string]string{"started": "processing", "completed": "succeeded", "failed": "failed"}[name]
	return fmt.Sprintf(`{"event":"prediction.%s","prediction":{"id":%q,"status":%q}}`, name, id, status)
}

// response is what a sender gets.
type response struct {
	status int
	http.Header
}

// send posts an event.
func (s *site) send(message, body string) response {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.URL("PORT1", "/webhooks/replicate?a=b"), strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	for _, name := range []string{"Event-Id", "Attempt", "Inbox", "Replay", "Overtaken"} {
		r.Header.Set("X-Replicate-"+name, "forged")
		r.Header["X_replicate_"+strings.ReplaceAll(name, "-", "_")] = []string{"forged"}
	}
	signature.Standard.Sign(r.Header, []signature.Secret{s.secret}, message, time.Now(), []byte(body))
	resp, err := s.Client.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return response{resp.StatusCode, resp.Header}
}

// accepted sends an event and returns its ID.
func (s *site) accepted(message, body string) string {
	s.t.Helper()
	got := s.send(message, body)
	id := got.Get("X-Replicate-Inbox")
	if got.status != http.StatusOK || id == "" || id == "forged" || got.Get("X-Replicate-Duplicate") != "" {
		s.t.Fatalf("got %+v, want 200 with an ID", got)
	}
	return id
}

// app is an app that comes up late.
type app struct {
	t      *testing.T
	server *http.Server
	got    chan passed
}

// passed is a request that reached the app.
type passed struct {
	header http.Header
	uri    string
	body   string
}

// startApp starts the app of a site, which responds with what answer returns, or with
// 200 if it is nil.
func (s *site) startApp(answer func(passed) int) *app {
	s.t.Helper()
	l, err := net.Listen("tcp", s.app)
	if err != nil {
		s.t.Fatal(err)
	}
	a := &app{t: s.t, got: make(chan passed, 1000)}
	a.server = &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		p := passed{r.Header, r.URL.RequestURI(), string(body)}
		status := http.StatusOK
		if answer != nil {
			status = answer(p)
		}
		w.Header().Set("X-Replicate-Inbox", "the app's own")
		w.WriteHeader(status)
		a.got <- p
	})}
	a.server.SetKeepAlivesEnabled(false)
	go func() { _ = a.server.Serve(l) }()
	s.t.Cleanup(func() { _ = a.server.Close() })
	return a
}

// next waits for the next request.
func (a *app) next() passed {
	a.t.Helper()
	select {
	case p := <-a.got:
		return p
	case <-time.After(caddyrun.Patience):
		a.t.Fatal("waited in vain for an event")
	}
	return passed{}
}

// none asserts that no request has come that was not waited for.
func (a *app) none() {
	a.t.Helper()
	select {
	case p := <-a.got:
		a.t.Errorf("the app got %s of %v, too", p.body, p.header)
	default:
	}
}

// TestEventsWaitForAnAppThatIsDown, over a restart, and reach it before another request
// comes.
func TestEventsWaitForAnAppThatIsDown(t *testing.T) {
	s := newSite(t, inbox())
	ids := make(map[string]string)
	for i := range 3 {
		body := event("completed", fmt.Sprint("p", i))
		ids[body] = s.accepted(fmt.Sprint("msg_", i), body)
	}
	s.restart(inbox())
	a := s.startApp(nil)
	for range 3 {
		p := a.next()
		id, ok := ids[p.body]
		if !ok || p.uri != "/webhooks/replicate?a=b" {
			t.Fatalf("the app got %+v", p)
		}
		delete(ids, p.body)
		want := map[string]string{
			"X-Replicate-Event-Id": id, "X-Replicate-Event": "prediction.completed", "X-Replicate-Verified": "standard",
			"X-Replicate-Inbox": "", "X-Replicate-Replay": "", "X-Replicate-Overtaken": "", "Content-Type": "application/json",
		}
		for name, value := range want {
			if got := p.header.Get(name); got != value {
				t.Errorf("%s is %q, want %q", name, got, value)
			}
		}
		if attempt := p.header.Get("X-Replicate-Attempt"); attempt == "" || attempt == "forged" {
			t.Errorf("the attempt is %q", attempt)
		}
		for name := range p.header {
			if strings.HasPrefix(strings.ToLower(name), "x_replicate") {
				t.Errorf("the app got %s", name)
			}
		}
	}
	a.none()
}

// TestAnEventIsAcceptedOnce: a retry of the sender is a duplicate, whether the event
// waits or has reached the app.
func TestAnEventIsAcceptedOnce(t *testing.T) {
	s := newSite(t, inbox())
	s.accepted("msg_1", event("completed", "p1"))
	again := func() {
		t.Helper()
		if got := s.send("msg_1", event("completed", "p1")); got.status != 200 || got.Get("X-Replicate-Duplicate") != "true" || got.Get("X-Replicate-Inbox") != "" {
			t.Errorf("got %+v, want a duplicate", got)
		}
	}
	again()
	a := s.startApp(nil)
	a.next()
	again()
	s.accepted("msg_2", event("completed", "p2"))
	if p := a.next(); p.body != event("completed", "p2") {
		t.Errorf("the app got %s", p.body)
	}
	a.none()
}

// TestEventsOfAPredictionKeepTheirOrder: a later one waits until the app has taken the
// earlier, while those of others pass.
func TestEventsOfAPredictionKeepTheirOrder(t *testing.T) {
	s := newSite(t, inbox())
	var mu sync.Mutex
	refusals := 5
	a := s.startApp(func(p passed) int {
		mu.Lock()
		defer mu.Unlock()
		if p.body == event("started", "p1") && refusals > 0 {
			refusals--
			return http.StatusInternalServerError
		}
		return http.StatusNoContent
	})
	s.accepted("msg_1", event("started", "p1"))
	s.accepted("msg_2", event("completed", "p1"))
	s.accepted("msg_3", event("completed", "p2"))
	var order []string
	for range 8 {
		if p := a.next(); p.body != event("completed", "p2") {
			order = append(order, p.header.Get("X-Replicate-Event")+" "+p.header.Get("X-Replicate-Attempt"))
		}
	}
	want := "prediction.started 1, prediction.started 2, prediction.started 3, prediction.started 4, prediction.started 5, prediction.started 6, prediction.completed 1"
	if got := strings.Join(order, ", "); got != want {
		t.Errorf("the app got %s", got)
	}
	a.none()
}

// TestAFullInboxRefuses, and loses nothing that it has accepted.
func TestAFullInboxRefuses(t *testing.T) {
	s := newSite(t, inbox("max_events 2"))
	s.accepted("msg_1", event("completed", "p1"))
	s.accepted("msg_2", event("completed", "p2"))
	got := s.send("msg_3", event("completed", "p3"))
	if got.status != http.StatusServiceUnavailable || got.Get("Retry-After") == "" || got.Get("X-Replicate-Inbox") != "" {
		t.Fatalf("got %+v, want 503", got)
	}
	if got := s.send("msg_1", event("completed", "p1")); got.Get("X-Replicate-Duplicate") != "true" {
		t.Errorf("a duplicate got %+v", got)
	}
	a := s.startApp(nil)
	a.next()
	a.next()
	for try := 0; ; try++ {
		// The app's response may not be committed yet.
		if got = s.send("msg_3", event("completed", "p3")); got.status == http.StatusOK || try == 1000 {
			break
		}
	}
	if got.status != http.StatusOK || got.Get("X-Replicate-Inbox") == "" {
		t.Fatalf("with room, got %+v", got)
	}
	if p := a.next(); p.body != event("completed", "p3") {
		t.Errorf("the app got %s", p.body)
	}
}

// TestOnlyASuccessOfTheAppEndsAnEvent: all else is tried again, but for 410.
func TestOnlyASuccessOfTheAppEndsAnEvent(t *testing.T) {
	s := newSite(t, inbox())
	var mu sync.Mutex
	answers := []int{302, 404, 500, 401, 304, 201}
	a := s.startApp(func(p passed) int {
		mu.Lock()
		defer mu.Unlock()
		if p.body == event("completed", "gone") {
			return http.StatusGone
		}
		status := answers[0]
		answers = answers[1:]
		return status
	})
	s.accepted("msg_1", event("completed", "p1"))
	for range 6 {
		if p := a.next(); p.body != event("completed", "p1") {
			t.Fatalf("the app got %s", p.body)
		}
	}
	s.accepted("msg_2", event("completed", "gone"))
	a.next()
	s.Logs.Wait(t, "event not accepted by the app", "410")
	s.restart(inbox())
	mu.Lock()
	answers = []int{200}
	mu.Unlock()
	s.accepted("msg_3", event("completed", "p3"))
	if p := a.next(); p.body != event("completed", "p3") {
		t.Errorf("the app got %s", p.body)
	}
	a.none()
}

// TestARouteWithoutAnEndAcceptsNothing: a chain of handlers that gives no final status
// is no success, and a configuration that leads to the app gets the event.
func TestARouteWithoutAnEndAcceptsNothing(t *testing.T) {
	s := newSite(t, "inbox {\nmax_delay 10ms\nhandle {\nrespond /elsewhere 200\n}\n}")
	s.accepted("msg_1", event("completed", "p1"))
	s.Logs.Wait(t, "event not accepted by the app", "no final status")
	a := s.startApp(nil)
	s.Reload(config(inbox()))
	if p := a.next(); p.body != event("completed", "p1") {
		t.Errorf("the app got %s", p.body)
	}
}

// TestAScopeWithoutItsInboxIsWarnedOf at load, and its events wait for it.
func TestAScopeWithoutItsInboxIsWarnedOf(t *testing.T) {
	s := newSite(t, inbox())
	s.accepted("msg_1", event("completed", "p1"))
	if lines := s.Logs.Lines("warn", "no inbox any more"); len(lines) != 0 {
		t.Errorf("warned with an inbox: %s", lines)
	}
	a := s.startApp(nil)
	a.next()
	_ = a.server.Close()
	s.accepted("msg_2", event("completed", "p2"))
	s.Reload(config("scope other"))
	s.Logs.Wait(t, "warn", "no inbox any more", "default")
	b := s.startApp(nil)
	s.Reload(config(inbox()))
	if p := b.next(); p.body != event("completed", "p2") {
		t.Errorf("the app got %s", p.body)
	}
}
