package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/ledger"
)

// readyEndpoints selects the endpoints with deliveries that can be claimed, and
// when the first one of each is due. It goes from endpoint to endpoint through the
// index.
const readyEndpoints = `WITH RECURSIVE e AS (
	(SELECT endpoint FROM webhook_deliveries WHERE state = 0 AND owner = 0 AND NOT held ORDER BY endpoint LIMIT 1)
	UNION ALL
	SELECT (SELECT d.endpoint FROM webhook_deliveries d WHERE d.state = 0 AND d.owner = 0 AND NOT d.held AND d.endpoint > e.endpoint ORDER BY d.endpoint LIMIT 1)
	FROM e WHERE e.endpoint IS NOT NULL
) SELECT e.endpoint, f.due FROM e, LATERAL (
	SELECT d.due FROM webhook_deliveries d WHERE d.endpoint = e.endpoint AND d.state = 0 AND d.owner = 0 AND NOT d.held ORDER BY d.due, d.n LIMIT 1
) f WHERE e.endpoint IS NOT NULL ORDER BY f.due, e.endpoint`

// handedOut lists the columns that an attempt needs.
const handedOut = "d.n, d.nonce, d.prediction, d.event, d.attempts, d.due, d.created, d.endpoint, d.state, d.owner, d.lease, p.id, p.client, p.url, p.traceparent, p.events, b.body, " +
	"d.redelivery, i.scope, i.name, i.prediction, i.refusals, i.overtaken, i.since, i.head"

// takeReady claims deliveries that are due, no more of each endpoint than it has
// slots. It skips rows that another node has locked.
//
// The rows are selected into an array, and not by a join, whose plan would depend
// on how many rows the server expects.
const takeReady = `WITH taken AS (
	UPDATE webhook_deliveries SET owner = $4, lease = $5 WHERE n = ANY(ARRAY(
		SELECT d.n FROM unnest($1::bytea[], $2::int[], $3::bigint[]) AS e (endpoint, slots, due), LATERAL (
			SELECT r.n FROM webhook_deliveries r WHERE r.endpoint = e.endpoint AND r.state = 0 AND r.owner = 0 AND NOT r.held AND r.due <= e.due
			ORDER BY r.endpoint, r.due, r.n LIMIT e.slots FOR UPDATE SKIP LOCKED
		) d
	)) RETURNING *
) SELECT ` + handedOut + " FROM taken d " + joinHanded

const readTaken = "SELECT " + handedOut + " FROM unnest($1::bigint[]) AS t (n), LATERAL (SELECT * FROM webhook_deliveries d WHERE d.n = t.n LIMIT 1) d " + joinHanded

// joinHanded joins the prediction and the payload of a delivery. The limits make
// the server use an index, even where its statistics say that a table is empty.
const joinHanded = "LEFT JOIN LATERAL (SELECT * FROM webhook_predictions p WHERE p.ref = d.prediction LIMIT 1) p ON true " +
	"LEFT JOIN LATERAL (SELECT * FROM webhook_payloads b WHERE b.n = " + payloadNumber + " LIMIT 1) b ON true " +
	"LEFT JOIN LATERAL (SELECT * FROM webhook_inbound i WHERE i.n = d.n AND d.prediction < 0 LIMIT 1) i ON true"

// handed is a delivery read for its attempt.
type handed struct {
	store.Delivery
	leased
	state int16
	// whole reports that its prediction and payload were found.
	whole bool
}

func scanHanded(row pgx.CollectableRow) (handed, error) {
	var h handed
	var nonce, created int64
	var kind int16
	var wanted *int16 // NULL without a prediction
	var endpoint, id, client, url, trace []byte
	var in eventColumns
	err := row.Scan(append([]any{&h.leased.n, &nonce, &h.leased.prediction, &kind, &h.Attempts, &h.due, &created, &endpoint, &h.state, &h.owner, &h.lease,
		&id, &client, &url, &trace, &wanted, &h.Payload}, in.targets()...)...)
	h.N, h.Prediction, h.Event, h.endpoint = h.leased.n, h.leased.prediction, event.Set(kind), string(endpoint)
	h.PredictionID, h.Client, h.URL, h.Traceparent = string(id), string(client), string(url), string(trace)
	h.Native = wanted != nil && event.Set(*wanted).Has(event.Native)
	h.ID, h.CreatedAt = ledger.IDOf(h.N, nonce, h.Prediction), timeOf(created)
	h.whole = (id != nil || in.head != nil) && h.Payload != nil
	if ledger.IsInbound(h.Prediction) {
		in.fill(&h.Delivery)
	}
	return h, err
}

// claimLater is when to claim again after a failed read.
const claimLater = time.Second

// claiming is one call of ClaimDeliveries.
type claiming struct {
	s     *Store
	now   int64
	limit int
	slots func(store.Lane) store.Slots
	// free is how many slots endpoints have left, and by the time by which
	// their deliveries must be due, if that is not now.
	free map[string]int
	by   map[string]int64
	// resumed is what their lanes' counts were before they were asked.
	resumed map[string]int
	ready   []readyEndpoint // in the database
	lease   int64
	local   []*leased
	out     []handed
}

type readyEndpoint struct {
	name string
	due  int64
}

// ClaimDeliveries implements store.Queue.
func (s *Store) ClaimDeliveries(ctx context.Context, limit int, slots func(store.Lane) store.Slots) ([]store.Delivery, time.Time, error) {
	if err := s.closed(); err != nil {
		return nil, time.Time{}, err
	}
	if err := s.available(); err != nil {
		return nil, s.opts.Now().Add(claimLater), err
	}
	s.queue.claiming.Lock()
	defer s.queue.claiming.Unlock()
	c := &claiming{
		s: s, now: s.now().UnixMilli(), limit: limit, slots: slots,
		free: make(map[string]int), by: make(map[string]int64), resumed: make(map[string]int), lease: s.queue.newLease(),
	}
	next, err := c.run(ctx)
	if err != nil {
		c.undo()
		err = fmt.Errorf("%w: reading %s: %w", store.ErrUnavailable, s.name, err)
		return nil, s.opts.Now().Add(claimLater), err
	}
	slices.SortFunc(c.out, func(a, b handed) int {
		if a.due != b.due {
			return int(min(max(a.due-b.due, -1), 1))
		}
		return int(min(max(a.N-b.N, -1), 1))
	})
	out := make([]store.Delivery, len(c.out))
	for i, h := range c.out {
		out[i] = h.Delivery
	}
	return out, s.fromDatabase(timeOf(next)), nil
}

func (c *claiming) run(ctx context.Context) (next int64, err error) {
	q := &c.s.queue
	q.mu.Lock()
	scan := c.now >= q.scanAt || q.rescan
	if scan {
		q.scanAt, q.rescan = never, false
	}
	q.mu.Unlock()
	if scan {
		if err := c.s.use(func(within context.Context, conn *pgx.Conn) error {
			ready, err := collect(within, conn, scanReady, readyEndpoints)
			c.ready = c.s.inbox.running(ready)
			return err
		}); err != nil {
			return 0, err
		}
	}
	c.takeLocal()
	if err := c.verifyLocal(); err != nil {
		return 0, err
	}
	if err := c.takeFromDatabase(); err != nil {
		return 0, err
	}
	return c.finish(scan), ctx.Err()
}

func scanReady(row pgx.CollectableRow) (readyEndpoint, error) {
	var name []byte
	var due int64
	err := row.Scan(&name, &due)
	return readyEndpoint{string(name), due}, err
}

// ask returns how many slots an endpoint has left. It calls slots once an endpoint.
func (c *claiming) ask(endpoint string) int {
	if n, asked := c.free[endpoint]; asked {
		return n
	}
	q := &c.s.queue
	q.mu.Lock()
	if l := q.lanes[endpoint]; l != nil {
		if l.parked {
			q.mu.Unlock()
			return 0
		}
		c.resumed[endpoint] = l.resumed
	} else {
		// A call of Resume in the meantime has a lane to count in.
		q.lanes[endpoint] = new(lane)
		c.resumed[endpoint] = 0
	}
	q.mu.Unlock()
	given := c.slots(store.ParseLane(endpoint)) // without the lock: it takes locks of its own
	c.free[endpoint] = max(given.N, 0)
	if !given.DueBy.IsZero() {
		c.by[endpoint] = c.s.toDatabase(given.DueBy).UnixMilli()
	}
	return c.free[endpoint]
}

// dueBy returns the time by which the deliveries of an endpoint must be due.
func (c *claiming) dueBy(endpoint string) int64 {
	if by, limited := c.by[endpoint]; limited {
		return min(by, c.now)
	}
	return c.now
}

// takeLocal claims what this node has claimed ahead.
func (c *claiming) takeLocal() {
	q := &c.s.queue
	q.mu.Lock()
	type candidate struct {
		name string
		due  int64
	}
	var candidates []candidate
	for name, l := range q.lanes {
		if len(l.waiting) > 0 && !l.parked {
			candidates = append(candidates, candidate{name, l.waiting[0].due})
		}
	}
	q.mu.Unlock()
	slices.SortFunc(candidates, func(a, b candidate) int { return int(min(max(a.due-b.due, -1), 1)) })
	for _, candidate := range candidates {
		if len(c.local) == c.limit {
			return
		}
		n := min(c.ask(candidate.name), c.limit-len(c.local))
		by := c.dueBy(candidate.name)
		q.mu.Lock()
		l := q.lanes[candidate.name]
		for ; n > 0 && l != nil && len(l.waiting) > 0 && l.waiting[0].due <= by; n-- {
			i := l.waiting[0]
			l.waiting = l.waiting[1:]
			delete(q.waiting, i.n)
			q.claimed[i.n] = i
			c.local = append(c.local, i)
			c.free[candidate.name]--
		}
		q.mu.Unlock()
	}
}

// verifyLocal reads what takeLocal has claimed. Another node may have redirected
// or canceled it.
func (c *claiming) verifyLocal() error {
	if len(c.local) == 0 {
		return nil
	}
	numbers := make([]int64, len(c.local))
	for i, l := range c.local {
		numbers[i] = l.n
	}
	var read []handed
	if err := c.s.use(func(ctx context.Context, conn *pgx.Conn) (err error) {
		read, err = collect(ctx, conn, scanHanded, readTaken, numbers)
		return err
	}); err != nil {
		return err
	}
	byNumber := make(map[int64]*handed, len(read))
	for i := range read {
		byNumber[read[i].N] = &read[i]
	}
	for _, l := range c.local {
		h := byNumber[l.n]
		switch {
		case h != nil && h.state == int16(store.DeliveryPending) && h.owner == l.owner && h.lease == l.lease && h.endpoint == l.endpoint:
			c.hand(h)
		default:
			c.drop(l)
			c.s.release(l)
		}
	}
	c.local = nil
	return nil
}

// hand hands out a delivery that this node has claimed.
func (c *claiming) hand(h *handed) {
	if !h.whole {
		// A damaged delivery must not block the others. It stays claimed
		// until this node is gone.
		c.s.opts.Logger().Error("delivery can't be read", zap.String("store", c.s.name), zap.Int64("number", h.N))
		c.drop(&h.leased)
		return
	}
	h.CreatedAt, h.DueAt, h.WaitingSince = c.s.fromDatabase(h.CreatedAt), c.s.fromDatabase(timeOf(h.due)), c.s.fromDatabase(h.WaitingSince)
	h.Lane = store.ParseLane(h.endpoint)
	c.out = append(c.out, *h)
}

// drop ends a claim within this call. Its slot is free again.
func (c *claiming) drop(l *leased) {
	q := &c.s.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.claimed, l.n)
	c.free[l.endpoint]++
}

// takeFromDatabase claims what no node has claimed.
func (c *claiming) takeFromDatabase() error {
	for {
		var endpoints [][]byte
		var slots []int32
		var by []int64
		left := c.limit - len(c.out)
		for _, e := range c.ready {
			if left <= 0 || e.due > c.now {
				break
			}
			if n := min(c.ask(e.name), left); n > 0 && e.due <= c.dueBy(e.name) {
				endpoints, slots, by = append(endpoints, []byte(e.name)), append(slots, int32(n)), append(by, c.dueBy(e.name))
				left -= n
			}
		}
		if len(endpoints) == 0 {
			return nil
		}
		var taken []handed
		again := false
		err := c.s.use(func(ctx context.Context, conn *pgx.Conn) error {
			if again {
				// What the broken connection has claimed is not known.
				c.s.queue.lose(c.lease)
				c.lease = c.s.queue.newLease()
				signal(c.s.health.trouble)
			}
			again = true
			b := newBatch()
			b.Queue(takeReady, endpoints, slots, by, c.s.nodes.id.Load(), c.lease)
			b.Queue(readyEndpoints)
			res, err := send(ctx, conn, b)
			if err != nil {
				return err
			}
			if taken, err = collectNext(res, scanHanded); err == nil {
				c.ready, err = collectNext(res, scanReady)
				c.ready = c.s.inbox.running(c.ready)
			}
			return errors.Join(err, res.Close())
		})
		if err != nil {
			return err
		}
		q := &c.s.queue
		for i := range taken {
			h := &taken[i]
			q.mu.Lock()
			l := h.leased
			q.claimed[l.n] = &l
			c.free[l.endpoint]--
			q.mu.Unlock()
			c.hand(h)
		}
		if len(taken) == 0 {
			// Other nodes are claiming them.
			return nil
		}
	}
}

// finish parks the endpoints that have no slots left, and returns when the next
// delivery is due.
func (c *claiming) finish(scanned bool) (next int64) {
	q := &c.s.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	for endpoint, free := range c.free {
		l := q.lanes[endpoint]
		if l == nil {
			continue
		}
		if _, limited := c.by[endpoint]; (free <= 0 || limited) && l.resumed == c.resumed[endpoint] {
			l.parked = true
		}
		q.settle(endpoint, l)
	}
	next = never
	if scanned {
		for _, e := range c.ready {
			if l := q.lanes[e.name]; l == nil || !l.parked {
				q.scanAt = min(q.scanAt, e.due)
			}
		}
	}
	next = min(next, q.scanAt)
	for _, l := range q.lanes {
		if !l.parked && len(l.waiting) > 0 {
			next = min(next, l.waiting[0].due)
		}
	}
	switch {
	case next == never:
		return 0
	case next == 0:
		return c.now
	}
	return next
}

// undo ends the claims of a call that fails.
func (c *claiming) undo() {
	q := &c.s.queue
	q.lose(c.lease)
	q.mu.Lock()
	var back []*leased
	for _, h := range c.out {
		l := q.claimed[h.N]
		delete(q.claimed, h.N)
		if l != nil && l.lease != c.lease {
			back = append(back, l)
		}
	}
	for _, l := range c.local {
		delete(q.claimed, l.n)
		back = append(back, l)
	}
	q.scanAt = 0
	q.mu.Unlock()
	q.put(back)
	signal(c.s.health.trouble)
}

// release ends the claim on a delivery, in the background.
func (s *Store) release(i *leased) {
	s.queue.mu.Lock()
	delete(s.queue.claimed, i.n)
	s.queue.mu.Unlock()
	if !s.jobs.TryAdd(s.releaseJob(i.prediction, i.n, i.owner, i.lease)) {
		s.queue.lose(i.lease)
	}
}

// releaseJob returns a job that ends the claim on a delivery.
func (s *Store) releaseJob(ref, n, owner, lease int64) *job {
	return &job{refs: []int64{ref}, do: func(u *unit) error {
		t, err := u.find(ref)
		if err != nil {
			return err
		}
		if d := t.claimed(n, owner, lease); d != nil {
			d.Claimed = false
			d.Changed |= ledger.Place
		}
		t.settle()
		return u.finish(t)
	}}
}

// claimed returns the delivery that is claimed with a lease, nil when it is not.
func (t *tracked) claimed(n, owner, lease int64) *delivery {
	for _, d := range t.Deliveries {
		if d.N == n && d.Claimed && d.Row.owner == owner && d.Row.lease == lease {
			return d
		}
	}
	return nil
}

// Postpone implements store.Queue.
func (s *Store) Postpone(ctx context.Context, d store.Delivery, due time.Time) error {
	return s.endClaim(ctx, &d, func(u *unit, t *tracked, d *delivery) error {
		if d.State == store.DeliveryPending {
			d.Due = s.toDatabase(due).UnixMilli()
		}
		return nil
	})
}

// SetApart implements store.Queue.
func (s *Store) SetApart(ctx context.Context, d store.Delivery) error {
	return s.endClaim(ctx, &d, func(_ *unit, t *tracked, row *delivery) error {
		if row.Row.in == nil {
			t.Wait(row, &d, true)
		}
		return nil
	})
}

// Holds implements store.Queue. What this node holds is another's once it
// has not been heard of for a lease, which may have gone by while the process
// was stopped.
func (s *Store) Holds(d store.Delivery) bool {
	claim := s.queue.held(d.N)
	return claim != nil && claim.owner == s.nodes.id.Load() && s.nodes.held()
}

// Complete implements store.Queue.
func (s *Store) Complete(ctx context.Context, o store.Outcome) error {
	return s.endClaim(ctx, &o.Delivery, func(u *unit, t *tracked, d *delivery) error {
		id, err := u.number()
		if err != nil {
			return err
		}
		u.attempts = append(u.attempts, attemptRow{id: id, delivery: d, prediction: t.Ref, Attempt: o.Attempt})
		due := s.toDatabase(o.Due).UnixMilli()
		if d.Row.in != nil {
			t.line(d).Complete(&u.tx, d, &o, due)
		} else {
			t.Complete(&u.tx, d, &o, due)
		}
		return nil
	})
}

// endClaim ends a claim. If it is this node's still, f changes the delivery.
func (s *Store) endClaim(ctx context.Context, c *store.Delivery, f func(*unit, *tracked, *delivery) error) error {
	claim := s.queue.held(c.N)
	if claim == nil {
		return s.closed()
	}
	return s.commit(ctx, &job{
		refs: []int64{c.Prediction},
		do: func(u *unit) error {
			u.ended = append(u.ended, claim)
			t, err := u.find(c.Prediction)
			if err != nil {
				return nil //nolint:nilerr // it was deleted, and the claim with it
			}
			d := t.claimed(claim.n, claim.owner, claim.lease)
			if d == nil {
				return nil
			}
			d.Claimed = false
			d.Changed |= ledger.Place
			if err := f(u, t, d); err != nil {
				return err
			}
			t.settle()
			return u.finish(t)
		},
	})
}
