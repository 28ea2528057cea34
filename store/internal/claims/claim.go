package claims

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// Claim is the right of one request to forward an event. It implements
// [store.Claim].
type Claim struct {
	// Entry is what is claimed. It has the keys of the events that were taken
	// over, too. It must not be changed.
	Entry store.Entry
	// ID names the claim in the database. A claim that takes over another one
	// keeps the ID of that.
	ID ID

	// Events are committed with the entry, mostly one or none. A claim shares
	// them with those that it takes over. The store sets the ID of each when it
	// is durable, and stores none that has one.
	Events []*store.Inbound

	table *Table
	done  chan struct{} // closed at the end

	// The other fields are guarded by table.mu.

	// forwarded means that the app has the event.
	forwarded bool
	// ended means that the claim was committed, released, refused by the
	// database, or that its commit failed.
	ended     bool
	committed bool
	// failed is why the commit failed, nil if it was only late.
	failed error
	// acquired means that the database has granted the claim, and abandoned
	// that nobody waits for that any more.
	acquired, abandoned bool
}

var _ store.Claim = (*Claim)(nil)

// Forwarded implements [store.Claim].
func (c *Claim) Forwarded() bool { return c.forwarded }

// Commit implements [store.Claim].
func (c *Claim) Commit(ctx context.Context) error {
	t := c.table
	t.mu.Lock()
	ended, failed := c.ended, c.failed
	t.mu.Unlock()
	if ended {
		return failed
	}
	err := t.opts.Commit(ctx, c)
	if err == nil {
		return nil
	}
	// Where ctx ended first, the entry may still become durable. Committed then
	// finds that the claim has ended, and takes it out of the table.
	t.mu.Lock()
	defer t.mu.Unlock()
	if errors.Is(err, store.ErrInboxFull) {
		c.failed = err
		c.release()
		return err
	}
	if !c.ended {
		c.forwarded = true
		c.end()
	}
	if !errors.Is(err, store.ErrUnavailable) {
		err = fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	c.failed = err
	return err
}

// CommitEvent implements [store.Claim].
func (c *Claim) CommitEvent(ctx context.Context, ev *store.Inbound) error {
	if len(c.Events) == 0 {
		own := *ev // it may become durable when the caller is gone
		c.Events = []*store.Inbound{&own}
	}
	if err := c.Commit(ctx); err != nil {
		return err
	}
	ev.ID = c.Events[0].ID
	return nil
}

// Committed is called by the store when the entry is durable.
func (c *Claim) Committed() {
	c.table.mu.Lock()
	defer c.table.mu.Unlock()
	c.committed, c.failed = true, nil
	c.end()
	c.remove()
}

// Release implements [store.Claim]. A forwarded event stays in the table.
func (c *Claim) Release() {
	c.table.mu.Lock()
	defer c.table.mu.Unlock()
	c.release()
}

// Acquired is called by the store when the database has granted the claim, with
// nil, or refused it.
func (c *Claim) Acquired(err error) {
	c.table.mu.Lock()
	defer c.table.mu.Unlock()
	switch {
	case err != nil:
		c.committed = errors.Is(err, store.ErrDuplicate)
		c.end()
		c.remove()
	case c.abandoned:
		c.release()
	default:
		c.acquired = true
	}
}

// abandon gives up waiting for the database: a claim that it has granted, or will
// grant, is released.
func (c *Claim) abandon() {
	c.table.mu.Lock()
	defer c.table.mu.Unlock()
	c.abandoned = true
	if c.acquired {
		c.release()
	}
}

// takeOver makes c responsible for an event that was forwarded and not committed.
// Its other keys still have to be committed, too. table.mu must be held.
func (c *Claim) takeOver(other *Claim) {
	c.forwarded, c.ID = true, other.ID
	for _, ev := range other.Events {
		if !slices.Contains(c.Events, ev) {
			c.Events = append(slices.Clip(c.Events), ev)
		}
	}
	for _, k := range other.Entry.Keys {
		if !slices.Contains(c.Entry.Keys, k) {
			c.Entry.Keys = append(slices.Clip(c.Entry.Keys), k)
		}
	}
}

// release ends the claim without a commit. table.mu must be held.
func (c *Claim) release() {
	if c.ended {
		return
	}
	c.end()
	if !c.forwarded {
		c.remove()
		c.table.free(c)
	}
}

// end wakes those who wait for the claim. table.mu must be held.
func (c *Claim) end() {
	if !c.ended {
		c.ended = true
		if !c.Entry.Lock {
			c.table.open.Add(-1)
		}
		close(c.done)
	}
}

// remove takes the claim out of the table. table.mu must be held.
func (c *Claim) remove() {
	for _, k := range c.Entry.Keys {
		if c.table.held[k] == c {
			delete(c.table.held, k)
		}
	}
}
