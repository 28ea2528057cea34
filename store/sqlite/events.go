package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/ledger"
)

// selectEvents reads up to readBatch inbound events by their numbers.
var selectEvents = "SELECT " + eventColumns + ", b.head, b.body FROM deliveries d JOIN inbound b ON b.n = d.n WHERE d.n IN (?" + strings.Repeat(", ?", readBatch-1) + ")"

// eventColumns is what scanEvent reads.
const eventColumns = "d.n, d.nonce, d.prediction, d.created, d.scope, d.name, d.refusals, d.redelivery, b.prediction, b.since, b.overtaken"

// scanEvent reads an event, and more columns behind those of an event.
func (s *Store) scanEvent(rows *sql.Rows, more ...any) (*store.Delivery, error) {
	d := &store.Delivery{Inbound: new(store.Inbound)}
	in := d.Inbound
	var nonce, created, scope, since int64
	if err := rows.Scan(append([]any{&d.N, &nonce, &d.Prediction, &created, &scope, &in.Name, &d.Refusals, &d.Replay, &in.PredictionID, &since, &d.Overtaken}, more...)...); err != nil {
		return nil, err
	}
	d.ID = ledger.EventID(d.N, nonce)
	in.ID, in.Scope, in.Ordered = d.ID, s.inbox.boxes.scope(scope), ledger.IsOrdered(d.Prediction)
	d.PredictionID, d.CreatedAt, d.WaitingSince = in.PredictionID, timeOf(created), timeOf(since)
	return d, nil
}

func (s *Store) scanEvents(rows *sql.Rows, into map[int64]*stored) error {
	defer rows.Close()
	for rows.Next() {
		var head, body []byte
		d, err := s.scanEvent(rows, &head, &body)
		if err != nil {
			return err
		}
		if d.Inbound.Head, d.Inbound.Body, d.Payload = head, body, body; body == nil {
			continue // it is damaged: what waits is never deleted
		}
		into[d.N] = &stored{Delivery: *d}
	}
	return rows.Err()
}

// waitingEvent is an event that is read at opening.
type waitingEvent struct {
	item
	scope, expires, place int64
}

// loadEvents reads which inbound events wait, in the order of their lines. now and
// shift are those of loadQueue.
func (s *Store) loadEvents(now, shift int64) error {
	replayed, err := s.loadReplayed()
	if err != nil {
		return err
	}
	add := func(e *waitingEvent) (err error) {
		if e.due > now {
			if e.due, err = s.waiting(e.n, e.prediction, e.due, e.attempts, now); err != nil {
				return err
			}
		}
		i := e.item
		i.due += shift
		s.queue.lastPlace = max(s.queue.lastPlace, e.place)
		s.queue.add(&i, s.inbox.boxes.waits(e.scope, e.expires))
		return nil
	}
	rows, err := s.db.Query("SELECT n, due, prediction, attempts, refusals, scope, expires FROM deliveries INDEXED BY deliveries_pending WHERE state = 0 AND redelivery = 0 AND n >= " + firstEventText + " ORDER BY n")
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var e waitingEvent
		var refusals int
		if err := rows.Scan(&e.n, &e.due, &e.prediction, &e.attempts, &refusals, &e.scope, &e.expires); err != nil {
			return err
		}
		e.yields = ledger.LetsOthersGo(refusals)
		for ; len(replayed) > 0 && replayed[0].place < e.n; replayed = replayed[1:] {
			if err := add(&replayed[0]); err != nil {
				return err
			}
		}
		e.place = e.n
		if err := add(&e); err != nil {
			return err
		}
	}
	for k := range replayed {
		if err := add(&replayed[k]); err != nil {
			return err
		}
	}
	return rows.Err()
}

// loadReplayed reads the events that wait because they were replayed, by their
// places.
func (s *Store) loadReplayed() (out []waitingEvent, err error) {
	rows, err := s.db.Query("SELECT d.n, d.due, d.prediction, d.attempts, d.refusals, d.scope, d.expires, b.place FROM deliveries d INDEXED BY deliveries_pending JOIN inbound b ON b.n = d.n WHERE d.state = 0 AND d.redelivery = 1 AND d.n >= " + firstEventText)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var e waitingEvent
		var refusals int
		if err := rows.Scan(&e.n, &e.due, &e.prediction, &e.attempts, &refusals, &e.scope, &e.expires, &e.place); err != nil {
			return nil, err
		}
		e.yields, e.redelivery = ledger.LetsOthersGo(refusals), true
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b waitingEvent) int { return cmp.Compare(a.place, b.place) })
	return out, rows.Err()
}

// waits notes an event that was found at opening, and returns its lane.
func (s *boxes) waits(id, expires int64) store.Lane {
	b := s.byID[id]
	if b == nil {
		return store.Lane{}
	}
	b.lowest = min(b.lowest, expires)
	return b.lane
}

// raiseShare is which share of the time may be used to look up when the entries of
// waiting events expire.
const raiseShare = 100

// raise looks up when the first entry expires of an event that waits, where that may
// keep entries that have expired.
func (b *inbox) raise(now int64) error {
	behind := b.boxes.behind(now)
	b.raising.Lock()
	defer b.raising.Unlock()
	if len(behind) == 0 || time.Now().Before(b.raiseAfter) {
		return nil
	}
	began := time.Now()
	for _, box := range behind {
		b.boxes.mu.Lock()
		box.since = math.MaxInt64
		b.boxes.mu.Unlock()
		lowest := int64(math.MaxInt64)
		err := b.s.db.QueryRowContext(context.Background(), "SELECT coalesce(min(expires), ?) FROM deliveries INDEXED BY deliveries_pending WHERE state = 0 AND n >= "+firstEventText+" AND scope = ?", lowest, box.id).Scan(&lowest)
		if err != nil {
			return err
		}
		b.boxes.mu.Lock()
		if box.events[store.DeliveryPending] > 0 {
			box.lowest = min(lowest, box.since)
		}
		b.boxes.mu.Unlock()
	}
	b.raiseAfter = time.Now().Add(raiseShare * time.Since(began))
	return nil
}
