package sqlite

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/claims"
)

// TestEventsBetweenMemoryAndTail accepts events, hands them out and opens the store
// again while their lines go from memory to a tail and back: each is handed out once,
// in the order of its prediction.
func TestEventsBetweenMemoryAndTail(t *testing.T) {
	const accepters, each, predictions = 4, 150, 8
	path := filepath.Join(t.TempDir(), "webhook.db")
	open := func() *Store {
		s, err := Open(Options{Path: path, window: window{most: 6, page: 3, scan: 5, low: 2}})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	last := make(map[string]int64)
	delivered := 0
	for round := range 2 {
		s := open()
		var accepted atomic.Int64
		var wg sync.WaitGroup
		for a := range accepters {
			wg.Go(func() {
				for k := range each {
					n := int64((round*accepters+a)*each + k)
					ev := benchEvent(0)
					ev.PredictionID = fmt.Sprint("p", n%predictions)
					c, err := s.Claim(context.Background(), benchEntry(n), 0)
					if err == nil {
						err = c.CommitEvent(context.Background(), ev)
					}
					if err != nil {
						t.Error(err)
						return
					}
					accepted.Add(1)
				}
			})
		}
		finished := make(chan struct{})
		go func() { wg.Wait(); close(finished) }()
		changed, unsubscribe := s.Changed()
		// In the first round some wait until the store is opened again.
		for enough := []int{accepters * each / 2, 2 * accepters * each}[round]; delivered < enough && !t.Failed(); {
			claimed, _, err := s.ClaimDeliveries(context.Background(), 4, func(store.Lane) store.Slots { return store.Slots{N: 3} })
			if err != nil {
				t.Fatal(err)
			}
			if len(claimed) == 0 {
				select {
				case <-changed:
				case <-time.After(10 * time.Second):
					t.Fatalf("%d events were accepted and %d handed out, and nothing is due", accepted.Load(), delivered)
				}
			}
			for _, d := range claimed {
				if d.N <= last[d.PredictionID] {
					t.Errorf("event %d of %s came after event %d", d.N, d.PredictionID, last[d.PredictionID])
				}
				last[d.PredictionID] = d.N
				if err := s.Complete(context.Background(), store.Outcome{Delivery: d, Disposition: store.Delivered, Attempt: store.Attempt{Status: 200, Number: 1, At: time.Now()}}); err != nil {
					t.Fatal(err)
				}
				delivered++
			}
		}
		<-finished
		unsubscribe()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	s := open()
	defer s.Close()
	states, err := s.Inboxes(context.Background())
	if err != nil || len(states) != 1 || states[0].Events[store.DeliveryPending] != 2*accepters*each-delivered || states[0].Events[store.DeliveryDelivered] != delivered {
		t.Errorf("%d events were handed out of %d: %+v, %v", delivered, 2*accepters*each, states, err)
	}
}

// TestPageAndEventInOneTransaction: an event is in the queue once, whether its scope's
// last page was read before it in the same transaction or after it.
func TestPageAndEventInOneTransaction(t *testing.T) {
	for _, pageFirst := range []bool{false, true} {
		s, err := Open(Options{Path: filepath.Join(t.TempDir(), "webhook.db"), window: window{most: 1, page: 10, scan: 10, low: 1}})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		accept := func(g *group, n int64) error {
			ev := benchEvent(n)
			ev.Ordered = false
			_, err := g.accept(&claims.Claim{Entry: benchEntry(n), Events: []*store.Inbound{ev}})
			return err
		}
		for n := range int64(3) { // the first is in memory
			if err := s.writer.do(context.Background(), &op{write: func(g *group) error { return accept(g, n) }}); err != nil {
				t.Fatal(err)
			}
		}
		read := func(g *group) error {
			p, err := s.readPage(g.query, s.queue.tails[store.InboxLane("default")])
			if err == nil && !p.end {
				t.Error("the page is not the last")
			}
			g.pages = append(g.pages, p)
			return err
		}
		if err := s.writer.do(context.Background(), &op{write: func(g *group) error {
			if pageFirst {
				return errors.Join(read(g), accept(g, 3))
			}
			return errors.Join(accept(g, 3), read(g))
		}}); err != nil {
			t.Fatal(err)
		}
		claimed, _, err := s.ClaimDeliveries(context.Background(), 100, func(store.Lane) store.Slots { return store.Slots{N: 100} })
		if err != nil || len(claimed) != 4 || s.queue.inbound != 4 {
			t.Errorf("page first %t: claimed %d events of 4, the queue has %d, %v", pageFirst, len(claimed), s.queue.inbound, err)
		}
	}
}
