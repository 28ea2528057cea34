package replicatewebhook_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/caddyrun"
)

// TestPlaceholders are there for the handlers behind the edge.
func TestPlaceholders(t *testing.T) {
	const show = `route {
			header X-Seen "{http.replicate_webhook.event}|{http.replicate_webhook.prediction_id}|{http.replicate_webhook.status}|{http.replicate_webhook.scheme}|{http.replicate_webhook.message_id}|{http.replicate_webhook.duplicate}"
		}`
	e := newEdge(t, "", show)
	for _, c := range []struct {
		hook webhook
		want string
	}{
		{completed("p1"), "prediction.completed|p1|succeeded|replicate||false"},
		{standard(whsec, "msg_1", bareBody("p2", "canceled")), "prediction.failed|p2|canceled|standard|msg_1|false"},
		{both(whsec, "msg_2", guideBody("p3", "prediction.started")), "prediction.started|p3|processing|standard|msg_2|false"},
	} {
		if a := e.send(c.hook); a.header.Get("X-Seen") != c.want {
			t.Errorf("got %q, want %q", a.header.Get("X-Seen"), c.want)
		}
	}
}

// TestAccessLogFields say what was verified, and nothing of what was not.
func TestAccessLogFields(t *testing.T) {
	e := newEdge(t, "")
	field := func(requestID string, w webhook) map[string]any {
		t.Helper()
		e.send(w.with("X-Test-Id", requestID))
		var entry struct {
			Edge map[string]any `json:"replicate_webhook"`
		}
		line := e.Logs.Wait(t, "http.log.access", requestID)
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		return entry.Edge
	}
	w := both(whsec, "msg_1", guideBody("p1", "prediction.completed"))
	for i, duplicate := range []bool{false, true} {
		got := fmt.Sprint(field(fmt.Sprint("request-", i), w))
		want := fmt.Sprint(map[string]any{
			"event": "prediction.completed", "prediction_id": "p1", "status": "succeeded",
			"scheme": "standard", "message_id": "msg_1", "duplicate": duplicate,
		})
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if got := field("request-forged", replicate(older, w.body)); got != nil {
		t.Errorf("a forgery is logged with %v", got)
	}
}

// TestRefusalsAreLoggedWithTheirReason, at DEBUG alone and without what would
// help a forger.
func TestRefusalsAreLoggedWithTheirReason(t *testing.T) {
	e := newEdge(t, "")
	for reason, w := range map[string]webhook{
		"headers_missing":   completed("p1").without("X-Replicate-Signature"),
		"signature":         replicate(older, completed("p1").body),
		"timestamp":         replicate(whsec, guideBodyAt("p1", "prediction.completed", time.Now().Add(-time.Hour))),
		"timestamp_missing": replicate(whsec, bareBody("p1", "succeeded")),
	} {
		e.refused(w, http.StatusUnauthorized)
		line := e.Logs.Wait(t, "webhook refused", fmt.Sprintf(`"reason":%q`, reason))
		if !strings.Contains(line, `"level":"debug"`) || !strings.Contains(line, `"client":"127.0.0.1"`) {
			t.Errorf("logged as %s", line)
		}
		if strings.Contains(line, hexHMAC(whsec, w.body)) {
			t.Errorf("the right signature is in the log: %s", line)
		}
	}
}

// withMetrics adds a site that serves the metrics, on PORT_METRICS.
func withMetrics(text string) string {
	return text + "http://127.0.0.1:{$PORT_METRICS} {\n\tmetrics\n}\n"
}

// metric reads a series; it is 0 as long as it does not exist.
func (e *edge) metric(series string) float64 {
	e.t.Helper()
	resp, err := e.Client.Get(e.URL("PORT_METRICS", "/"))
	if err != nil {
		e.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		e.t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta("caddy_replicate_webhook_"+series) + ` (\S+)$`).FindSubmatch(text)
	if m == nil {
		return 0
	}
	v, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		e.t.Fatal(err)
	}
	return v
}

// outcomes are what requests_total may say: a bounded set.
var outcomes = map[string]func(*edge){
	"accepted":           func(e *edge) { e.accepted(completed("p1")) },
	"duplicate":          func(e *edge) { e.isDuplicate(completed("p1")) },
	"filtered":           func(e *edge) { e.refused(replicate(whsec, guideBody("p1", "prediction.started")), 200) },
	"method":             func(e *edge) { _, _ = e.Client.Get(e.URL("PORT1", route)) },
	"headers_missing":    func(e *edge) { e.refused(completed("p1").without("X-Replicate-Signature"), 401) },
	"headers_malformed":  func(e *edge) { e.refused(standard(whsec, "m", "{}").without("Webhook-Id"), 401) },
	"headers_duplicated": func(e *edge) { e.refused(completed("p1").with("X-Replicate-Signature", "x"), 401) },
	"headers_oversized":  func(e *edge) { e.refused(standard(whsec, strings.Repeat("m", 300), "{}"), 401) },
	"headers_connection": func(e *edge) { e.refused(completed("p1").with("Connection", "webhook-id"), 401) },
	"encoding":           func(e *edge) { e.refused(completed("p1").with("Content-Encoding", "gzip"), 415) },
	"too_large":          func(e *edge) { e.refused(replicate(whsec, strings.Repeat(" ", 5000)), 413) },
	"signature":          func(e *edge) { e.refused(replicate(older, "{}"), 401) },
	"timestamp":          func(e *edge) { e.refused(standardAt(whsec, "m", "{}", time.Unix(1, 0)), 401) },
	"timestamp_missing":  func(e *edge) { e.refused(replicate(whsec, "{}"), 401) },
	"json":               func(e *edge) { e.refused(standard(whsec, "m", "{"), 400) },
	"duplicate_key":      func(e *edge) { e.refused(standard(whsec, "m", `{"a":1,"a":1}`), 400) },
	"folded_key":         func(e *edge) { e.refused(standard(whsec, "m", `{"ID":"p"}`), 400) },
	"depth":              func(e *edge) { e.refused(standard(whsec, "m", strings.Repeat("[", 600)+strings.Repeat("]", 600)), 400) },
	"prediction_id":      func(e *edge) { e.refused(standard(whsec, "m", "{}"), 400) },
	"upstream_refused":   func(e *edge) { e.sendWhile(http.StatusBadGateway, completed("p2")) },
	"panicked":           func(e *edge) { _, _ = post(e.Client, e.URL("PORT1", route), completed("p3").with("X-Test", "panic")) },
}

// sendWhile sends while the app answers with a status.
func (e *edge) sendWhile(status int, w webhook) {
	e.app.AnswerStatus(status)
	defer e.app.AnswerStatus(http.StatusOK)
	e.send(w)
}

// TestRequestsAreCountedByOutcome, each under one label.
func TestRequestsAreCountedByOutcome(t *testing.T) {
	e := newEdge(t, "")
	const options = "events completed failed\nmax_body 4KiB"
	e.Reload(withMetrics(site(withSecret(options), e.app.Addr(), "misbehave")))
	series := func(outcome string) string { return fmt.Sprintf("requests_total{outcome=%q}", outcome) }
	for _, outcome := range []string{
		"accepted", "duplicate", "filtered", "method", "headers_missing", "headers_malformed", "headers_duplicated",
		"headers_oversized", "headers_connection", "encoding", "too_large", "signature", "timestamp", "timestamp_missing",
		"json", "duplicate_key", "folded_key", "depth", "prediction_id", "upstream_refused", "panicked",
	} {
		t.Run(outcome, func(t *testing.T) {
			before := e.metric(series(outcome))
			outcomes[outcome](e)
			if got := e.metric(series(outcome)) - before; got != 1 {
				t.Errorf("counted %v times, want once", got)
			}
		})
	}
}

// TestAnswerCutShortIsCounted: an event that was committed is accepted, also
// when the app's connection breaks in the middle of its answer.
func TestAnswerCutShortIsCounted(t *testing.T) {
	e := newEdge(t, "")
	e.Reload(withMetrics(site(withSecret(""), e.app.Addr())))
	e.app.Answer(func(w http.ResponseWriter, _ *caddyrun.Request) {
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, "a part")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	before := e.metric(`requests_total{outcome="accepted"}`)
	if a, err := post(e.Client, e.URL("PORT1", route), completed("p1")); err == nil {
		t.Fatalf("got %v of an answer that was cut short", a)
	}
	if got := e.metric(`requests_total{outcome="accepted"}`) - before; got != 1 {
		t.Errorf("counted %v times, want once", got)
	}
	e.isDuplicate(completed("p1"))
}

// TestMetricsSurviveReload, and count entries, verifications and commits.
func TestMetricsSurviveReload(t *testing.T) {
	e := newEdge(t, "")
	text := withMetrics(site(withSecret(""), e.app.Addr()))
	e.Reload(text)
	all := []string{
		`requests_total{outcome="accepted"}`, "verify_seconds_count", "dedup_entries",
		"store_commit_seconds_count", "store_commit_batch_count", "store_commit_batch_sum",
	}
	before := make(map[string]float64)
	for _, series := range all {
		before[series] = e.metric(series)
	}
	for i := range 3 {
		e.accepted(completed(fmt.Sprint("p", i)))
	}
	e.Reload(text)
	for _, series := range all {
		if got := e.metric(series) - before[series]; got != 3 && (!strings.HasPrefix(series, "store_commit") || got < 3) {
			t.Errorf("%s grew by %v, want 3", series, got)
		}
	}
}
