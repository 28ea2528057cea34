package claims

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// rig is a table in a store without a database of its own.
type rig struct {
	t *testing.T
	Table

	mu        sync.Mutex
	known     map[store.Key]error
	available error
	// commit is how the next commit goes. The default is at once and well.
	commit func(ctx context.Context, c *Claim) error
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, known: make(map[store.Key]error)}
	r.Init(r.options())
	return r
}

func (r *rig) options() Options {
	return Options{
		Check: func(e *store.Entry) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			for _, k := range e.Keys {
				if err := r.known[k]; err != nil {
					return err
				}
			}
			return nil
		},
		Available: func() error { return r.available },
		Commit: func(ctx context.Context, c *Claim) error {
			if r.commit != nil {
				return r.commit(ctx, c)
			}
			r.durable(c)
			return nil
		},
	}
}

// durable makes the entry of a claim durable.
func (r *rig) durable(c *Claim) {
	r.mu.Lock()
	for _, k := range c.Entry.Keys {
		r.known[k] = store.ErrDuplicate
	}
	r.mu.Unlock()
	c.Committed()
}

func entry(names ...string) store.Entry {
	e := store.Entry{Scope: "default", Expires: time.UnixMilli(1000)}
	for _, n := range names {
		e.Keys = append(e.Keys, store.KeyOf("default", "event", n))
	}
	return e
}

// claim claims without waiting.
func (r *rig) claim(names ...string) *Claim {
	r.t.Helper()
	c, err := r.Claim(r.t.Context(), entry(names...), 0)
	if err != nil {
		r.t.Fatalf("claiming %q: %v", names, err)
	}
	return c
}

// refused expects a claim that does not wait to fail.
func (r *rig) refused(want error, names ...string) {
	r.t.Helper()
	if c, err := r.Claim(r.t.Context(), entry(names...), 0); !errors.Is(err, want) {
		r.t.Fatalf("claiming %q: got %v, %v, want %v", names, c, err, want)
	}
}

// outcome is what became of a claim that waited.
type outcome struct {
	*Claim
	err  error
	took time.Duration
}

// wait starts a claim that has to wait, and returns when it does.
func (r *rig) wait(ctx context.Context, wait time.Duration, names ...string) <-chan outcome {
	out := make(chan outcome, 1)
	began := time.Now()
	go func() {
		c, err := r.Claim(ctx, entry(names...), wait)
		out <- outcome{c, err, time.Since(began)}
	}()
	synctest.Wait()
	select {
	case got := <-out:
		r.t.Fatalf("claiming %q did not wait: %v, %v", names, got.Claim, got.err)
	default:
	}
	return out
}

// wants checks the outcome of a commit.
func (r *rig) wants(err, want error) {
	r.t.Helper()
	if !errors.Is(err, want) {
		r.t.Fatalf("got %v, want %v", err, want)
	}
}

// empty checks that nothing is left in the table.
func (r *rig) empty() {
	r.t.Helper()
	if n := r.Open(); n != 0 || len(r.held) != 0 {
		r.t.Errorf("%d claims are open and %d keys held, want none", n, len(r.held))
	}
}

var errDisk = errors.New("disk full")

// TestTable is what claims of one process do to each other.
func TestTable(t *testing.T) {
	for name, test := range map[string]func(r *rig){
		"an open claim holds each of its keys": func(r *rig) {
			c := r.claim("a", "b")
			r.refused(store.ErrInFlight, "a")
			r.refused(store.ErrInFlight, "b", "c")
			c.Release()
			r.claim("b").Release()
		},
		"a committed event is a duplicate": func(r *rig) {
			r.wants(r.claim("a", "b").Commit(r.t.Context()), nil)
			r.refused(store.ErrDuplicate, "b")
		},
		"a claim that waits sees the commit": func(r *rig) {
			c := r.claim("a")
			got := r.wait(r.t.Context(), time.Minute, "a")
			r.wants(c.Commit(r.t.Context()), nil)
			r.wants((<-got).err, store.ErrDuplicate)
		},
		"a claim that waits sees a commit that has expired": func(r *rig) {
			c := r.claim("a")
			got := r.wait(r.t.Context(), time.Minute, "a")
			c.Committed()
			r.wants((<-got).err, store.ErrDuplicate)
		},
		"one of those who wait takes over a released claim": func(r *rig) {
			c := r.claim("a")
			x, y := r.wait(r.t.Context(), time.Minute, "a"), r.wait(r.t.Context(), time.Minute, "a")
			c.Release()
			synctest.Wait()
			var next outcome
			select {
			case next = <-x:
				x = y
			case next = <-y:
			}
			r.wants(next.err, nil)
			if next.Forwarded() {
				r.t.Error("the released event counts as forwarded")
			}
			r.wants(next.Commit(r.t.Context()), nil)
			r.wants((<-x).err, store.ErrDuplicate)
		},
		"waiting ends": func(r *rig) {
			defer r.claim("a").Release()
			got := <-r.wait(r.t.Context(), time.Minute, "a")
			if r.wants(got.err, store.ErrInFlight); got.took != time.Minute {
				r.t.Errorf("waited for %s", got.took)
			}
		},
		"waiting ends with the context": func(r *rig) {
			defer r.claim("a").Release()
			ctx, cancel := context.WithCancel(r.t.Context())
			got := r.wait(ctx, time.Minute, "a")
			cancel()
			r.wants((<-got).err, context.Canceled)
		},
		"what was released once is not released again": func(r *rig) {
			c := r.claim("a")
			c.Release()
			d := r.claim("a")
			c.Release()
			r.wants(c.Commit(r.t.Context()), nil)
			r.refused(store.ErrInFlight, "a")
			d.Release()
		},
		"what was committed is not released": func(r *rig) {
			c := r.claim("a")
			r.wants(c.Commit(r.t.Context()), nil)
			c.Release()
			r.wants(c.Commit(r.t.Context()), nil)
			r.refused(store.ErrDuplicate, "a")
		},
		"an event whose commit failed was forwarded": func(r *rig) {
			r.commit = func(context.Context, *Claim) error { return errDisk }
			err := r.claim("a", "b").Commit(r.t.Context())
			r.wants(err, store.ErrUnavailable)
			r.wants(err, errDisk)
			c := r.claim("a", "c")
			if !c.Forwarded() || len(c.Entry.Keys) != 3 {
				r.t.Errorf("forwarded %v, %d keys", c.Forwarded(), len(c.Entry.Keys))
			}
			r.refused(store.ErrInFlight, "b")
			c.Release() // no other claim may forward it again
			c = r.claim("b")
			r.commit = nil
			r.wants(c.Commit(r.t.Context()), nil)
			for _, k := range []string{"a", "b", "c"} {
				r.refused(store.ErrDuplicate, k)
			}
		},
		"a commit that failed is not reported as done later": func(r *rig) {
			r.commit = func(context.Context, *Claim) error { return errDisk }
			c := r.claim("a")
			r.wants(c.Commit(r.t.Context()), errDisk)
			r.commit = nil
			r.wants(c.Commit(r.t.Context()), errDisk)
			r.wants(c.Commit(r.t.Context()), store.ErrUnavailable)
			r.durable(c) // a commit that was only late
			r.wants(c.Commit(r.t.Context()), nil)
		},
		"forwarded events meet in one claim": func(r *rig) {
			r.commit = func(context.Context, *Claim) error { return errDisk }
			r.wants(r.claim("a", "b").Commit(r.t.Context()), errDisk)
			r.wants(r.claim("c", "d").Commit(r.t.Context()), errDisk)
			r.commit = nil
			r.wants(r.claim("a", "d").Commit(r.t.Context()), nil)
			for _, k := range []string{"a", "b", "c", "d"} {
				r.refused(store.ErrDuplicate, k)
			}
		},
		"a commit may come after its context ended": func(r *rig) {
			ctx, cancel := context.WithCancel(r.t.Context())
			cancel()
			r.commit = func(ctx context.Context, _ *Claim) error { return ctx.Err() }
			c := r.claim("a")
			r.wants(c.Commit(ctx), store.ErrUnavailable)
			r.durable(c)
			r.refused(store.ErrDuplicate, "a")
		},
		"a commit may come after its claim was taken over": func(r *rig) {
			r.commit = func(context.Context, *Claim) error { return context.Canceled }
			c := r.claim("a")
			r.wants(c.Commit(r.t.Context()), store.ErrUnavailable)
			next := r.claim("a")
			r.durable(c)
			r.commit = nil
			r.wants(next.Commit(r.t.Context()), nil)
		},
		"an event that must not be claimed is refused, whoever holds it": func(r *rig) {
			c := r.claim("a")
			r.known[entry("a").Keys[0]] = store.ErrReplayed
			r.refused(store.ErrReplayed, "a")
			c.Release()
		},
		"what is forwarded expires": func(r *rig) {
			r.commit = func(context.Context, *Claim) error { return errDisk }
			r.wants(r.claim("a").Commit(r.t.Context()), errDisk)
			open := r.claim("b")
			r.Expire(999)
			if c := r.claim("a"); !c.Forwarded() {
				r.t.Error("an event was forgotten before it expired")
			} else {
				c.Release()
			}
			r.Expire(1000)
			if c := r.claim("a"); c.Forwarded() {
				r.t.Error("an event that expired counts as forwarded")
			} else {
				c.Release()
			}
			r.refused(store.ErrInFlight, "b")
			open.Release()
		},
		"a store that takes no writes refuses new events alone": func(r *rig) {
			r.commit = func(context.Context, *Claim) error { return errDisk }
			r.wants(r.claim("a").Commit(r.t.Context()), errDisk)
			r.commit, r.available = nil, store.ErrUnavailable
			r.refused(store.ErrUnavailable, "b")
			r.wants(r.claim("a").Commit(r.t.Context()), nil)
		},
		"a closed store refuses all, and ends what is open": func(r *rig) {
			a, b := r.claim("a"), r.claim("b")
			got := r.wait(r.t.Context(), time.Minute, "a")
			r.Close(errDisk)
			r.refused(store.ErrUnavailable, "c")
			r.wants(a.Commit(r.t.Context()), nil)
			b.Release()
			r.wants((<-got).err, errDisk)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				test(r)
				r.empty()
			})
		})
	}
}

// committing returns the events that claims have committed.
func (r *rig) committing(fails error) (stored *[]string) {
	stored = new([]string)
	r.commit = func(_ context.Context, c *Claim) error {
		if fails != nil {
			return fails
		}
		for _, ev := range c.Events {
			if ev.ID == "" {
				ev.ID = "evt_" + ev.Name
				*stored = append(*stored, ev.Name)
			}
		}
		r.durable(c)
		return nil
	}
	return stored
}

func TestEventsOfFailedCommitsAreCommittedByTheNextClaim(t *testing.T) {
	r := newRig(t)
	r.committing(errors.New("disk is full"))
	for _, name := range []string{"a", "b"} {
		ev := &store.Inbound{Name: name}
		if err := r.claim(name).CommitEvent(t.Context(), ev); !errors.Is(err, store.ErrUnavailable) || ev.ID != "" {
			t.Fatalf("committing %s: %v, ID %q", name, err, ev.ID)
		}
	}
	stored := r.committing(nil)
	c, err := r.Claim(t.Context(), entry("a", "b"), 0)
	if err != nil || !c.Forwarded() {
		t.Fatalf("claiming both: %v", err)
	}
	again := &store.Inbound{Name: "again"}
	if err := c.CommitEvent(t.Context(), again); err != nil || again.ID != "evt_a" {
		t.Fatalf("committing: %v, ID %q", err, again.ID)
	}
	if len(*stored) != 2 || (*stored)[0] != "a" || (*stored)[1] != "b" {
		t.Errorf("stored %q, want each event once", *stored)
	}
}

func TestClaimOfAFullInboxIsReleased(t *testing.T) {
	r := newRig(t)
	r.committing(store.ErrInboxFull)
	c := r.claim("a")
	for range 2 {
		if err := c.CommitEvent(t.Context(), &store.Inbound{Name: "a"}); !errors.Is(err, store.ErrInboxFull) || errors.Is(err, store.ErrUnavailable) {
			t.Fatalf("committing: %v", err)
		}
	}
	stored := r.committing(nil)
	c, err := r.Claim(t.Context(), entry("a"), 0)
	if err != nil || c.Forwarded() {
		t.Fatalf("claiming again: %v", err)
	}
	if err := c.CommitEvent(t.Context(), &store.Inbound{Name: "later"}); err != nil || len(*stored) != 1 || (*stored)[0] != "later" {
		t.Errorf("committing: %v, stored %q", err, *stored)
	}
}

func TestClaimWithoutKeysIsGrantedAtOnce(t *testing.T) {
	r := newRig(t)
	stored := r.committing(nil)
	for range 2 {
		c, err := r.Claim(t.Context(), store.Entry{Scope: "default"}, 0)
		if err != nil || c.Forwarded() {
			t.Fatal(err)
		}
		if err := c.CommitEvent(t.Context(), &store.Inbound{Name: "a"}); err != nil {
			t.Fatal(err)
		}
	}
	if len(*stored) != 2 || r.Open() != 0 || len(r.held) != 0 {
		t.Errorf("stored %q, %d claims are open", *stored, r.Open())
	}
}
