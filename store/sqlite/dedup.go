package sqlite

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/claims"
)

// dedup implements store.Dedup. All entries are in memory, too.
type dedup struct {
	s       *Store
	entries entries
	claims  claims.Table
	// compacted is the number up to which rows were merged. It is guarded by
	// compacting, which each call of Compact holds.
	compacting sync.Mutex
	compacted  int64
}

// Claim implements store.Dedup.
func (d *dedup) Claim(ctx context.Context, e store.Entry, wait time.Duration) (store.Claim, error) {
	c, err := d.claims.Claim(ctx, e, wait)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// initClaims connects the table of claims with the committed entries and the
// writer.
func (d *dedup) initClaims() {
	d.claims.Init(claims.Options{
		Check: d.checkEntry,
		// The writer is made later.
		Available: func() error { return d.s.writer.available() },
		Commit:    d.commitClaim,
	})
}

// checkEntry returns the reason why an entry must not be claimed. A duplicate is
// not reported while the file is missing: the 2xx that it gets would promise what
// the file no longer keeps.
func (d *dedup) checkEntry(e *store.Entry) error {
	if err := d.s.writer.available(); isMoved(err) {
		return err
	}
	return d.entries.check(e, d.s.inbox.boxes.expiry(e.Scope, d.s.opts.clock.Settled().UnixMilli()))
}

// commitClaim writes the entry of a claim and its events, or neither.
func (d *dedup) commitClaim(ctx context.Context, c *claims.Claim) error {
	var full error
	var ids []string
	err := d.s.writer.do(ctx, &op{
		write: func(g *group) (err error) {
			full = nil
			if ids, err = g.accept(c); errors.Is(err, store.ErrInboxFull) {
				full = err
				return nil
			}
			if err == nil {
				g.add(&c.Entry)
			}
			return err
		},
		after: func() {
			if full != nil {
				return
			}
			for i, ev := range c.Events {
				ev.ID = ids[i]
			}
			d.entries.add(&c.Entry)
			c.Committed()
		},
		ends: true,
	})
	if err == nil {
		err = full
	}
	return err
}
