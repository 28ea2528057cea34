package postgres

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/internal/metrics"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/claims"
	"github.com/caddy-replicate/replicate-webhook/store/internal/groupcommit"
)

// claimRequest is a claim to be acquired in the database.
type claimRequest struct {
	claim *claims.Claim
	// refused is why the database does not grant the claim, or nil.
	refused error
}

// newRequests returns the batcher that acquires claims.
func (d *dedup) newRequests() *groupcommit.Batcher[*claimRequest] {
	return groupcommit.New(groupcommit.Options[*claimRequest]{
		Commit: func(group []*claimRequest) error { return transact(d.s, group, 0, d.acquireAll) },
		Finish: func(q *claimRequest, err error) error {
			if err != nil {
				d.claims.Lost(q.claim)
			} else {
				err = q.refused
			}
			q.claim.Acquired(err)
			return err
		},
	})
}

// takeRows takes each key, unless another node that is alive has it. It then notes
// that the key is waited for, so that its holder notifies others when it is free.
// Keys of this node are taken over, since its own table knows which of its requests
// holds them.
//
// Rows are always locked in the order of their keys, so that nodes do not deadlock.
const takeRows = `INSERT INTO webhook_claims AS c (key, owner, token)
SELECT j.key, j.owner, j.token FROM unnest($1::uuid[], $2::bigint[], $3::bigint[]) AS j (key, owner, token) ORDER BY j.key
ON CONFLICT (key) DO UPDATE SET
	owner  = CASE WHEN c.owner <> excluded.owner AND EXISTS (SELECT 1 FROM webhook_nodes n WHERE n.id = c.owner) THEN c.owner ELSE excluded.owner END,
	token  = CASE WHEN c.owner <> excluded.owner AND EXISTS (SELECT 1 FROM webhook_nodes n WHERE n.id = c.owner) THEN c.token ELSE excluded.token END,
	waited = c.waited OR c.owner <> excluded.owner
RETURNING key, owner, token`

// freeRows deletes the rows of claims. IS TRUE keeps the planner from joining the
// list of claims: the plan would depend on an estimate of the list's length.
const freeRows = `DELETE FROM webhook_claims WHERE key = ANY(ARRAY(
	SELECT r.key FROM webhook_claims r WHERE r.key = ANY($1::uuid[]) AND ((r.owner, r.token) IN (SELECT * FROM unnest($2::bigint[], $3::bigint[]))) IS TRUE
	ORDER BY r.key FOR UPDATE
)) RETURNING key, waited`

// Comparing a sum (expires + 0) keeps plans from using the index of expires.
const (
	findEntries   = "SELECT key FROM webhook_dedup WHERE key = ANY($1::uuid[]) AND expires + 0 > $2"
	findMarks     = "SELECT scope, signed FROM webhook_purged WHERE scope = ANY($1::text[])"
	insertEntries = `INSERT INTO webhook_dedup AS d (key, scope, expires, signed)
		SELECT * FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::bigint[]) AS j (key, scope, expires, signed) ORDER BY j.key
		ON CONFLICT (key) DO UPDATE SET scope = excluded.scope, expires = greatest(d.expires, excluded.expires), signed = greatest(d.signed, excluded.signed)`
)

// claimKeys are the rows of several claims.
type claimKeys struct {
	keys          [][16]byte
	owner, tokens []int64
}

func (k *claimKeys) add(c *claims.Claim) {
	for _, key := range c.Entry.Keys {
		k.keys = append(k.keys, key)
		k.owner = append(k.owner, c.ID.Owner)
		k.tokens = append(k.tokens, c.ID.Token)
	}
}

// claimRow is a row of webhook_claims.
type claimRow struct {
	key [16]byte
	id  claims.ID
}

// acquireAll takes the rows of the group's claims and then checks whether the events
// are known. An entry and the end of its claim are committed together, so that
// whoever gets the claim after that sees the entry.
func (d *dedup) acquireAll(ctx context.Context, conn *pgx.Conn, requests []*claimRequest) error {
	var all claimKeys
	scopes := make(map[string]int64)
	for _, q := range requests {
		all.add(q.claim)
		scopes[q.claim.Entry.Scope] = 0
	}
	names := make([]string, 0, len(scopes))
	for name := range scopes {
		names = append(names, name)
	}
	b := newBatch()
	b.Queue(takeRows, all.keys, all.owner, all.tokens)
	b.Queue(findEntries, all.keys, d.s.now().UnixMilli())
	b.Queue(findMarks, names)
	res, err := send(ctx, conn, b)
	if err != nil {
		return err
	}
	had := make(map[claimRow]bool, len(all.keys))
	known := make(map[[16]byte]bool)
	err = func() error {
		rows, err := res.Query()
		if err != nil {
			return err
		}
		var r claimRow
		if _, err := pgx.ForEachRow(rows, []any{&r.key, &r.id.Owner, &r.id.Token}, func() error { had[r] = true; return nil }); err != nil {
			return err
		}
		if rows, err = res.Query(); err != nil {
			return err
		}
		if _, err := pgx.ForEachRow(rows, []any{&r.key}, func() error { known[r.key] = true; return nil }); err != nil {
			return err
		}
		if rows, err = res.Query(); err != nil {
			return err
		}
		var scope string
		var signed int64
		_, err = pgx.ForEachRow(rows, []any{&scope, &signed}, func() error { scopes[scope] = signed; return nil })
		return err
	}()
	if err := errors.Join(err, res.Close()); err != nil {
		return err
	}
	var free claimKeys
	me := d.s.nodes.id.Load()
	for _, q := range requests {
		if q.refused = judge(q.claim, me, had, known, scopes); q.refused != nil {
			free.add(q.claim)
		}
	}
	if len(free.keys) == 0 {
		return nil
	}
	// If this fails, the rows of refused claims stay until the group is tried
	// again.
	waited, err := free.delete(ctx, conn)
	if err != nil {
		return err
	}
	go d.s.notifyClaims(waited)
	return nil
}

// judge returns why a claim is not granted, or nil. me is the node's ID, had are the
// rows that the claims of the group have, known the keys that are committed, and
// purged the newest signed time purged from each scope.
func judge(c *claims.Claim, me int64, had map[claimRow]bool, known map[[16]byte]bool, purged map[string]int64) error {
	e := &c.Entry
	if slices.ContainsFunc(e.Keys, func(k store.Key) bool { return known[k] }) {
		return store.ErrDuplicate
	}
	if mark, ok := purged[e.Scope]; ok && mark != 0 && !e.SignedAt.IsZero() && e.SignedAt.UnixMilli() <= mark {
		return store.ErrReplayed
	}
	if c.ID.Owner != me {
		// Others took the node for gone meanwhile, and may take its rows. It
		// tries again with the ID that it has now.
		return store.ErrInFlight
	}
	for _, k := range e.Keys {
		if !had[claimRow{k, c.ID}] {
			return store.ErrInFlight
		}
	}
	return nil
}

// delete deletes the rows and returns the keys that other nodes wait for.
func (k *claimKeys) delete(ctx context.Context, conn *pgx.Conn) (waited []store.Key, err error) {
	freed, err := collect(ctx, conn, scanFreed, freeRows, k.keys, k.owner, k.tokens)
	return waitedFor(freed), err
}

// freedRow is a claim's row that was deleted.
type freedRow struct {
	key    [16]byte
	waited bool
}

// scanFreed scans a row that freeRows returns.
func scanFreed(row pgx.CollectableRow) (r freedRow, err error) {
	return r, row.Scan(&r.key, &r.waited)
}

// waitedFor returns the keys that other nodes wait for.
func waitedFor(freed []freedRow) (keys []store.Key) {
	for _, r := range freed {
		if r.waited {
			keys = append(keys, r.key)
		}
	}
	return keys
}

// settlement ends a claim in the database.
type settlement struct {
	claim *claims.Claim
	// commit means that the claim's entry is committed.
	commit bool
	// accepted is what becomes of the claim's events, nil if it has none.
	accepted *acceptance
}

// newCommits returns the batcher that ends claims.
func (d *dedup) newCommits() *groupcommit.Batcher[settlement] {
	return groupcommit.New(groupcommit.Options[settlement]{
		Commit: func(group []settlement) error { return transact(d.s, group, outageWait, d.settle) },
		Finish: func(x settlement, err error) error {
			if x.accepted != nil {
				return d.s.inbox.settled(x, err)
			}
			switch {
			case err == nil && x.commit:
				x.claim.Committed()
			case err != nil && !x.commit:
				d.claims.Lost(x.claim)
			}
			return err
		},
	})
}

// entryRows are entries by their keys.
type entryRows struct {
	keys            [][16]byte
	scopes          []string
	expires, signed []int64
}

// settle deletes the rows of claims and inserts the entries of those that are
// committed, with their events, in one transaction.
func (d *dedup) settle(ctx context.Context, conn *pgx.Conn, group []settlement) error {
	began := time.Now()
	g := &settling{group: group}
	for _, x := range group {
		g.free.add(x.claim)
	}
	settle := g.settle
	if slices.ContainsFunc(group, func(x settlement) bool { return x.accepted != nil }) {
		settle = (&storing{settling: g, inbox: d.s.inbox}).settle
	}
	if err := settle(ctx, conn); err != nil {
		return err
	}
	if g.committed > 0 {
		metrics.ObserveCommit(g.committed, time.Since(began))
	}
	if len(g.waited) > 0 {
		go d.s.notifyClaims(g.waited)
	}
	return nil
}

// settling ends claims in a transaction.
type settling struct {
	group     []settlement
	free      claimKeys
	rows      entryRows
	committed int         // how many of the claims are committed
	waited    []store.Key // keys that other nodes wait for
}

// settle ends claims without events.
func (g *settling) settle(ctx context.Context, conn *pgx.Conn) error {
	g.committed = g.rows.collect(g.group)
	b := newBatch()
	g.queue(b)
	res, err := send(ctx, conn, b)
	if err != nil {
		return err
	}
	return errors.Join(g.freed(res), res.Close())
}

// queue queues the end of the claims and their entries.
func (g *settling) queue(b *pgx.Batch) {
	b.Queue(freeRows, g.free.keys, g.free.owner, g.free.tokens)
	if len(g.rows.keys) > 0 {
		b.Queue(insertEntries, g.rows.keys, g.rows.scopes, g.rows.expires, g.rows.signed)
	}
}

// freed takes in which claims others wait for. It reads the first result of queue.
func (g *settling) freed(res pgx.BatchResults) error {
	freed, err := collectNext(res, scanFreed)
	g.waited = waitedFor(freed)
	return err
}

// collect adds the entries that are to be committed, each key once. It returns how
// many claims are committed.
func (r *entryRows) collect(group []settlement) (committed int) {
	at := make(map[store.Key]int)
	for _, x := range group {
		if !x.commit || x.accepted.isRefused() {
			continue
		}
		committed++
		e := &x.claim.Entry
		signed, expires := e.PurgeMark(), e.Expires.UnixMilli()
		if x.accepted.waits() {
			expires = never
		}
		for _, k := range e.Keys {
			i, ok := at[k]
			if !ok {
				at[k] = len(r.keys)
				r.keys = append(r.keys, k)
				r.scopes = append(r.scopes, e.Scope)
				r.expires = append(r.expires, expires)
				r.signed = append(r.signed, signed)
				continue
			}
			r.expires[i] = max(r.expires[i], expires)
			r.signed[i] = max(r.signed[i], signed)
		}
	}
	return committed
}

const sweepRows = `DELETE FROM webhook_claims WHERE key = ANY(ARRAY(SELECT key FROM webhook_claims
	WHERE owner <> ALL(ARRAY(SELECT id FROM webhook_nodes)) ORDER BY key FOR UPDATE SKIP LOCKED))`

// sweepClaims deletes the claims of nodes that are gone.
func (d *dedup) sweepClaims(ctx context.Context, conn *pgx.Conn) error {
	return execute(ctx, conn, sweepRows)
}

// purgeEntries is how many entries one transaction purges.
const purgeEntries = 2000

// purgeLoop purges expired entries in small batches.
func (d *dedup) purgeLoop() {
	defer d.s.working.Done()
	t := time.NewTicker(d.s.opts.PurgeEvery)
	defer t.Stop()
	for {
		select {
		case <-d.s.stop:
			return
		case <-t.C:
		}
		if d.s.available() != nil {
			continue
		}
		if err := errors.Join(d.Purge(), d.countEntries()); err != nil {
			d.s.opts.Logger().Error("purging entries", zap.String("store", d.s.name), zap.Error(err))
		}
	}
}

// purgeRows purges entries. One statement deletes them and keeps the newest signed
// time of each scope, so that at any moment one of the two says that the event was
// accepted.
const purgeRows = `WITH gone AS (
	DELETE FROM webhook_dedup WHERE key = ANY(ARRAY(SELECT key FROM webhook_dedup WHERE expires <= $1 ORDER BY expires LIMIT $2 FOR UPDATE SKIP LOCKED))
	AND expires + 0 <= $1 RETURNING scope, signed
), kept AS (
	INSERT INTO webhook_purged AS p (scope, signed) SELECT scope, max(signed) FROM gone WHERE signed <> 0 GROUP BY scope ORDER BY scope
	ON CONFLICT (scope) DO UPDATE SET signed = greatest(p.signed, excluded.signed)
) SELECT count(*) FROM gone`

// Purge purges all entries and creates that have expired.
func (d *dedup) Purge() error {
	if d.s.clock.wrong.Load() {
		return nil // the log and the status report it
	}
	now := d.s.now().UnixMilli()
	return errors.Join(d.purge(now), d.s.creates.purge(now))
}

func (d *dedup) purge(now int64) error {
	all, err := d.s.purge(purgeEntries, func(ctx context.Context, conn *pgx.Conn) (int, error) {
		counts, err := collect(ctx, conn, pgx.RowTo[int], purgeRows, now, purgeEntries)
		if err != nil {
			return 0, err
		}
		return counts[0], nil
	})
	if all {
		d.claims.Expire(now)
		d.s.inbox.expire(now)
	}
	return err
}

// purge purges batches of up to limit rows, until one has fewer or the store is closed.
// It reports whether all are purged.
func (s *Store) purge(limit int, batch func(context.Context, *pgx.Conn) (gone int, err error)) (all bool, err error) {
	for {
		gone := 0
		if err := s.use(func(ctx context.Context, conn *pgx.Conn) (err error) {
			gone, err = batch(ctx, conn)
			return err
		}); err != nil {
			return false, err
		}
		if gone < limit {
			return true, nil
		}
		select {
		case <-s.stop:
			return false, nil
		default:
		}
	}
}

// countEntries sets the metric of the number of entries.
func (d *dedup) countEntries() error {
	return d.s.use(func(ctx context.Context, conn *pgx.Conn) error {
		n, err := count(ctx, conn, "webhook_dedup", "webhook_dedup")
		if err == nil {
			metrics.SetDedupEntries(n)
		}
		return err
	})
}
