package sqlite

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/claims"
)

// benchEvent is the nth inbound event: each prediction has four.
func benchEvent(n int64) *store.Inbound {
	return &store.Inbound{
		Scope: "default", Name: "prediction.completed", PredictionID: fmt.Sprint("p", n/4), Ordered: true,
		Head: make([]byte, 500), Body: make([]byte, 1000), MaxEvents: 10_000_000, MaxBytes: 1 << 40,
	}
}

// BenchmarkAccept measures accepted events a second: a claim, and a commit of the
// entry and the event.
func BenchmarkAccept(b *testing.B) {
	for _, writers := range []int{1, 64, 512} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			s := benchStore(b, filepath.Join(b.TempDir(), "webhook.db"))
			defer s.Close()
			b.ReportAllocs()
			b.ResetTimer()
			var next atomic.Int64
			var wg sync.WaitGroup
			for range writers {
				wg.Go(func() {
					for n := next.Add(1) - 1; n < int64(b.N); n = next.Add(1) - 1 {
						c, err := s.Claim(context.Background(), benchEntry(n), 0)
						if err == nil {
							err = c.CommitEvent(context.Background(), benchEvent(n))
						}
						if err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

// fillEvents writes events that wait, of which all but every fourth are held. Every
// second one has ended where ended is set.
func fillEvents(b *testing.B, path string, n int64, size int, ended bool) {
	s := benchStore(b, path)
	defer s.Close()
	const batch = 10_000
	for from := int64(0); from < n; from += batch {
		if err := s.writer.do(context.Background(), &op{write: func(g *group) error {
			for i := from; i < min(from+batch, n); i++ {
				ev := benchEvent(i)
				ev.Head, ev.Body = ev.Head[:size/2], ev.Body[:size/2]
				if ended && i%2 == 0 {
					ev.Recorded = &store.Attempt{Status: 200, Number: 1, At: time.Now()}
				}
				if i%1000 == 7 && ended {
					ev.Recorded = &store.Attempt{Status: 410, Number: 1, At: time.Now()}
				}
				c := &claims.Claim{Entry: benchEntry(i), Events: []*store.Inbound{ev}}
				if _, err := g.accept(c); err != nil {
					return err
				}
				g.add(&c.Entry)
			}
			return nil
		}}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkWaitingEvents measures what a million waiting events take: the memory of
// all, with their entries, the time to open the store, and what is drained of them
// then.
func BenchmarkWaitingEvents(b *testing.B) {
	const n = 1_000_000
	path := filepath.Join(b.TempDir(), "webhook.db")
	fillEvents(b, path, n, 100, false)
	before := heapInUse()
	start := time.Now()
	s := benchStore(b, path)
	defer s.Close()
	opened := time.Since(start)
	grown := heapInUse() - before
	if got := int(s.inbox.boxes.byScope["default"].events[store.DeliveryPending]); got != n {
		b.Fatalf("%d events wait, want %d", got, n)
	}
	b.ResetTimer()
	drained := 0
	for range b.N {
		claimed, _, err := s.ClaimDeliveries(context.Background(), 64, func(store.Lane) store.Slots { return store.Slots{N: 64} })
		if err != nil {
			b.Fatal(err)
		}
		var wg sync.WaitGroup
		for _, d := range claimed {
			wg.Go(func() {
				if err := s.Complete(context.Background(), store.Outcome{Delivery: d, Disposition: store.Delivered, Attempt: store.Attempt{Status: 200, Number: 1, At: time.Now()}}); err != nil {
					b.Error(err)
				}
			})
		}
		wg.Wait()
		drained += len(claimed)
	}
	b.ReportMetric(float64(drained)/b.Elapsed().Seconds(), "events/s")
	b.ReportMetric(opened.Seconds()*1000, "open-ms")
	b.ReportMetric(float64(grown)/(1<<20), "heap-MB")
	b.ReportMetric(float64(len(s.entries.live)), "entries")
}

// BenchmarkListEvents measures the pages of lists of events among many, and those of
// a few deliveries beside them.
func BenchmarkListEvents(b *testing.B) {
	n := operatingRows(b)
	path := filepath.Join(b.TempDir(), "webhook.db")
	fillEvents(b, path, n, 100, true)
	s := benchStore(b, path)
	defer s.Close()
	state := func(st store.DeliveryState) *store.DeliveryState { return &st }
	for _, c := range []struct {
		name   string
		filter store.DeliveryFilter
	}{
		{"events", store.DeliveryFilter{Inbound: true}},
		{"scope", store.DeliveryFilter{Inbound: true, Scope: "default"}},
		{"name", store.DeliveryFilter{Inbound: true, Name: "prediction.completed"}},
		{"name (none)", store.DeliveryFilter{Inbound: true, Name: "none"}},
		{"waiting", store.DeliveryFilter{Inbound: true, State: state(store.DeliveryPending)}},
		{"accepted", store.DeliveryFilter{Inbound: true, State: state(store.DeliveryDelivered)}},
		{"refused", store.DeliveryFilter{Inbound: true, State: state(store.DeliveryRefused)}},
		{"failed (none)", store.DeliveryFilter{Inbound: true, State: state(store.DeliveryFailed)}},
		{"prediction", store.DeliveryFilter{Inbound: true, Prediction: "p7"}},
		{"deliveries (none)", store.DeliveryFilter{}},
	} {
		b.Run(c.name, func(b *testing.B) {
			var times []time.Duration
			found := 0
			for b.Loop() {
				f := c.filter
				f.Limit = 50
				for range 300 {
					began := time.Now()
					rows, next, err := s.ListDeliveries(context.Background(), f)
					if err != nil {
						b.Fatal(err)
					}
					times = append(times, time.Since(began))
					found += len(rows)
					if f.Before = next; next == 0 {
						break
					}
				}
			}
			slices.Sort(times)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(times[len(times)-1].Seconds()*1000, "max-ms/page")
			b.ReportMetric(times[len(times)/2].Seconds()*1000, "median-ms/page")
			b.ReportMetric(float64(len(times))/float64(b.N), "pages")
			b.ReportMetric(float64(found)/float64(b.N), "rows")
		})
	}
}
