package delivery_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/internal/fakeapi"
)

// unchanged are the options for clients that know nothing of this server.
var unchanged = config{
	options: []string{"signing per_client", "signing_secret"},
	handler: []string{"capture webhook", "serve_signing_secret"},
}

// nativeKey looks the signing secret up as an unchanged client does.
func (o *official) nativeKey() string {
	o.t.Helper()
	result, _, err := o.try("webhooks.default.secret.get")
	var secret struct{ Key string }
	if err == nil {
		err = json.Unmarshal(result, &secret)
	}
	if err != nil {
		o.t.Fatal(err)
	}
	return secret.Key
}

// shown is a prediction with the members of the API's own webhook.
type shown struct {
	ID, Status string
	Webhook    *string  `json:"webhook"`
	Filter     []string `json:"webhook_events_filter"`
	State      string   `json:"webhook_status"`
}

// native checks a webhook as an unchanged receiver gets it, and returns its body.
func (r *receiver) native(n int, event string) (v shown, g received) {
	r.t.Helper()
	g = r.wait(n)
	slices.Sort(g.Verified)
	if !slices.Equal(g.Verified, []string{"replicate", "standardwebhooks", "svix"}) || g.Event != event || g.Headers["x-replicate-signature"] != "" {
		r.t.Fatalf("request %d is %s, verified by %q: %v %s", n, g.Event, g.Verified, g.Headers, g.Body)
	}
	if err := json.Unmarshal([]byte(g.Body), &v); err != nil {
		r.t.Fatalf("%v: %s", err, g.Body)
	}
	return v, g
}

// TestUnchangedClientGetsItsWebhooks: nothing but the base URL has changed for the
// official client, its receiver and its own check of signatures.
func TestUnchangedClientGetsItsWebhooks(t *testing.T) {
	s := start(t, fakeapi.Options{Manual: true}, unchanged)
	c := s.newOfficial()
	r := s.newReceiver("SECRET=" + c.nativeKey())
	for _, k := range []struct {
		create func(members object) view
		filter []string
		events string
	}{
		{func(m object) view { m["version"] = "v1"; return c.call("predictions.create", m) }, []string{"completed", "start"}, "start completed"},
		{func(m object) view { m["model"] = "o/n"; return c.call("predictions.create", m) }, nil, "completed"},
		{func(m object) view { return c.call("deployments.predictions.create", "o", "n", m) }, []string{"start"}, "start"},
		{func(m object) view {
			m["destination"] = "o/new"
			return c.call("trainings.create", "o", "n", "v1", m)
		}, []string{"completed"}, "completed"},
	} {
		from, url := r.count(), r.url+"?native"
		if k.filter == nil {
			url += "&fail=503&times=1" // the first try of all, which is made again
		}
		members := object{"input": object{"prompt": "a landscape"}, "webhook": url}
		if k.filter != nil {
			members["webhook_events_filter"] = k.filter
		}
		v := k.create(members)
		if sent := string(s.api.Last().Body); strings.Contains(sent, "webhook") {
			t.Fatalf("the API got %s", sent)
		}
		s.api.Set(v.ID, "succeeded", `["https://files.example.com/1.png"]`)
		for i, event := range strings.Fields(k.events) {
			if k.filter == nil {
				if _, g := r.native(from, event); g.Answered != http.StatusServiceUnavailable {
					t.Fatalf("got %+v", g)
				}
				from++
			}
			got, g := r.native(from+i, event)
			if want := map[string]string{"start": "starting", "completed": "succeeded"}[event]; got.ID != v.ID || got.Status != want || g.Answered != http.StatusOK {
				t.Errorf("%s is %+v, answered %d", event, got, g.Answered)
			}
			// The API was not told of a webhook, so that its prediction has none.
			if got.Webhook != nil || got.Filter != nil || got.State != "" || !strings.HasSuffix(g.Body, "}\n") {
				t.Errorf("the body is not the API's own: %s", g.Body)
			}
		}
		var after shown
		s.eventually("the webhook's end", func() bool {
			collection := "predictions"
			if strings.Contains(s.api.Last().Path, "trainings") {
				collection = "trainings"
			}
			a := s.send(http.MethodGet, "/v1/"+collection+"/"+v.ID, "")
			return a.status == http.StatusOK && json.Unmarshal([]byte(a.body), &after) == nil && after.State == "delivered"
		})
		if after.Webhook == nil || *after.Webhook != url || !slices.Equal(after.Filter, k.filter) {
			t.Errorf("the client sees %+v", after)
		}
	}
}

// TestUnchangedClientsNeverSeeTheCallback: with callbacks the API has a URL of ours as
// its webhook, and shows it in what it says of the prediction.
func TestUnchangedClientsNeverSeeTheCallback(t *testing.T) {
	c := unchanged
	c.options = append(slices.Clone(c.options), "callback http://127.0.0.1:{$PORT2}/callback", "poll 1h 1h")
	c.sites = "http://127.0.0.1:{$PORT2} {\n replicate_callback /callback/*\n}"
	s := start(t, fakeapi.Options{Run: 30 * time.Millisecond, Webhooks: caddyrun.NewClient(t)}, c)
	t.Cleanup(s.api.Wait)
	o := s.newOfficial()
	r := s.newReceiver("SECRET=" + o.nativeKey())
	for _, filter := range [][]string{{"completed", "start"}, {"completed"}} {
		from := r.count()
		members := object{"version": "v1", "input": object{}, "webhook": r.url + "?native"}
		if filter != nil {
			members["webhook_events_filter"] = filter
		}
		v := o.call("predictions.create", members)
		if last := string(s.api.Last().Body); !strings.Contains(last, `"webhook":"`+s.URL("PORT2", "/callback/")) || !strings.Contains(last, `"webhook_events_filter":["start","completed"]`) {
			t.Fatalf("the API got %s", last)
		}
		events := []string{"start", "completed"}
		if len(filter) == 1 {
			events = events[1:]
		}
		for i, event := range events {
			got, g := r.native(from+i, event)
			if got.ID != v.ID || strings.Contains(g.Body, "/callback/") || got.Webhook == nil || *got.Webhook != r.url+"?native" || !slices.Equal(got.Filter, filter) {
				t.Errorf("%s is %s", event, g.Body)
			}
		}
		s.api.Wait()
		for _, path := range []string{"/v1/predictions/" + v.ID, "/v1/predictions"} {
			if a := s.send(http.MethodGet, path, ""); strings.Contains(a.body, "/callback/") {
				t.Errorf("%s shows %s", path, a.body)
			}
		}
	}
}

// TestUnchangedClientsGetProgress: output and logs come from the API's own webhooks, each
// once, after the start event and before the terminal one.
func TestUnchangedClientsGetProgress(t *testing.T) {
	c := unchanged
	c.options = append(slices.Clone(c.options), "callback http://127.0.0.1:{$PORT2}/callback", "poll 1h 1h",
		"retry {\n max_attempts 5\n initial_delay 300ms\n max_delay 300ms\n}")
	c.sites = "http://127.0.0.1:{$PORT2} {\n replicate_callback /callback/*\n}"
	s := start(t, fakeapi.Options{Manual: true, Webhooks: caddyrun.NewClient(t)}, c)
	t.Cleanup(s.api.Wait)
	o := s.newOfficial()
	r := s.newReceiver("SECRET=" + o.nativeKey())
	shows := func(n int, event, part string) {
		t.Helper()
		if _, g := r.native(n, event); !strings.Contains(g.Body, part) || strings.Contains(g.Body, "/callback/") {
			t.Errorf("%s is %s", event, g.Body)
		}
	}
	// The receiver refuses the start event once: the first output waits for its
	// second try, and the second output takes its place.
	v := o.call("predictions.create", object{"version": "v1", "input": object{}, "webhook": r.url + "?native&fail=503&times=1",
		"webhook_events_filter": []string{"start", "output", "logs", "completed"}})
	if last := string(s.api.Last().Body); !strings.Contains(last, `"webhook_events_filter":["start","output","logs","completed"]`) {
		t.Fatalf("the API got %s", last)
	}
	// Its body is the API's response to the create, or the API's own webhook if that
	// overtakes the response.
	shows(1, "start", `"output":null`)
	s.api.Set(v.ID, "processing", `["one"]`)
	s.api.Set(v.ID, "processing", `["one","two"]`)
	s.api.Set(v.ID, "processing", `["one","two"]`) // it tells nothing new
	shows(2, "start", `"output":null`)
	shows(3, "output", `"output":["one","two"]`)
	s.api.Log(v.ID, `"more"`)
	shows(4, "logs", `"logs":"more"`)
	s.api.Set(v.ID, "succeeded", `["one","two","three"]`)
	shows(5, "completed", `"output":["one","two","three"]`)
	s.ends(v.ID, "delivered")
	s.api.Set(v.ID, "processing", `["late"]`)
	// None of them is in the log of deliveries.
	if rows := s.log(v.ID); len(rows) != 3 {
		t.Errorf("the log is %+v", rows)
	}

	// Without a filter there are output and completed, as the API documents.
	w := o.call("predictions.create", object{"version": "v1", "input": object{}, "webhook": r.url + "?native"})
	s.api.Log(w.ID, `"unwanted"`)
	s.api.Set(w.ID, "processing", `"first"`)
	shows(6, "output", `"output":"first"`)
	s.api.Set(w.ID, "failed", "")
	shows(7, "completed", `"status":"failed"`)
	s.ends(w.ID, "delivered")
	if n := r.count(); n != 8 {
		t.Errorf("the receiver has said %d lines: %+v", n, r.all())
	}
}

// TestNativeWebhooksThatCannotBeCaptured: what is wrong is a 422 before the API is
// charged, and what only the API can send is left to it, which the log says once.
func TestNativeWebhooksThatCannotBeCaptured(t *testing.T) {
	c := unchanged
	c.handler = []string{"capture webhook webhook_url", "serve_signing_secret"}
	s := start(t, fakeapi.Options{}, c)
	h := s.URL("PORT_HOOK", "/")
	for body, want := range map[string]string{
		`"webhook":"` + strings.Replace(h, "127.0.0.1", "[::1]", 1) + `"`:    "webhook must not point to a private, reserved or forbidden address",
		`"webhook":"` + h + `","webhook_url":"` + h + `"`:                    "webhook and webhook_url are both given: keep one of them",
		`"webhook":"` + h + `","webhook_events_filter":["start","complete"]`: `webhook_events_filter holds a wrong name: "complete" is not an event of a webhook: use start, output, logs, completed`,
		`"webhook":"` + h + `","webhook_events_filter":"start"`:              "webhook_events_filter must be an array of names",
		`"webhook":7`: "webhook must be a string or null",
		`"webhook":"` + h + `","webhook":"` + h + `"`: "webhook is given 2 times",
	} {
		a := s.send(http.MethodPost, "/v1/predictions", `{"version":"v1","input":{},`+body+`}`)
		var got struct{ Detail string }
		if err := json.Unmarshal([]byte(a.body), &got); err != nil || a.status != http.StatusUnprocessableEntity || got.Detail != want {
			t.Errorf("%s: got %v\nwant %s", body, a, want)
		}
	}
	if n := s.api.Creates.Load(); n != 0 {
		t.Fatalf("the API was charged %d times", n)
	}
	for _, filter := range []string{`["output"]`, `["start","logs","completed"]`} {
		body := fmt.Sprintf(`{"version":"v1","input":{},"webhook":"https://example.com/hook","webhook_events_filter":%s}`, filter)
		if a := s.send(http.MethodPost, "/v1/predictions", body); a.status != http.StatusCreated || string(s.api.Last().Body) != body {
			t.Errorf("%s: got %v, the API %s", filter, a, s.api.Last().Body)
		}
	}
	if n := strings.Count(s.logs.String(), "names output or logs"); n != 1 {
		t.Errorf("the log says it %d times", n)
	}
	// A webhook of null is none.
	if a := s.send(http.MethodPost, "/v1/predictions", `{"version":"v1","input":{},"webhook":null}`); a.status != http.StatusCreated || strings.Contains(a.body, "webhook_status") {
		t.Errorf("got %v", a)
	}
	// The other way is captured beside it.
	if v := s.create(h); v.Webhook != "pending" || v.URL == nil || *v.URL != h {
		t.Errorf("webhook_url: %+v", v)
	}
}
