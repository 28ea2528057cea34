package groupcommit

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// gate is a commit function that can be held up.
type gate struct {
	groups [][]int
	// hold holds up the first group until it is closed.
	hold chan struct{}
	fail func(jobs []int) error
}

func (g *gate) commit(jobs []int) error {
	g.groups = append(g.groups, jobs)
	if len(g.groups) == 1 && g.hold != nil {
		<-g.hold
	}
	if g.fail != nil {
		return g.fail(jobs)
	}
	return nil
}

// do hands jobs in, one after the other, and returns their outcomes.
func do(b *Batcher[int], jobs ...int) []<-chan error {
	out := make([]<-chan error, len(jobs))
	for i, j := range jobs {
		done := make(chan error, 1)
		go func() { done <- b.Do(context.Background(), j) }()
		synctest.Wait()
		out[i] = done
	}
	return out
}

var errBad = errors.New("bad")

// TestGroups: what comes while a group is committed is the next one, and each
// caller hears the outcome of its own job.
func TestGroups(t *testing.T) {
	unavailable := fmt.Errorf("%w: disk full", store.ErrUnavailable)
	for name, c := range map[string]struct {
		fail   func(jobs []int) error
		groups [][]int
		errs   [3]error
	}{
		"all go well": {groups: [][]int{{1}, {2, 3}}},
		"one is bad": {
			fail: func(jobs []int) error {
				if jobs[len(jobs)-1] == 3 {
					return errBad
				}
				return nil
			},
			groups: [][]int{{1}, {2, 3}, {2}, {3}}, errs: [3]error{nil, nil, errBad},
		},
		"the store takes no writes": {
			fail:   func([]int) error { return unavailable },
			groups: [][]int{{1}, {2, 3}}, errs: [3]error{unavailable, unavailable, unavailable},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := &gate{hold: make(chan struct{}), fail: c.fail}
				var finished atomic.Int64
				b := New(Options[int]{Commit: g.commit, Finish: func(_ int, err error) error { finished.Add(1); return err }})
				defer b.Close()
				done := do(b, 1, 2, 3)
				if b.Len() != 2 {
					t.Errorf("%d wait", b.Len())
				}
				close(g.hold)
				for i, want := range c.errs {
					if err := <-done[i]; err != want {
						t.Errorf("job %d: got %v, want %v", i+1, err, want)
					}
				}
				if !reflect.DeepEqual(g.groups, c.groups) || finished.Load() != 3 {
					t.Errorf("groups are %v, want %v; %d finished", g.groups, c.groups, finished.Load())
				}
			})
		})
	}
}

// TestFinish: a job's own outcome is what Finish makes of the group's.
func TestFinish(t *testing.T) {
	b := New(Options[int]{
		Commit: func([]int) error { return nil },
		Finish: func(j int, _ error) error {
			if j < 0 {
				return errBad
			}
			return nil
		},
	})
	defer b.Close()
	if err := b.Do(t.Context(), -1); err != errBad {
		t.Errorf("got %v", err)
	}
	if err := b.Do(t.Context(), 1); err != nil {
		t.Errorf("got %v", err)
	}
}

// TestLeaving: a caller whose context ends hears of that at once, and its job is
// committed.
func TestLeaving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{hold: make(chan struct{})}
		b := New(Options[int]{Commit: g.commit})
		defer b.Close()
		first := do(b, 1)[0]
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- b.Do(ctx, 2) }()
		synctest.Wait()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		close(g.hold)
		if err := <-first; err != nil {
			t.Errorf("the first: %v", err)
		}
		synctest.Wait()
		if want := [][]int{{1}, {2}}; !reflect.DeepEqual(g.groups, want) {
			t.Errorf("groups are %v", g.groups)
		}
	})
}

// TestFull: a group has at most MaxSize jobs, and no more than that wait for it.
func TestFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{hold: make(chan struct{})}
		b := New(Options[int]{Commit: g.commit})
		first := do(b, 0)[0]
		for b.TryAdd(1) {
		}
		if b.Len() != MaxSize {
			t.Errorf("%d wait", b.Len())
		}
		last := do(b, 2)[0]
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := b.Do(ctx, 3); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		close(g.hold)
		for _, done := range []<-chan error{first, last} {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if len(g.groups) < 2 || len(g.groups[1]) != MaxSize {
			t.Errorf("%d groups", len(g.groups))
		}
		b.Close()
	})
}

// TestClose: closing commits what was handed in, and refuses what comes later.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{hold: make(chan struct{})}
		b := New(Options[int]{Commit: g.commit})
		done := do(b, 1, 2, 3)
		closed := make(chan struct{})
		go func() { b.Close(); close(closed) }()
		synctest.Wait()
		if err := b.Do(t.Context(), 4); err != ErrClosed {
			t.Errorf("got %v", err)
		}
		close(g.hold)
		<-closed
		for i, d := range done {
			if err := <-d; err != nil {
				t.Errorf("job %d: %v", i+1, err)
			}
		}
	})
}

// TestCheck: checks run between groups.
func TestCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		checks := 0
		b := New(Options[int]{Commit: func([]int) error { return nil }, Check: func() { checks++ }, CheckInterval: time.Second})
		time.Sleep(3500 * time.Millisecond)
		b.Close()
		if checks != 3 {
			t.Errorf("%d checks", checks)
		}
	})
}

// TestCloseEndsDelay: closing does not wait for jobs that can't come any more.
func TestCloseEndsDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{hold: make(chan struct{})}
		b := New(Options[int]{Commit: g.commit, CommitDelay: time.Minute, MaxCommitDelay: time.Minute, CommitSiblings: 1, Siblings: func() int64 { return 9 }})
		done := do(b, 1, 2, 3)
		close(g.hold)
		for _, d := range done {
			<-d
		}
		last := do(b, 4)[0]
		began := time.Now()
		b.Close()
		if err := <-last; err != nil || time.Since(began) != 0 {
			t.Errorf("got %v after %s", err, time.Since(began))
		}
	})
}

// TestCommitDelay is the time that a group is given to fill, by the size of the
// last one and by what is still to come.
func TestCommitDelay(t *testing.T) {
	const delay, most = time.Millisecond, 5 * time.Millisecond
	for name, c := range map[string]struct {
		n        int             // jobs of the last group
		took     time.Duration   // to commit them
		siblings int64           // at its end
		waiting  int             // jobs, at its end
		come     []time.Duration // when siblings become jobs
		want     time.Duration
	}{
		"after one job":                     {n: 1, siblings: 9},
		"after two jobs":                    {n: 2, siblings: 9, want: 2 * delay},
		"after many jobs":                   {n: 99, siblings: 9, want: most},
		"the time of the last group counts": {n: 4, siblings: 9, took: delay, want: 3 * delay},
		"the last group took longer":        {n: 2, siblings: 9, took: time.Second},
		"as many wait as before":            {n: 2, siblings: 1, waiting: 2},
		"as many come as before":            {n: 2, siblings: 3, come: []time.Duration{1, time.Millisecond}, want: time.Millisecond},
		"siblings are still to come":        {n: 2, siblings: 4, come: []time.Duration{1, time.Millisecond}, want: 2 * delay},
		"fewer come than before":            {n: 3, siblings: 3, come: []time.Duration{1, time.Millisecond}, want: 3 * delay},
		"nobody is known to come":           {n: 2, siblings: -9, come: []time.Duration{1, time.Millisecond}, want: time.Millisecond},
		"enough wait":                       {n: 999, siblings: MaxSize, waiting: MaxSize / 4},
		"enough come":                       {n: 999, siblings: MaxSize, waiting: MaxSize/4 - 1, come: []time.Duration{2}, want: 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var siblings atomic.Int64
				siblings.Store(c.siblings)
				b := &Batcher[int]{
					opts:  Options[int]{CommitDelay: delay, MaxCommitDelay: most, CommitSiblings: 2, Siblings: siblings.Load},
					queue: make(chan pending[int], MaxSize), wake: make(chan struct{}, 1), closed: make(chan struct{}),
				}
				for range c.waiting {
					b.TryAdd(0)
				}
				b.wake <- struct{}{} // of an earlier delay
				began := time.Now()
				time.Sleep(c.took)
				var jobs sync.WaitGroup
				for _, at := range c.come {
					jobs.Go(func() {
						time.Sleep(at)
						siblings.Add(-1)
						if _, err := b.Add(t.Context(), 0); err != nil {
							t.Error(err)
						}
					})
				}
				from := time.Now()
				b.delayCommit(began, c.n)
				if got := time.Since(from); got != c.want {
					t.Errorf("waited %s, want %s", got, c.want)
				}
				jobs.Wait()
			})
		})
	}
}
