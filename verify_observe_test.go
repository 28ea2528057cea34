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

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
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

// at is a webhook signed by X-Replicate-Signature whose body has the JSON value as
// its timestamp.
func at(timestamp string) webhook {
	return replicate(whsec, `{"id":"p","status":"succeeded","timestamp":`+timestamp+`}`)
}

// withTimestamp is a webhook signed as Standard Webhooks has it, but for its
// webhook-timestamp.
func withTimestamp(value string) webhook {
	return standard(whsec, "m", "{}").without("Webhook-Timestamp").with("Webhook-Timestamp", value)
}

// outcomes are what requests_total may say: a bounded set. Those that are missing
// take more than one request, and are counted elsewhere.
var outcomes = []struct {
	outcome string
	send    func(*edge)
}{
	{"accepted", func(e *edge) { e.accepted(completed("p1")) }},
	{"duplicate", func(e *edge) { e.isDuplicate(completed("p1")) }},
	{"filtered", func(e *edge) { e.refused(replicate(whsec, guideBody("p1", "prediction.started")), 200) }},
	{"method", func(e *edge) { _, _ = e.Client.Get(e.URL("PORT1", route)) }},
	{"headers_missing", func(e *edge) { e.refused(completed("p1").without("X-Replicate-Signature"), 401) }},
	{"headers_malformed", func(e *edge) { e.refused(standard(whsec, "m", "{}").without("Webhook-Id"), 401) }},
	{"headers_duplicated", func(e *edge) { e.refused(completed("p1").with("X-Replicate-Signature", "x"), 401) }},
	{"headers_oversized", func(e *edge) { e.refused(standard(whsec, strings.Repeat("m", 300), "{}"), 401) }},
	{"headers_connection", func(e *edge) { e.refused(completed("p1").with("Connection", "webhook-id"), 401) }},
	{"headers_timestamp", func(e *edge) { e.refused(withTimestamp("2026-11-24T12:00:00Z"), 401) }},
	{"headers_milliseconds", func(e *edge) { e.refused(withTimestamp(fmt.Sprint(time.Now().UnixMilli())), 401) }},
	{"encoding", func(e *edge) { e.refused(completed("p1").with("Content-Encoding", "gzip"), 415) }},
	{"too_large", func(e *edge) { e.refused(replicate(whsec, strings.Repeat(" ", 5000)), 413) }},
	{"signature", func(e *edge) { e.refused(replicate(older, "{}"), 401) }},
	{"timestamp", func(e *edge) { e.refused(standardAt(whsec, "m", "{}", time.Unix(1, 0)), 401) }},
	{"timestamp_future", func(e *edge) {
		e.refused(standard(whsec, "m", guideBodyAt("p", "prediction.completed", time.Now().Add(time.Hour))), 401)
	}},
	{"timestamp_missing", func(e *edge) { e.refused(replicate(whsec, "{}"), 401) }},
	{"timestamp_type", func(e *edge) { e.refused(at("null"), 401) }},
	{"timestamp_number", func(e *edge) { e.refused(at(fmt.Sprint(time.Now().Unix())), 401) }},
	{"timestamp_milliseconds", func(e *edge) { e.refused(at(fmt.Sprint(time.Now().UnixMilli())), 401) }},
	{"timestamp_zone", func(e *edge) { e.refused(at(time.Now().UTC().Format(`"2006-01-02T15:04:05.000000"`)), 401) }},
	{"timestamp_case", func(e *edge) { e.refused(at(time.Now().UTC().Format(`"2006-01-02t15:04:05z"`)), 401) }},
	{"timestamp_format", func(e *edge) { e.refused(at(time.Now().UTC().Format(`"2006-01-02 15:04:05Z"`)), 401) }},
	{"json", func(e *edge) { e.refused(standard(whsec, "m", "{"), 400) }},
	{"duplicate_key", func(e *edge) { e.refused(standard(whsec, "m", `{"a":1,"a":1}`), 400) }},
	{"folded_key", func(e *edge) { e.refused(standard(whsec, "m", `{"ID":"p"}`), 400) }},
	{"depth", func(e *edge) { e.refused(standard(whsec, "m", strings.Repeat("[", 600)+strings.Repeat("]", 600)), 400) }},
	{"prediction_id", func(e *edge) { e.refused(standard(whsec, "m", "{}"), 400) }},
	{"upstream_refused", func(e *edge) { e.sendWhile(http.StatusBadGateway, completed("p2")) }},
	{"panicked", func(e *edge) { _, _ = post(e.Client, e.URL("PORT1", route), completed("p3").with("X-Test", "panic")) }},
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
	for _, o := range outcomes {
		t.Run(o.outcome, func(t *testing.T) {
			series := fmt.Sprintf("requests_total{outcome=%q}", o.outcome)
			before := e.metric(series)
			o.send(e)
			if got := e.metric(series) - before; got != 1 {
				t.Errorf("counted %v times, want once", got)
			}
		})
	}
}

// TestSignaturesNobodyCanCheckHaveTheirReason: that a webhook came signed, but not
// in a way that the route's secrets can check, is told from one without a
// signature.
func TestSignaturesNobodyCanCheckHaveTheirReason(t *testing.T) {
	plain := strconv.Quote(shared)
	for _, c := range []struct {
		options, reason string
		hook            webhook
	}{
		{"secret " + plain, "headers_secret", standard(whsec, "m", bareBody("p1", "succeeded"))},
		{"secret " + plain + "\nscheme replicate", "headers_scheme", standard(whsec, "m", bareBody("p1", "succeeded"))},
		{"scheme replicate", "headers_scheme", standard(whsec, "m", bareBody("p1", "succeeded"))},
		{"scheme standard", "headers_scheme", completed("p1")},
		{"", "headers_missing", webhook{completed("p1").body, http.Header{}}},
		{"secret " + plain, "headers_missing", webhook{completed("p1").body, http.Header{}}},
	} {
		t.Run(c.options, func(t *testing.T) {
			e := newEdge(t, c.options)
			e.Reload(withMetrics(site(withSecret(c.options), e.app.Addr())))
			series := fmt.Sprintf("requests_total{outcome=%q}", c.reason)
			before := e.metric(series)
			e.refused(c.hook, http.StatusUnauthorized)
			e.Logs.Wait(t, "webhook refused", fmt.Sprintf(`"reason":%q`, c.reason))
			if got := e.metric(series) - before; got != 1 {
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
