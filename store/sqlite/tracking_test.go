package sqlite

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/storetest"
)

func TestTrackingConformance(t *testing.T)  { storetest.RunTracking(t, freshFile) }
func TestInspectorConformance(t *testing.T) { storetest.RunInspector(t, freshFile) }

func TestInboxConformance(t *testing.T) { storetest.RunInbox(t, freshFile) }

func freshFile(t *testing.T) storetest.Resource {
	path := filepath.Join(t.TempDir(), "webhook.db")
	return func(t *testing.T, now func() time.Time) storetest.Opened {
		t.Helper()
		s, err := Open(Options{Path: path, Now: now})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
}

func TestUnreadableDeliveryHoldsUpNoOther(t *testing.T) {
	path := filepath.Join(t.TempDir(), "webhook.db")
	reopen := func() *Store {
		s, err := Open(Options{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := reopen()
	for _, id := range []string{"damaged", "whole"} {
		p := store.Prediction{ID: id, URL: "https://example.com/", Events: event.All, CreatedAt: time.Now()}
		if err := s.Track(context.Background(), &p, []store.Event{{Kind: event.Started, Payload: []byte(id)}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.commit(context.Background(), func(g *group) error { return g.exec("DELETE FROM payloads WHERE n = 1") }); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = reopen()
	defer s.Close()
	claimed, next, err := s.ClaimDeliveries(context.Background(), 10, func(store.Lane) store.Slots { return store.Slots{N: 10} })
	if err != nil || len(claimed) != 1 || claimed[0].PredictionID != "whole" || !next.IsZero() {
		t.Fatalf("claimed %+v, next %v, error %v", claimed, next, err)
	}
}
