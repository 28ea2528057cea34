package sqlite

import (
	"context"
	"errors"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/claims"
)

// Claim implements store.Dedup.
func (s *Store) Claim(ctx context.Context, e store.Entry, wait time.Duration) (store.Claim, error) {
	c, err := s.claims.Claim(ctx, e, wait)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// initClaims connects the table of claims with the committed entries and the
// writer.
func (s *Store) initClaims() {
	s.claims.Init(claims.Options{
		Check: s.checkEntry,
		// The writer is made later.
		Available: func() error { return s.writer.available() },
		Commit:    s.commitClaim,
	})
}

// checkEntry returns the reason why an entry must not be claimed. A duplicate is
// not reported while the file is missing: the 2xx that it gets would promise what
// the file no longer keeps.
func (s *Store) checkEntry(e *store.Entry) error {
	if err := s.writer.available(); isMoved(err) {
		return err
	}
	return s.entries.check(e, s.inbox.boxes.expiry(e.Scope, s.opts.clock.Settled().UnixMilli()))
}

// commitClaim writes the entry of a claim and its events, or neither.
func (s *Store) commitClaim(ctx context.Context, c *claims.Claim) error {
	var full error
	var ids []string
	err := s.writer.do(ctx, &op{
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
			s.entries.add(&c.Entry)
			c.Committed()
		},
		ends: true,
	})
	if err == nil {
		err = full
	}
	return err
}
