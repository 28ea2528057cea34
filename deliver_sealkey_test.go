package replicatewebhook_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/siterun"
	"github.com/caddy-replicate/replicate-webhook/internal/fakeapi"
	"github.com/caddy-replicate/replicate-webhook/internal/operator"
)

// createStatus is the answer to a create with a webhook.
func createStatus(t *testing.T, s *siterun.Site) (status int, body string) {
	t.Helper()
	text := fmt.Sprintf(`{"version":"v1","input":{},"webhook_url":%q}`, s.Hook.URL+"/refused")
	req, err := http.NewRequest(http.MethodPost, s.URL("PORT1", "/v1/predictions"), strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+siterun.Token)
	resp, err := s.Client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

// TestRunningWithoutItsSealingKey: when the key file is gone, creates are refused
// before the API is charged, and what is due waits without an attempt. A reload
// is refused and a validation is not. All goes on when the key is back.
func TestRunningWithoutItsSealingKey(t *testing.T) {
	o := siterun.Options{API: fakeapi.Options{Manual: true}}
	s := siterun.Start(t, o)
	file := s.Path("seal.key")
	key, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	first, id := s.Create("/hook"), s.Create("/hook")
	s.API.Set(first, "succeeded", `"done"`)
	s.Until("a first delivery", func(st *operator.Status) bool { return st.TrackedPredictions == 1 && st.Deliveries.Pending == 0 })
	before := s.Hook.Count()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	st := s.Until("the missing key to be found out", func(st *operator.Status) bool { return !st.Sealing.Ready })
	if !strings.Contains(st.Sealing.Error, file) || !strings.Contains(st.Sealing.Error, "restore it") {
		t.Errorf("status says %q", st.Sealing.Error)
	}
	s.Logs.Wait(t, "error", "sealed values can't be relied on", file)
	if metric := scrape(t, s); !strings.Contains(metric, "caddy_replicate_webhook_sealing_ready 0") {
		t.Error("the metric does not say so")
	}
	charged := s.API.Creates.Load()
	if status, body := createStatus(t, s); status != http.StatusServiceUnavailable || s.API.Creates.Load() != charged {
		t.Errorf("a create got %d %s, and the API %d of them", status, body, s.API.Creates.Load()-charged)
	}
	s.API.Set(id, "succeeded", `"done"`)
	s.Until("the event to be due", func(st *operator.Status) bool { return st.Deliveries.Pending > 0 })
	s.Logs.Wait(t, "error", "delivery waits", file)

	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(s.Config(o)), nil)
	if err != nil {
		t.Fatal(err)
	}
	var parsed *caddy.Config
	if err := caddy.StrictUnmarshalJSON(config, &parsed); err != nil {
		t.Fatal(err)
	}
	if err := caddy.Validate(parsed); err != nil {
		t.Errorf("validating: %v", err)
	}
	if err := s.TryReload(s.Config(o)); err == nil || !strings.Contains(err.Error(), file+" is missing") {
		t.Errorf("reloading: %v", err)
	}
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("another key was made: %v", err)
	}
	if n := s.Hook.Count(); n != before {
		t.Fatalf("the receiver got %d webhooks", n-before)
	}

	if err := os.WriteFile(file, key, 0o600); err != nil {
		t.Fatal(err)
	}
	st = s.Settled(before + 1)
	if st.Deliveries.Failed != 0 || !st.Sealing.Ready {
		t.Errorf("status %+v", st)
	}
	for _, r := range s.Hook.Seen() {
		if got := r.Header.Get("X-Replicate-Attempt"); got != "1" {
			t.Errorf("delivered with attempt %s", got)
		}
	}
	s.Create("/hook")
	s.Reload(s.Config(o))
}

// scrape returns the metrics.
func scrape(t *testing.T, s *siterun.Site) string {
	t.Helper()
	resp, err := s.Client.Get("http://" + s.AdminAddr + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestRotatedSealingKey: what is stored is sealed again with the new key while the
// server runs, the status says when the old one can go, and without it everything
// goes on. Without the old key before that, the configuration is refused and the
// one before goes on.
func TestRotatedSealingKey(t *testing.T) {
	t.Setenv("SEAL_OLD", "the sealing key of last year")
	t.Setenv("SEAL_NEW", "the sealing key of this year")
	with := func(keys string) siterun.Options {
		return siterun.Options{API: fakeapi.Options{Manual: true}, App: []string{"seal_key " + keys}}
	}
	s := siterun.Start(t, with("{env.SEAL_OLD}"))
	id := s.Create("/hook")
	if err := s.TryReload(s.Config(with("{env.SEAL_NEW}"))); err == nil || !strings.Contains(err.Error(), "seal_key lacks the key") {
		t.Fatalf("without the old key: %v", err)
	}
	s.Reload(s.Config(with("{env.SEAL_NEW} {env.SEAL_OLD}")))
	s.Until("the old key to be needed no longer", func(st *operator.Status) bool {
		keys := st.Sealing.Keys
		return len(keys) == 2 && keys[0].Values > 0 && keys[1].Values == 0
	})
	s.Reload(s.Config(with("{env.SEAL_NEW}")))
	s.API.Set(id, "succeeded", `"done"`)
	if st := s.Settled(2); st.Deliveries.Delivered != 2 || st.Unreadable != 0 {
		t.Errorf("status %+v", st)
	}
}
