package sqlite

import (
	"database/sql"
	"errors"
	"math"
	"math/rand/v2"

	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/claims"
	"github.com/caddy-replicate/replicate-webhook/store/internal/ledger"
)

// eventWrites writes the inbound events of a group, and what is stored of inboxes.
type eventWrites struct{ g *group }

// accept stores the events of a claim that are not stored yet, and returns the IDs of
// all. It stores none when one of them has no room.
func (w *eventWrites) accept(c *claims.Claim) (ids []string, err error) {
	if len(c.Events) == 0 {
		return nil, nil
	}
	box, err := w.box(c.Entry.Scope)
	if err != nil {
		return nil, err
	}
	var fresh []*store.Inbound
	for _, ev := range c.Events {
		if ev.ID == "" && w.g.accepts[ev] == "" {
			fresh = append(fresh, ev)
		}
	}
	free, err := box.usage().RoomFor(fresh)
	if err != nil {
		return nil, err
	}
	if err := w.evict(box, free); err != nil {
		return nil, err
	}
	// Without a key there is no entry to keep.
	expires := int64(math.MaxInt64)
	if len(c.Entry.Keys) > 0 {
		expires = c.Entry.Expires.UnixMilli()
	}
	for _, ev := range c.Events {
		id := ev.ID
		if id == "" {
			id = w.g.accepts[ev]
		}
		if id == "" {
			if id, err = w.insertEvent(box, ev, expires); err != nil {
				return nil, err
			}
			set(&w.g.accepts, ev, id)
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// insertEvent adds an event, whose entry expires at a time.
func (w *eventWrites) insertEvent(box *boxChange, ev *store.Inbound, expires int64) (id string, err error) {
	w.g.w.lastEvent++
	n, nonce := w.g.w.lastEvent, int64(rand.Uint64())
	number := ledger.OrderNumber(ev.Scope, ev.PredictionID, ev.Ordered)
	if number == 0 {
		number = ledger.LoneNumber(n)
	}
	var line ledger.Line[row]
	d := line.Accept(w.g.ledger(), ev)
	id, size := ledger.EventID(n, nonce), ledger.Size(ev)
	box.count(d.State, size, 1)
	if ev.Recorded != nil {
		expires = 0
		if ev.KeepFor > 0 {
			expires = w.g.now() + ev.KeepFor.Milliseconds()
		}
	}
	if err := errors.Join(
		w.g.exec("INSERT INTO deliveries (n, nonce, prediction, event, redelivery, state, attempts, due, created, scope, name, size, expires) VALUES (?, ?, ?, 0, 0, ?, ?, ?, ?, ?, ?, ?, ?)",
			n, nonce, number, d.State, d.Attempts, d.Due, w.g.now(), box.box.id, ev.Name, size, expires),
		w.g.exec("INSERT INTO inbound (n, prediction, since, overtaken, recorded, head, body) VALUES (?, ?, ?, 0, ?, ?, ?)",
			n, ev.PredictionID, d.Since, ev.Recorded != nil, blob(ev.Head), blob(ev.Body)),
	); err != nil {
		return "", err
	}
	if ev.Recorded != nil {
		return id, w.g.insertAttempt(number, n, 0, ev.Recorded)
	}
	box.waits(n, expires)
	in := *ev
	in.ID = id
	i := &item{n: n, due: w.g.at, prediction: number, extra: &extra{lane: d.Lane, fresh: &store.Delivery{
		ID: id, N: n, Payload: ev.Body, CreatedAt: timeOf(w.g.now()), Inbound: &in, WaitingSince: timeOf(d.Since),
	}}}
	w.g.accepted = append(w.g.accepted, i)
	return id, nil
}

// blob returns b as it is stored: NULL is for what was deleted.
func blob(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// evictBatch is how many events are read at a time to make room.
const evictBatch = 64

// evict deletes the heads and bodies of events that ended, the first of them first,
// until so many bytes are free.
func (w *eventWrites) evict(box *boxChange, bytes int64) error {
	for bytes > 0 {
		ended, err := w.pairs("SELECT n, size FROM deliveries INDEXED BY deliveries_sized WHERE scope = ? AND size > 0 AND state <> 0 ORDER BY due LIMIT ?", box.box.id, evictBatch)
		if err != nil {
			return err
		}
		if len(ended) == 0 {
			return errors.New("fewer bytes of ended events are stored than were counted")
		}
		for _, e := range ended {
			if bytes <= 0 {
				break
			}
			n, size := e[0], e[1]
			if err := errors.Join(
				w.g.exec("UPDATE inbound SET head = NULL, body = NULL WHERE n = ?", n),
				w.g.exec("UPDATE deliveries SET size = 0 WHERE n = ?", n),
			); err != nil {
				return err
			}
			box.bytes, box.ended, bytes = box.bytes-size, box.ended-size, bytes-size
		}
	}
	return nil
}

// pairs reads two columns of numbers.
func (w *eventWrites) pairs(query string, args ...any) (out [][2]int64, err error) {
	rows, err := w.g.query(query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var p [2]int64
		if err := rows.Scan(&p[0], &p[1]); err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, rows.Err()
}

// events returns the entry of the inbound events of an order number.
func (w *eventWrites) events(number int64) *tracked {
	if e := w.g.byRef[number]; e != nil {
		return e
	}
	return w.g.remember(&tracked{Entry: ledger.Entry[row]{Prediction: store.Prediction{Ref: number}}, partial: true})
}

// completeEvent writes the outcome of an attempt at an event.
func (w *eventWrites) completeEvent(e *tracked, i *item, d *delivery, o *store.Outcome) error {
	var line ledger.Line[row]
	q := w.g.w.queue
	q.mu.Lock()
	q.before(i, func(o *item) { line = append(line, w.g.addItem(e, o)) })
	q.mu.Unlock()
	d.Refusals = o.Delivery.Refusals
	append(line, d).Complete(w.g.ledger(), d, o, d.Row.due)
	return w.g.write(e)
}

// storedEvent is a row of an event for an operator.
type storedEvent struct {
	number          int64
	scope           string
	recorded, whole bool
}

// event returns an event with its entry. ErrNotFound.
func (w *eventWrites) event(id string) (*tracked, *delivery, *storedEvent, error) {
	n, nonce, ok := ledger.ParseEventID(id)
	if !ok {
		return nil, nil, nil, store.ErrNotFound
	}
	stmt, err := w.g.stmt(`SELECT d.prediction, d.state, d.attempts, d.due, d.refusals, d.redelivery, d.scope, b.overtaken, b.since, b.recorded, b.body IS NOT NULL
		FROM deliveries d JOIN inbound b ON b.n = d.n WHERE d.n = ? AND d.nonce = ?`)
	if err != nil {
		return nil, nil, nil, err
	}
	read := delivery{N: n}
	var s storedEvent
	var scope int64
	err = stmt.QueryRow(n, nonce).Scan(&s.number, &read.State, &read.Attempts, &read.Due, &read.Refusals, &read.Redelivery, &scope, &read.Overtaken, &read.Since, &s.recorded, &s.whole)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil, nil, store.ErrNotFound
	}
	if err != nil {
		return nil, nil, nil, err
	}
	s.scope = w.boxOf(scope).box.scope
	e := w.events(s.number)
	q := w.g.w.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	d := e.delivery(n)
	switch i := q.items[n]; {
	case d != nil:
	case i != nil:
		d = w.g.addItem(e, i)
	default:
		d = &read
		d.Row.state = d.State
		e.Deliveries = append(e.Deliveries, d)
	}
	d.Refusals, d.Overtaken, d.Since, d.Redelivery = read.Refusals, read.Overtaken, read.Since, read.Redelivery
	d.Lane = store.InboxLane(s.scope)
	return e, d, &s, nil
}

// writeEvent writes what an operation has changed of an event.
func (w *eventWrites) writeEvent(d *delivery) error {
	changed := d.Changed
	d.Row.changed |= changed
	d.Changed = 0
	if changed.Has(ledger.Mark) {
		if err := w.g.exec("UPDATE inbound SET overtaken = ? WHERE n = ?", d.Overtaken, d.N); err != nil {
			return err
		}
	}
	if changed.Has(ledger.Replayed) {
		w.g.w.lastEvent++
		d.Row.place = w.g.w.lastEvent
		if err := errors.Join(
			w.g.exec("UPDATE inbound SET since = ? WHERE n = ?", d.Since, d.N),
			// Its entry may have been purged: none is kept for it.
			w.g.exec("UPDATE deliveries SET redelivery = 1, place = ?, expires = ? WHERE n = ?", d.Row.place, int64(math.MaxInt64), d.N),
		); err != nil {
			return err
		}
	}
	if !changed.Has(ledger.Outcome) {
		return nil
	}
	stmt, err := w.g.stmt("UPDATE deliveries SET state = ?1, attempts = ?2, due = ?3, refusals = ?4, expires = iif(?1 = 0, expires, 0) WHERE n = ?5 RETURNING scope, size, expires")
	if err != nil {
		return err
	}
	var scope, size, expires int64
	err = stmt.QueryRow(d.State, d.Attempts, d.Due, d.Refusals, d.N).Scan(&scope, &size, &expires)
	if errors.Is(err, sql.ErrNoRows) {
		return nil // it was deleted: a discarded one during its last attempt
	}
	if err == nil && d.State != d.Row.state {
		box := w.boxOf(scope)
		box.count(d.Row.state, size, -1)
		box.count(d.State, size, 1)
		if d.State == store.DeliveryPending {
			box.waits(d.N, expires)
		}
	}
	d.Row.state = d.State
	return err
}

// replay adds an event that was replayed to the queue, and reports whether it is
// there. old is what the queue has of it from before. The caller holds the queue's
// mutex.
func (w *eventWrites) replay(e *tracked, d *delivery, old *item) bool {
	q := w.g.w.queue
	if old != nil {
		if old.claimed {
			q.unclaim(old)
		}
		q.remove(old)
	}
	if d.State != store.DeliveryPending {
		return false
	}
	if t := q.tails[d.Lane]; t == nil || d.Row.place <= t.after {
		q.add(&item{n: d.N, due: w.g.at, prediction: e.Ref, attempts: int32(d.Attempts), redelivery: true}, d.Lane)
	}
	return true
}
