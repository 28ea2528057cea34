package sqlite

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/metrics"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// dedup is what is known of events, in memory.
type dedup struct {
	now func() time.Time

	mu sync.Mutex
	// live holds the expiry of every committed entry, in Unix milliseconds.
	live map[store.Key]int64
	// held has the claims that are open, and those that were passed on but
	// could not be committed.
	held map[store.Key]*claim
	// open counts the claims that have not ended.
	open atomic.Int64
	// purged is the newest signed time purged from a scope, in Unix
	// milliseconds.
	purged map[string]int64
	closed error
}

// claim is one holder's right to an event. Fields are guarded by dedup.mu.
type claim struct {
	s      *Store
	entry  store.Entry
	passed bool
	// ended: committed, released, or left behind by a failed commit.
	ended   bool
	settled chan struct{}
}

// Claim implements store.Dedup.
func (s *Store) Claim(ctx context.Context, e store.Entry, wait time.Duration) (store.Claim, error) {
	var timeout <-chan time.Time
	for {
		mine, other, err := s.try(e)
		switch {
		case err != nil:
			return nil, err
		case mine != nil:
			return mine, nil
		case timeout == nil:
			t := time.NewTimer(wait)
			defer t.Stop()
			timeout = t.C
		}
		select {
		case <-other.settled:
		case <-timeout:
			return nil, store.ErrInFlight
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// try answers with a claim of one's own, or the claim to wait for.
func (s *Store) try(e store.Entry) (mine, other *claim, err error) {
	d := &s.dedup
	now := d.now().UnixMilli()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed != nil {
		return nil, nil, fmt.Errorf("%w: %w", store.ErrUnavailable, d.closed)
	}
	if err := s.writer.available(); isMoved(err) {
		return nil, nil, err // a duplicate's 2xx would promise what the file no longer keeps
	}
	for _, k := range e.Keys {
		if expires, ok := d.live[k]; ok && expires > now {
			return nil, nil, store.ErrDuplicate
		}
	}
	if mark, ok := d.purged[e.Scope]; ok && !e.SignedAt.IsZero() && e.SignedAt.UnixMilli() <= mark {
		return nil, nil, store.ErrReplayed
	}
	mine = &claim{s: s, entry: e, settled: make(chan struct{})}
	for _, k := range e.Keys {
		held := d.held[k]
		switch {
		case held == nil:
		case !held.ended:
			return nil, held, nil
		default:
			// The app has this event already. Its other key, if it has
			// one, is still to be committed too.
			mine.passed = true
			for _, k := range held.entry.Keys {
				if !slices.Contains(mine.entry.Keys, k) {
					mine.entry.Keys = append(slices.Clip(mine.entry.Keys), k)
				}
			}
		}
	}
	if !mine.passed {
		if err := s.writer.available(); err != nil {
			return nil, nil, err
		}
	}
	for _, k := range mine.entry.Keys {
		d.held[k] = mine
	}
	d.open.Add(1)
	return mine, nil, nil
}

// Passed implements store.Claim.
func (c *claim) Passed() bool { return c.passed }

// Commit implements store.Claim.
func (c *claim) Commit(ctx context.Context) error {
	d := &c.s.dedup
	d.mu.Lock()
	ended := c.ended
	d.mu.Unlock()
	if ended {
		return nil
	}
	err := c.s.writer.do(ctx, &op{
		write: func(g *group) error { g.add(&c.entry); return nil },
		after: c.committed,
		ends:  true,
	})
	if err == nil {
		return nil
	}
	// Where ctx ended first the commit may still come; committed then
	// finds the claim ended and only adds the entry.
	d.mu.Lock()
	defer d.mu.Unlock()
	if !c.ended {
		c.passed = true
		c.end()
	}
	if !errors.Is(err, store.ErrUnavailable) {
		err = fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	return err
}

// committed runs in the writer when the outcome of a commit is known.
func (c *claim) committed(err error) {
	if err != nil {
		return
	}
	d := &c.s.dedup
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, k := range c.entry.Keys {
		d.live[k] = max(d.live[k], c.entry.Expires.UnixMilli())
	}
	metrics.SetDedupEntries(len(d.live))
	c.end()
	c.forget()
}

// Release implements store.Claim. A passed event stays remembered.
func (c *claim) Release() {
	d := &c.s.dedup
	d.mu.Lock()
	defer d.mu.Unlock()
	if c.ended {
		return
	}
	c.end()
	if !c.passed {
		c.forget()
	}
}

func (c *claim) end() {
	if !c.ended {
		c.ended = true
		c.s.dedup.open.Add(-1)
		close(c.settled)
	}
}

func (c *claim) forget() {
	held := c.s.dedup.held
	for _, k := range c.entry.Keys {
		if held[k] == c {
			delete(held, k)
		}
	}
}

func (d *dedup) close(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = err
}
