package postgres

import (
	"context"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/claims"
	"github.com/caddy-replicate/replicate-webhook/store/internal/groupcommit"
)

// dedup implements store.Dedup. Claims of this node are in a table, and those of all
// nodes in the database.
type dedup struct {
	s        *Store
	claims   claims.Table
	requests *groupcommit.Batcher[*claimRequest]
	commits  *groupcommit.Batcher[settlement]
}

// Claim implements store.Dedup.
func (d *dedup) Claim(ctx context.Context, e store.Entry, wait time.Duration) (store.Claim, error) {
	began := time.Now()
	if err := d.s.probe(ctx); err != nil && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	e.Expires = d.s.toDatabase(e.Expires)
	c, err := d.claims.Claim(ctx, e, wait-time.Since(began))
	if err != nil {
		return nil, err
	}
	return c, nil
}

// initClaims connects the table of claims with the database.
func (d *dedup) initClaims() {
	d.claims.Init(claims.Options{Available: d.s.available, Commit: d.commitClaim, Database: &claimRows{s: d.s}})
}

// commitClaim ends a claim and commits its entry.
func (d *dedup) commitClaim(ctx context.Context, c *claims.Claim) error {
	return d.commits.Do(ctx, settlement{claim: c, commit: true, accepted: accepting(c)})
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
