package delivery_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/internal/fakeapi"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/sqlite"
)

// other is the token of a second client.
const other = "r8_the_token_of_another_client"

var twoClients = map[string]string{token: "alice", other: "bob"}

// page is what a request of the official client for the log gives.
type page struct {
	Status int
	Body   struct {
		Next, Previous *string
		Results        []row
		ID             string
		Detail         string
	}
}

// request is the official client's own way to any path of the API.
func (o *official) request(method, path string, data any) (p page, status int) {
	o.t.Helper()
	options := object{"method": method}
	if data != nil {
		options["data"] = data
	}
	result, status, err := o.try("request", path, options)
	if err != nil {
		return p, status
	}
	if err := json.Unmarshal(result, &p); err != nil {
		o.t.Fatal(err)
	}
	return p, p.Status
}

// TestUpdateDisableLogAndRedeliver: what the guide calls webhook management,
// by the official client.
func TestUpdateDisableLogAndRedeliver(t *testing.T) {
	s := start(t, fakeapi.Options{Manual: true}, config{})
	r, c := s.newReceiver(), s.newOfficial()
	v := c.call("predictions.create", object{"version": "v1", "input": object{}, "webhook_url": r.url + "?first"})
	s.api.Set(v.ID, "processing", "")
	r.verified(r.wait(1))

	// A new URL is where the next event goes.
	if _, status := c.request("PATCH", "/predictions/"+v.ID, object{"webhook_url": r.url + "?second"}); status != http.StatusOK {
		t.Fatalf("updating: got %d", status)
	}
	s.api.Set(v.ID, "succeeded", `"done"`)
	end := r.wait(2)
	r.verified(end)
	if !strings.HasSuffix(end.URL, "?second") || end.Event != "prediction.completed" {
		t.Fatalf("got %+v", end)
	}
	s.ends(v.ID, "delivered")

	// The log names both, newest first, and a row can be delivered again.
	log, status := c.request("GET", "/predictions/"+v.ID+"/webhook_deliveries", nil)
	if status != http.StatusOK || len(log.Body.Results) != 2 || log.Body.Next != nil || log.Body.Results[0].Event != "prediction.completed" {
		t.Fatalf("the log is %d %+v", status, log.Body)
	}
	again, status := c.request("POST", fmt.Sprintf("/predictions/%s/webhook_deliveries/%s/redeliver", v.ID, log.Body.Results[0].ID), nil)
	if status != http.StatusAccepted || again.Body.ID == "" {
		t.Fatalf("redelivering: got %d %+v", status, again)
	}
	third := r.wait(3)
	r.verified(third)
	if third.Event != end.Event || third.Delivery == end.Delivery || third.Delivery != again.Body.ID || third.SHA256 != end.SHA256 {
		t.Fatalf("the redelivery is %+v after %+v", third, end)
	}

	// null disables: nothing is sent any more.
	w := c.call("predictions.create", object{"version": "v1", "input": object{}, "webhook_url": r.url})
	s.api.Set(w.ID, "processing", "")
	r.wait(4)
	if _, status := c.request("PATCH", "/predictions/"+w.ID, object{"webhook_url": nil}); status != http.StatusOK {
		t.Fatalf("disabling: got %d", status)
	}
	s.api.Set(w.ID, "succeeded", "")
	s.ends(w.ID, "disabled")
	if v := s.get(w.ID); v.URL != nil {
		t.Fatalf("a disabled prediction shows %+v", v)
	}

	// One that was created without is tracked from the update on.
	u := c.call("predictions.create", object{"version": "v1", "input": object{}})
	s.api.Set(u.ID, "succeeded", `"long ago"`)
	if _, status := c.request("PATCH", "/predictions/"+u.ID, object{"webhook_url": r.url + "?third"}); status != http.StatusOK {
		t.Fatalf("adding: got %d", status)
	}
	r.verified(r.wait(5))
	r.verified(r.wait(6))
	s.ends(u.ID, "delivered")
	r.got("started 1, completed 1, completed 1, started 1, started 1, completed 1")
}

// TestTestModeByTheOfficialClient: events at once, and nothing upstream.
func TestTestModeByTheOfficialClient(t *testing.T) {
	s := start(t, fakeapi.Options{}, config{})
	r, c := s.newReceiver(), s.newOfficial()
	for i, k := range []struct {
		mode      any
		end, last string
	}{
		{true, "succeeded", "prediction.completed"},
		{"prediction.failed", "failed", "prediction.failed"},
	} {
		v := c.call("predictions.create", object{"version": "v1", "input": object{"prompt": "x"}, "webhook_url": r.url, "test_mode": k.mode})
		if !strings.HasPrefix(v.ID, "test_") || v.Status != k.end {
			t.Fatalf("created %+v", v)
		}
		r.verified(r.wait(2*i + 1))
		if got := r.wait(2*i + 2); got.Event != k.last || got.Parsed.ID != v.ID || got.Parsed.Status != k.end {
			t.Fatalf("the last event is %+v", got)
		}
		s.ends(v.ID, "delivered")
		if shown := c.call("predictions.get", v.ID); shown.ID != v.ID || shown.Webhook != "delivered" {
			t.Fatalf("it is shown as %+v", shown)
		}
	}
	if n := s.api.Creates.Load(); n != 0 {
		t.Fatalf("the API was charged %d times", n)
	}
}

// TestClientsHaveKeysOfTheirOwn: under signing per_client, the default, the
// official look-up gives a key that verifies the caller's webhooks, and nobody
// else's.
func TestClientsHaveKeysOfTheirOwn(t *testing.T) {
	s := start(t, fakeapi.Options{Accounts: twoClients}, config{
		options: []string{"signing", "signing_secret"},
		handler: []string{"serve_signing_secret"},
	})
	c := s.newOfficial()
	key := func(as string) string {
		t.Helper()
		c.token = as
		result, _, err := c.try("webhooks.default.secret.get")
		var secret struct{ Key string }
		if err == nil {
			err = json.Unmarshal(result, &secret)
		}
		if err != nil || !strings.HasPrefix(secret.Key, "whsec_") {
			t.Fatalf("the key is %q, %v", secret.Key, err)
		}
		return secret.Key
	}
	alice, bob := key(token), key(other)
	if alice == bob || alice == secret || key(token) != alice {
		t.Fatalf("the keys are %q and %q", alice, bob)
	}
	r := s.newReceiver("SECRET=" + alice)
	c.token = token
	c.call("predictions.create", object{"version": "v1", "input": object{}, "webhook_url": r.url})
	r.verified(r.wait(1))
	r.verified(r.wait(2))
	// What is signed for bob is no use against alice's receiver.
	c.token = other
	v := c.call("predictions.create", object{"version": "v1", "input": object{}, "webhook_url": r.url, "webhook_events": []string{"completed"}})
	if got := r.wait(3); len(got.Verified) != 0 || got.Answered != http.StatusUnauthorized || got.Parsed.ID == v.ID {
		t.Fatalf("alice's receiver took %+v", got)
	}
}

// TestClientsAreKeptApart: nobody reads, changes or redelivers another's.
func TestClientsAreKeptApart(t *testing.T) {
	h := newHook(t)
	s := start(t, fakeapi.Options{Accounts: twoClients}, config{ports: []string{portOf(h.Server)}})
	own := s.create(h.URL)
	s.ends(own.ID, "delivered")
	test := s.create(h.URL, `"test_mode":true`)
	s.ends(test.ID, "delivered")
	row := s.log(own.ID)[0].ID
	before := h.Count()
	for _, as := range []string{"Bearer " + other, "Bearer r8_unknown", ""} {
		for _, id := range []string{own.ID, test.ID} {
			for _, c := range []struct{ method, path, body string }{
				{http.MethodGet, "", ""},
				{http.MethodPatch, "", `{"webhook_url":null}`},
				{http.MethodGet, "/webhook_deliveries", ""},
				{http.MethodPost, "/webhook_deliveries/" + row + "/redeliver", ""},
			} {
				a := s.send(c.method, "/v1/predictions/"+id+c.path, c.body, "Authorization", as)
				if a.status != http.StatusUnauthorized && a.status != http.StatusNotFound {
					t.Errorf("%q: %s %s%s got %v", as, c.method, id, c.path, a)
				}
				if strings.Contains(a.body, "webhook_") || strings.Contains(a.body, h.URL) {
					t.Errorf("%q: %s %s%s tells of the webhook: %v", as, c.method, id, c.path, a)
				}
			}
		}
		a := s.send(http.MethodPost, "/v1/predictions", createBody(h.URL, `"test_mode":true`), "Authorization", as)
		if as != "Bearer "+other && a.status != http.StatusUnauthorized {
			t.Errorf("%q: test mode got %v", as, a)
		} else if a.status == http.StatusCreated {
			s.eventually("the test's events", func() bool { return h.Count() >= before+2 })
			before = h.Count()
		}
	}
	if h.Count() != before {
		t.Fatal("somebody made Caddy send")
	}
	s.ends(own.ID, "delivered")
}

// TestReloadCutsNoAttemptOffAndDoublesNone: the old configuration's attempts
// finish, the new one takes the rest.
func TestReloadCutsNoAttemptOffAndDoublesNone(t *testing.T) {
	h := newHook(t)
	s := start(t, fakeapi.Options{}, config{
		ports: []string{portOf(h.Server)}, options: []string{"timeout 2m"},
	})
	proceed := make(chan struct{})
	hold(h, proceed)
	var ids []string
	for range 6 {
		ids = append(ids, s.create(h.URL).ID)
	}
	h.Wait(1) // an endpoint that has not answered yet is given no second one
	for range 3 {
		s.server.Reload(s.text())
	}
	close(proceed)
	for _, id := range ids {
		s.ends(id, "delivered")
		if got := tries(s.log(id)); got != "started 1 200, completed 1 200" {
			t.Errorf("the log of %s is %s", id, got)
		}
	}
	if n := h.Count(); n != 12 {
		t.Fatalf("the receiver got %d requests, want 12", n)
	}
}

// TestReloadToAnotherStoreLetsAttemptsFinish: the store that is left stays open
// for what is under way.
func TestReloadToAnotherStoreLetsAttemptsFinish(t *testing.T) {
	h := newHook(t)
	release := make(chan struct{})
	h.Answer(func(http.ResponseWriter, *caddyrun.Request) { <-release })
	s := start(t, fakeapi.Options{}, config{ports: []string{portOf(h.Server)}})
	s.create(h.URL, `"webhook_events":["completed"]`)
	h.Wait(1)
	s.server.Reload("{\n{$GLOBALS}\n}\n")
	close(release)
	var left *sqlite.Store
	s.eventually("the store to be closed", func() (closed bool) {
		var err error
		left, err = sqlite.Open(sqlite.Options{Path: s.Path("webhook.db")})
		return err == nil
	})
	defer func() { _ = left.Close() }()
	counts, err := left.Counts(t.Context())
	if err != nil || counts.Deliveries[store.DeliveryDelivered] != 1 {
		t.Fatalf("the store has %v, %v; want 1 delivered", counts.Deliveries, err)
	}
}

// TestExitWaitsForAttempts: what is under way when Caddy stops is finished and
// committed, and the rest is delivered after the next start.
func TestExitWaitsForAttempts(t *testing.T) {
	h := newHook(t)
	s := startChild(t, fakeapi.Options{}, config{ports: []string{portOf(h.Server)}, options: []string{"timeout 2m"}})
	proceed := make(chan struct{})
	hold(h, proceed)
	first, second := s.create(h.URL), s.create(h.URL)
	h.Wait(1)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		s.child.Stop()
	}()
	s.logs.Wait(t, "shutting down")
	close(proceed)
	<-stopped
	before := h.Count()
	s.child.Start("PORT1")
	for _, id := range []string{first.ID, second.ID} {
		s.ends(id, "delivered")
		if got := tries(s.log(id)); got != "started 1 200, completed 1 200" {
			t.Errorf("the log of %s is %s", id, got)
		}
	}
	if n := h.Count(); n != 4 {
		t.Fatalf("the receiver got %d requests, %d of them before the exit; want 4", n, before)
	}
}
