package sqlite

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/caddy-replicate/replicate-webhook/internal/clock/clocktest"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/claims"
	"github.com/caddy-replicate/replicate-webhook/store/internal/ledger"
	"github.com/caddy-replicate/replicate-webhook/store/internal/move"
)

// accepted commits an event under a key, and returns its ID.
func accepted(t *testing.T, s *Store, key string, ev *store.Inbound) string {
	t.Helper()
	now := s.opts.Now()
	c, err := s.Claim(t.Context(), store.Entry{
		Scope: ev.Scope, Keys: []store.Key{store.KeyOf(ev.Scope, "event", key)}, SignedAt: now, Expires: now.Add(time.Hour),
	}, 0)
	must(t, err)
	must(t, c.CommitEvent(t.Context(), ev))
	return ev.ID
}

func inboundEvent(name, prediction string) *store.Inbound {
	return &store.Inbound{Scope: "default", Name: name, PredictionID: prediction, Ordered: prediction != "", Head: []byte("head"), Body: []byte(name)}
}

// openAt opens a store with a clock that the caller sets.
func openAt(t *testing.T, path string, c *clocktest.Manual) *Store {
	t.Helper()
	s, err := Open(Options{Path: path, Now: c.Now, PurgeEvery: time.Hour})
	must(t, err)
	return s
}

// TestWaitingDeliveryIsSmall: a million of them may wait.
func TestWaitingDeliveryIsSmall(t *testing.T) {
	if size := unsafe.Sizeof(item{}); size > 64 {
		t.Errorf("an item has %d bytes", size)
	}
}

func TestUnreadableEventHoldsUpNoOther(t *testing.T) {
	path := filepath.Join(t.TempDir(), "webhook.db")
	now := time.Now()
	clock := clocktest.At(now)
	s := openAt(t, path, clock)
	for _, name := range []string{"damaged", "bodiless", "whole"} {
		accepted(t, s, name, inboundEvent(name, "p"))
	}
	must(t, s.commit(t.Context(), func(g *group) error {
		return errors.Join(g.exec("DELETE FROM inbound WHERE n = ?", ledger.FirstEvent), g.exec("UPDATE inbound SET body = NULL WHERE n = ?", ledger.FirstEvent+1))
	}))
	must(t, s.Close())
	s = openAt(t, path, clock)
	defer s.Close()
	for range 2 { // each damaged one is found when its turn comes
		claimed, _, err := s.ClaimDeliveries(t.Context(), 10, all)
		if err != nil || len(claimed) != 0 {
			t.Fatalf("claimed %+v, %v", claimed, err)
		}
	}
	claimed, _, err := s.ClaimDeliveries(t.Context(), 10, all)
	if err != nil || len(claimed) != 1 || claimed[0].Inbound.Name != "whole" {
		t.Fatalf("claimed %+v, %v", claimed, err)
	}
}

// TestFailedAcceptanceLeavesNothing: neither in memory nor on disk.
func TestFailedAcceptanceLeavesNothing(t *testing.T) {
	s, _ := living(t)
	accepted(t, s, "there", inboundEvent("there", "p"))
	before, inboxes := s.queue.snapshot(), s.inbox.list()
	bad := errors.New("bad")
	for _, scope := range []string{"default", "new"} {
		err := s.commit(t.Context(), func(g *group) error {
			ev := inboundEvent("lost", "p")
			ev.Scope = scope
			_, err := g.accept(&claims.Claim{Entry: store.Entry{Scope: scope}, Events: []*store.Inbound{ev}})
			return errors.Join(err, bad)
		})
		if !errors.Is(err, bad) {
			t.Fatal(err)
		}
	}
	if after := s.queue.snapshot(); !slices.Equal(after, before) {
		t.Errorf("the queue is %q, was %q", after, before)
	}
	if after := s.inbox.list(); !slices.Equal(after, inboxes) {
		t.Errorf("the inboxes are %+v, were %+v", after, inboxes)
	}
	id := accepted(t, s, "next", inboundEvent("next", "q"))
	if rows, _, err := s.ListDeliveries(t.Context(), store.DeliveryFilter{Inbound: true, Limit: 10}); err != nil || len(rows) != 2 || rows[0].ID != id {
		t.Errorf("listed %+v, %v", rows, err)
	}
}

// TestClaimsThatShareAnEventStoreItOnce: a commit that is late, and that of the next
// claim, may be in one transaction.
func TestClaimsThatShareAnEventStoreItOnce(t *testing.T) {
	s, _ := living(t)
	ev := inboundEvent("once", "p")
	c := &claims.Claim{Entry: store.Entry{Scope: "default"}, Events: []*store.Inbound{ev}}
	var ids []string
	for range 2 {
		must(t, s.commit(t.Context(), func(g *group) error {
			for range 2 {
				got, err := g.accept(c)
				if err != nil {
					return err
				}
				ids = append(ids, got...)
			}
			return nil
		}))
		ev.ID = ids[0]
	}
	if len(slices.Compact(ids)) != 1 {
		t.Errorf("it has the IDs %q", ids)
	}
	if rows, _, err := s.ListDeliveries(t.Context(), store.DeliveryFilter{Inbound: true, Limit: 10}); err != nil || len(rows) != 1 {
		t.Errorf("%d events are stored, %v", len(rows), err)
	}
}

// TestInboxCountsAreThoseOfTheRows: whatever was done to events, what is counted in
// memory and on disk is what a count of the rows says.
func TestInboxCountsAreThoseOfTheRows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "webhook.db")
	now := time.Now()
	clock := clocktest.At(now)
	s := openAt(t, path, clock)
	defer func() { _ = s.Close() }()
	r := rand.New(rand.NewPCG(1, 2))
	var ids []string
	for i := range 200 {
		ev := inboundEvent(fmt.Sprint(i), []string{"", "p", "q"}[r.IntN(3)])
		ev.Scope = []string{"default", "other"}[r.IntN(2)]
		ev.MaxBytes = 400
		if r.IntN(5) == 0 {
			ev.Recorded = &store.Attempt{Status: 200, Number: 1, At: now}
		}
		c, err := s.Claim(t.Context(), store.Entry{Scope: ev.Scope}, 0)
		must(t, err)
		if err := c.CommitEvent(t.Context(), ev); err == nil {
			ids = append(ids, ev.ID)
		} else if !errors.Is(err, store.ErrInboxFull) {
			t.Fatal(err)
		}
		claimed, _, err := s.ClaimDeliveries(t.Context(), 1+r.IntN(3), all)
		must(t, err)
		for _, d := range claimed {
			o := attempted(d, []store.Disposition{store.Retry, store.Delivered, store.Exhausted, store.Gone}[r.IntN(4)], now)
			o.Refused = r.IntN(2) == 0
			if r.IntN(4) == 0 {
				must(t, s.DiscardEvent(t.Context(), d.ID))
			}
			must(t, s.Complete(t.Context(), o))
		}
		id := ids[r.IntN(len(ids))]
		if err := []func() error{
			func() error { return s.ReplayEvent(t.Context(), id) },
			func() error { return s.DiscardEvent(t.Context(), id) },
			func() error {
				return s.Forget(t.Context(), store.Before{Events: now.Add(-time.Duration(r.IntN(60)) * time.Second)})
			},
		}[r.IntN(3)](); errors.Is(err, store.ErrUnavailable) {
			t.Fatal(err)
		}
		now = clock.Add(time.Second)
		if i%10 > 0 {
			continue
		}
		if r.IntN(3) == 0 {
			must(t, s.Close())
			s = openAt(t, path, clock)
		}
		counted := make(map[string]tally)
		rows, err := s.db.Query("SELECT s.scope, d.state, d.size FROM deliveries d JOIN inboxes s ON s.id = d.scope JOIN inbound b ON b.n = d.n WHERE d.size = length(coalesce(b.head, x'')) + length(coalesce(b.body, x''))")
		must(t, err)
		for rows.Next() {
			var scope string
			var state store.DeliveryState
			var size int64
			must(t, rows.Scan(&scope, &state, &size))
			c := counted[scope]
			c.count(state, size, 1)
			counted[scope] = c
		}
		must(t, rows.Close())
		stored := boxes{}
		must(t, stored.load(s.db))
		for _, b := range s.inbox.list() {
			if b.tally != counted[b.scope] || stored.byScope[b.scope].tally != b.tally {
				t.Fatalf("after %d: %s is counted as %+v, stored as %+v, and has %+v", i, b.scope, b.tally, stored.byScope[b.scope].tally, counted[b.scope])
			}
		}
	}
}

// TestEntriesExpireBehindTheFirstEventThatWaits: an entry is kept for an event that
// waits, and no longer than for the first of those that wait still.
func TestEntriesExpireBehindTheFirstEventThatWaits(t *testing.T) {
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	clock := clocktest.At(now)
	s := openAt(t, filepath.Join(t.TempDir(), "webhook.db"), clock)
	defer s.Close()
	claim := func(key string) error {
		c, err := s.Claim(t.Context(), store.Entry{Scope: "default", Keys: []store.Key{store.KeyOf("default", "event", key)}, Expires: now.Add(time.Hour)}, 0)
		if err == nil {
			c.Release()
		}
		return err
	}
	for _, key := range []string{"first", "second", "third"} {
		accepted(t, s, key, inboundEvent(key, ""))
		now = clock.Add(30 * time.Minute)
	}
	claimed, _, err := s.ClaimDeliveries(t.Context(), 3, all)
	must(t, err)
	must(t, s.Complete(t.Context(), attempted(claimed[1], store.Delivered, now)))
	now = clock.Add(10 * time.Hour)
	must(t, s.Purge())
	for _, key := range []string{"first", "second", "third"} {
		if err := claim(key); !errors.Is(err, store.ErrDuplicate) {
			t.Errorf("claiming %s while the first event waits: %v", key, err)
		}
	}
	must(t, s.Complete(t.Context(), attempted(claimed[0], store.Delivered, now)))
	s.inbox.raiseAfter = time.Time{}
	must(t, s.Purge())
	for key, want := range map[string]error{"first": nil, "second": nil, "third": store.ErrDuplicate} {
		if err := claim(key); !errors.Is(err, want) {
			t.Errorf("claiming %s while the third event waits: %v, want %v", key, err, want)
		}
	}
	if n := s.entries.count(); n != 1 {
		t.Errorf("%d entries are left", n)
	}
}

func TestExportHasEventsAndPauses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "webhook.db")
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	clock := clocktest.At(now)
	s := openAt(t, path, clock)
	accepted(t, s, "a", inboundEvent("a", "p"))
	id := accepted(t, s, "b", inboundEvent("b", ""))
	claimed, _, err := s.ClaimDeliveries(t.Context(), 3, all)
	must(t, err)
	o := attempted(claimed[0], store.Retry, now.Add(time.Minute))
	o.Refused = true
	must(t, s.Complete(t.Context(), o))
	must(t, s.Complete(t.Context(), attempted(claimed[1], store.Delivered, now)))
	must(t, s.ReplayEvent(t.Context(), id))
	must(t, s.SetPaused(t.Context(), "default", true))
	must(t, s.Close())
	x, err := OpenExport(path)
	must(t, err)
	defer x.Close()
	var events []move.Event
	for e, err := range x.Events() {
		must(t, err)
		events = append(events, e)
	}
	if len(events) != 2 {
		t.Fatalf("%d events", len(events))
	}
	a, b := events[0], events[1]
	if a.Scope != "default" || a.Name != "a" || a.PredictionID != "p" || !a.Ordered || string(a.Head) != "head" || string(a.Body) != "a" || a.State != 0 || a.Attempts != 1 ||
		a.Refusals != 1 || a.Redelivery || a.Place != a.N || a.Since != now.UnixMilli() || a.Expires != now.Add(time.Hour).UnixMilli() || a.Due != now.Add(time.Minute).UnixMilli() {
		t.Errorf("the first event is %+v", a)
	}
	if !b.Redelivery || b.Place <= b.N || b.Ordered || b.State != 0 || b.Delivery.N != ledger.FirstEvent+1 {
		t.Errorf("the second event is %+v", b)
	}
	for d, err := range x.Deliveries() {
		t.Errorf("there is a delivery %+v, %v", d, err)
	}
	for p, err := range x.Pauses() {
		if err != nil || p != (move.Pause{Scope: "default", Began: now.UnixMilli()}) {
			t.Errorf("the pause is %+v, %v", p, err)
		}
	}
}
