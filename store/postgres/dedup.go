package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// dedup is what this node knows of events: its own claims.
type dedup struct {
	mu sync.Mutex
	// held has this node's open claims, those it asks the database for,
	// and those that were passed on but could not be committed.
	held map[store.Key]*claim
	// lost are claims whose rows may still be in the database.
	lost   []*claim
	tokens int64
	closed error
}

func (d *dedup) init() { d.held = make(map[store.Key]*claim) }

func (d *dedup) close(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = err
}

// claim is one holder's right to an event. Fields are guarded by dedup.mu.
type claim struct {
	s     *Store
	entry store.Entry
	// owner and token name the claim's rows in the database.
	owner, token int64
	passed       bool
	// ended: committed, released, refused, or left behind by a failed
	// commit.
	ended     bool
	committed bool
	settled   chan struct{}
}

// claimAgain is how soon a claim of another node is looked at again when no
// notification comes.
const claimAgain = time.Second

// Claim implements store.Dedup.
func (s *Store) Claim(ctx context.Context, e store.Entry, wait time.Duration) (store.Claim, error) {
	timeout := time.NewTimer(wait)
	defer timeout.Stop()
	if err := s.probe(ctx); err != nil && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	e.Expires = s.toDatabase(e.Expires)
	var freed <-chan struct{} // by another node
	for {
		mine, other, err := s.try(e)
		if err != nil {
			return nil, err
		}
		var settled <-chan struct{}
		var again <-chan time.Time
		if mine != nil {
			err := s.askFor(ctx, mine)
			if err == nil {
				return mine, nil
			}
			if !errors.Is(err, store.ErrInFlight) {
				return nil, err
			}
			if freed == nil && wait > 0 {
				// Asked for once more now that nothing can be missed.
				var unsubscribe func()
				freed, unsubscribe = s.wakes.subscribe(e.Keys)
				defer unsubscribe()
				continue
			}
			again = time.After(claimAgain)
		} else {
			settled = other.settled
		}
		select {
		case <-settled:
			if s.dedup.wasCommitted(other) {
				return nil, store.ErrDuplicate
			}
		case <-freed:
		case <-again:
		case <-timeout.C:
			return nil, store.ErrInFlight
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (d *dedup) wasCommitted(c *claim) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return c.committed
}

// try answers with a claim that no other request of this node has, or the one
// to wait for.
func (s *Store) try(e store.Entry) (mine, other *claim, err error) {
	d := &s.dedup
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed != nil {
		return nil, nil, fmt.Errorf("%w: %w", store.ErrUnavailable, d.closed)
	}
	d.tokens++
	mine = &claim{s: s, entry: e, owner: s.nodes.id.Load(), token: d.tokens, settled: make(chan struct{})}
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
			mine.owner, mine.token = held.owner, held.token
			for _, k := range held.entry.Keys {
				if !slices.Contains(mine.entry.Keys, k) {
					mine.entry.Keys = append(slices.Clip(mine.entry.Keys), k)
				}
			}
		}
	}
	if !mine.passed {
		if err := s.available(); err != nil {
			return nil, nil, err
		}
	}
	for _, k := range mine.entry.Keys {
		d.held[k] = mine
	}
	return mine, nil, nil
}

// askFor gets the claim from the database. The errors are those of Claim; the
// claim is over then.
func (s *Store) askFor(ctx context.Context, c *claim) error {
	if c.passed {
		return nil
	}
	a := &ask{claim: c, done: make(chan error, 1)}
	err := s.asks.add(ctx, a)
	if err != nil {
		s.dedup.refuse(c, err)
	} else if err = s.asks.wait(ctx, a.done); err != nil && ctx.Err() != nil {
		// What comes of it nobody waits for.
		s.dedup.mu.Lock()
		a.gone = true
		late := a.won
		s.dedup.mu.Unlock()
		if late {
			c.Release()
		}
	}
	switch {
	case err == nil, errors.Is(err, store.ErrDuplicate), errors.Is(err, store.ErrReplayed), errors.Is(err, store.ErrInFlight),
		errors.Is(err, store.ErrUnavailable), ctx.Err() != nil:
		return err
	}
	return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
}

// asked takes in what the database says of a claim.
func (a *ask) asked(err error) {
	d := &a.claim.s.dedup
	if err != nil {
		d.refuse(a.claim, err)
		a.done <- err
		return
	}
	d.mu.Lock()
	a.won = true
	gone := a.gone
	d.mu.Unlock()
	if gone {
		a.claim.Release()
	}
	a.done <- nil
}

// refuse ends a claim that was not had.
func (d *dedup) refuse(c *claim, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c.committed = errors.Is(err, store.ErrDuplicate)
	c.end()
	c.forget()
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
	done := make(chan error, 1)
	err := c.s.commits.add(ctx, &settlement{claim: c, commit: true, finish: func(err error) {
		c.settle(err)
		done <- err
	}})
	if err == nil {
		err = c.s.commits.wait(ctx, done)
	}
	if err == nil {
		return nil
	}
	// Where ctx ended first the commit may still come; settle then finds
	// the claim ended.
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

// settle runs when the outcome of a commit is known.
func (c *claim) settle(err error) {
	if err != nil {
		return
	}
	d := &c.s.dedup
	d.mu.Lock()
	defer d.mu.Unlock()
	c.committed = true
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
	if c.passed {
		return
	}
	c.forget()
	c.s.giveUp(c)
}

// giveUp frees the claim's rows. The caller holds the mutex. A request of this
// node need not wait for it: it takes the rows over.
func (s *Store) giveUp(c *claim) {
	select {
	case s.commits.jobs <- &settlement{claim: c, finish: func(err error) {
		if err != nil {
			s.dedup.lose(c)
		}
	}}:
	default:
		s.dedup.lost = append(s.dedup.lost, c)
		signal(s.health.trouble)
	}
}

// lose keeps a claim whose rows could not be freed, or may be there although
// asking for them failed.
func (d *dedup) lose(c *claim) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lost = append(d.lost, c)
}

// resettle frees what was lost, and commits what the app has already: the
// sender's retry may come to another node, which waits for that.
func (s *Store) resettle() {
	d := &s.dedup
	d.mu.Lock()
	defer d.mu.Unlock()
	lost := d.lost
	d.lost = nil
	for _, c := range lost {
		s.giveUp(c)
	}
	again := make(map[*claim]bool)
	for _, c := range d.held {
		if c.passed && c.ended && !again[c] {
			again[c] = true
			select {
			case s.commits.jobs <- &settlement{claim: c, commit: true, finish: c.settle}:
			default: // the sender's retry commits it
			}
		}
	}
}

func (c *claim) end() {
	if !c.ended {
		c.ended = true
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
