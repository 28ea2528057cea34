package delivery_test

import (
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/fakeapi"
)

// TestClientGetsItsEvents is the main job: the official client creates with a
// webhook_url, and the guide's receiver gets the events, verified, in order and
// once.
func TestClientGetsItsEvents(t *testing.T) {
	s := start(t, fakeapi.Options{Run: 60 * time.Millisecond, Output: `["https://example.com/out.png"]`}, config{})
	r, c := s.newReceiver(), s.newOfficial()
	options := func(more ...any) object {
		o := object{"input": object{"prompt": "a serene landscape"}, "webhook_url": r.url}
		for i := 0; i < len(more); i += 2 {
			o[more[i].(string)] = more[i+1]
		}
		return o
	}
	for _, k := range []struct {
		name, call string
		args       []any
		path       string // where the API was asked
	}{
		{"version", "predictions.create", []any{options("version", "v1")}, "/v1/predictions"},
		{"version, waiting", "predictions.create", []any{options("version", "v1", "wait", true)}, "/v1/predictions"},
		{"model", "predictions.create", []any{options("model", "owner/name")}, "/v1/models/owner/name/predictions"},
		{"model, waiting", "predictions.create", []any{options("model", "owner/name", "wait", 5)}, "/v1/models/owner/name/predictions"},
		{"deployment", "deployments.predictions.create", []any{"owner", "name", options()}, "/v1/deployments/owner/name/predictions"},
		{"training", "trainings.create", []any{"owner", "name", "version", options("destination", "owner/other")}, "/v1/models/owner/name/versions/version/trainings"},
	} {
		t.Run(k.name, func(t *testing.T) {
			s.t, r.t, c.t = t, t, t
			before := r.count()
			created := c.call(k.call, k.args...)
			if created.URL == nil || *created.URL != r.url || created.Webhook != "pending" || created.Completed {
				t.Fatalf("created %+v: want its webhook_url, pending and not completed", created)
			}
			if got := s.api.Last().Path; got != k.path {
				t.Fatalf("the API was asked at %s, want %s", got, k.path)
			}
			for i, want := range []string{"prediction.started processing", "prediction.completed succeeded"} {
				g := r.wait(before + i)
				r.verified(g)
				if g.Parsed.Event != g.Event || g.Parsed.ID != created.ID || g.Event+" "+g.Parsed.Status != want || g.Attempt != 1 {
					t.Fatalf("request %d is %+v, want %s of %s", i+1, g, want, created.ID)
				}
			}
			show := "predictions.get"
			if k.name == "training" {
				show = "trainings.get"
			}
			var v view
			s.eventually("webhook_completed", func() bool {
				v = c.call(show, created.ID)
				return v.Completed
			})
			if v.Status != "succeeded" || v.Webhook != "delivered" || v.URL == nil || *v.URL != r.url {
				t.Fatalf("in the end it is %+v, want delivered", v)
			}
			if k.name != "training" {
				rows := s.log(created.ID)
				if got := tries(rows); got != "started 1 200, completed 1 200" {
					t.Fatalf("the log is %s", got)
				}
				for _, row := range rows {
					if row.URL != r.url || row.Error != "" || !guideTime.MatchString(row.Timestamp) {
						t.Fatalf("a row of the log is %+v", row)
					}
				}
			}
			if n := r.count() - before; n != 2 {
				t.Fatalf("the receiver got %d requests, want 2", n)
			}
		})
	}
}

// guideTime is how the guide's payload and log write times.
var guideTime = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$`)

// TestPayloadIsTheGuides: the members in the guide's order, optional ones absent
// when they have no value, and the headers that go with them.
func TestPayloadIsTheGuides(t *testing.T) {
	h := newHook(t)
	s := start(t, fakeapi.Options{Run: 60 * time.Millisecond, Output: `{"b":1,"a":2}`}, config{ports: []string{portOf(h.Server)}})
	v := s.create(h.URL + "/in?a=b")
	s.ends(v.ID, "delivered")
	const instant = `"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"`
	prediction := func(event, status, members string) *regexp.Regexp {
		return regexp.MustCompile(`^\{"event":"` + event + `","prediction":\{"id":"` + v.ID + `","version":"v1","input":\{"prompt":"a landscape"\}` +
			members + `,"status":"` + status + `","created_at":` + instant + `,"started_at":` + instant + `(,"completed_at":` + instant + `)?\},"timestamp":` + instant + `\}$`)
	}
	for i, want := range []struct {
		event   string
		body    *regexp.Regexp
		members string // not to be there
	}{
		{"prediction.started", prediction("prediction.started", "processing", ""), "completed_at"},
		{"prediction.completed", prediction("prediction.completed", "succeeded", `,"output":\{"b":1,"a":2\}`), "error"},
	} {
		r := h.Seen()[i]
		if !want.body.Match(r.Got) || strings.Contains(string(r.Got), want.members) {
			t.Errorf("body %d is %s\nwant %s, without %s", i+1, r.Got, want.body, want.members)
		}
		if r.URL.String() != "/in?a=b" || r.Method != http.MethodPost {
			t.Errorf("request %d is %s %s", i+1, r.Method, r.URL)
		}
		for name, value := range map[string]string{
			"Content-Type":        "^application/json$",
			"User-Agent":          "^caddy-replicate-webhook/",
			"X-Replicate-Event":   "^" + want.event + "$",
			"X-Replicate-Attempt": "^1$",
			// 64 hex digits, and one Standard Webhooks signature.
			"X-Replicate-Signature": "^[0-9a-f]{64}$",
			"Webhook-Id":            "^" + regexp.QuoteMeta(r.Header.Get("X-Replicate-Delivery")) + "$",
			"Webhook-Timestamp":     `^\d+$`,
			"Webhook-Signature":     "^v1,[A-Za-z0-9+/]{43}=$",
		} {
			if got := r.Header.Values(name); len(got) != 1 || !regexp.MustCompile(value).MatchString(got[0]) {
				t.Errorf("%s of request %d is %q, want %s", name, i+1, got, value)
			}
		}
		if r.Header.Get("Authorization") != "" || r.Header.Get("Cookie") != "" {
			t.Errorf("request %d has headers it should not have: %v", i+1, r.Header)
		}
	}
}

// TestOnlyWantedEvents: webhook_events filters.
func TestOnlyWantedEvents(t *testing.T) {
	h := newHook(t)
	s := start(t, fakeapi.Options{}, config{ports: []string{portOf(h.Server)}})
	for _, c := range []struct{ filter, want string }{
		{`["completed"]`, "completed 1"},
		{`["prediction.started"]`, "started 1"},
		{`["started","prediction.completed","failed"]`, "started 1, completed 1"},
		{`["failed"]`, ""},
		{`null`, "started 1, completed 1"},
	} {
		t.Run(c.filter, func(t *testing.T) {
			s.t = t
			before := h.Count()
			s.settled(s.create(h.URL, `"webhook_events":`+c.filter).ID)
			var got []string
			for _, r := range h.Seen()[before:] {
				got = append(got, strings.TrimPrefix(r.Header.Get("X-Replicate-Event"), "prediction.")+" 1")
			}
			if strings.Join(got, ", ") != c.want {
				t.Fatalf("the receiver got %q, want %q", got, c.want)
			}
		})
	}
}

// TestReceiverOverHTTPS: what production uses, on an address that only an
// exception of the operator's admits.
func TestReceiverOverHTTPS(t *testing.T) {
	cert, key := certificate(t)
	s := start(t, fakeapi.Options{}, config{options: []string{"egress {\n ports {$PORT_HOOK}\n allow 127.0.0.0/8\n}"}})
	r := s.newReceiver("TLS_CERT="+cert, "TLS_KEY="+key)
	url := strings.Replace(r.url, "http:", "https:", 1)
	v := s.create(url)
	r.verified(r.wait(1))
	r.verified(r.wait(2))
	s.ends(v.ID, "delivered")
	r.got("started 1, completed 1")

	a := s.send(http.MethodPost, "/v1/predictions", createBody(r.url))
	if a.status != http.StatusUnprocessableEntity || !strings.Contains(a.body, "must use https") {
		t.Fatalf("a plain http URL got %v", a)
	}
}

// TestNativeWebhookIsTheClientsOwn: webhook and webhook_events_filter pass
// untouched beside webhook_url, byte for byte.
func TestNativeWebhookIsTheClientsOwn(t *testing.T) {
	h := newHook(t)
	s := start(t, fakeapi.Options{}, config{ports: []string{portOf(h.Server)}})
	native := `"webhook":"https://example.com/own","webhook_events_filter":["completed"]`
	odd := `{ "input" : {"n":12345678901234567890,"e":1.0e2,"u":"\u003c\/","d":1,"d":2}, ` + native + `,"webhook_url":"` + h.URL + `","version":"v1"}`
	a := s.send(http.MethodPost, "/v1/predictions", odd)
	if a.status != http.StatusCreated {
		t.Fatalf("got %v", a)
	}
	want := `{ "input" : {"n":12345678901234567890,"e":1.0e2,"u":"\u003c\/","d":1,"d":2}, ` + native + `,"version":"v1"}`
	if got := string(s.api.Last().Body); got != want {
		t.Fatalf("the API got %s\nwant %s", got, want)
	}
	var answered struct{ Webhook string }
	if err := json.Unmarshal([]byte(a.body), &answered); err != nil || answered.Webhook != "https://example.com/own" {
		t.Fatalf("the answer shows webhook %q, %v", answered.Webhook, err)
	}
	s.ends(s.read(a).ID, "delivered")
}
