package postgres

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/pgtest"
	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// usage is what the database has done.
type usage struct {
	// writes counts transactions that wrote: each of them has an id. That of
	// a claim of an event is among them, though nobody waits for the disk.
	writes int64
	// statements that were executed.
	statements int64
}

// counting starts a server that counts statements.
func counting(tb testing.TB) *pgtest.Server {
	server := pgtest.Start(tb, "shared_preload_libraries=pg_stat_statements", "pg_stat_statements.track_utility=on")
	server.Exec(tb, "CREATE EXTENSION pg_stat_statements")
	return server
}

// used reads the counts, and is not counted itself.
func used(tb testing.TB, server *pgtest.Server) usage {
	return usage{
		writes: pgtest.Value[int64](tb, server.DSN("public"), "SELECT txid_snapshot_xmax(txid_current_snapshot())"),
		statements: pgtest.Value[int64](tb, server.DSN("public"), `SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements
			WHERE query LIKE '%webhook_%' OR query IN ('BEGIN', 'COMMIT', 'ROLLBACK')`),
	}
}

func (u usage) since(before usage) usage {
	return usage{u.writes - before.writes, u.statements - before.statements}
}

// quiet is a node whose own upkeep does not fall into the measurement.
func quiet(tb testing.TB, dsn string) *Store {
	s, err := Open(Options{DSN: dsn, Lease: time.Hour, PurgeEvery: time.Hour})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = s.Close() })
	return s
}

// one takes a delivery through its life: the event is committed, the delivery
// claimed, and its outcome committed.
func one(tb testing.TB, s *Store, changed <-chan struct{}, p *store.Prediction, e event.Set) {
	if err := s.Observe(ctx, p.Ref, p.ID, happened(e)); err != nil {
		tb.Fatal(err)
	}
	for {
		claimed, _, err := s.ClaimDeliveries(ctx, 256, plenty)
		if err != nil {
			tb.Fatal(err)
		}
		if len(claimed) == 1 {
			if err := s.Complete(ctx, outcome(claimed[0], store.Delivered)); err != nil {
				tb.Fatal(err)
			}
			return
		}
		<-changed
	}
}

// TestCommitsPerEvent: an idle store commits twice per delivered event, a busy
// one far less than once.
func TestCommitsPerEvent(t *testing.T) {
	server := counting(t)
	s := quiet(t, server.Fresh(t))
	changed, stop := s.Changed()
	defer stop()
	p := track(t, s, "warm", event.Started)
	_, claimed := due(t, s)
	complete(t, s, claimed[0], store.Delivered)
	one(t, s, changed, &p, event.Completed)

	const idle = 20
	predictions := make([]store.Prediction, idle)
	for i := range predictions {
		predictions[i] = track(t, s, fmt.Sprint("idle", i))
	}
	before := used(t, server)
	for i := range predictions {
		one(t, s, changed, &predictions[i], event.Completed)
	}
	got := used(t, server).since(before)
	t.Logf("idle: %.2f writing transactions and %.1f statements per delivered event",
		float64(got.writes)/idle, float64(got.statements)/idle)
	if got.writes > 2*idle {
		t.Errorf("%d transactions for %d delivered events", got.writes, idle)
	}

	const busy = 600
	before = used(t, server)
	lifecycles(t, s, busy/2)
	got = used(t, server).since(before)
	t.Logf("busy: %.2f writing transactions and %.1f statements per delivered event",
		float64(got.writes)/busy, float64(got.statements)/busy)
	if got.writes > busy/2 {
		t.Errorf("%d transactions for %d delivered events", got.writes, busy)
	}

	before = used(t, server)
	for i := range idle {
		if err := mustClaim(t, s, entryOf(fmt.Sprint(i))).Commit(ctx); err != nil {
			t.Fatal(err)
		}
	}
	got = used(t, server).since(before)
	t.Logf("edge, idle: %.2f writing transactions and %.1f statements per event",
		float64(got.writes)/idle, float64(got.statements)/idle)
}

// lifecycles creates n predictions by 64 clients, while as many workers deliver
// both events of each.
func lifecycles(tb testing.TB, s *Store, n int) {
	const clients = 64
	run := time.Now().UnixNano()
	var wg sync.WaitGroup
	var next, delivered atomic.Int64
	payload := make([]byte, 600)
	for range clients {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				p := store.Prediction{
					API: "https://api.example.com/v1", ID: fmt.Sprintf("p%d-%d", run, i), URL: "https://receiver.example.com/hook", Events: event.All,
					PollPath: "/predictions/x", Credential: make([]byte, 80), CreatedAt: time.Now(),
				}
				if err := s.Track(ctx, &p, []store.Event{{Kind: event.Started, Payload: payload}, {Kind: event.Completed, Payload: payload}}); err != nil {
					tb.Error(err)
					return
				}
			}
		})
	}
	work := make(chan store.Delivery, clients)
	finished := make(chan struct{})
	for range clients {
		go func() {
			for d := range work {
				if err := s.Complete(ctx, outcome(d, store.Delivered)); err != nil {
					tb.Error(err)
				}
				if delivered.Add(1) == 2*int64(n) {
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
			tb.Error(err)
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
			wg.Wait()
			return
		}
	}
}

// BenchmarkCommit measures claims and commits of events per second.
func BenchmarkCommit(b *testing.B) {
	server := pgtest.Start(b)
	for _, writers := range []int{1, 64, 512} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			s := quiet(b, server.Fresh(b))
			var next atomic.Int64
			var wg sync.WaitGroup
			b.ResetTimer()
			for range writers {
				wg.Go(func() {
					for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
						var bits [8]byte
						binary.BigEndian.PutUint64(bits[:], uint64(n))
						c, err := s.Claim(context.Background(), entryOf(string(bits[:])), 0)
						if err == nil {
							err = c.Commit(context.Background())
						}
						if err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
		})
	}
}

// BenchmarkLifecycle measures predictions per second, each created, claimed
// twice and completed twice.
func BenchmarkLifecycle(b *testing.B) {
	s := quiet(b, pgtest.Start(b).Fresh(b))
	b.ResetTimer()
	lifecycles(b, s, b.N)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "predictions/s")
}

// BenchmarkDrain measures how fast a backlog is delivered.
func BenchmarkDrain(b *testing.B) {
	s := quiet(b, pgtest.Start(b).Fresh(b))
	backlog(b, s, b.N)
	b.ResetTimer()
	drain(b, s, b.N)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "deliveries/s")
}

// backlog commits n deliveries that nobody takes, of 64 endpoints.
func backlog(tb testing.TB, s *Store, n int) {
	var wg sync.WaitGroup
	var next atomic.Int64
	for range 64 {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				p := store.Prediction{
					API: "https://api.example.com/v1", ID: fmt.Sprint("backlog", i), URL: fmt.Sprintf("https://r%d.example.com/hook", i%64), Events: event.All,
					PollPath: "/predictions/x", Credential: make([]byte, 80), CreatedAt: time.Now(),
				}
				if err := s.Track(ctx, &p, happened(event.Completed)); err != nil {
					tb.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// drain delivers n deliveries with 64 workers.
func drain(tb testing.TB, s *Store, n int) {
	const workers = 64
	work := make(chan store.Delivery, workers)
	var delivered atomic.Int64
	finished := make(chan struct{})
	for range workers {
		go func() {
			for d := range work {
				if err := s.Complete(ctx, outcome(d, store.Delivered)); err != nil {
					tb.Error(err)
				}
				if delivered.Add(1) == int64(n) {
					close(finished)
				}
			}
		}()
	}
	defer close(work)
	changed, stop := s.Changed()
	defer stop()
	for {
		claimed, _, err := s.ClaimDeliveries(ctx, workers, func(store.Lane) store.Slots { return store.Slots{N: 4} })
		if err != nil {
			tb.Error(err)
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
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}
