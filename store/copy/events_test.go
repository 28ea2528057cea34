package copy

import (
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/pgtest"
	"github.com/caddy-replicate/replicate-webhook/internal/clock/clocktest"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/postgres"
	"github.com/caddy-replicate/replicate-webhook/store/sqlite"
)

// events is what operators and the engine see of the events of a store.
type events struct {
	Inboxes  []store.InboxState
	Rows     []store.DeliveryRow
	Attempts [][]store.Attempt
	Pauses   []store.Span
	// Due are the names of the events that are handed out one after the other.
	Due []string
}

// eventsOf reads all of it, and ends each event that is due with a 2xx.
func eventsOf(t *testing.T, s store.Store) (e events) {
	t.Helper()
	var err error
	if e.Inboxes, err = s.Inboxes(ctx); err != nil {
		t.Fatal(err)
	}
	e.Pauses = s.Pauses("paused")
	rows, next, err := s.ListDeliveries(ctx, store.DeliveryFilter{Inbound: true, Limit: 100})
	if err != nil || next != 0 {
		t.Fatalf("listing events: next %d, %v", next, err)
	}
	for _, listed := range rows {
		r, log, err := s.FindDelivery(ctx, listed.ID)
		if err != nil {
			t.Fatal(err)
		}
		r.Prediction = 0     // the number of an order is each store's own
		r.Redelivery = false // Replay says it of an event
		e.Rows, e.Attempts = append(e.Rows, r), append(e.Attempts, log)
	}
	for {
		claimed, _, err := s.ClaimDeliveries(ctx, 100, func(store.Lane) store.Slots { return store.Slots{N: 100} })
		if err != nil {
			t.Fatal(err)
		}
		if len(claimed) == 0 {
			return e
		}
		slices.SortFunc(claimed, func(a, b store.Delivery) int { return int(a.N - b.N) })
		for _, d := range claimed {
			e.Due = append(e.Due, d.Inbound.Name)
			complete(t, s, d, store.Delivered, begun)
		}
	}
}

// TestCopyEvents: events in all states are what they were: the same to operators,
// handed out in the same order, and duplicates of what was accepted.
func TestCopyEvents(t *testing.T) {
	path := filepath.Join(t.TempDir(), "webhook.db")
	now := begun
	clock := clocktest.At(now)
	open := func() *sqlite.Store {
		s, err := sqlite.Open(sqlite.Options{Path: path, Now: clock.Now})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	from := open()
	accept := func(name, prediction string, change func(*store.Inbound)) string {
		t.Helper()
		ev := &store.Inbound{Scope: "default", Name: name, PredictionID: prediction, Ordered: prediction != "", Head: []byte("head of " + name), Body: []byte("body of " + name)}
		if change != nil {
			change(ev)
		}
		e := entry(name, now)
		e.Scope = ev.Scope
		c, err := from.Claim(ctx, e, 0)
		if err == nil {
			err = c.CommitEvent(ctx, ev)
		}
		if err != nil {
			t.Fatal(err)
		}
		now = clock.Add(time.Millisecond)
		return ev.ID
	}
	end := func(d store.Disposition, refused bool) {
		t.Helper()
		claimed, _, err := from.ClaimDeliveries(ctx, 1, func(store.Lane) store.Slots { return store.Slots{N: 1} })
		if err != nil || len(claimed) != 1 {
			t.Fatalf("claimed %+v, %v", claimed, err)
		}
		o := store.Outcome{Delivery: claimed[0], Disposition: d, Due: now.Add(time.Minute), Refused: refused, Attempt: store.Attempt{
			Status: 500, Number: claimed[0].Attempts + 1, At: now, Took: time.Millisecond, Response: "no \x00", Error: "refused",
		}}
		if err := from.Complete(ctx, o); err != nil {
			t.Fatal(err)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	accept("cleared", "", nil)
	end(store.Delivered, false)
	for _, c := range []struct {
		name string
		d    store.Disposition
	}{{"accepted", store.Delivered}, {"refused", store.Gone}, {"failed", store.Exhausted}} {
		accept(c.name, "p of "+c.name, nil)
		end(c.d, false)
	}
	must(from.DiscardEvent(ctx, accept("discarded", "", nil)))
	replayed := accept("replayed", "line", nil)
	end(store.Exhausted, true)
	// It makes room by what ended first, which is the event "cleared".
	accept("recorded", "p", func(ev *store.Inbound) {
		ev.Recorded, ev.KeepFor = &store.Attempt{Status: 200, Number: 1, At: now, Response: "recorded"}, time.Hour
	})
	used, err := from.Inboxes(ctx)
	must(err)
	accept("first", "line", func(ev *store.Inbound) { ev.MaxBytes = used[0].Bytes + 5 })
	for range store.MaxRefusals {
		end(store.Retry, true)
		now = clock.Add(time.Minute)
	}
	end(store.Retry, true)
	accept("second", "line", nil)
	accept("third", "line", nil)
	end(store.Delivered, false)
	must(from.ReplayEvent(ctx, replayed))
	accept("alone", "", nil)
	accept("in another scope", "line", func(ev *store.Inbound) { ev.Scope = "other" })
	accept("in a paused scope", "", func(ev *store.Inbound) { ev.Scope = "paused" })
	must(from.SetPaused(ctx, "paused", true))
	now = clock.Add(2 * time.Minute)
	must(from.Close())

	dsn := pgtest.Start(t).Fresh(t)
	r, err := SQLiteToPostgres(ctx, path, dsn)
	must(err)
	from = open()
	defer from.Close()
	want := eventsOf(t, from)
	if r.Events != int64(len(want.Rows)) || r.Deliveries != 0 || len(want.Rows) != 13 {
		t.Errorf("copied %+v, want %d events", r, len(want.Rows))
	}
	to, err := postgres.Open(postgres.Options{DSN: dsn, Now: clock.Now, DatabaseNow: clock.Now})
	must(err)
	defer to.Close()
	for _, row := range want.Rows {
		again := entry(row.Inbound.Name, begun)
		again.Scope = row.Inbound.Scope
		if _, err := to.Claim(ctx, again, 0); err != store.ErrDuplicate {
			t.Errorf("a repetition of the event %s: %v", row.Inbound.Name, err)
		}
	}
	got := eventsOf(t, to)
	if !reflect.DeepEqual(got.Inboxes, want.Inboxes) {
		t.Errorf("inboxes are\n%+v, want\n%+v", got.Inboxes, want.Inboxes)
	}
	if !reflect.DeepEqual(got.Due, want.Due) {
		t.Errorf("due are %q, want %q", got.Due, want.Due)
	}
	if !reflect.DeepEqual(got.Pauses, want.Pauses) {
		t.Errorf("pauses are %v, want %v", got.Pauses, want.Pauses)
	}
	if len(got.Rows) != len(want.Rows) {
		t.Fatalf("%d events, want %d", len(got.Rows), len(want.Rows))
	}
	for i, w := range want.Rows {
		if g := got.Rows[i]; !reflect.DeepEqual(g, w) {
			t.Errorf("event %s is\n%+v %+v, want\n%+v %+v", w.Inbound.Name, g, g.Inbound, w, w.Inbound)
		}
		if !slices.Equal(got.Attempts[i], want.Attempts[i]) {
			t.Errorf("attempts of %s are\n%+v, want\n%+v", w.Inbound.Name, got.Attempts[i], want.Attempts[i])
		}
	}
	// What was compared has each kind of event.
	kinds := make(map[string]bool)
	for _, r := range got.Rows {
		kinds[r.State.EventState()] = true
		kinds["replayed"] = kinds["replayed"] || r.Replay
		kinds["overtaken"] = kinds["overtaken"] || r.Overtaken
		kinds["without a body"] = kinds["without a body"] || r.Payload == nil
	}
	if len(kinds) != 8 || kinds["replayed"] != true || !kinds["overtaken"] || !kinds["without a body"] {
		t.Errorf("compared only %v", kinds)
	}
}

// TestCopyRotations: the same generations sign, until the same time, and the next one is
// a new one.
func TestCopyRotations(t *testing.T) {
	path := filepath.Join(t.TempDir(), "webhook.db")
	now := begun
	clock := clocktest.At(now)
	from, err := sqlite.Open(sqlite.Options{Path: path, Now: clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	rotate := func(s store.Store, client string, overlap time.Duration) int64 {
		t.Helper()
		r, err := s.RotateKey(ctx, client, overlap)
		if err != nil {
			t.Fatal(err)
		}
		return r.Generation
	}
	all := rotate(from, store.EveryClient, time.Hour)
	own := rotate(from, "own \x00", 2*time.Hour)
	if err := from.Close(); err != nil {
		t.Fatal(err)
	}
	dsn := pgtest.Start(t).Fresh(t)
	if _, err := SQLiteToPostgres(ctx, path, dsn); err != nil {
		t.Fatal(err)
	}
	to, err := postgres.Open(postgres.Options{DSN: dsn, Now: clock.Now, DatabaseNow: clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	for _, want := range [][2][]int64{{{own, all, 0}, {all, 0}}, {{own, all}, {all}}, {{own}, {all}}} {
		got := [2][]int64{to.KeyGenerations("own \x00"), to.KeyGenerations("another")}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("after %v: generations %v sign, want %v", now.Sub(begun), got, want)
		}
		now = clock.Add(time.Hour)
	}
	if next := rotate(to, "own \x00", 0); next <= own {
		t.Errorf("the next generation is %d, after %d", next, own)
	}
	if _, err := SQLiteToPostgres(ctx, path, dsn); err == nil {
		t.Error("a database that has rotations counts as empty")
	}
}
