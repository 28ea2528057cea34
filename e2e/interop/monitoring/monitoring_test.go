// Package monitoring_test holds the dashboard and the alert rules against what
// a real Caddy exports.
package monitoring_test

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/e2e/rig/siterun"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// scrape returns a site's metrics, by name and labels as they are written.
func scrape(t testing.TB, s *siterun.Site) map[string]float64 {
	t.Helper()
	resp, err := s.Client.Get("http://" + s.AdminAddr + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("scraping: %d, %v", resp.StatusCode, err)
	}
	samples := make(map[string]float64)
	for line := range strings.SplitSeq(string(body), "\n") {
		name, value, ok := strings.Cut(line, "} ")
		if ok {
			name += "}"
		} else {
			name, value, ok = strings.Cut(line, " ")
		}
		if n, err := strconv.ParseFloat(value, 64); ok && err == nil && strings.HasPrefix(name, "caddy_replicate_webhook_") {
			samples[name] = n
		}
	}
	return samples
}

// inboxed is an inbox whose app accepts everything.
const inboxed = `handle /inboxed {
		replicate_webhook {
			secret {env.EDGE_SECRET}
			scope inboxed
			inbox {
				handle {
					respond 204
				}
			}
		}
	}`

// busy returns a site that has counted something in each metric.
func busy(t testing.TB) *siterun.Site {
	s := siterun.Start(t, siterun.Options{Site: []string{inboxed}})
	s.Create("/hook")
	s.Settled(2)
	s.Hook.AnswerStatus(http.StatusInternalServerError)
	s.Create("/hook")
	s.Settled(4)
	resp, err := s.Client.Post(s.URL("PORT2", "/webhooks/replicate"), "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	db := s.Store()
	for range 3 {
		siterun.Accept(t, db, store.Inbound{Scope: "default", Recorded: &store.Attempt{Status: http.StatusInternalServerError, Number: 1, At: time.Now()}})
	}
	siterun.Accept(t, db, store.Inbound{Scope: "other"}) // it waits: there is no inbox for it
	siterun.Accept(t, db, store.Inbound{Scope: "inboxed"})
	caddyrun.Until(t, "the app's acceptance", func() bool {
		now := scrape(t, s)
		return now[`caddy_replicate_webhook_inbox_attempts_total{outcome="success"}`] > 0 && now[`caddy_replicate_webhook_inbox_events{state="accepted"}`] == 1
	})
	return s
}

var metricName = regexp.MustCompile(`\bcaddy_replicate_webhook_[a-z_]+\b`)

// referenced returns the number of metrics in an expression. It fails the test
// for those that are not exported.
func referenced(t *testing.T, exported map[string]float64, where, expr string) int {
	t.Helper()
	names := metricName.FindAllString(expr, -1)
	for _, name := range names {
		found := false
		for sample := range exported {
			if got, _, _ := strings.Cut(sample, "{"); got == name {
				found = true
			}
		}
		if !found {
			t.Errorf("%s: %s is not exported", where, name)
		}
	}
	if strings.Count(expr, "(") != strings.Count(expr, ")") || strings.Count(expr, "{") != strings.Count(expr, "}") {
		t.Errorf("%s: unbalanced: %s", where, expr)
	}
	// Labels in selectors, besides those that Prometheus adds.
	for _, m := range regexp.MustCompile(`(caddy_replicate_webhook_[a-z_]+)\{([^}]*)\}`).FindAllStringSubmatch(expr, -1) {
		for _, matcher := range regexp.MustCompile(`([a-z_]+)\s*(?:=~|!~|!=|=)`).FindAllStringSubmatch(m[2], -1) {
			label, found := matcher[1], matcher[1] == "instance"
			for sample := range exported {
				found = found || strings.HasPrefix(sample, m[1]+"{") && strings.Contains(sample, label+`="`)
			}
			if !found {
				t.Errorf("%s: %s has no label %s", where, m[1], label)
			}
		}
	}
	return len(names)
}

func TestEveryReferencedMetricExists(t *testing.T) {
	exported := scrape(t, busy(t))
	used := ""

	var dashboard struct {
		Title  string
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	read(t, "grafana.json", json.Unmarshal, &dashboard)
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			if referenced(t, exported, "panel "+p.Title, target.Expr) == 0 {
				t.Errorf("panel %s shows none of our metrics: %s", p.Title, target.Expr)
			}
			used += target.Expr
		}
	}

	var rules struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	read(t, "alerts.yml", yaml.Unmarshal, &rules)
	alerts := 0
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			alerts++
			if referenced(t, exported, "alert "+r.Alert, r.Expr) == 0 || r.Labels["severity"] == "" || r.Annotations["summary"] == "" {
				t.Errorf("alert %s is incomplete: %+v", r.Alert, r)
			}
		}
	}
	if len(dashboard.Panels) < 10 || alerts < 8 {
		t.Errorf("%d panels, %d alerts", len(dashboard.Panels), alerts)
	}
	// What is exported is shown.
	for sample := range exported {
		name, _, _ := strings.Cut(sample, "{")
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			name = strings.TrimSuffix(name, suffix)
		}
		if !strings.Contains(used, name) {
			t.Errorf("%s is on no panel", name)
		}
	}
}

func read(t *testing.T, file string, unmarshal func([]byte, any) error, into any) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("../../../monitoring", file))
	if err != nil {
		t.Fatal(err)
	}
	if err := unmarshal(b, into); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

// TestCountersSurviveAReload, and the gauges of what is held speak for the new
// configuration.
func TestCountersSurviveAReload(t *testing.T) {
	s := busy(t)
	before := scrape(t, s)
	for sample, want := range map[string]float64{
		`caddy_replicate_webhook_queue_deliveries{state="delivered"}`: 2,
		`caddy_replicate_webhook_queue_deliveries{state="pending"}`:   0,
		`caddy_replicate_webhook_oldest_pending_seconds`:              0,
		`caddy_replicate_webhook_tracked_predictions`:                 0,
		`caddy_replicate_webhook_inbox_events{state="failed"}`:        3,
		`caddy_replicate_webhook_inbox_events{state="waiting"}`:       1,
		`caddy_replicate_webhook_inbox_events{state="discarded"}`:     0,
	} {
		if got, ok := before[sample]; !ok || got != want {
			t.Errorf("%s is %v (there: %t), want %v", sample, got, ok, want)
		}
	}
	if age := before[`caddy_replicate_webhook_inbox_oldest_waiting_seconds`]; age <= 0 || age > caddyrun.Patience.Seconds() {
		t.Errorf("the oldest waiting event has waited for %vs", age)
	}
	s.Reload(s.Config(siterun.Options{App: []string{"workers 17"}, Site: []string{inboxed}}))
	after := scrape(t, s)
	for sample, n := range before {
		if got, ok := after[sample]; !ok || got < n {
			t.Errorf("%s was %v and is %v (there: %t)", sample, n, got, ok)
		}
	}
	if before[`caddy_replicate_webhook_requests_total{outcome="headers_missing"}`] < 1 {
		t.Errorf("the refusal was not counted: %v", before)
	}
}

// BenchmarkScrape measures a scrape, with a store of a few rows; what it takes
// with a million is measured in store/sqlite.
func BenchmarkScrape(b *testing.B) {
	s := busy(b)
	for b.Loop() {
		scrape(b, s)
	}
}
