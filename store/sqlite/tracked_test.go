package sqlite

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
)

func all(store.Lane) store.Slots { return store.Slots{N: 10} }

// started tracks a prediction and claims the delivery of its started event.
func started(t *testing.T, s *Store) (store.Prediction, store.Delivery) {
	t.Helper()
	p := store.Prediction{ID: "p", Client: "c", URL: "https://receiver.example.com/hook", Events: event.All, CreatedAt: time.Now()}
	must(t, s.Track(t.Context(), &p, []store.Event{{Kind: event.Started, Payload: []byte("{}")}}))
	claimed, _, err := s.ClaimDeliveries(t.Context(), 10, all)
	if err != nil || len(claimed) != 1 {
		t.Fatalf("claimed %d deliveries, %v, want 1", len(claimed), err)
	}
	return p, claimed[0]
}

func attempted(d store.Delivery, v store.Disposition, due time.Time) store.Outcome {
	return store.Outcome{
		Delivery: d, Disposition: v, Due: due,
		Attempt: store.Attempt{Delivery: d.ID, Event: d.Event, URL: d.URL, Number: d.Attempts + 1, At: time.Now()},
	}
}

// TestPostponedWhileItsOutcomeIsCommitted: the outcome counts, whoever postpones the
// delivery in the meantime.
func TestPostponedWhileItsOutcomeIsCommitted(t *testing.T) {
	for _, v := range []store.Disposition{store.Delivered, store.Retry} {
		s, _ := living(t)
		_, d := started(t, s)
		o := attempted(d, v, time.Now().Add(time.Hour))
		i := s.claimed(d.N)
		must(t, s.commit(t.Context(), func(g *group) error {
			return errors.Join(g.complete(i, &o), s.Postpone(t.Context(), d, time.Now().Add(-time.Second)))
		}))
		claimed, next, err := s.ClaimDeliveries(t.Context(), 10, all)
		if err != nil || len(claimed) != 0 || next.IsZero() != (v == store.Delivered) {
			t.Errorf("after %v: claimed %d, %v, next is due at %v", v, len(claimed), err, next)
		}
		counts, err := s.Counts(t.Context())
		delivered := counts.Deliveries[store.DeliveryDelivered] == 1
		if n := s.queue.claimed.Load(); err != nil || n != 0 || delivered != (v == store.Delivered) {
			t.Errorf("after %v: %d claims, counts %+v, %v", v, n, counts, err)
		}
	}
}

// TestClaimedWhileItsOutcomeIsCommitted: a claim that the outcome of an attempt
// before ends is not handed out.
func TestClaimedWhileItsOutcomeIsCommitted(t *testing.T) {
	s, _ := living(t)
	_, d := started(t, s)
	o := attempted(d, store.Delivered, time.Time{})
	i := s.claimed(d.N)
	must(t, s.commit(t.Context(), func(g *group) error {
		err := errors.Join(g.complete(i, &o), s.Postpone(t.Context(), d, time.Now().Add(-time.Second)))
		if taken, _ := s.queue.take(s.opts.clock, 10, all); len(taken) != 1 || taken[0] != i {
			t.Errorf("took %d", len(taken))
		}
		return err
	}))
	if d, err := s.handOut(i, nil); d != nil || err != nil {
		t.Errorf("handed out %+v, %v", d, err)
	}
	if n := s.queue.claimed.Load(); n != 0 || len(s.queue.known) != 0 {
		t.Errorf("%d claims, %d predictions are known", n, len(s.queue.known))
	}
}

// TestDeletedDuringItsLastAttempt: a canceled delivery may be deleted before its last
// attempt is over. It is not counted after that.
func TestDeletedDuringItsLastAttempt(t *testing.T) {
	s, _ := living(t)
	p, d := started(t, s)
	must(t, s.SetWebhook(t.Context(), p.Ref, "", event.All))
	must(t, s.Forget(t.Context(), store.Before{Deliveries: time.Now().Add(time.Hour)}))
	must(t, s.Complete(t.Context(), attempted(d, store.Delivered, time.Time{})))
	counts, err := s.Counts(t.Context())
	if err != nil || counts.Deliveries != (store.Counts{}).Deliveries {
		t.Errorf("counts are %+v, %v", counts, err)
	}
}

// TestUndoneWithdrawalIsSignaled: a delivery that was withdrawn by a transaction
// that failed was out of sight of those who asked what is due next.
func TestUndoneWithdrawalIsSignaled(t *testing.T) {
	s, _ := living(t)
	p, d := started(t, s)
	must(t, s.Complete(t.Context(), attempted(d, store.Retry, time.Now().Add(time.Hour))))
	changed, stop := s.Changed()
	defer stop()
	bad := errors.New("bad")
	err := s.commit(t.Context(), func(g *group) error {
		e, err := g.entry(p.Ref)
		if err != nil {
			return err
		}
		e.Disable(g.ledger())
		if _, next, err := s.ClaimDeliveries(t.Context(), 10, all); err != nil || !next.IsZero() {
			t.Errorf("the withdrawn delivery is due at %v, %v", next, err)
		}
		select {
		case <-changed:
		default:
		}
		return bad
	})
	if !errors.Is(err, bad) {
		t.Fatal(err)
	}
	select {
	case <-changed:
	default:
		t.Error("nobody was told that the delivery is there again")
	}
	if _, next, err := s.ClaimDeliveries(t.Context(), 10, all); err != nil || next.IsZero() {
		t.Errorf("next is due at %v, %v", next, err)
	}
}

// TestDeletedInTheSameTransaction: a reserved prediction that an earlier op of the
// transaction has deleted is not found.
func TestDeletedInTheSameTransaction(t *testing.T) {
	s, _ := living(t)
	ref, err := s.Reserve(t.Context(), store.Prediction{Client: "c", URL: "https://receiver.example.com/hook", Events: event.All, CreatedAt: time.Now()})
	must(t, err)
	must(t, s.commit(t.Context(), func(g *group) error {
		if _, err := g.entry(ref); err != nil {
			return err
		}
		if err := g.deleteReserved(ref); err != nil {
			return err
		}
		if _, err := g.entry(ref); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("finding it got %v", err)
		}
		return nil
	}))
}

// snapshot is what the queue holds, as text.
func (q *queue) snapshot() []string {
	q.mu.Lock()
	defer q.mu.Unlock()
	var out []string
	for n, i := range q.items {
		next := int64(0)
		if i.next != nil && i.next != i && q.orders[i.prediction] != i {
			next = i.next.n
		}
		out = append(out, fmt.Sprintf("item %d: due %d, attempts %d, goes to %q, in a lane %t, claimed %t, canceled %t, pinned %t, holds %d, fresh %t",
			n, i.due, i.attempts, i.goesTo(), i.lane != nil && !i.held, i.claimed, i.canceled, i.pinned, next, i.fresh() != nil))
	}
	for ref, i := range q.orders {
		out = append(out, fmt.Sprintf("last of %d: %d", ref, i.n))
	}
	for ref, k := range q.known {
		out = append(out, fmt.Sprintf("known %d: %+v", ref, *k))
	}
	for key, l := range q.lanes {
		out = append(out, fmt.Sprintf("lane %q: %d", key, len(l.items)))
	}
	slices.Sort(out)
	return append(out, fmt.Sprintf("fresh %d, claimed %d, waiting %d", q.fresh, q.claimed.Load(), len(q.waiting)))
}

// script is what the ops of one transaction do, for each prediction one after the
// other.
type script []func(g *group, ref int64, attempted store.Outcome) error

const urlA, urlB = "https://a.example.com/hook", "https://b.example.com/hook"

var scripts = map[string]script{
	"redirect":              {setURL(urlB)},
	"cancel":                {setURL("")},
	"cancel, then set":      {setURL(""), setURL(urlB)},
	"supersede":             {fails},
	"supersede, redirect":   {fails, setURL(urlB)},
	"complete, supersede":   {completes(store.Retry), fails},
	"gone, then set":        {completes(store.Gone), setURL(urlB), fails},
	"redirect, then retry":  {setURL(urlB), completes(store.Retry)},
	"redirect, then gone":   {setURL(urlB), completes(store.Gone)},
	"cancel, then deliver":  {setURL(""), completes(store.Delivered)},
	"cancel, then retry":    {setURL(""), completes(store.Retry)},
	"deliver, redirect":     {completes(store.Delivered), fails, setURL(urlB)},
	"exhaust, then cancel":  {completes(store.Exhausted), setURL("")},
	"retry, then cancel":    {completes(store.Retry), setURL("")},
	"retry, redirect, back": {completes(store.Retry), setURL(urlB), setURL(urlA)},
}

func setURL(url string) func(*group, int64, store.Outcome) error {
	return func(g *group, ref int64, _ store.Outcome) error {
		e, err := g.entry(ref)
		if err != nil {
			return err
		}
		if err := g.addPending(e); err != nil {
			return err
		}
		e.SetWebhook(g.ledger(), url, event.All)
		return g.write(e)
	}
}

func fails(g *group, ref int64, _ store.Outcome) error {
	e, err := g.entry(ref)
	if err != nil {
		return err
	}
	e.Observe(g.ledger(), []store.Event{{Kind: event.Failed, Payload: []byte("{}")}})
	return g.write(e)
}

func completes(v store.Disposition) func(*group, int64, store.Outcome) error {
	return func(g *group, ref int64, o store.Outcome) error {
		i := g.w.queue.items[o.Delivery.N]
		if i == nil || i.prediction != ref {
			return nil
		}
		o.Disposition = v
		return g.complete(i, &o)
	}
}

// varied returns a store with deliveries in all conditions, their predictions, and an
// outcome of the one that is claimed.
func varied(t *testing.T) (s *Store, refs []int64, o store.Outcome) {
	s, _ = living(t)
	track := func(id string, events ...event.Set) {
		p := store.Prediction{ID: id, Client: "c", URL: urlA, Events: event.All, CreatedAt: time.Now()}
		var seen []store.Event
		for _, e := range events {
			seen = append(seen, store.Event{Kind: e, Payload: []byte("{}")})
		}
		must(t, s.Track(t.Context(), &p, seen))
		refs = append(refs, p.Ref)
	}
	track("apart", event.Started)
	track("retried", event.Started)
	track("claimed", event.Started)
	claimed, _, err := s.ClaimDeliveries(t.Context(), 10, all)
	if err != nil || len(claimed) != 3 {
		t.Fatalf("claimed %d, %v", len(claimed), err)
	}
	for _, d := range claimed {
		o = attempted(d, store.Retry, time.Now().Add(time.Hour))
		if o.Apart = d.PredictionID == "apart"; d.PredictionID != "claimed" {
			must(t, s.Complete(t.Context(), o))
		}
	}
	track("fresh", event.Started)
	track("held", event.Started, event.Completed)
	return s, refs, o
}

func (sc script) run(g *group, refs []int64, o store.Outcome) error {
	for _, op := range sc {
		for _, ref := range refs {
			if err := op(g, ref, o); err != nil {
				return err
			}
		}
	}
	return nil
}

// TestFailedTransactionLeavesTheQueueAlone: whatever ops a transaction has run, the
// queue and the totals are as before when it fails.
func TestFailedTransactionLeavesTheQueueAlone(t *testing.T) {
	s, refs, o := varied(t)
	before, totals := s.queue.snapshot(), s.writer.counted()
	bad := errors.New("bad")
	for name, sc := range scripts {
		err := s.commit(t.Context(), func(g *group) error { return errors.Join(sc.run(g, refs, o), bad) })
		if !errors.Is(err, bad) {
			t.Fatalf("%s: %v", name, err)
		}
		if after := s.queue.snapshot(); !slices.Equal(after, before) {
			t.Errorf("%s: the queue is\n%s\nwas\n%s", name, strings.Join(after, "\n"), strings.Join(before, "\n"))
		}
		if s.writer.counted() != totals {
			t.Errorf("%s: totals are %+v, were %+v", name, s.writer.counted(), totals)
		}
	}
}

// TestQueueIsWhatIsStored: the queue and the totals are after a transaction what a
// restart would read, whatever ops it has run.
func TestQueueIsWhatIsStored(t *testing.T) {
	for name, sc := range scripts {
		t.Run(name, func(t *testing.T) {
			s, refs, o := varied(t)
			must(t, s.commit(t.Context(), func(g *group) error { return sc.run(g, refs, o) }))
			kept, counted := s.queue, s.writer.counted()
			must(t, s.loadQueue())
			soon := s.opts.clock.Now() + time.Minute.Milliseconds()
			stored := s.queue
			s.queue = kept
			if got, want := kept.pending(soon), stored.pending(soon); !slices.Equal(got, want) {
				t.Errorf("the queue is\n%s\nstored is\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			var count totals
			must(t, count.load(s.db, 0))
			if counted != count {
				t.Errorf("totals are %+v, stored is %+v", counted, count)
			}
		})
	}
}

// pending is what a queue has in common with one that is read after a restart.
func (q *queue) pending(soon int64) []string {
	q.mu.Lock()
	defer q.mu.Unlock()
	var out []string
	for n, i := range q.items {
		if i.canceled {
			continue
		}
		key := i.goesTo()
		key.URL = 0
		out = append(out, fmt.Sprintf("item %d of %d: attempts %d, goes to %q, due later %t, waits %t, redelivery %t, %v",
			n, i.prediction, i.attempts, key, i.due > soon, !i.held, i.redelivery, i.event))
	}
	slices.Sort(out)
	return out
}
