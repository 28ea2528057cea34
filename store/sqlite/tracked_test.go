package sqlite

import (
	"errors"
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
	must(t, s.Forget(t.Context(), time.Now().Add(time.Hour), time.Time{}))
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
