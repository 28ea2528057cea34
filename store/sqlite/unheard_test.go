package sqlite

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// TestCommitNobodyHeardOfIsNotForgotten: the group whose commit finds the database
// moved is durable, though nobody is told. With the same file back, its
// deliveries are made and its events are duplicates, without a restart.
func TestCommitNobodyHeardOfIsNotForgotten(t *testing.T) {
	t.Parallel()
	s, path := living(t)
	p := store.Prediction{API: "https://api.example.com/v1", ID: "p1", Client: "c1", URL: "https://receiver.example.com/hook", Events: event.Completed, CreatedAt: time.Now()}
	must(t, s.Track(t.Context(), &p, nil))
	must(t, os.Rename(path, path+".bak"))
	happened := []store.Event{{Kind: event.Completed, Payload: []byte("{}")}}
	if err := s.Observe(t.Context(), p.Ref, "", happened); !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("the commit without its file got %v", err)
	}
	must(t, os.Rename(path+".bak", path))
	until(t, "did it go on with the same file", func() bool { return s.Ready() == nil })
	must(t, s.Observe(t.Context(), p.Ref, "", happened)) // as the next poll does
	slots := func(store.Lane) store.Slots { return store.Slots{N: 10} }
	claimed, _, err := s.ClaimDeliveries(t.Context(), 10, slots)
	if err != nil || len(claimed) != 1 {
		t.Errorf("%d deliveries of the terminal event are due, %v, want 1", len(claimed), err)
	}
	counts, err := s.Counts(t.Context())
	if err != nil || counts.Deliveries[store.DeliveryPending] != 1 || counts.Tracked != 0 {
		t.Errorf("the totals are %+v, %v, want one pending delivery and no tracked prediction", counts, err)
	}
}

// TestDuplicateIsNotAcknowledgedWithoutItsFile: that an event was accepted before
// can't be said by a store whose file nobody will find.
func TestDuplicateIsNotAcknowledgedWithoutItsFile(t *testing.T) {
	t.Parallel()
	s, path := living(t)
	must(t, os.Rename(path, path+".bak"))
	until(t, "was it found out", func() bool { return s.Ready() != nil })
	if err := commitOne(t, s, 0); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("a duplicate got %v", err)
	}
	must(t, os.Rename(path+".bak", path))
	until(t, "did it go on with the same file", func() bool { return s.Ready() == nil })
	if err := commitOne(t, s, 0); !errors.Is(err, store.ErrDuplicate) {
		t.Errorf("with the same file back a duplicate got %v", err)
	}
}
