// Package storetest is the conformance suite of stores.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// Opened is an open store under test.
type Opened interface {
	store.Closer
	// Purge purges what has expired.
	Purge() error
}

// Resource opens a store with the given clock. Each call opens the same one.
type Resource func(t *testing.T, now func() time.Time) Opened

// Run runs the tests of store.Dedup. Each test gets a resource of its own from fresh.
func Run(t *testing.T, fresh func(t *testing.T) Resource) {
	runCases(t, fresh, func(b *bench) *bench { return b }, []testCase[*bench]{
		{"committed is a duplicate", committedIsDuplicate},
		{"committed survives reopening", committedSurvives},
		{"released is free", releasedIsFree},
		{"release after commit changes nothing", releaseAfterCommit},
		{"one of many claims wins", oneOfManyWins},
		{"waiting claim sees the commit", waiterSeesCommit},
		{"waiting claim takes over a released one", waiterTakesOver},
		{"waiting ends", waitingEnds},
		{"waiting ends with the context", waitingEndsWithContext},
		{"open claim does not survive reopening", openClaimIsFreed},
		{"either key makes a duplicate", eitherKey},
		{"either key is in flight", eitherKeyInFlight},
		{"scopes are apart", scopesApart},
		{"expired is free", expiredIsFree},
		{"purged signed times are refused", purgedIsRefused},
		{"purged signed times are refused after reopening", purgedSurvives},
		{"purging covers the time until which an entry is signed", purgeCoversSignedUntil},
		{"purged signed times are refused after the clock stepped back", purgedClockBack},
		{"unpurged entry lives again when the clock steps back", unpurgedClockBack},
		{"purging spares what is live", purgeSparesLive},
		{"purging many", purgeMany},
		{"many commits at once", manyCommits},
		{"closed is unavailable", closedIsUnavailable},
	})
}

// bench is the store and the clock of one test.
type bench struct {
	t        *testing.T
	resource Resource
	clock    atomic.Int64
	s        Opened
}

func (b *bench) now() time.Time          { return time.UnixMilli(b.clock.Load()).UTC() }
func (b *bench) advance(d time.Duration) { b.clock.Add(d.Milliseconds()) }
func (b *bench) open()                   { b.s = b.resource(b.t, b.now) }

func (b *bench) reopen() {
	b.t.Helper()
	if err := b.s.Close(); err != nil {
		b.t.Fatalf("closing: %v", err)
	}
	b.open()
}

func (b *bench) purge() {
	b.t.Helper()
	if err := b.s.Purge(); err != nil {
		b.t.Fatalf("purging: %v", err)
	}
}

func (b *bench) entry(names ...string) store.Entry {
	e := store.Entry{Scope: "default", SignedAt: b.now(), Expires: b.now().Add(time.Hour)}
	for _, n := range names {
		e.Keys = append(e.Keys, store.KeyOf("default", "event", n))
	}
	return e
}

func (b *bench) claim(e store.Entry) store.Claim {
	b.t.Helper()
	c, err := b.s.Claim(context.Background(), e, 0)
	if err != nil {
		b.t.Fatalf("claiming: %v", err)
	}
	if c.Forwarded() {
		b.t.Fatal("a new event counts as forwarded")
	}
	return c
}

func (b *bench) commit(e store.Entry) {
	b.t.Helper()
	if err := b.claim(e).Commit(context.Background()); err != nil {
		b.t.Fatalf("committing: %v", err)
	}
}

func (b *bench) refused(e store.Entry, want error) {
	b.t.Helper()
	c, err := b.s.Claim(context.Background(), e, 0)
	if !errors.Is(err, want) {
		b.t.Fatalf("claim: got %v, %v; want %v", c, err, want)
	}
}

func committedIsDuplicate(t *testing.T, b *bench) {
	e := b.entry("a")
	b.commit(e)
	b.refused(e, store.ErrDuplicate)
	b.commit(b.entry("b"))
}

func committedSurvives(t *testing.T, b *bench) {
	for i := range 10 {
		b.commit(b.entry(fmt.Sprint(i)))
	}
	b.reopen()
	for i := range 10 {
		b.refused(b.entry(fmt.Sprint(i)), store.ErrDuplicate)
	}
	b.claim(b.entry("10")).Release()
}

func releasedIsFree(t *testing.T, b *bench) {
	e := b.entry("a")
	b.claim(e).Release()
	b.commit(e)
	b.refused(e, store.ErrDuplicate)
}

func releaseAfterCommit(t *testing.T, b *bench) {
	e := b.entry("a")
	c := b.claim(e)
	if err := c.Commit(context.Background()); err != nil {
		t.Fatal(err)
	}
	c.Release()
	if err := c.Commit(context.Background()); err != nil {
		t.Fatalf("second commit: %v", err)
	}
	b.refused(e, store.ErrDuplicate)
}

func oneOfManyWins(t *testing.T, b *bench) {
	e := b.entry("a")
	var won, duplicate atomic.Int64
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			c, err := b.s.Claim(context.Background(), e, time.Minute)
			switch {
			case err == nil:
				won.Add(1)
				if err := c.Commit(context.Background()); err != nil {
					t.Errorf("committing: %v", err)
				}
			case errors.Is(err, store.ErrDuplicate):
				duplicate.Add(1)
			default:
				t.Errorf("claiming: %v", err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 || duplicate.Load() != 49 {
		t.Fatalf("%d won and %d were duplicates, want 1 and 49", won.Load(), duplicate.Load())
	}
}

// wait starts a claim that has to wait. The channel gets its outcome, after a commit.
func (b *bench) wait(ctx context.Context, e store.Entry) <-chan error {
	out := make(chan error, 1)
	go func() {
		c, err := b.s.Claim(ctx, e, time.Minute)
		if err == nil {
			err = c.Commit(context.Background())
		}
		out <- err
	}()
	return out
}

func waiterSeesCommit(t *testing.T, b *bench) {
	e := b.entry("a")
	c := b.claim(e)
	got := b.wait(context.Background(), e)
	if err := c.Commit(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := <-got; !errors.Is(err, store.ErrDuplicate) {
		t.Fatalf("got %v, want a duplicate", err)
	}
}

func waiterTakesOver(t *testing.T, b *bench) {
	e := b.entry("a")
	c := b.claim(e)
	first, second := b.wait(context.Background(), e), b.wait(context.Background(), e)
	c.Release()
	x, y := <-first, <-second
	if (x == nil) == (y == nil) {
		t.Fatalf("got %v and %v, want one to take over and the other to be a duplicate", x, y)
	}
	if err := errors.Join(x, y); !errors.Is(err, store.ErrDuplicate) {
		t.Fatalf("got %v, want a duplicate", err)
	}
}

func waitingEnds(t *testing.T, b *bench) {
	e := b.entry("a")
	c := b.claim(e)
	if _, err := b.s.Claim(context.Background(), e, time.Millisecond); !errors.Is(err, store.ErrInFlight) {
		t.Fatalf("got %v, want in flight", err)
	}
	c.Release()
	b.claim(e).Release()
}

func waitingEndsWithContext(t *testing.T, b *bench) {
	e := b.entry("a")
	defer b.claim(e).Release()
	ctx, cancel := context.WithCancel(context.Background())
	got := b.wait(ctx, e)
	cancel()
	if err := <-got; !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want the context's error", err)
	}
}

func openClaimIsFreed(t *testing.T, b *bench) {
	e := b.entry("a")
	b.claim(e)
	b.reopen()
	b.claim(e).Release()
}

func eitherKey(t *testing.T, b *bench) {
	b.commit(b.entry("id", "sha"))
	for _, e := range []store.Entry{b.entry("id"), b.entry("sha"), b.entry("id", "x"), b.entry("x", "sha")} {
		b.refused(e, store.ErrDuplicate)
	}
	b.reopen()
	b.refused(b.entry("sha"), store.ErrDuplicate)
	b.commit(b.entry("x"))
}

func eitherKeyInFlight(t *testing.T, b *bench) {
	c := b.claim(b.entry("id", "sha"))
	b.refused(b.entry("sha"), store.ErrInFlight)
	b.refused(b.entry("id"), store.ErrInFlight)
	c.Release()
	b.claim(b.entry("sha")).Release()
}

func scopesApart(t *testing.T, b *bench) {
	a := b.entry("a")
	b.commit(a)
	b.advance(2 * time.Hour)
	b.purge()
	other := store.Entry{
		Scope: "other", Keys: []store.Key{store.KeyOf("other", "event", "a")},
		SignedAt: a.SignedAt, Expires: b.now().Add(time.Hour),
	}
	b.refused(a, store.ErrReplayed)
	b.commit(other)
	b.refused(other, store.ErrDuplicate)
}

func expiredIsFree(t *testing.T, b *bench) {
	b.commit(b.entry("a"))
	b.advance(time.Hour)
	again := b.entry("a")
	b.commit(again)
	b.refused(again, store.ErrDuplicate)
	b.purge()
	b.refused(again, store.ErrDuplicate)
	b.reopen()
	b.refused(again, store.ErrDuplicate)
}

func purgedIsRefused(t *testing.T, b *bench) {
	old := b.entry("a")
	b.commit(old)
	b.advance(time.Hour)
	b.purge()
	b.refused(old, store.ErrReplayed)
	unknown := b.entry("never seen")
	unknown.SignedAt = old.SignedAt
	b.refused(unknown, store.ErrReplayed)
	b.commit(b.entry("a"))
	unjudged := b.entry("unjudged")
	unjudged.SignedAt = time.Time{}
	b.commit(unjudged)
}

func purgeCoversSignedUntil(t *testing.T, b *bench) {
	old := b.entry("a")
	old.SignedUntil = old.SignedAt.Add(5 * time.Minute)
	b.commit(old)
	b.advance(time.Hour)
	b.purge()
	for range 2 {
		other := b.entry("b")
		other.SignedAt = old.SignedUntil
		b.refused(other, store.ErrReplayed)
		// The claim's own time is what is judged, not what it covers.
		other.SignedUntil = b.now()
		b.refused(other, store.ErrReplayed)
		other.SignedAt = old.SignedUntil.Add(time.Millisecond)
		b.claim(other).Release()
		b.reopen()
	}
	earlier := b.entry("c")
	earlier.SignedUntil = earlier.SignedAt.Add(-time.Minute)
	b.commit(earlier)
	b.advance(time.Hour)
	b.purge()
	b.refused(earlier, store.ErrReplayed)
}

func purgedSurvives(t *testing.T, b *bench) {
	old := b.entry("a")
	b.commit(old)
	b.advance(time.Hour)
	b.purge()
	b.reopen()
	b.refused(old, store.ErrReplayed)
	b.commit(b.entry("a"))
}

func purgedClockBack(t *testing.T, b *bench) {
	old := b.entry("a")
	b.commit(old)
	b.advance(24 * time.Hour)
	b.purge()
	b.advance(-24 * time.Hour)
	b.refused(old, store.ErrReplayed)
	b.advance(time.Second)
	b.commit(b.entry("new"))
}

func unpurgedClockBack(t *testing.T, b *bench) {
	e := b.entry("a")
	b.commit(e)
	b.advance(2 * time.Hour)
	b.advance(-2 * time.Hour)
	b.refused(e, store.ErrDuplicate)
}

func purgeSparesLive(t *testing.T, b *bench) {
	old := b.entry("a")
	b.commit(old)
	b.advance(30 * time.Minute)
	live := b.entry("b")
	b.commit(live)
	b.advance(30 * time.Minute)
	b.purge()
	b.refused(live, store.ErrDuplicate)
	b.refused(old, store.ErrReplayed)
	b.reopen()
	b.refused(live, store.ErrDuplicate)
}

func purgeMany(t *testing.T, b *bench) {
	const n = 5000
	old := b.entry("0")
	b.commitMany(n)
	b.advance(time.Hour)
	b.purge()
	b.refused(old, store.ErrReplayed)
	b.reopen()
	for i := range n {
		b.claim(b.entry(fmt.Sprint(i))).Release()
	}
}

func manyCommits(t *testing.T, b *bench) {
	const n = 2000
	b.commitMany(n)
	b.reopen()
	for i := range n {
		b.refused(b.entry(fmt.Sprint(i)), store.ErrDuplicate)
	}
}

// commitMany commits the entries named 0 to n-1, 64 at a time.
func (b *bench) commitMany(n int) {
	b.t.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				c, err := b.s.Claim(context.Background(), b.entry(fmt.Sprint(i)), 0)
				if err == nil {
					err = c.Commit(context.Background())
				}
				if err != nil {
					b.t.Errorf("entry %d: %v", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func closedIsUnavailable(t *testing.T, b *bench) {
	c := b.claim(b.entry("a"))
	if err := b.s.Close(); err != nil {
		t.Fatal(err)
	}
	b.refused(b.entry("b"), store.ErrUnavailable)
	if err := c.Commit(context.Background()); !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("commit after close: got %v, want unavailable", err)
	}
	if err := b.s.Close(); err != nil {
		t.Fatalf("second close: %v", err)
	}
}
