package operator_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/inbox"
	"github.com/caddy-replicate/replicate-webhook/internal/operator"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// verifying are headers that verify, with values that nothing but ForwardRequest
// may show.
var verifying = http.Header{
	signature.HeaderReplicateSignature: {"signed-replicate"},
	signature.HeaderSignature:          {"v1,signed-standard"},
	"X-Api-Key":                        {"a-key-of-the-sender"},
}

// accept stores an event as the edge does, and returns its ID. Each has a key of its
// own.
func (d *desk) accept(ev store.Inbound) string {
	d.t.Helper()
	h := inbox.Head{
		Method: "POST", OriginalURI: "/hooks?token=in-the-query", URI: "/rewritten", Host: "hooks.example.com", TLS: tls.VersionTLS13,
		Origin:   inbox.Origin{RemoteAddr: "192.0.2.7:50123"},
		Header:   http.Header{"Content-Type": {"application/json"}, "User-Agent": {"sender/1"}},
		Verified: inbox.Verified{Schemes: signature.Replicate | signature.Standard, MessageID: "msg_1", SignedAt: time.Unix(1614265330, 0), Name: ev.Name, PredictionID: ev.PredictionID},
	}
	for name, values := range verifying {
		h.Header[name] = values
	}
	if ev.Body == nil {
		ev.Body = []byte(`{ "id": "p" }`)
	}
	ev.Head = h.Encode()
	claim, err := d.store.Claim(d.t.Context(), store.Entry{Scope: ev.Scope}, 0)
	if err == nil {
		err = claim.CommitEvent(d.t.Context(), &ev)
	}
	if err != nil {
		d.t.Fatal(err)
	}
	return ev.ID
}

// tryEvents ends the attempts of all events that are due.
func (d *desk) tryEvents(v store.Disposition, status int) {
	d.t.Helper()
	for _, c := range d.claimEvents() {
		o := store.Outcome{Delivery: c, Disposition: v, Due: time.Now().Add(time.Hour), Refused: v == store.Retry, Attempt: store.Attempt{
			Delivery: c.ID, Status: status, Number: c.Attempts + 1, At: time.Now(), Took: 12 * time.Millisecond, Response: "said the app",
		}}
		if status > 299 {
			o.Attempt.Error = fmt.Sprint("status ", status)
		}
		if err := d.store.Complete(d.t.Context(), o); err != nil {
			d.t.Fatal(err)
		}
	}
}

func (d *desk) claimEvents() []store.Delivery {
	d.t.Helper()
	claimed, _, err := d.store.ClaimDeliveries(d.t.Context(), 1000, func(store.Lane) store.Slots { return store.Slots{N: 1000} })
	if err != nil {
		d.t.Fatal(err)
	}
	return claimed
}

// states returns the states of the events that a query selects, by ID.
func (d *desk) states(q operator.EventQuery) map[string]string {
	d.t.Helper()
	out := make(map[string]string)
	for {
		page, err := d.Events(d.t.Context(), q)
		if err != nil {
			d.t.Fatal(err)
		}
		for _, e := range page.Results {
			out[e.ID] = e.State
		}
		if q.Cursor = page.Next; q.Cursor == "" {
			return out
		}
	}
}

func (d *desk) state(id, want string) {
	d.t.Helper()
	if got := d.states(operator.EventQuery{})[id]; got != want {
		d.t.Fatalf("%s is %s, want %s", id, got, want)
	}
	if e, err := d.Event(d.t.Context(), id); err != nil || e.State != want || (want == "waiting") == e.Due.IsZero() || (want == "waiting" || want == "running") != e.Ended.IsZero() {
		d.t.Fatalf("%s is %+v, %v, want %s", id, e.Event, err, want)
	}
}

// TestEventsAreListedByEveryFilter: each filter, and each state.
func TestEventsAreListedByEveryFilter(t *testing.T) {
	d := newDesk(t)
	accepted := d.accept(store.Inbound{Scope: "a", Name: "prediction.completed", PredictionID: "p1", Ordered: true})
	d.tryEvents(store.Delivered, 200)
	refused := d.accept(store.Inbound{Scope: "a", Name: "prediction.failed", PredictionID: "p2", Ordered: true})
	d.tryEvents(store.Gone, 410)
	failed := d.accept(store.Inbound{Scope: "b", Name: "prediction.failed", PredictionID: "p2", Ordered: true})
	d.tryEvents(store.Exhausted, 500)
	discarded := d.accept(store.Inbound{Scope: "b"})
	if _, err := d.ChangeEvent(t.Context(), operator.ActionDiscard, discarded); err != nil {
		t.Fatal(err)
	}
	running := d.accept(store.Inbound{Scope: "b", Name: "prediction.started", PredictionID: "p3"})
	if claimed := d.claimEvents(); len(claimed) != 1 {
		t.Fatalf("claimed %+v", claimed)
	}
	waiting := d.accept(store.Inbound{Scope: "c", Name: "prediction.started", PredictionID: "p3"})
	// A webhook to a client is no event.
	d.track("https://api.example.com", "p1", 1)

	all := map[string]string{
		accepted: "accepted", refused: "refused", failed: "failed", discarded: "discarded", running: "running", waiting: "waiting",
	}
	for _, c := range []struct {
		q    operator.EventQuery
		want []string
	}{
		{operator.EventQuery{}, []string{accepted, refused, failed, discarded, running, waiting}},
		{operator.EventQuery{Limit: 1}, []string{accepted, refused, failed, discarded, running, waiting}},
		{operator.EventQuery{State: "accepted"}, []string{accepted}},
		{operator.EventQuery{State: "refused"}, []string{refused}},
		{operator.EventQuery{State: "failed"}, []string{failed}},
		{operator.EventQuery{State: "discarded"}, []string{discarded}},
		{operator.EventQuery{State: "running"}, []string{running}},
		{operator.EventQuery{State: "waiting"}, []string{waiting}},
		{operator.EventQuery{State: "waiting", Limit: 1}, []string{waiting}},
		{operator.EventQuery{Scope: "b"}, []string{failed, discarded, running}},
		{operator.EventQuery{Scope: "none"}, nil},
		{operator.EventQuery{Event: "prediction.failed"}, []string{refused, failed}},
		{operator.EventQuery{Event: "prediction.failed", Scope: "a", State: "refused", Prediction: "p2", Since: "1h"}, []string{refused}},
		{operator.EventQuery{Prediction: "p3"}, []string{running, waiting}},
		{operator.EventQuery{Since: time.Now().Add(time.Minute).Format(time.RFC3339)}, nil},
	} {
		got := d.states(c.q)
		if len(got) != len(c.want) {
			t.Errorf("%+v lists %v, want %q", c.q, got, c.want)
		}
		for _, id := range c.want {
			if got[id] != all[id] {
				t.Errorf("%+v lists %s as %q, want %s", c.q, id, got[id], all[id])
			}
		}
	}
	for id, want := range all {
		d.state(id, want)
		if _, err := d.Delivery(t.Context(), id); !errors.Is(err, operator.ErrNotFound) {
			t.Errorf("the %s event is a delivery, too: %v", want, err)
		}
		if _, err := d.Redeliver(t.Context(), id); !errors.Is(err, operator.ErrNotFound) {
			t.Errorf("the %s event is redelivered: %v", want, err)
		}
	}
	page, err := d.Deliveries(t.Context(), operator.DeliveryQuery{})
	if err != nil || len(page.Results) != 1 {
		t.Fatalf("deliveries are %+v, %v", page, err)
	}
	for _, id := range []string{page.Results[0].ID, "evt_1_0000000000000000", "x"} {
		if _, err := d.Event(t.Context(), id); !errors.Is(err, operator.ErrNotFound) {
			t.Errorf("event %s: %v", id, err)
		}
	}
}

// TestAnEventShowsNoHeaderThatVerifies, and no other that may be a secret.
func TestAnEventShowsNoHeaderThatVerifies(t *testing.T) {
	d := newDesk(t)
	id := d.accept(store.Inbound{Scope: "default", Name: "prediction.completed", PredictionID: "p1"})
	d.tryEvents(store.Retry, 500)
	e, err := d.Event(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	want := operator.EventRequest{
		Method: "POST", Host: "hooks.example.com", Path: "/hooks", TLS: true, ClientIP: "192.0.2.7",
		ContentType: "application/json", UserAgent: "sender/1", Schemes: "replicate+standard", MessageID: "msg_1", SignedAt: time.Unix(1614265330, 0).UTC(),
	}
	if e.Request == nil || *e.Request != want {
		t.Errorf("the request is %+v, want %+v", e.Request, want)
	}
	if len(e.Log) != 1 || e.Log[0].Status != 500 || e.Log[0].Response != "said the app" || e.Log[0].Seconds != 0.012 || e.Attempts != 1 || e.Refusals != 1 {
		t.Errorf("the event is %+v", e)
	}
	if string(e.Payload) != `{ "id": "p" }` {
		t.Errorf("the payload is %s", e.Payload)
	}
	shown := fmt.Sprintf("%+v %+v", e, *e.Request)
	for _, values := range verifying {
		if strings.Contains(shown, values[0]) {
			t.Errorf("%q is in %s", values[0], shown)
		}
	}
	if strings.Contains(shown, "in-the-query") {
		t.Errorf("the query is in %s", shown)
	}

	// The request that the app gets has them.
	r, err := d.ForwardRequest(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range verifying {
		if r.Header.Get(name) != values[0] {
			t.Errorf("%s is %q", name, r.Header.Get(name))
		}
	}
	for name, want := range map[string]string{
		"X-Replicate-Event-Id": id, "X-Replicate-Attempt": "2", "X-Replicate-Replay": "true", "X-Replicate-Verified": "standard",
		"X-Replicate-Prediction-Id": "p1", "X-Replicate-Event": "prediction.completed",
	} {
		if got := r.Header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if r.ID != id || r.Method != "POST" || r.URI != "/rewritten" || r.Host != "hooks.example.com" || string(r.Body) != `{ "id": "p" }` {
		t.Errorf("the request is %+v with %s", r, r.Body)
	}
}

func TestEventsAreRetriedDiscardedAndReplayed(t *testing.T) {
	d := newDesk(t)
	change := func(a operator.EventAction, id string, want error) {
		t.Helper()
		got, err := d.ChangeEvent(t.Context(), a, id)
		if !errors.Is(err, want) || err == nil && got != (operator.EventChange{ID: id, Action: a}) {
			t.Fatalf("%s: %+v, %v, want %v", a, got, err, want)
		}
	}
	id := d.accept(store.Inbound{Scope: "default"})
	d.tryEvents(store.Retry, 500)
	if claimed := d.claimEvents(); len(claimed) != 0 {
		t.Fatalf("due are %+v", claimed)
	}
	change(operator.ActionReplay, id, operator.ErrWaiting)
	change(operator.ActionRetry, id, nil)
	d.tryEvents(store.Exhausted, 500)
	d.state(id, "failed")
	change(operator.ActionRetry, id, operator.ErrEnded)
	change(operator.ActionDiscard, id, operator.ErrEnded)
	change(operator.ActionReplay, id, nil)
	d.state(id, "waiting")
	if e, err := d.Event(t.Context(), id); err != nil || !e.Replay || e.Attempts != 2 || e.Refusals != 0 {
		t.Fatalf("the replay is %+v, %v", e, err)
	}
	change(operator.ActionDiscard, id, nil)
	d.state(id, "discarded")
	for _, a := range []operator.EventAction{operator.ActionRetry, operator.ActionDiscard, operator.ActionReplay} {
		change(a, "evt_1_0000000000000000", operator.ErrNotFound)
	}
	// One that was only recorded, and one whose body made room for another.
	recorded := d.accept(store.Inbound{Scope: "default", Recorded: &store.Attempt{Status: 200, Number: 1, At: time.Now()}})
	change(operator.ActionReplay, recorded, operator.ErrNoBody)
	if e, err := d.Event(t.Context(), recorded); err != nil || e.Replayable || e.Request == nil || e.State != "accepted" {
		t.Errorf("the recorded one is %+v, %v", e, err)
	}
	old := d.accept(store.Inbound{Scope: "full"})
	change(operator.ActionDiscard, old, nil)
	inboxes, err := d.Inboxes(t.Context())
	if err != nil || len(inboxes.Results) != 2 {
		t.Fatalf("the inboxes are %+v, %v", inboxes, err)
	}
	d.accept(store.Inbound{Scope: "full", MaxBytes: inboxes.Results[1].Bytes})
	change(operator.ActionReplay, old, operator.ErrNoBody)
	if e, err := d.Event(t.Context(), old); err != nil || e.Replayable || e.Request != nil || e.Payload != nil {
		t.Errorf("the one without a body is %+v, %v", e, err)
	}
	if _, err := d.ForwardRequest(t.Context(), old); !errors.Is(err, operator.ErrNoBody) {
		t.Errorf("its request: %v", err)
	}
}

// changeAll calls until all is done.
func (d *desk) changeAll(a operator.EventAction, q operator.EventQuery, dry bool, want operator.EventBulk) {
	d.t.Helper()
	want.Action, want.DryRun = a, dry
	got := operator.EventBulk{Action: a, DryRun: dry}
	for {
		page, err := d.ChangeEvents(d.t.Context(), a, q, dry)
		if err != nil {
			d.t.Fatal(err)
		}
		if q.Limit > 0 && page.Matched > q.Limit {
			d.t.Fatalf("%s did %+v in one call, the limit is %d", a, page, q.Limit)
		}
		got.Add(page)
		if q.Cursor = page.Next; q.Cursor == "" {
			break
		}
	}
	if got != want {
		d.t.Fatalf("%s did %+v, want %+v", a, got, want)
	}
}

// TestManyEventsAreChangedOnceEach, and a dry run says how many and changes none.
func TestManyEventsAreChangedOnceEach(t *testing.T) {
	d := newDesk(t)
	for i := range 70 {
		d.accept(store.Inbound{Scope: "a", PredictionID: fmt.Sprint("p", i), Ordered: true})
	}
	d.tryEvents(store.Retry, 500)
	keep := d.accept(store.Inbound{Scope: "b"})
	a := operator.EventQuery{Scope: "a", Limit: 20}

	d.changeAll(operator.ActionRetry, a, true, operator.EventBulk{Matched: 70, Changed: 70})
	if n := len(d.claimEvents()); n != 1 { // that of b
		t.Fatalf("%d events are due after a dry run", n)
	}
	d.state(keep, "running")
	d.changeAll(operator.ActionRetry, a, false, operator.EventBulk{Matched: 70, Changed: 70})
	d.tryEvents(store.Exhausted, 500)
	d.changeAll(operator.ActionReplay, operator.EventQuery{Limit: 20}, true, operator.EventBulk{Matched: 70, Changed: 70})
	if n := len(d.states(operator.EventQuery{State: "failed"})); n != 70 {
		t.Fatalf("%d events are failed after a dry run", n)
	}
	d.changeAll(operator.ActionReplay, operator.EventQuery{Limit: 20}, false, operator.EventBulk{Matched: 70, Changed: 70})
	d.changeAll(operator.ActionReplay, operator.EventQuery{}, false, operator.EventBulk{})
	d.changeAll(operator.ActionDiscard, a, true, operator.EventBulk{Matched: 70, Changed: 70})
	d.changeAll(operator.ActionDiscard, a, false, operator.EventBulk{Matched: 70, Changed: 70})
	if n := len(d.states(operator.EventQuery{State: "discarded"})); n != 70 {
		t.Fatalf("%d events are discarded", n)
	}
	// Without a state, running events are meant, too; as running it is left alone.
	d.changeAll(operator.ActionDiscard, operator.EventQuery{State: "waiting"}, false, operator.EventBulk{})
	d.changeAll(operator.ActionDiscard, operator.EventQuery{}, false, operator.EventBulk{Matched: 1, Changed: 1})
	// What can't be replayed is counted, in a dry run as well.
	d.accept(store.Inbound{Scope: "a", Recorded: &store.Attempt{Status: 500, Number: 1, At: time.Now()}})
	d.changeAll(operator.ActionReplay, operator.EventQuery{}, true, operator.EventBulk{Matched: 1, NoBody: 1})
	d.changeAll(operator.ActionReplay, operator.EventQuery{}, false, operator.EventBulk{Matched: 1, NoBody: 1})
	for action, states := range map[operator.EventAction][]string{
		operator.ActionReplay: {"waiting", "running"}, operator.ActionRetry: {"accepted", "failed", "refused", "discarded"}, operator.ActionDiscard: {"accepted", "failed"},
	} {
		for _, state := range states {
			var refused *operator.InvalidError
			if _, err := d.ChangeEvents(t.Context(), action, operator.EventQuery{State: state}, false); !errors.As(err, &refused) || refused.Option != "state" {
				t.Errorf("%s of what is %s: %v", action, state, err)
			}
		}
	}
}

func TestInboxesArePausedAndListed(t *testing.T) {
	d := newDesk(t)
	list := func() map[string]operator.Inbox {
		t.Helper()
		out := make(map[string]operator.Inbox)
		inboxes, err := d.Inboxes(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, in := range inboxes.Results {
			out[in.Scope] = in
		}
		status, err := d.Status(t.Context())
		if err != nil || len(status.Inboxes) != len(out) {
			t.Fatalf("the status has %+v, %v; listed are %+v", status.Inboxes, err, out)
		}
		return out
	}
	if got := list(); len(got) != 0 {
		t.Fatalf("an empty store has %+v", got)
	}
	if _, err := d.SetPaused(t.Context(), "a", true); !errors.Is(err, operator.ErrNotFound) {
		t.Fatalf("pausing what is not there: %v", err)
	}
	var refused *operator.InvalidError
	if _, err := d.SetPaused(t.Context(), "", true); !errors.As(err, &refused) || refused.Option != "scope" {
		t.Fatalf("pausing nothing: %v", err)
	}
	before := time.Now().Add(-time.Second)
	d.accept(store.Inbound{Scope: "a"})
	d.accept(store.Inbound{Scope: "b"})
	got := list()
	if a := got["a"]; a.Events.Waiting != 1 || a.Configured || a.Breaker != nil || !a.PausedSince.IsZero() || a.Bytes == 0 || a.OldestWaiting.Before(before) {
		t.Fatalf("the inbox is %+v", a)
	}
	if doc, err := d.SetPaused(t.Context(), "a", true); err != nil || doc != (operator.Paused{Scope: "a", Paused: true}) {
		t.Fatalf("pausing: %+v, %v", doc, err)
	}
	if got = list(); got["a"].PausedSince.Before(before) || !got["b"].PausedSince.IsZero() {
		t.Fatalf("the inboxes are %+v", got)
	}
	if claimed := d.claimEvents(); len(claimed) != 1 || claimed[0].Inbound.Scope != "b" {
		t.Fatalf("claimed %+v", claimed)
	}
	if doc, err := d.SetPaused(t.Context(), "a", false); err != nil || doc.Paused {
		t.Fatalf("resuming: %+v, %v", doc, err)
	}
	d.tryEvents(store.Exhausted, 500)
	if got = list(); got["a"].Events != (operator.EventCounts{Failed: 1}) || !got["a"].OldestWaiting.IsZero() || got["b"].Events.Waiting != 1 {
		t.Fatalf("the inboxes are %+v", got)
	}
}

func TestEventQueriesAreRefusedWithAReason(t *testing.T) {
	d := newDesk(t)
	for query, option := range map[string]string{
		"state=pending": "state", "state=": "", "since=yesterday": "since", "limit=501": "limit", "cursor=!": "cursor",
		"scope=a&scope=b": "scope", "endpoint=x": "endpoint",
	} {
		v, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		_, err = d.QueryEvents(t.Context(), v)
		var refused *operator.InvalidError
		if errors.As(err, &refused) != (option != "") || option != "" && refused.Option != option {
			t.Errorf("%s: %v, want what is wrong with %s", query, err, option)
		}
	}
	q := operator.EventQuery{State: "failed", Scope: "a b", Event: "prediction.failed", Prediction: "p&=?", Since: "24h", Limit: 7, Cursor: "1z"}
	if got, err := operator.ParseEventQuery(q.Values()); err != nil || got != q {
		t.Errorf("got %+v, %v; want %+v", got, err, q)
	}
}
