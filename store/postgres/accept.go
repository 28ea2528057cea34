package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/claims"
	"github.com/caddy-replicate/replicate-webhook/store/internal/ledger"
)

// acceptance is what becomes of the events of a claim that is committed.
type acceptance struct {
	// refused is why nothing of the claim was stored, or nil.
	refused error
	// waiting reports that one of the events waits from now on.
	waiting bool
}

// accepting returns the acceptance of a claim that is to be committed, nil where it
// has no events.
func accepting(c *claims.Claim) *acceptance {
	if len(c.Events) == 0 {
		return nil
	}
	return new(acceptance)
}

func (a *acceptance) isRefused() bool { return a != nil && a.refused != nil }
func (a *acceptance) waits() bool     { return a != nil && a.waiting }

// numbered is the number that an event has had since a transaction tried to store it:
// if it is not known whether that was committed, a later one finds out by the number.
type numbered struct {
	n, nonce int64
	// expires is when the entry expires.
	expires int64
}

// errElsewhere reports that another node has committed one of a claim's keys, after it
// took this node for gone.
var errElsewhere = fmt.Errorf("%w: another node has committed the event meanwhile", store.ErrUnavailable)

// storing settles claims of which some have events, and stores these.
type storing struct {
	*settling
	inbox *inbox
	u     *unit

	keys    [][16]byte // of claims with events
	tried   []int64    // numbers of events that may be stored
	wanted  int        // how many numbers may be needed
	known   map[[16]byte]bool
	stored  map[int64]bool
	numbers []int64
	handled map[*store.Inbound]bool
	exact   map[string]bool // scopes whose usage was read in the transaction
}

const findEvents = "SELECT n FROM webhook_deliveries WHERE n = ANY($1::bigint[])"

// settle ends claims and stores their events with their entries.
func (g *storing) settle(ctx context.Context, conn *pgx.Conn) error {
	g.known, g.stored, g.handled, g.exact = make(map[[16]byte]bool), make(map[int64]bool), make(map[*store.Inbound]bool), make(map[string]bool)
	g.u = g.inbox.s.newUnit(ctx, conn)
	g.u.storing = g
	return g.u.run(func(*unit) error { return g.run() })
}

func (g *storing) run() error {
	var orders []int64
	recorded := 0
	for _, x := range g.group {
		if x.accepted == nil {
			continue
		}
		*x.accepted = acceptance{}
		for _, k := range x.claim.Entry.Keys {
			g.keys = append(g.keys, k)
		}
		for _, ev := range x.claim.Events {
			if number := ledger.OrderNumber(ev.Scope, ev.PredictionID, ev.Ordered); ledger.IsOrdered(number) {
				orders = append(orders, number)
			}
			if ev.Recorded != nil {
				recorded++
			}
			if n := g.inbox.number(ev); n != nil {
				g.tried = append(g.tried, n.n)
			} else {
				g.wanted++
			}
		}
	}
	if err := g.u.load(orders, nil, recorded, true); err != nil {
		return err
	}
	for _, x := range g.group {
		if x.accepted == nil {
			continue
		}
		if err := g.accept(x); err != nil {
			return err
		}
	}
	g.committed = g.rows.collect(g.group)
	return nil
}

// ask queues what is read before the events are stored, after the locks.
func (g *storing) ask(b *pgx.Batch) {
	b.Queue(findEntries, g.keys, g.u.tx.Now)
	b.Queue(findEvents, g.tried)
	b.Queue(nextEventNumbers, g.wanted)
}

func (g *storing) receive(res pgx.BatchResults) error {
	keys, err := collectNext(res, pgx.RowTo[[16]byte])
	if err != nil {
		return err
	}
	for _, k := range keys {
		g.known[k] = true
	}
	stored, err := collectNext(res, pgx.RowTo[int64])
	if err != nil {
		return err
	}
	for _, n := range stored {
		g.stored[n] = true
	}
	g.numbers, err = collectNext(res, pgx.RowTo[int64])
	return err
}

// accept stores the events of a claim that are not stored yet. It stores none when
// one of them has no room.
func (g *storing) accept(x settlement) error {
	c := x.claim
	var fresh []*store.Inbound
	for _, ev := range c.Events {
		if n := g.inbox.number(ev); g.inbox.idOf(ev) == "" && !g.handled[ev] && (n == nil || !g.stored[n.n]) {
			fresh = append(fresh, ev)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	if slices.ContainsFunc(c.Entry.Keys, func(k store.Key) bool { return g.known[k] }) {
		x.accepted.refused = errElsewhere
		return nil
	}
	if err := g.makeRoom(fresh); err != nil {
		if errors.Is(err, store.ErrInboxFull) {
			x.accepted.refused = err
			return nil
		}
		return err
	}
	expires, keys := c.Entry.Expires.UnixMilli(), make([][16]byte, len(c.Entry.Keys))
	for i, k := range c.Entry.Keys {
		keys[i] = k
	}
	if len(keys) == 0 {
		expires = never
	}
	for _, ev := range fresh {
		n := g.inbox.number(ev)
		if n == nil {
			n = &numbered{n: g.numbers[0], nonce: newNonce(), expires: expires}
			g.numbers = g.numbers[1:]
			g.inbox.setNumber(ev, n)
		}
		if err := g.u.accept(ev, n.n, n.nonce, expires, keys); err != nil {
			return err
		}
		g.handled[ev] = true
		x.accepted.waiting = x.accepted.waiting || ev.Recorded == nil
	}
	return nil
}

// makeRoom finds room for events of one scope, and deletes the heads and bodies of
// ended ones for it.
func (g *storing) makeRoom(events []*store.Inbound) error {
	scope := events[0].Scope
	if !slices.ContainsFunc(events, func(ev *store.Inbound) bool { return ev.MaxEvents > 0 || ev.MaxBytes > 0 }) {
		return nil
	}
	if !g.inbox.usageKnown(scope) {
		if err := g.readUsage(scope); err != nil {
			return err
		}
	}
	free, err := g.room(scope, events)
	if (err != nil || free > 0) && !g.exact[scope] {
		// What other nodes have changed is not known to the byte.
		if err := g.readUsage(scope); err != nil {
			return err
		}
		free, err = g.room(scope, events)
	}
	if err != nil || free == 0 {
		return err
	}
	return g.evict(scope, free)
}

func (g *storing) readUsage(scope string) error {
	g.exact[scope] = true
	return g.inbox.readUsage(g.u.ctx, g.u.conn, scope)
}

// room returns how many bytes of ended events are to be deleted to make room for
// events. The error is store.ErrInboxFull.
func (g *storing) room(scope string, events []*store.Inbound) (free int64, err error) {
	usage := g.inbox.usageOf(scope)
	if t := g.u.counts[scope]; t != nil {
		usage.Waiting += t.events[store.DeliveryPending]
		usage.Bytes += t.bytes
		usage.Ended += t.ended
	}
	return usage.RoomFor(events)
}

// evictBatch is how many events are read at a time to make room.
const evictBatch = 64

const (
	findEnded = `SELECT n, size FROM webhook_inbound WHERE scope = $1 AND ended <> 0 AND size > 0 ORDER BY scope, ended, n LIMIT $2 FOR UPDATE SKIP LOCKED`
	dropHeads = "UPDATE webhook_inbound SET head = NULL, size = 0 WHERE n = ANY($1)"
	dropBody  = "DELETE FROM webhook_payloads WHERE n = ANY($1)"
)

// evict deletes the heads and bodies of events that ended, the first of them first,
// until so many bytes are free.
func (g *storing) evict(scope string, bytes int64) error {
	u := g.u
	for bytes > 0 {
		type sized struct{ N, Size int64 }
		rows, err := u.conn.Query(u.ctx, findEnded, scope, evictBatch)
		if err != nil {
			return err
		}
		ended, err := pgx.CollectRows(rows, pgx.RowToStructByPos[sized])
		if err != nil {
			return err
		}
		if len(ended) == 0 {
			return nil // other nodes are deleting them: the bound is exceeded by that
		}
		var gone []int64
		for _, e := range ended {
			if bytes <= 0 {
				break
			}
			gone = append(gone, e.N)
			t := u.tally(scope)
			t.bytes, t.ended, bytes = t.bytes-e.Size, t.ended-e.Size, bytes-e.Size
		}
		var b pgx.Batch
		b.Queue(dropHeads, gone)
		b.Queue(dropBody, gone)
		if err := u.conn.SendBatch(u.ctx, &b).Close(); err != nil {
			return err
		}
	}
	return nil
}

// settled ends a claim with events, in memory.
func (b *inbox) settled(x settlement, err error) error {
	c := x.claim
	b.mu.Lock()
	for _, ev := range c.Events {
		n := b.numbers[ev]
		stored := err == nil && x.accepted.refused == nil
		if stored && ev.ID == "" {
			ev.ID = ledger.EventID(n.n, n.nonce)
		}
		if stored || len(c.Entry.Keys) == 0 || x.accepted.refused != nil {
			delete(b.numbers, ev)
		}
	}
	b.mu.Unlock()
	switch {
	case err != nil:
		return err
	case errors.Is(x.accepted.refused, store.ErrInboxFull):
		return x.accepted.refused
	}
	c.Committed()
	return x.accepted.refused
}

// number returns the number of an event, nil while it has none.
func (b *inbox) number(ev *store.Inbound) *numbered {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.numbers[ev]
}

func (b *inbox) setNumber(ev *store.Inbound, n *numbered) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.numbers[ev] = n
}

// idOf returns the ID of an event that is stored.
func (b *inbox) idOf(ev *store.Inbound) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return ev.ID
}

// expire forgets the numbers of events whose claims have expired.
func (b *inbox) expire(now int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for ev, n := range b.numbers {
		if n.expires <= now {
			delete(b.numbers, ev)
		}
	}
}
