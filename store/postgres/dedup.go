package postgres

import (
	"context"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/claims"
)

// Claim implements store.Dedup.
func (s *Store) Claim(ctx context.Context, e store.Entry, wait time.Duration) (store.Claim, error) {
	began := time.Now()
	if err := s.probe(ctx); err != nil && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	e.Expires = s.toDatabase(e.Expires)
	c, err := s.claims.Claim(ctx, e, wait-time.Since(began))
	if err != nil {
		return nil, err
	}
	return c, nil
}

// initClaims connects the table of claims with the database.
func (s *Store) initClaims() {
	s.claims.Init(claims.Options{Available: s.available, Commit: s.commitClaim, Database: &claimRows{s: s}})
}

// commitClaim ends a claim and commits its entry.
func (s *Store) commitClaim(ctx context.Context, c *claims.Claim) error {
	return s.commits.Do(ctx, settlement{claim: c, commit: true, accepted: accepting(c)})
}

// claimRows are the rows of claims in the database. It implements
// claims.Database.
type claimRows struct {
	s      *Store
	tokens int64 // guarded by the table of claims
}

// NewID implements claims.Database.
func (r *claimRows) NewID() claims.ID {
	r.tokens++
	return claims.ID{Owner: r.s.nodes.id.Load(), Token: r.tokens}
}

// Acquire implements claims.Database.
func (r *claimRows) Acquire(ctx context.Context, c *claims.Claim) error {
	done, err := r.s.requests.Add(ctx, &claimRequest{claim: c})
	if err != nil {
		c.Acquired(err)
		return err
	}
	return r.s.requests.Wait(ctx, done)
}

// Watch implements claims.Database.
func (r *claimRows) Watch(keys []store.Key) (freed <-chan struct{}, stop func()) {
	return r.s.waiters.subscribe(keys)
}

// Free implements claims.Database. A request of this node need not wait for the
// rows to be deleted: it takes them over.
func (r *claimRows) Free(c *claims.Claim) bool {
	if r.s.commits.TryAdd(settlement{claim: c}) {
		return true
	}
	signal(r.s.health.trouble)
	return false
}

// CommitLater implements claims.Database. If too many jobs wait already, the
// sender's retry commits the event.
func (r *claimRows) CommitLater(c *claims.Claim) {
	r.s.commits.TryAdd(settlement{claim: c, commit: true, accepted: accepting(c)})
}
