package postgres

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/pgtest"
	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// TestWrongClock: a node whose clock is wrong says so, forgets nothing, and does
// not make other nodes forget or refuse anything; what it commits is remembered
// for as long as what they commit.
func TestWrongClock(t *testing.T) {
	server := pgtest.Start(t)
	const keep = 10 * time.Minute
	for _, wrong := range []time.Duration{620 * time.Second, -620 * time.Second, 48 * time.Hour, -48 * time.Hour} {
		t.Run(wrong.String(), func(t *testing.T) {
			dsn := server.Fresh(t)
			core, logs := observer.New(zap.InfoLevel)
			off := wrong
			bad, err := Open(Options{DSN: dsn, Lease: 10 * time.Second, PurgeEvery: 10 * time.Millisecond, Now: func() time.Time { return time.Now().Add(off) }, Logger: func() *zap.Logger { return zap.New(core) }})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = bad.Close() })
			good := node(t, dsn)
			entry := func(s *Store, name string) store.Entry {
				e := entryOf(name)
				e.SignedAt, e.Expires = time.Now().Add(-time.Minute), s.opts.Now().Add(keep)
				return e
			}
			for i := range 60 {
				for _, s := range []*Store{good, bad} {
					if err := mustClaim(t, s, entry(s, fmt.Sprint(s == good, i))).Commit(ctx); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := bad.Purge(); err != nil {
				t.Fatal(err)
			}
			// Retries are duplicates at either node, and what is new is taken.
			for i := range 60 {
				for _, s := range []*Store{good, bad} {
					if _, err := s.Claim(ctx, entry(s, fmt.Sprint(i%2 == 0, i)), 0); !errors.Is(err, store.ErrDuplicate) {
						t.Fatalf("a retry: %v", err)
					}
					mustClaim(t, s, entry(s, fmt.Sprint("new", i, s == good))).Release()
				}
			}
			var left time.Duration
			for _, query := range []string{"min", "max"} {
				expires := time.UnixMilli(pgtest.Value[int64](t, dsn, "SELECT "+query+"(expires) FROM webhook_dedup"))
				if left = time.Until(expires); left < keep-time.Minute || left > keep+time.Second {
					t.Errorf("an entry is remembered for %v, want %v", left, keep)
				}
			}
			// Deliveries are due when they should be, at every node.
			track(t, bad, "x", event.Started)
			var claimed []store.Delivery
			eventually(t, "the delivery", func() bool {
				good.queue.look(0)
				_, claimed = due(t, good)
				return len(claimed) > 0
			})
			d := claimed[0]
			if age := time.Since(d.CreatedAt); age.Abs() > time.Minute {
				t.Errorf("committed %v ago", age)
			}
			if err := good.Postpone(ctx, d, time.Now().Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			bad.queue.look(0)
			if claimed, next, err := bad.ClaimDeliveries(ctx, 10, plenty); err != nil || len(claimed) != 0 || next.Sub(bad.opts.Now()) > 61*time.Second || next.Sub(bad.opts.Now()) < 30*time.Second {
				t.Errorf("claimed %v, next in %v, %v", claimed, next.Sub(bad.opts.Now()), err)
			}
			// And it says so.
			if n := logs.FilterLevelExact(zap.ErrorLevel).FilterMessageSnippet("clock of this node is wrong").Len(); n != 1 {
				t.Errorf("logged %d times that the clock is wrong: %v", n, logs.All())
			}
			if ahead, is := bad.ClockOffset(); !is || (ahead-wrong).Abs() > time.Minute {
				t.Errorf("the clock is ahead by %v, wrong: %v", ahead, is)
			}
			if ahead, is := good.ClockOffset(); is || ahead.Abs() > time.Minute {
				t.Errorf("the clock of the good node is ahead by %v, wrong: %v", ahead, is)
			}
		})
	}
}

// TestClockIsSet: a clock that is put right is noticed, and how wrong it may be is
// said by the handlers.
func TestClockIsSet(t *testing.T) {
	s := node(t, pgtest.Start(t).Fresh(t))
	for _, c := range []struct {
		most, ahead time.Duration
		wrong       bool
	}{{0, 149 * time.Second, false}, {0, 151 * time.Second, true}, {0, -151 * time.Second, true}, {10 * time.Second, 11 * time.Second, true}, {10 * time.Second, 9 * time.Second, false}} {
		s.SetMaxClockError(c.most)
		s.clock.wrong.Store(!c.wrong)
		now := s.opts.Now()
		s.checkClock(now, now, now.Add(-c.ahead))
		if ahead, wrong := s.ClockOffset(); wrong != c.wrong || (ahead-c.ahead).Abs() > time.Second {
			t.Errorf("%v of %v: ahead %v, wrong %v", c.ahead, c.most, ahead, wrong)
		}
	}
}
