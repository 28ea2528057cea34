package storetest

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
)

var inboxKeepingCases = []inboxCase{
	{"recorded event has ended", recordedHasEnded},
	{"recorded event is deleted by its own time", recordedForgotten},
	{"forgetting events by age", forgetEvents},
	{"forgetting events spares deliveries", forgetEventsApart},
	{"forgetting many events", forgetManyEvents},
	{"an event from the future hides none of the others", forgetEventsBehindTheFuture},
}

// record commits an event that its app has accepted.
func (b *inbox) record(name string, keep time.Duration) string {
	b.t.Helper()
	ev := b.event(name, "p")
	ev.KeepFor = keep
	ev.Recorded = &store.Attempt{Status: 201, Number: 1, At: b.now(), Took: time.Millisecond, Response: "thanks"}
	return b.accepted(ev)
}

func recordedHasEnded(t *testing.T, b *inbox) {
	b.accept("p", "waits")
	id := b.record("recorded", time.Hour)
	b.next("waits")
	for range 2 {
		r, log, err := b.s.FindDelivery(ctx, id)
		b.must(err)
		if r.State.EventState() != "accepted" || r.Replayable || r.Attempts != 1 || string(r.Payload) != "body recorded" || string(r.Inbound.Head) != "head recorded" {
			t.Errorf("the event is %+v", r)
		}
		if len(log) != 1 || log[0].Status != 201 || log[0].Number != 1 || log[0].Response != "thanks" || log[0].Took != time.Millisecond || log[0].Delivery != id {
			t.Errorf("the log is %+v", log)
		}
		b.refused(b.entry("recorded"), store.ErrDuplicate)
		b.refusedTo(b.s.ReplayEvent(ctx, id), store.ErrNoBody)
		b.refusedTo(b.s.RetryEvent(ctx, id), store.ErrEnded)
		b.refusedTo(b.s.DiscardEvent(ctx, id), store.ErrEnded)
		b.restart()
	}
	if got := b.usage("default"); got.Events[store.DeliveryDelivered] != 1 || got.Events[store.DeliveryPending] != 1 {
		t.Errorf("the inbox is %+v", got)
	}
}

func (b *inbox) forgetEvents(age time.Duration) {
	b.t.Helper()
	b.must(b.s.Forget(ctx, store.Before{Events: b.now().Add(-age)}))
}

func (b *inbox) gone(id string) {
	b.t.Helper()
	if _, _, err := b.s.FindDelivery(ctx, id); !errors.Is(err, store.ErrNotFound) {
		b.t.Fatalf("finding %s: %v", id, err)
	}
}

func recordedForgotten(t *testing.T, b *inbox) {
	short, long, usual := b.record("short", time.Hour), b.record("long", 100*time.Hour), b.record("usual", 0)
	b.advance(30 * time.Minute)
	b.forgetEvents(time.Minute)
	b.found(short)
	b.gone(usual)
	b.advance(time.Hour)
	b.forgetEvents(1000 * time.Hour)
	b.gone(short)
	b.forgetEvents(time.Minute)
	b.found(long)
	b.restart()
	b.advance(100 * time.Hour)
	b.forgetEvents(1000 * time.Hour)
	b.gone(long)
	if got := b.usage("default"); got != (store.InboxState{Scope: "default"}) {
		t.Errorf("the inbox is %+v", got)
	}
}

func forgetEvents(t *testing.T, b *inbox) {
	old := b.accepted(b.event("old", ""))
	b.succeed(b.next("old"))
	waiting := b.accepted(b.event("waiting", ""))
	b.refuse(b.next("waiting"))
	b.advance(time.Hour)
	late := b.accepted(b.event("late", ""))
	b.forgetEvents(2 * time.Hour)
	b.found(old)
	b.forgetEvents(30 * time.Minute)
	b.gone(old)
	b.found(late)
	d := b.events("waiting", "late")
	b.advance(time.Hour)
	b.attempt(d[0], store.Exhausted, true)
	b.succeed(d[1])
	b.forgetEvents(30 * time.Minute) // from when they ended
	b.found(waiting)
	b.advance(time.Hour)
	b.must(b.s.ReplayEvent(ctx, late))
	b.forgetEvents(30 * time.Minute)
	b.gone(waiting)
	b.found(late)
	b.restart()
	b.gone(old)
	b.next("late")
	if got := b.usage("default"); got.Bytes != 18 || got.Events[store.DeliveryPending] != 1 || got.Events[store.DeliveryFailed] != 0 {
		t.Errorf("the inbox is %+v", got)
	}
}

func forgetEventsApart(t *testing.T, b *inbox) {
	b.track("p", event.Completed)
	b.finish()
	id := b.accepted(b.event("a", "p"))
	b.succeed(b.next("a"))
	b.advance(time.Hour)
	b.must(b.s.Forget(ctx, store.Before{Deliveries: b.now(), Predictions: b.now()}))
	if _, log, err := b.s.FindDelivery(ctx, id); err != nil || len(log) != 1 {
		t.Errorf("the event has %d attempts, %v", len(log), err)
	}
	b.forgotten("p")
	p := b.track("q", event.Completed)
	b.finish()
	b.advance(time.Hour)
	b.forgetEvents(0)
	b.logged(p, "completed 1 200")
	b.gone(id)
}

func forgetManyEvents(t *testing.T, b *inbox) {
	for i := range 700 {
		b.accept("", fmt.Sprint(i))
	}
	b.finish()
	b.accept("", "kept")
	b.advance(time.Hour)
	b.forgetEvents(time.Minute)
	if got := b.listed(store.DeliveryFilter{}); !slices.Equal(got, []string{"kept"}) {
		t.Errorf("%d events are left", len(got))
	}
}

func forgetEventsBehindTheFuture(t *testing.T, b *inbox) {
	b.advance(1000 * time.Hour)
	b.accept("", "ahead")
	b.finish()
	b.advance(-1000 * time.Hour)
	for i := range 300 {
		b.accept("", fmt.Sprint(i))
	}
	b.finish()
	b.advance(2 * time.Hour)
	b.forgetEvents(time.Hour)
	if got := b.listed(store.DeliveryFilter{}); !slices.Equal(got, []string{"ahead"}) {
		t.Errorf("%d events are left", len(got))
	}
}

var inboxListCases = []inboxCase{
	{"events are no webhooks to clients", listApart},
	{"filters of events", listFilters},
	{"pages of events", listPages},
	{"inboxes", listInboxes},
	{"counts are of webhooks to clients", countsApart},
}

func listApart(t *testing.T, b *inbox) {
	b.track("p", event.Completed)
	b.accept("p", "a")
	b.accept("", "b")
	b.track("q", event.Started)
	rows, next, err := b.s.ListDeliveries(ctx, store.DeliveryFilter{Limit: 10})
	if b.must(err); next != 0 {
		t.Errorf("next is %d", next)
	}
	if got := names(deliveriesOf(rows)); !slices.Equal(got, []string{"q started", "p completed"}) {
		t.Errorf("deliveries are %q", got)
	}
	for _, p := range []string{"p", "q"} {
		rows, _, err = b.s.ListDeliveries(ctx, store.DeliveryFilter{Prediction: p, Limit: 10})
		if b.must(err); len(rows) != 1 || rows[0].Inbound != nil {
			t.Errorf("deliveries of %s are %+v", p, rows)
		}
	}
	if got := b.listed(store.DeliveryFilter{}); !slices.Equal(got, []string{"b", "a"}) {
		t.Errorf("events are %q", got)
	}
	if got := b.listed(store.DeliveryFilter{Prediction: "q"}); len(got) != 0 {
		t.Errorf("events of q are %q", got)
	}
}

func deliveriesOf(rows []store.DeliveryRow) (out []store.Delivery) {
	for _, r := range rows {
		out = append(out, r.Delivery)
	}
	return out
}

func listFilters(t *testing.T, b *inbox) {
	b.accept("p", "a")
	b.accept("", "b")
	d := b.events("a", "b")
	b.succeed(d[0])
	b.attempt(d[1], store.Gone, true)
	b.advance(time.Hour)
	later := b.now()
	b.accept("p", "c")
	unordered := b.event("d", "p")
	unordered.Ordered = false
	b.accepted(unordered)
	other := b.event("a", "p")
	other.Scope = "other"
	b.accepted(other)
	b.acceptedAs(b.entry("again"), b.event("b", ""))
	state := func(s store.DeliveryState) *store.DeliveryState { return &s }
	for _, c := range []struct {
		name   string
		filter store.DeliveryFilter
		want   []string
	}{
		{"none", store.DeliveryFilter{}, []string{"b", "a", "d", "c", "b", "a"}},
		{"scope", store.DeliveryFilter{Scope: "default"}, []string{"b", "d", "c", "b", "a"}},
		{"other scope", store.DeliveryFilter{Scope: "other"}, []string{"a"}},
		{"unknown scope", store.DeliveryFilter{Scope: "unknown"}, nil},
		{"name", store.DeliveryFilter{Name: "a"}, []string{"a", "a"}},
		{"unknown name", store.DeliveryFilter{Name: "x"}, nil},
		{"prediction", store.DeliveryFilter{Prediction: "p"}, []string{"a", "d", "c", "a"}},
		{"prediction in a scope", store.DeliveryFilter{Prediction: "p", Scope: "default"}, []string{"d", "c", "a"}},
		{"unknown prediction", store.DeliveryFilter{Prediction: "x"}, nil},
		{"waiting", store.DeliveryFilter{State: state(store.DeliveryPending)}, []string{"b", "a", "d", "c"}},
		{"accepted", store.DeliveryFilter{State: state(store.DeliveryDelivered)}, []string{"a"}},
		{"refused", store.DeliveryFilter{State: state(store.DeliveryRefused)}, []string{"b"}},
		{"discarded", store.DeliveryFilter{State: state(store.DeliveryCanceled)}, nil},
		{"since", store.DeliveryFilter{Since: later}, []string{"b", "a", "d", "c"}},
		{"all", store.DeliveryFilter{Scope: "default", Name: "c", Prediction: "p", State: state(store.DeliveryPending), Since: later}, []string{"c"}},
	} {
		if got := b.listed(c.filter); !slices.Equal(got, c.want) {
			t.Errorf("%s: listed %q, want %q", c.name, got, c.want)
		}
	}
	rows, _, err := b.s.ListDeliveries(ctx, store.DeliveryFilter{Inbound: true, State: state(store.DeliveryRefused), Limit: 10})
	b.must(err)
	if r := rows[0]; r.ID != d[1].ID || r.N != d[1].N || r.State != store.DeliveryRefused || r.Attempts != 1 || r.Refusals != 1 || r.Inbound.ID != r.ID || r.Inbound.Scope != "default" {
		t.Errorf("listed %+v with %+v", r, r.Inbound)
	}
	if store.DeliveryRefused.String() == "" {
		t.Error("the state has no name")
	}
}

func listPages(t *testing.T, b *inbox) {
	var want []string
	for i := range 25 {
		name := fmt.Sprint(i)
		b.accept([]string{"p", "", "q"}[i%3], name)
		b.track("p"+name, event.Completed)
		want = append(want, name)
	}
	slices.Reverse(want)
	if got := b.listed(store.DeliveryFilter{Limit: 4}); !slices.Equal(got, want) {
		t.Errorf("listed %q", got)
	}
	if got := b.listed(store.DeliveryFilter{Limit: 2, Prediction: "p"}); len(got) != 9 || got[0] != "24" || got[8] != "0" {
		t.Errorf("listed %q of p", got)
	}
	deliveries, before := 0, int64(0)
	for {
		rows, next, err := b.s.ListDeliveries(ctx, store.DeliveryFilter{Limit: 4, Before: before})
		b.must(err)
		deliveries += len(rows)
		if before = next; next == 0 {
			break
		}
	}
	if deliveries != 25 {
		t.Errorf("listed %d deliveries", deliveries)
	}
}

func listInboxes(t *testing.T, b *inbox) {
	if all, err := b.s.Inboxes(ctx); err != nil || len(all) != 0 {
		t.Fatalf("inboxes are %+v, %v", all, err)
	}
	first := b.now()
	b.accept("", "a")
	b.advance(time.Minute)
	second := b.now()
	b.accept("", "b")
	other := b.event("x", "")
	other.Scope = "a scope before"
	b.accepted(other)
	all, err := b.s.Inboxes(ctx)
	b.must(err)
	if len(all) != 2 || all[0].Scope != "a scope before" || all[1].Scope != "default" || all[1].Bytes != 24 || !all[1].OldestWaiting.Equal(first) {
		t.Fatalf("inboxes are %+v", all)
	}
	claimed, _ := b.claimed()
	b.succeed(claimed[0])
	if got := b.usage("default"); !got.OldestWaiting.Equal(second) {
		t.Errorf("oldest is of %v", got.OldestWaiting)
	}
	for _, d := range claimed[1:] {
		b.attempt(d, store.Gone, true)
	}
	if got := b.usage("default"); !got.OldestWaiting.IsZero() || got.Events[store.DeliveryRefused] != 1 {
		t.Errorf("the inbox is %+v", got)
	}
}

func countsApart(t *testing.T, b *inbox) {
	b.track("p", event.Completed)
	b.advance(time.Minute)
	b.accept("", "a", "b", "c")
	check := func(pending, delivered int) {
		t.Helper()
		c, err := b.s.Counts(ctx)
		b.must(err)
		if c.Deliveries[store.DeliveryPending] != pending || c.Deliveries[store.DeliveryDelivered] != delivered || c.Deliveries[store.DeliveryFailed] != 0 ||
			c.OldestPending.IsZero() != (pending == 0) || c.Entries != 3 {
			t.Errorf("counts are %+v", c)
		}
	}
	check(1, 0)
	b.restart()
	check(1, 0)
	claimed, _ := b.claimed()
	for _, d := range claimed {
		switch {
		case d.Inbound == nil:
			b.complete(d, store.Delivered)
		case d.Inbound.Name == "a":
			b.attempt(d, store.Exhausted, true)
		case d.Inbound.Name == "b":
			b.attempt(d, store.Gone, true)
		}
	}
	check(0, 1)
	b.restart()
	check(0, 1)
}
