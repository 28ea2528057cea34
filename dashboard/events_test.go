package dashboard_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/dashrun"
	"github.com/caddy-replicate/replicate-webhook/e2e/rig/siterun"
	"github.com/caddy-replicate/replicate-webhook/internal/event"
)

// withEvents seeds one event of each kind, and the deliveries of a prediction that
// one of them is of.
func withEvents(t testing.TB) func(path string) {
	return func(path string) {
		dashrun.Seed(t, path, []dashrun.Row{{ID: "pred_both", URL: "https://hooks.example.com/in", Event: event.Completed, Age: time.Hour, Statuses: []int{500, 200}, Response: "out of order"}})
		dashrun.SeedEvents(t, path, []dashrun.EventRow{
			{Scope: "shop", Name: "prediction.completed", Prediction: "pred_both", Statuses: []int{502, 200}, Response: "the app's words"},
			{Scope: "shop", Name: "prediction.failed", Prediction: "pred_lost", Statuses: []int{0, 500}, Response: "<b>boom</b>"},
			{Scope: "blog", Name: "prediction.started", Prediction: "pred_waits", Statuses: []int{503}, Waiting: true},
		})
	}
}

var eventLink = regexp.MustCompile(`href="[./]*events/([A-Za-z0-9_-]+)"`)

// oneEvent returns the id of the one event that a query of the list selects.
func oneEvent(v *dashrun.Visitor, query string) string {
	v.T.Helper()
	ids := eventLink.FindAllStringSubmatch(v.Page("/_webhooks/events?"+query), -1)
	if len(ids) != 1 {
		v.T.Fatalf("%s lists %v", query, ids)
	}
	return ids[0][1]
}

// TestEventsHavePages: events are listed by every filter, and one is shown with its
// attempts and what the app said, but not with the headers that verify.
func TestEventsHavePages(t *testing.T) {
	v := dashrun.Start(t, withEvents(t)).Visitor()
	for query, want := range map[string]string{
		"state=accepted": "pred_both", "state=failed": "pred_lost", "state=waiting": "pred_waits", "scope=blog": "pred_waits",
		"event=prediction.failed": "pred_lost", "prediction=pred_both": "pred_both", "response=5xx&scope=shop": "pred_lost", "response=2xx": "pred_both",
	} {
		id := oneEvent(v, query)
		body := v.Page("/_webhooks/events/" + id)
		if !strings.Contains(body, want) {
			t.Errorf("%s leads to an event without %s:\n%s", query, want, body)
		}
		if strings.Contains(body, siterun.Signature) || strings.Contains(body, "in-the-query") {
			t.Errorf("%s shows a header that verifies or the query:\n%s", id, body)
		}
	}
	for _, path := range []string{"events?since=1h", "inbox?scope=shop", "inbox?scope=blog"} {
		v.Page("/_webhooks/" + path)
	}
	body := v.Page("/_webhooks/events/" + oneEvent(v, "state=accepted"))
	for _, want := range []string{"502 Bad Gateway", "200 OK", "the app&#39;s words", "https://hooks.example.com/webhooks/replicate", "192.0.2.8", "sender/1", "Accepted by the app", "&#34;status&#34;: &#34;succeeded&#34;"} {
		if !strings.Contains(body, want) {
			t.Errorf("the event's page has no %s:\n%s", want, body)
		}
	}
	for path, want := range map[string]int{"events?state=lost": 400, "events?state=failed&state=failed": 400, "events/evt_none": 404, "inbox?scope=none": 404, "inbox": 404, "prediction": 404, "prediction?id=none": 404, "endpoint?endpoint=none.example.com": 404, "endpoint?endpoint=ftp://x": 400} {
		if resp, body := v.Do(http.MethodGet, "/_webhooks/"+path, nil); resp.StatusCode != want || !strings.Contains(body, "<main") {
			t.Errorf("%s is %d, want %d:\n%s", path, resp.StatusCode, want, body)
		}
	}
	// The documents are those of the admin API.
	var list struct{ Results []map[string]any }
	if err := json.Unmarshal([]byte(v.Page("/_webhooks/api/events?state=waiting")), &list); err != nil || len(list.Results) != 1 || list.Results[0]["prediction"] != "pred_waits" {
		t.Errorf("the document lists %v, %v", list, err)
	}
}

// TestEventsAreChangedFromTheirPages: each action, by the page's own form alone.
func TestEventsAreChangedFromTheirPages(t *testing.T) {
	s := dashrun.Start(t, withEvents(t))
	v := s.Visitor()
	failed, waiting := oneEvent(v, "state=failed"), oneEvent(v, "state=waiting")
	post := func(path, page string, more url.Values) (int, string) {
		t.Helper()
		form := url.Values{"token": {v.Token("/_webhooks/" + page)}}
		for name, values := range more {
			form[name] = values
		}
		resp, body := v.Do(http.MethodPost, "/_webhooks/"+path, form)
		return resp.StatusCode, resp.Header.Get("Location") + body
	}
	for _, path := range []string{"events/" + failed + "/replay", "events/" + waiting + "/retry", "events/" + waiting + "/discard", "inbox/pause", "inbox/resume"} {
		if resp, _ := v.Do(http.MethodPost, "/_webhooks/"+path, url.Values{"scope": {"blog"}}); resp.StatusCode != http.StatusForbidden {
			t.Errorf("%s without a token is %d", path, resp.StatusCode)
		}
		if resp, _ := v.Do(http.MethodGet, "/_webhooks/"+path, nil); resp.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("GET %s is %d", path, resp.StatusCode)
		}
	}
	page := "events/" + waiting
	if status, to := post("inbox/pause", page, url.Values{"scope": {"blog"}}); status != http.StatusSeeOther || to != "../inbox?scope=blog" {
		t.Errorf("pausing is %d %s", status, to)
	}
	if body := v.Page("/_webhooks/inbox?scope=blog"); !strings.Contains(body, "Paused since") || !strings.Contains(body, "waits until the inbox is resumed") {
		t.Errorf("the paused inbox:\n%s", body)
	}
	if status, _ := post("inbox/resume", page, url.Values{"scope": {"blog"}}); status != http.StatusSeeOther || strings.Contains(v.Page("/_webhooks/inbox?scope=blog"), "Paused since") {
		t.Errorf("resuming is %d", status)
	}
	if status, _ := post("inbox/pause", page, url.Values{"scope": {"none"}}); status != http.StatusNotFound {
		t.Errorf("pausing an inbox that there is not: %d", status)
	}
	if status, to := post(page+"/retry", page, nil); status != http.StatusSeeOther || to != "../"+waiting+"?done=retry" {
		t.Errorf("retry is %d %s", status, to)
	}
	if status, body := post(page+"/replay", page, nil); status != http.StatusConflict || !strings.Contains(body, "event is waiting") {
		t.Errorf("replaying what waits: %d %s", status, body)
	}
	if status, _ := post(page+"/discard", page, nil); status != http.StatusSeeOther || oneEvent(v, "state=discarded") != waiting {
		t.Errorf("discard is %d", status)
	}
	if status, _ := post("events/"+failed+"/replay", "events/"+failed, nil); status != http.StatusSeeOther {
		t.Errorf("replay is %d", status)
	}
	if body := v.Page("/_webhooks/events/" + failed + "?done=replay"); !strings.Contains(body, "waits to be forwarded again") || !strings.Contains(body, "replayed") {
		t.Errorf("the replayed event:\n%s", body)
	}
}

// TestPayloadsAreDownloaded: byte for byte, and never as a page.
func TestPayloadsAreDownloaded(t *testing.T) {
	v := dashrun.Start(t, withEvents(t)).Visitor()
	id := oneEvent(v, "state=accepted")
	for path, want := range map[string]string{
		"events/" + id + "/payload":                   `{ "id": "pred_both", "status": "succeeded" }`,
		"deliveries/" + firstDelivery(v) + "/payload": `{"event":"prediction.completed"`,
	} {
		resp, body := v.Do(http.MethodGet, "/_webhooks/"+path, nil)
		h := resp.Header
		if resp.StatusCode != http.StatusOK || !strings.HasPrefix(body, want) || h.Get("Content-Type") != "application/json" ||
			!strings.HasPrefix(h.Get("Content-Disposition"), "attachment;") || h.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s is %d %v %s", path, resp.StatusCode, h, body)
		}
	}
	if body := v.Page("/_webhooks/events/" + id + "?view=raw"); !strings.Contains(body, `{ &#34;id&#34;: &#34;pred_both&#34;, &#34;status&#34;: &#34;succeeded&#34; }`) {
		t.Errorf("the raw payload:\n%s", body)
	}
}

var deliveryLink = regexp.MustCompile(`href="[./]*deliveries/([A-Za-z0-9_-]+)"`)

func firstDelivery(v *dashrun.Visitor) string {
	v.T.Helper()
	m := deliveryLink.FindStringSubmatch(v.Page("/_webhooks/deliveries?event=completed"))
	if m == nil {
		v.T.Fatal("no delivery is listed")
	}
	return m[1]
}

// TestAPredictionIsOneTimeline: its create, its deliveries and its events, with all
// attempts, in the order of their times.
func TestAPredictionIsOneTimeline(t *testing.T) {
	v := dashrun.Start(t, withEvents(t)).Visitor()
	body := v.Page("/_webhooks/prediction?id=pred_both")
	_, rest, _ := strings.Cut(body, `id="timeline"`)
	for _, want := range []string{
		"Created by the client", "committed for the receiver", "500 Internal Server Error", "out of order", "200 OK", "<b>delivered</b>",
		"accepted by the edge for the app, scope shop", "502 Bad Gateway", "the app&#39;s words", "200 OK", "<b>accepted</b>",
	} {
		_, after, found := strings.Cut(rest, want)
		if !found {
			t.Fatalf("the timeline has no %q in its place:\n%s", want, body)
		}
		rest = after
	}
	if body := v.Page("/_webhooks/prediction?id=pred_waits"); !strings.Contains(body, "the edge accepted its events") || !strings.Contains(body, "<b>Waits</b>") {
		t.Errorf("a prediction with events alone:\n%s", body)
	}
	if body := v.Page("/_webhooks/endpoint?endpoint=https://hooks.example.com:443"); !strings.Contains(body, "pred_both") {
		t.Errorf("the endpoint's page:\n%s", body)
	}
}
