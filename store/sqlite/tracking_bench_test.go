package sqlite

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// benchStore opens a store, which is the caller's to close: what is registered
// with b.Cleanup stays reachable into the next round, and would be taken for
// part of the heap before it.
func benchStore(b *testing.B, path string) *Store {
	b.Helper()
	s, err := Open(Options{Path: path})
	if err != nil {
		b.Fatal(err)
	}
	return s
}

func benchPrediction(n int64, url string) (store.Prediction, []store.Event) {
	payload := make([]byte, 600)
	return store.Prediction{
			API: "https://api.example.com/v1", ID: fmt.Sprintf("p%d", n), Client: "https://api.example.com/v1 user/someone", URL: url,
			Events: event.All, PollPath: fmt.Sprintf("/predictions/p%d", n), Credential: make([]byte, 80), CreatedAt: time.Now(),
		}, []store.Event{
			{Kind: event.Started, Payload: payload},
			{Kind: event.Completed, Payload: payload},
		}
}

// lifecycles creates n predictions by 64 clients, while as many workers deliver
// both events of each.
func lifecycles(b *testing.B, s *Store, first, n int64) {
	ctx := context.Background()
	const clients = 64
	var clientsDone sync.WaitGroup
	next := atomic.Int64{}
	next.Store(first)
	for range clients {
		clientsDone.Go(func() {
			for i := next.Add(1) - 1; i < first+n; i = next.Add(1) - 1 {
				p, events := benchPrediction(i, "https://receiver.example.com/hook")
				if err := s.Track(ctx, &p, events); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	work := make(chan store.Delivery, clients)
	finished := make(chan struct{})
	var delivered atomic.Int64
	for range clients {
		go func() {
			for d := range work {
				if err := s.Complete(ctx, store.Outcome{Delivery: d, Disposition: store.Delivered, Attempt: store.Attempt{
					Delivery: d.ID, Event: d.Event, URL: d.URL, Status: 200, Number: 1, At: time.Now(), Took: time.Millisecond, Response: "ok",
				}}); err != nil {
					b.Error(err)
				}
				if delivered.Add(1) == 2*n {
					close(finished)
				}
			}
		}()
	}
	defer close(work)
	changed, stop := s.Changed()
	defer stop()
	for {
		claimed, _, err := s.ClaimDeliveries(ctx, clients, func(store.Lane) store.Slots { return store.Slots{N: clients} })
		if err != nil {
			b.Error(err)
			return
		}
		for _, d := range claimed {
			work <- d
		}
		if len(claimed) > 0 {
			continue
		}
		select {
		case <-changed:
		case <-finished:
			clientsDone.Wait()
			return
		}
	}
}

// BenchmarkLifecycle measures predictions per second, each created, claimed
// twice and completed twice.
func BenchmarkLifecycle(b *testing.B) {
	s := benchStore(b, filepath.Join(b.TempDir(), "webhook.db"))
	defer s.Close()
	b.ResetTimer()
	lifecycles(b, s, 0, int64(b.N))
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "predictions/s")
}

// BenchmarkWaiting measures the same while deliveries wait for a retry, and what
// those take of memory and of the time to open.
func BenchmarkWaiting(b *testing.B) {
	for _, c := range []struct{ waiting, endpoints int64 }{{0, 1}, {200_000, 1}, {200_000, 1000}} {
		b.Run(fmt.Sprintf("waiting=%d/endpoints=%d", c.waiting, c.endpoints), func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "webhook.db")
			fillWaiting(b, path, c.waiting, c.endpoints)
			before := heapInUse()
			start := time.Now()
			s := benchStore(b, path)
			defer s.Close()
			opened := time.Since(start)
			grown := heapInUse() - before
			if got := int64(len(s.queue.items)); got != c.waiting {
				b.Fatalf("%d deliveries wait, want %d", got, c.waiting)
			}
			b.ResetTimer()
			lifecycles(b, s, 1_000_000, int64(b.N))
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "predictions/s")
			b.ReportMetric(opened.Seconds()*1000, "open-ms")
			b.ReportMetric(float64(grown)/(1<<20), "heap-MB")
		})
	}
}

// fillWaiting leaves deliveries behind whose first attempt failed.
func fillWaiting(b *testing.B, path string, n, endpoints int64) {
	s, err := Open(Options{Path: path})
	if err != nil {
		b.Fatal(err)
	}
	due := time.Now().Add(time.Hour).UnixMilli()
	for from := int64(0); from < n; from += 10_000 {
		if err := s.writer.do(context.Background(), &op{write: func(g *group) error {
			for i := from; i < from+10_000; i++ {
				p, events := benchPrediction(i, fmt.Sprintf("https://r%d.example.com/hook", i%endpoints))
				if _, err := g.track(p, events[:1]); err != nil {
					return err
				}
			}
			return g.exec("UPDATE deliveries SET attempts = 1, due = ? WHERE n > ?", due, g.w.lastDelivery-10_000)
		}}); err != nil {
			b.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
}

func heapInUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
