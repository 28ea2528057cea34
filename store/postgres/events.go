package postgres

import (
	"cmp"
	"errors"
	"hash/fnv"
	"math/rand/v2"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/ledger"
)

// The inbound events of an order number are a [ledger.Line]. Whoever changes one
// holds the lock of its order until the end of the transaction. Of the events of a
// line that may go, all but the first that is due are held, too. So at most one row
// of a line can be claimed, and nodes claim without the lock.

const (
	lockOrders = "SELECT pg_advisory_xact_lock(k) FROM unnest($1::bigint[]) k"
	// lockEvents is a statement of its own, that sees what was committed before
	// the locks were held.
	lockEvents = "SELECT " + deliveryColumns + `, i.scope, i.recorded, i.refusals, i.overtaken, i.place, i.since, i.expires, i.size, i.keys
		FROM webhook_deliveries d ` + joinInbound + `
		WHERE d.prediction = ANY($1) AND (d.state = 0 OR d.owner <> 0) FOR UPDATE OF d`
	// joinInbound joins what an event has beside its row d of deliveries. The limit
	// makes the server use the index.
	joinInbound = "CROSS JOIN LATERAL (SELECT * FROM webhook_inbound i WHERE i.n = d.n LIMIT 1) i"
	// readEvent reads an event whose lock is held, whether or not it waits.
	readEvent = "SELECT " + deliveryColumns + `, i.scope, i.recorded, i.refusals, i.overtaken, i.place, i.since, i.expires, i.size, i.keys
		FROM webhook_deliveries d ` + joinInbound + ` WHERE d.n = $1 AND d.nonce = $2 FOR UPDATE OF d`
	nextEventNumbers = "SELECT nextval('webhook_event_numbers') FROM generate_series(1, $1)"
	insertEvents     = `INSERT INTO webhook_inbound (n, scope, name, prediction, refusals, overtaken, recorded, place, since, ended, expires, size, keys, head)
		SELECT n, scope, name, prediction, 0, false, recorded, n, since, ended, expires, size, ARRAY(SELECT k.key FROM unnest($11::bigint[], $12::uuid[]) AS k (n, key) WHERE k.n = j.n), head
		FROM unnest($1::bigint[], $2::text[], $3::bytea[], $4::bytea[], $5::boolean[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bytea[])
			AS j (n, scope, name, prediction, recorded, since, ended, expires, size, head)`
	// updateEvents finds each row by its key, where an UPDATE that joins could read
	// the whole table.
	updateEvents = `UPDATE webhook_inbound SET refusals = ($2::integer[])[array_position($1::bigint[], n)], overtaken = ($3::boolean[])[array_position($1::bigint[], n)],
		place = ($4::bigint[])[array_position($1::bigint[], n)], since = ($5::bigint[])[array_position($1::bigint[], n)],
		ended = ($6::bigint[])[array_position($1::bigint[], n)], expires = ($7::bigint[])[array_position($1::bigint[], n)] WHERE n = ANY($1::bigint[])`
	replayEvents = "UPDATE webhook_deliveries SET redelivery = true WHERE n = ANY($1)"
	// expireEntries makes the entries of events that have ended expire again. Rows
	// are locked in the order of their keys.
	expireEntries = `UPDATE webhook_dedup SET expires = ($2::bigint[])[array_position($1::uuid[], key)]
		WHERE key = ANY(ARRAY(SELECT key FROM webhook_dedup WHERE key = ANY($1::uuid[]) AND expires + 0 = 9223372036854775807 ORDER BY key FOR UPDATE))`
	insertCounts = `INSERT INTO webhook_inbox_counts (scope, waiting, accepted, failed, discarded, refused, bytes, ended)
		SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[])`
)

// orderLocks is how many locks the orders share. Each is an entry of a table of the
// server, which has room for a few thousand.
const orderLocks = 1024

// locks returns the numbers of the locks of orders, in the order in which they are to
// be taken. Events that are not ordered need none.
func (b *inbox) locks(orders []int64) []int64 {
	// Stores in other schemas of the database have other locks.
	h := fnv.New32a()
	_, _ = h.Write([]byte(b.s.channel))
	base := int64(h.Sum32()) * orderLocks
	out := []int64{}
	for _, o := range orders {
		if ledger.IsOrdered(o) {
			out = append(out, base+(o>>1)&(orderLocks-1))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// splitRefs splits what jobs name into predictions and orders of events.
func splitRefs(all []int64) (refs, orders []int64) {
	refs = []int64{}
	for _, ref := range all {
		if ledger.IsInbound(ref) {
			orders = append(orders, ref)
		} else {
			refs = append(refs, ref)
		}
	}
	return refs, orders
}

// inboundRow is what an event has beside its row of deliveries.
type inboundRow struct {
	scope          string
	recorded       bool
	place, expires int64
	size           int64
	keys           [][16]byte
	// was is the state that is stored.
	was store.DeliveryState
	// fresh is the event itself where it is not stored yet.
	fresh *store.Inbound
}

func (u *unit) receiveEvents(res pgx.BatchResults, orders []int64) error {
	if _, err := res.Exec(); err != nil {
		return err
	}
	fresh := make(map[int64]*tracked)
	for _, o := range orders {
		if u.byRef[o] == nil {
			fresh[o] = u.order(o)
		}
	}
	rows, err := res.Query()
	if err != nil {
		return err
	}
	for rows.Next() {
		d, number, err := scanEvent(rows)
		if err != nil {
			rows.Close()
			return err
		}
		if t := fresh[number]; t != nil {
			t.Deliveries = append(t.Deliveries, d)
		}
	}
	for _, t := range fresh {
		t.sort()
	}
	return rows.Err()
}

// order returns the events of an order number, which were read unless there are
// none.
func (u *unit) order(number int64) *tracked {
	t := u.byRef[number]
	if t == nil {
		t = &tracked{Entry: ledger.Entry[row]{Prediction: store.Prediction{Ref: number}}}
		u.byRef[number] = t
	}
	return t
}

func scanEvent(rows pgx.Row) (d *delivery, number int64, err error) {
	var in inboundRow
	var more eventScanner
	more.Row, more.in = rows, &in
	d, number, err = scanDelivery(&more)
	if err == nil {
		d.Refusals, d.Overtaken, d.Since = more.refusals, more.overtaken, more.since
		in.was, d.Row.in = d.State, &in
	}
	return d, number, err
}

// eventScanner is a row of deliveryColumns with those of an event behind them.
type eventScanner struct {
	pgx.Row
	in        *inboundRow
	refusals  int
	overtaken bool
	since     int64
}

func (r *eventScanner) Scan(targets ...any) error {
	in := r.in
	return r.Row.Scan(append(targets, &in.scope, &in.recorded, &r.refusals, &r.overtaken, &in.place, &r.since, &in.expires, &in.size, &in.keys)...)
}

func (t *tracked) sort() {
	slices.SortFunc(t.Deliveries, func(a, b *delivery) int { return cmp.Compare(a.Row.in.place, b.Row.in.place) })
}

// line returns the line that an event is in.
func (t *tracked) line(d *delivery) ledger.Line[row] {
	if ledger.IsOrdered(t.Ref) {
		return t.Deliveries
	}
	return ledger.Line[row]{d}
}

// settle holds what has to wait for others, and lets go what has not, after a claim
// ended or a due time was changed.
func (t *tracked) settle() {
	switch {
	case !ledger.IsInbound(t.Ref):
		t.Settle()
	case ledger.IsOrdered(t.Ref):
		ledger.Line[row](t.Deliveries).Settle()
	}
}

// narrow holds all events of a line that may go but the first that is due.
func (t *tracked) narrow() {
	if !ledger.IsOrdered(t.Ref) {
		return
	}
	free := func(d *delivery) bool { return d.State == store.DeliveryPending && !d.Claimed && !d.Held }
	var first *delivery
	for _, d := range t.Deliveries {
		if free(d) && (first == nil || d.Due < first.Due) {
			first = d
		}
	}
	for _, d := range t.Deliveries {
		if free(d) && d != first {
			d.Held = true
			d.Changed |= ledger.Order
		}
	}
}

// tally is what a transaction changes of the numbers of a scope's events by state,
// the bytes of their heads and bodies, and how many of them are of ended events.
type tally struct {
	events       [len(store.InboxState{}.Events)]int64
	bytes, ended int64
}

// count counts events of a state and their bytes.
func (t *tally) count(state store.DeliveryState, n, bytes int64) {
	t.events[state] += n
	t.bytes += bytes
	if state != store.DeliveryPending {
		t.ended += bytes
	}
}

// tally returns what the transaction changes of the inbox of a scope.
func (u *unit) tally(scope string) *tally {
	t := u.counts[scope]
	if t == nil {
		t = new(tally)
		if u.counts == nil {
			u.counts = make(map[string]*tally)
		}
		u.counts[scope] = t
	}
	return t
}

// accept adds an event with its number, of an entry that expires then.
func (u *unit) accept(ev *store.Inbound, n, nonce, expires int64, keys [][16]byte) error {
	number := ledger.OrderNumber(ev.Scope, ev.PredictionID, ev.Ordered)
	if number == 0 {
		number = ledger.LoneNumber(n)
	}
	t := u.order(number)
	var line ledger.Line[row]
	if ledger.IsOrdered(number) {
		line = t.Deliveries
	}
	d := line.Accept(&u.tx, ev)
	d.N, d.Payload = n, ev.Body
	d.Row.nonce, d.Row.created = nonce, u.tx.Now
	d.Row.in = &inboundRow{scope: ev.Scope, recorded: ev.Recorded != nil, place: n, expires: expires, size: ledger.Size(ev), keys: keys, was: d.State, fresh: ev}
	u.tally(ev.Scope).count(d.State, 1, d.Row.in.size)
	t.Deliveries = append(t.Deliveries, d)
	if ledger.IsOrdered(number) && ev.Recorded == nil {
		t.Deliveries = line
		t.sort() // its number may be an earlier one, of a commit that failed
		t.settle()
	}
	if ev.Recorded != nil {
		if d.Row.in.expires, d.Row.in.keys = 0, nil; ev.KeepFor > 0 {
			d.Row.in.expires = u.tx.Now + ev.KeepFor.Milliseconds()
		}
		id, err := u.number()
		if err != nil {
			return err
		}
		u.attempts = append(u.attempts, attemptRow{id: id, delivery: d, prediction: number, Attempt: *ev.Recorded})
	}
	return u.finish(t)
}

// event returns an event by its number. ErrNotFound.
func (u *unit) event(number, n, nonce int64) (*tracked, *delivery, error) {
	t := u.order(number)
	for _, d := range t.Deliveries {
		if d.N == n {
			return t, d, nil
		}
	}
	d, found, err := scanEvent(u.conn.QueryRow(u.ctx, readEvent, n, nonce))
	if errors.Is(err, pgx.ErrNoRows) || err == nil && found != number {
		return nil, nil, store.ErrNotFound
	}
	if err != nil {
		return nil, nil, err
	}
	t.Deliveries = append(t.Deliveries, d)
	return t, d, nil
}

// newNonce returns the nonce of a new event.
func newNonce() int64 { return int64(rand.Uint64()) }

// eventRows are what events have beside their rows of deliveries, by column.
type eventRows struct {
	n, since, ended, expires, size, place, keyed []int64
	scope                                        []string
	name, prediction, head                       [][]byte
	keys                                         [][16]byte
	recorded, overtaken                          []bool
	refusals                                     []int32
}

// endedAt returns when an event ended, 0 while it waits.
func endedAt(d *delivery) int64 {
	if d.State == store.DeliveryPending {
		return 0
	}
	return d.Due
}

func (r *eventRows) add(d *delivery) {
	in := d.Row.in
	r.n = append(r.n, d.N)
	r.since = append(r.since, d.Since)
	r.ended = append(r.ended, endedAt(d))
	r.expires = append(r.expires, in.expires)
	if ev := in.fresh; ev != nil && d.Fresh {
		r.size = append(r.size, in.size)
		r.scope = append(r.scope, ev.Scope)
		r.name = append(r.name, []byte(ev.Name))
		r.prediction = append(r.prediction, []byte(ev.PredictionID))
		r.head = append(r.head, orEmpty(ev.Head))
		r.recorded = append(r.recorded, in.recorded)
		for _, k := range in.keys {
			r.keyed = append(r.keyed, d.N)
			r.keys = append(r.keys, k)
		}
		return
	}
	r.place = append(r.place, in.place)
	r.overtaken = append(r.overtaken, d.Overtaken)
	r.refusals = append(r.refusals, int32(d.Refusals))
}

// queueEvents queues what events have beside their rows of deliveries.
func (u *unit) queueEvents(b *pgx.Batch) {
	var fresh, dirty eventRows
	var replayed, expires []int64
	var keys [][16]byte
	for _, t := range u.touched {
		if !ledger.IsInbound(t.Ref) {
			continue
		}
		for _, d := range t.Deliveries {
			in := d.Row.in
			if d.Fresh {
				fresh.add(d)
				continue
			}
			if !d.Changed.Has(ledger.Outcome | ledger.Mark | ledger.Replayed) {
				continue
			}
			if d.State != in.was {
				u.tally(in.scope).count(in.was, -1, -in.size)
				u.tally(in.scope).count(d.State, 1, in.size)
			}
			if in.was == store.DeliveryPending && d.State != store.DeliveryPending {
				for _, k := range in.keys {
					keys, expires = append(keys, k), append(expires, in.expires)
				}
				in.expires = 0
			}
			if d.Changed.Has(ledger.Replayed) {
				replayed = append(replayed, d.N)
			}
			dirty.add(d)
		}
	}
	if len(fresh.n) > 0 {
		b.Queue(insertEvents, fresh.n, fresh.scope, fresh.name, fresh.prediction, fresh.recorded, fresh.since, fresh.ended, fresh.expires, fresh.size, fresh.head, fresh.keyed, fresh.keys)
	}
	if len(dirty.n) > 0 {
		b.Queue(updateEvents, dirty.n, dirty.refusals, dirty.overtaken, dirty.place, dirty.since, dirty.ended, dirty.expires)
	}
	if len(replayed) > 0 {
		b.Queue(replayEvents, replayed)
	}
	if len(keys) > 0 {
		b.Queue(expireEntries, keys, expires)
	}
	u.queueCounts(b)
}

func (u *unit) queueCounts(b *pgx.Batch) {
	if len(u.counts) == 0 {
		return
	}
	var scopes []string
	var columns [7][]int64
	for scope, t := range u.counts {
		scopes = append(scopes, scope)
		e := &t.events
		for i, v := range []int64{e[store.DeliveryPending], e[store.DeliveryDelivered], e[store.DeliveryFailed], e[store.DeliveryCanceled], e[store.DeliveryRefused], t.bytes, t.ended} {
			columns[i] = append(columns[i], v)
		}
	}
	b.Queue(insertCounts, scopes, columns[0], columns[1], columns[2], columns[3], columns[4], columns[5], columns[6])
}
