// Package claims decides which request of a process may forward an event. All
// stores share its [Table]; what they do differently is in [Options].
//
// A claim is open until it is committed or released, or until its commit fails.
// While it is open, other claims on one of its keys wait. An event whose commit
// failed stays in the table as forwarded: the next claim on one of its keys takes
// it over and only commits it.
package claims

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// Options say how a store looks events up and makes them durable.
type Options struct {
	// Check returns [store.ErrDuplicate], [store.ErrReplayed] or another error
	// if an entry must not be claimed, whoever holds its keys. It is called with
	// the table locked. Optional: the database is asked instead.
	Check func(e *store.Entry) error
	// Available returns the reason why nothing can be committed now, or nil. No
	// event is claimed then but those that only have to be committed. It is
	// called with the table locked.
	Available func() error
	// Commit makes the entry of a claim durable and waits for that until ctx
	// ends. It calls [Claim.Committed] when the entry is durable, also when ctx
	// ended before.
	Commit func(ctx context.Context, c *Claim) error
	// Database is what other processes claim in, too. Optional: this process is
	// the only one.
	Database Database
}

// Database is where several processes claim events. Its rows of a claim are named
// by the claim's keys and [ID].
type Database interface {
	// NewID returns the ID of a new claim. It is called with the table locked.
	NewID() ID
	// Acquire acquires a claim and waits for the outcome until ctx ends. The
	// error is [store.ErrInFlight] if another process holds one of its keys. It
	// calls [Claim.Acquired] with the outcome once that is known, also when ctx
	// ended before.
	Acquire(ctx context.Context, c *Claim) error
	// Watch returns a channel that is signaled when another process may have
	// given up a claim on one of the keys.
	Watch(keys []store.Key) (freed <-chan struct{}, stop func())
	// Free starts to delete the rows of a claim. It does not wait, and reports
	// whether it has started. It is called with the table locked.
	Free(c *Claim) bool
	// CommitLater starts to commit a claim whose commit failed before. It does
	// not wait. It is called with the table locked.
	CommitLater(c *Claim)
}

// ID names a claim among those of all processes.
type ID struct{ Owner, Token int64 }

// rescanInterval is how often a claim is tried again that another process holds,
// for notifications that were lost.
const rescanInterval = time.Second

// Table holds the claims of a process. It must not be copied.
type Table struct {
	opts Options
	open atomic.Int64

	mu sync.Mutex
	// held has the claims that are open, and those that were forwarded and not
	// committed.
	held map[store.Key]*Claim
	// lost are ended claims whose rows may still be in the database.
	lost   []*Claim
	closed error
}

// Init prepares the table. It must be called before any other method.
func (t *Table) Init(opts Options) {
	t.opts, t.held = opts, make(map[store.Key]*Claim)
}

// Open returns the number of open claims that are no locks. It does not lock the
// table.
func (t *Table) Open() int64 { return t.open.Load() }

// Close makes all further claims fail with [store.ErrUnavailable] and the cause.
// Claims that are open may still be committed and released.
func (t *Table) Close(cause error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = cause
}

// Claim claims an event, as [store.Dedup] describes.
func (t *Table) Claim(ctx context.Context, e store.Entry, wait time.Duration) (*Claim, error) {
	var (
		other   *Claim // of this process, that is waited for
		freed   <-chan struct{}
		timeout <-chan time.Time
		began   = time.Now()
	)
	for {
		mine, held, err := t.reserve(e, other)
		if err != nil {
			return nil, err
		}
		var ended <-chan struct{}
		var rescan <-chan time.Time
		if other = held; other != nil {
			ended = other.done
		} else {
			err := t.acquire(ctx, mine)
			if err == nil {
				return mine, nil
			}
			if !errors.Is(err, store.ErrInFlight) {
				return nil, err
			}
			if freed == nil && wait > 0 {
				// What was freed before Watch began is found by trying
				// once more at once.
				var stop func()
				freed, stop = t.opts.Database.Watch(e.Keys)
				defer stop()
				continue
			}
			rescan = time.After(rescanInterval)
		}
		if timeout == nil {
			timer := time.NewTimer(wait - time.Since(began))
			defer timer.Stop()
			timeout = timer.C
		}
		select {
		case <-ended:
		case <-freed:
		case <-rescan:
		case <-timeout:
			return nil, store.ErrInFlight
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// reserve enters a claim in the table and returns it as mine, or returns the open
// claim that holds one of its keys as other. previous is the claim that the
// caller has waited for, or nil.
func (t *Table) reserve(e store.Entry, previous *Claim) (mine, other *Claim, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed != nil {
		return nil, nil, fmt.Errorf("%w: %w", store.ErrUnavailable, t.closed)
	}
	if t.opts.Check != nil {
		if err := t.opts.Check(&e); err != nil {
			return nil, nil, err
		}
	}
	if previous != nil && previous.committed {
		return nil, nil, store.ErrDuplicate
	}
	mine = &Claim{Entry: e, table: t, done: make(chan struct{})}
	if t.opts.Database != nil {
		mine.ID = t.opts.Database.NewID()
	}
	for _, k := range e.Keys {
		switch held := t.held[k]; {
		case held == nil:
		case !held.ended:
			return nil, held, nil
		default:
			mine.takeOver(held)
		}
	}
	if !mine.forwarded {
		if err := t.opts.Available(); err != nil {
			return nil, nil, err
		}
	}
	for _, k := range mine.Entry.Keys {
		t.held[k] = mine
	}
	if !e.Lock {
		t.open.Add(1)
	}
	return mine, nil, nil
}

// acquire acquires a reserved claim in the database. On an error the claim has
// ended.
func (t *Table) acquire(ctx context.Context, c *Claim) error {
	if t.opts.Database == nil || c.forwarded || len(c.Entry.Keys) == 0 {
		return nil
	}
	err := t.opts.Database.Acquire(ctx, c)
	if err != nil && ctx.Err() != nil {
		c.abandon()
		return err
	}
	switch {
	case err == nil, errors.Is(err, store.ErrDuplicate), errors.Is(err, store.ErrReplayed), errors.Is(err, store.ErrInFlight), errors.Is(err, store.ErrUnavailable):
		return err
	}
	return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
}

// Lost keeps a claim whose rows may still be in the database although it has
// ended, until [Table.Resume] frees them.
func (t *Table) Lost(c *Claim) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lost = append(t.lost, c)
}

// Resume frees lost claims and commits forwarded events, now that the database is
// available: the sender's retry may go to another process, which has to wait for
// that.
func (t *Table) Resume() {
	t.mu.Lock()
	defer t.mu.Unlock()
	lost := t.lost
	t.lost = nil
	for _, c := range lost {
		t.free(c)
	}
	started := make(map[*Claim]bool)
	for _, c := range t.held {
		if c.forwarded && c.ended && !started[c] {
			started[c] = true
			t.opts.Database.CommitLater(c)
		}
	}
}

// Expire forgets the forwarded events whose entries expire at the given time, in
// Unix milliseconds, or before.
func (t *Table) Expire(now int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, c := range t.held {
		if c.ended && c.Entry.Expires.UnixMilli() <= now {
			delete(t.held, k)
		}
	}
}

// free deletes the rows of an ended claim. t.mu must be held.
func (t *Table) free(c *Claim) {
	if t.opts.Database != nil && len(c.Entry.Keys) > 0 && !t.opts.Database.Free(c) {
		t.lost = append(t.lost, c)
	}
}
