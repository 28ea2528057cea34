// Package notices_test watches what a running Caddy tells of webhooks: events,
// logs and traces.
package notices_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/e2e/rig/siterun"
)

func init() { caddy.RegisterModule(recorder{}) }

// heard are the events of this process, by the recorder's name.
var heard = struct {
	sync.Mutex
	by map[string][]caddy.Event
}{by: make(map[string][]caddy.Event)}

// recorder is an event handler that remembers, and is slow if it is told to be.
type recorder struct {
	Name string         `json:"name"`
	Slow caddy.Duration `json:"slow,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (recorder) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.recorder", New: func() caddy.Module { return new(recorder) }}
}

// UnmarshalCaddyfile reads: recorder <name> [<slow>]
func (r *recorder) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.Args(&r.Name) {
		return d.ArgErr()
	}
	if d.NextArg() {
		slow, err := caddy.ParseDuration(d.Val())
		if err != nil {
			return err
		}
		r.Slow = caddy.Duration(slow)
	}
	return nil
}

// Handle implements caddyevents.Handler.
func (r *recorder) Handle(ctx context.Context, e caddy.Event) error {
	if !strings.HasPrefix(e.Name(), "replicate_webhook_") {
		return nil
	}
	if r.Slow > 0 {
		select {
		case <-time.After(time.Duration(r.Slow)):
		case <-ctx.Done():
		}
	}
	heard.Lock()
	defer heard.Unlock()
	heard.by[r.Name] = append(heard.by[r.Name], e)
	return nil
}

var _ caddyevents.Handler = (*recorder)(nil)

// events are those that a recorder heard, by their names.
func events(recorder string) map[string][]map[string]any {
	heard.Lock()
	defer heard.Unlock()
	out := make(map[string][]map[string]any)
	for _, e := range heard.by[recorder] {
		out[e.Name()] = append(out[e.Name()], e.Data)
	}
	return out
}

func count(recorder, name string) int { return len(events(recorder)[name]) }

// forge sends something unsigned to the edge.
func forge(t *testing.T, s *siterun.Site) {
	t.Helper()
	resp, err := s.Client.Post(s.URL("PORT2", "/webhooks/replicate"), "application/json", strings.NewReader(`{"secret":"payload of a forger"}`))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		t.Fatalf("a forgery is answered %d", resp.StatusCode)
	}
}

// secretPath stands for what a webhook's URL may hold.
const secretPath = "/hook/s3cretpath?token=s3crettoken"

func TestEvents(t *testing.T) {
	s := siterun.Start(t, siterun.Options{
		Globals: []string{"events {\n on * recorder " + t.Name() + "\n}"},
		App:     []string{"endpoint {\n breaker 3 10ms\n}"},
	})
	id := s.Create(secretPath)
	s.Settled(2)
	caddyrun.Until(t, "two delivered events", func() bool { return count(t.Name(), "replicate_webhook_delivered") == 2 })
	for _, data := range events(t.Name())["replicate_webhook_delivered"] {
		if data["prediction"] != id || data["status"] != 200 || data["attempts"] != 1 || !strings.HasPrefix(fmt.Sprint(data["delivery"]), "dlv_") ||
			!strings.HasPrefix(fmt.Sprint(data["event"]), "prediction.") {
			t.Errorf("delivered: %v", data)
		}
	}
	s.Hook.Answer(func(http.ResponseWriter, *caddyrun.Request) { panic(http.ErrAbortHandler) })
	s.Create(secretPath)
	s.Settled(4)
	caddyrun.Until(t, "a failed and an opened endpoint", func() bool {
		return count(t.Name(), "replicate_webhook_failed") >= 1 && count(t.Name(), "replicate_webhook_endpoint_open") >= 1
	})
	failed := events(t.Name())["replicate_webhook_failed"][0]
	if failed["error"] != "connection closed" || failed["gone"] != false || failed["endpoint"] != s.Hook.URL {
		t.Errorf("failed: %v", failed)
	}
	s.Hook.AnswerStatus(http.StatusOK)
	s.Create(secretPath)
	s.Settled(6)
	caddyrun.Until(t, "a closed endpoint", func() bool { return count(t.Name(), "replicate_webhook_endpoint_closed") >= 1 })
	forge(t, s)
	caddyrun.Until(t, "a rejection", func() bool { return count(t.Name(), "replicate_webhook_rejected") == 1 })
	if got := events(t.Name())["replicate_webhook_rejected"][0]; got["reason"] != "headers_missing" || got["count"] != 1 || got["status"] != 401 || got["client"] != "127.0.0.1" {
		t.Errorf("rejected: %v", got)
	}
	all, err := json.Marshal(events(t.Name()))
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"s3cret", "hello", "payload of a forger", siterun.Token, "whsec_"} {
		if strings.Contains(string(all), secret) {
			t.Errorf("%q is in the events: %s", secret, all)
		}
	}
}

// TestSlowEventHandlerDelaysNobody: neither the edge nor a delivery waits for
// who listens.
func TestSlowEventHandlerDelaysNobody(t *testing.T) {
	s := siterun.Start(t, siterun.Options{Globals: []string{"events {\n on * recorder " + t.Name() + " 1h\n}"}})
	const forgeries = 200
	for range forgeries {
		forge(t, s)
	}
	for range 5 {
		s.Create("/hook")
	}
	s.Settled(10)
	if n := len(events(t.Name())); n != 0 {
		t.Errorf("%d events were handled by a handler that waits an hour", n)
	}
}

// TestRejectionsAreToldOnceASecond, with how many there were.
func TestRejectionsAreToldOnceASecond(t *testing.T) {
	s := siterun.Start(t, siterun.Options{Globals: []string{"events {\n on replicate_webhook_rejected recorder " + t.Name() + "\n}"}})
	began := time.Now()
	const forgeries = 300
	for range forgeries {
		forge(t, s)
	}
	told := func() (sum int) {
		for _, data := range events(t.Name())["replicate_webhook_rejected"] {
			sum += data["count"].(int)
		}
		return sum
	}
	caddyrun.Until(t, "all rejections to be told", func() bool { return told() == forgeries })
	if n, most := count(t.Name(), "replicate_webhook_rejected"), int(time.Since(began).Seconds())+2; n > most {
		t.Errorf("%d events in %s", n, time.Since(began))
	}
	lines := s.Logs.Lines(`"webhooks rejected"`)
	if len(lines) != count(t.Name(), "replicate_webhook_rejected") || !strings.Contains(lines[0], `"level":"info"`) {
		t.Errorf("%d lines, %d events: %q", len(lines), count(t.Name(), "replicate_webhook_rejected"), lines)
	}
}

// TestLogs have a level by what happened, and nothing of what was sent.
func TestLogs(t *testing.T) {
	s := siterun.Start(t, siterun.Options{})
	s.Hook.AnswerStatus(http.StatusInternalServerError)
	id := s.Create(secretPath)
	s.Settled(2)
	forge(t, s)
	for text, level := range map[string]string{"delivery attempt failed": "warn", "delivery given up": "error", "webhooks rejected": "info"} {
		line := s.Logs.Wait(t, text)
		if !strings.Contains(line, `"level":"`+level+`"`) {
			t.Errorf("%s: %s", text, line)
		}
	}
	if lines := s.Logs.Lines("delivery given up"); !strings.Contains(lines[len(lines)-1], id) {
		t.Errorf("given up: %q", lines)
	}
	for line := range strings.SplitSeq(s.Logs.String(), "\n") {
		if strings.Contains(line, "http.handlers.reverse_proxy") || strings.Contains(line, "http.log") {
			continue // Caddy's own, at DEBUG
		}
		for _, secret := range []string{"s3cret", "hello", "payload of a forger", siterun.Token, "whsec_"} {
			if strings.Contains(line, secret) {
				t.Errorf("%q is in a line: %s", secret, line)
			}
		}
	}
}

// TestEventsOfAReplacedConfiguration reach the subscribers of the new one: an
// attempt may outlive the configuration it began under.
func TestEventsOfAReplacedConfiguration(t *testing.T) {
	s := siterun.Start(t, siterun.Options{Globals: []string{"events {\n on * recorder " + t.Name() + "\n}"}})
	free := make(chan struct{})
	s.Hook.Answer(func(http.ResponseWriter, *caddyrun.Request) { <-free })
	s.Create("/hook")
	s.Hook.Wait(1)
	s.Reload(s.Config(siterun.Options{App: []string{"workers 17"}}))
	close(free)
	s.Settled(2)
	caddyrun.Until(t, "both events", func() bool { return count(t.Name(), "replicate_webhook_delivered") == 2 })
	if lines := s.Logs.Lines("context canceled; event handling stopped"); len(lines) > 0 {
		t.Errorf("logged %q", lines)
	}
}
