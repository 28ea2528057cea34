package sqlite

import (
	"context"
	"fmt"
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

// TestInboxConformanceWithTails is the same of a store that has few events in memory
// and reads the others in pages.
func TestInboxConformanceWithTails(t *testing.T) {
	for _, w := range []window{{most: 2, page: 1, scan: 1, low: 1}, {most: 4, page: 2, scan: 3, low: 2}} {
		t.Run(fmt.Sprintf("%+v", w), func(t *testing.T) {
			storetest.RunInbox(t, func(t *testing.T) storetest.Resource { return fileWith(t, w) })
		})
	}
}

func freshFile(t *testing.T) storetest.Resource { return fileWith(t, window{}) }

func fileWith(t *testing.T, w window) storetest.Resource {
	path := filepath.Join(t.TempDir(), "webhook.db")
	return func(t *testing.T, now func() time.Time) storetest.Opened {
		t.Helper()
		s, err := Open(Options{Path: path, Now: now, window: w})
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
