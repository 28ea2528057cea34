package claims

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// database stands in for one that other processes claim in. It is used under
// synctest, where no two goroutines of a test run into each other.
type database struct {
	ids int64
	// grant says how the next claims go, ErrInFlight to begin with the first.
	// When it is used up, claims are granted.
	grant []error
	// requests are the claims that wait for hold.
	hold     chan error
	acquired int
	freed    chan struct{}
	watching int
	// full makes Free start nothing.
	full                 bool
	deleted, commitLater []*Claim
}

func (d *database) NewID() ID { d.ids++; return ID{1, d.ids} }

func (d *database) Acquire(ctx context.Context, c *Claim) error {
	d.acquired++
	done := make(chan error, 1)
	decide := func() {
		var err error
		if d.hold != nil {
			err = <-d.hold
		} else if len(d.grant) > 0 {
			err, d.grant = d.grant[0], d.grant[1:]
		}
		c.Acquired(err)
		done <- err
	}
	if d.hold == nil {
		decide()
	} else {
		go decide()
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (d *database) Watch([]store.Key) (<-chan struct{}, func()) {
	d.watching++
	return d.freed, func() { d.watching-- }
}

func (d *database) Free(c *Claim) bool {
	if !d.full {
		d.deleted = append(d.deleted, c)
	}
	return !d.full
}

func (d *database) CommitLater(c *Claim) { d.commitLater = append(d.commitLater, c) }

// TestDatabase is what the database adds to the claims of one process.
func TestDatabase(t *testing.T) {
	for name, test := range map[string]func(r *rig, d *database){
		"each claim has an ID, and a released one is freed": func(r *rig, d *database) {
			a, b := r.claim("a"), r.claim("b")
			if a.ID == b.ID || a.ID == (ID{}) {
				r.t.Errorf("IDs are %v and %v", a.ID, b.ID)
			}
			a.Release()
			b.Release()
			if len(d.deleted) != 2 || d.deleted[0] != a {
				r.t.Errorf("freed %v", d.deleted)
			}
		},
		"a committed claim is not freed once more": func(r *rig, d *database) {
			c := r.claim("a")
			r.wants(c.Commit(r.t.Context()), nil)
			c.Release()
			if len(d.deleted) != 0 {
				r.t.Errorf("freed %v", d.deleted)
			}
		},
		"what it refuses is not held": func(r *rig, d *database) {
			for _, err := range []error{store.ErrDuplicate, store.ErrReplayed, store.ErrUnavailable, store.ErrInFlight} {
				d.grant = []error{err}
				r.refused(err, "a")
			}
			d.grant = []error{errDisk}
			_, err := r.Claim(r.t.Context(), entry("a"), 0)
			r.wants(err, errDisk)
			r.wants(err, store.ErrUnavailable)
			r.claim("a").Release()
		},
		"a claim that waits shares what it says of a duplicate": func(r *rig, d *database) {
			d.hold = make(chan error)
			first := r.wait(r.t.Context(), time.Minute, "a")
			second := r.wait(r.t.Context(), time.Minute, "a")
			d.hold <- store.ErrDuplicate
			r.wants((<-first).err, store.ErrDuplicate)
			r.wants((<-second).err, store.ErrDuplicate)
			if d.acquired != 1 {
				r.t.Errorf("it was asked %d times", d.acquired)
			}
		},
		"a claim of another process is tried again at once, and when it is freed": func(r *rig, d *database) {
			d.grant = []error{store.ErrInFlight, store.ErrInFlight}
			got := r.wait(r.t.Context(), time.Minute, "a")
			if d.acquired != 2 || d.watching != 1 {
				r.t.Errorf("asked %d times, watching %d", d.acquired, d.watching)
			}
			d.freed <- struct{}{}
			c := <-got
			if r.wants(c.err, nil); c.took != 0 || d.watching != 0 {
				r.t.Errorf("took %s, watching %d", c.took, d.watching)
			}
			c.Release()
		},
		"a notification that is lost costs no more than a second": func(r *rig, d *database) {
			d.grant = []error{store.ErrInFlight, store.ErrInFlight, store.ErrInFlight}
			c := <-r.wait(r.t.Context(), time.Minute, "a")
			if r.wants(c.err, nil); c.took != 2*rescanInterval {
				r.t.Errorf("took %s", c.took)
			}
			c.Release()
		},
		"waiting for another process ends": func(r *rig, d *database) {
			for range 10 {
				d.grant = append(d.grant, store.ErrInFlight)
			}
			c := <-r.wait(r.t.Context(), 1500*time.Millisecond, "a")
			if r.wants(c.err, store.ErrInFlight); c.took != 1500*time.Millisecond {
				r.t.Errorf("took %s", c.took)
			}
		},
		"a grant that nobody waits for is given back": func(r *rig, d *database) {
			d.hold = make(chan error)
			ctx, cancel := context.WithCancel(r.t.Context())
			got := r.wait(ctx, time.Minute, "a")
			cancel()
			r.wants((<-got).err, context.Canceled)
			r.refused(store.ErrInFlight, "a")
			d.hold <- nil
			synctest.Wait()
			if len(d.deleted) != 1 {
				r.t.Errorf("freed %v", d.deleted)
			}
			d.hold = nil
			r.claim("a").Release()
		},
		"a refusal that nobody waits for leaves nothing": func(r *rig, d *database) {
			d.hold = make(chan error)
			ctx, cancel := context.WithCancel(r.t.Context())
			got := r.wait(ctx, time.Minute, "a")
			cancel()
			r.wants((<-got).err, context.Canceled)
			d.hold <- store.ErrInFlight
			synctest.Wait()
			d.hold = nil
			r.claim("a").Release()
		},
		"a grant that meets the end of the context is given back": func(r *rig, d *database) {
			c := r.claim("a")
			c.abandon()
			if len(d.deleted) != 1 {
				r.t.Errorf("freed %v", d.deleted)
			}
		},
		"what can't be freed is freed later": func(r *rig, d *database) {
			d.full = true
			c := r.claim("a")
			c.Release()
			e := r.claim("a") // this process need not wait for that
			r.Resume()
			d.full = false
			r.Lost(e)
			r.Resume()
			r.Resume()
			if len(d.deleted) != 2 || d.deleted[0] != c || d.deleted[1] != e {
				r.t.Errorf("freed %v", d.deleted)
			}
			e.Release()
		},
		"a forwarded event keeps its ID, and is committed without a retry": func(r *rig, d *database) {
			r.commit = func(context.Context, *Claim) error { return errDisk }
			c := r.claim("a", "b")
			r.wants(c.Commit(r.t.Context()), errDisk)
			asked := d.acquired
			next := r.claim("b")
			if next.ID != c.ID || d.acquired != asked {
				r.t.Errorf("ID %v became %v, asked %d times more", c.ID, next.ID, d.acquired-asked)
			}
			r.Resume()
			if len(d.commitLater) != 0 {
				r.t.Error("a claim that is open was committed")
			}
			next.Release()
			if len(d.deleted) != 0 {
				r.t.Error("the rows of a forwarded event were freed")
			}
			r.Resume()
			if len(d.commitLater) != 1 || d.commitLater[0] != next {
				r.t.Errorf("committed %v, want %v once", d.commitLater, next)
			}
			r.durable(next)
			r.refused(store.ErrDuplicate, "a")
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, d := &rig{t: t, known: make(map[store.Key]error)}, &database{freed: make(chan struct{})}
				opts := r.options()
				opts.Database = d
				r.Init(opts)
				test(r, d)
				if n := d.watching; n != 0 {
					t.Errorf("%d watch still", n)
				}
				r.empty()
			})
		})
	}
}

// TestUnknownErrors: a commit that fails says that the store is unavailable, and
// why.
func TestUnknownErrors(t *testing.T) {
	r := &rig{t: t, known: make(map[store.Key]error)}
	r.Init(r.options())
	unavailable := errors.Join(store.ErrUnavailable, errDisk)
	r.commit = func(context.Context, *Claim) error { return unavailable }
	if err := r.claim("a").Commit(t.Context()); err != unavailable {
		t.Errorf("got %v", err)
	}
}
