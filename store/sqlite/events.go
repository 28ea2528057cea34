package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	sqldriver "database/sql/driver"
	"errors"
	"io"
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
func (b *inbox) scanEvent(rows *sql.Rows, more ...any) (*store.Delivery, error) {
	d := &store.Delivery{Inbound: new(store.Inbound)}
	in := d.Inbound
	var nonce, created, scope, since int64
	if err := rows.Scan(append([]any{&d.N, &nonce, &d.Prediction, &created, &scope, &in.Name, &d.Refusals, &d.Replay, &in.PredictionID, &since, &d.Overtaken}, more...)...); err != nil {
		return nil, err
	}
	d.ID = ledger.EventID(d.N, nonce)
	in.ID, in.Scope, in.Ordered = d.ID, b.s.inbox.boxes.scope(scope), ledger.IsOrdered(d.Prediction)
	d.PredictionID, d.CreatedAt, d.WaitingSince = in.PredictionID, timeOf(created), timeOf(since)
	return d, nil
}

func (b *inbox) scanEvents(rows *sql.Rows, into map[int64]*stored) error {
	defer rows.Close()
	for rows.Next() {
		var head, body []byte
		d, err := b.scanEvent(rows, &head, &body)
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

// waitingColumns is what addWaiting is given: few numbers, since a million events may
// wait when a store is opened.
const waitingColumns = "d.n, d.due, d.prediction, (d.scope << 40) | (min(d.refusals, 255) << 32) | d.attempts"

// waitingEvents is how the queue is filled with the inbound events that wait.
type waitingEvents struct {
	s          *Store
	now, shift int64 // those of loadQueue
	replayed   [][5]int64
}

// loadEvents reads which inbound events wait, in the order of their lines. now and
// shift are those of loadQueue.
func (b *inbox) loadEvents(now, shift int64) error {
	w := &waitingEvents{s: b.s, now: now, shift: shift}
	const from = " FROM deliveries d INDEXED BY deliveries_pending"
	where := " WHERE d.state = 0 AND d.n >= " + firstEventText
	if err := eachRow(b.s.db, "SELECT "+waitingColumns+", b.place"+from+" JOIN inbound b ON b.n = d.n"+where+" AND d.redelivery = 1", func(row []int64) error {
		w.replayed = append(w.replayed, [5]int64(row))
		return nil
	}); err != nil {
		return err
	}
	slices.SortFunc(w.replayed, func(a, b [5]int64) int { return cmp.Compare(a[4], b[4]) })
	if err := eachRow(b.s.db, "SELECT "+waitingColumns+from+where+" AND d.redelivery = 0 ORDER BY d.n", func(row []int64) error {
		if err := w.addReplayed(row[0]); err != nil {
			return err
		}
		return w.add(row, row[0], false)
	}); err != nil {
		return err
	}
	return w.addReplayed(math.MaxInt64)
}

// addReplayed adds the events that were replayed before a place.
func (w *waitingEvents) addReplayed(before int64) error {
	for ; len(w.replayed) > 0 && w.replayed[0][4] < before; w.replayed = w.replayed[1:] {
		row := w.replayed[0]
		if err := w.add(row[:4], row[4], true); err != nil {
			return err
		}
	}
	return nil
}

// add adds an event by its columns and its place.
func (w *waitingEvents) add(row []int64, place int64, replayed bool) (err error) {
	packed := row[3]
	i := &item{
		n: row[0], due: row[1], prediction: row[2], attempts: int32(packed), redelivery: replayed,
		yields: ledger.LetsOthersGo(int(packed >> 32 & 255)),
	}
	if i.due > w.now {
		if i.due, err = w.s.waiting(i.n, i.prediction, i.due, i.attempts, w.now); err != nil {
			return err
		}
	}
	i.due += w.shift
	w.s.queue.lastPlace = max(w.s.queue.lastPlace, place)
	var key store.Lane
	if b := w.s.inbox.boxes.byID[packed>>40]; b != nil {
		key = b.lane
	}
	w.s.queue.add(i, key)
	return nil
}

// eachRow calls f with the rows of a query whose columns are integers. It is for
// many rows: database/sql takes as long to hand a number over as SQLite to read it.
func eachRow(db *sql.DB, query string, f func(row []int64) error) error {
	conn, err := db.Conn(context.Background())
	if err != nil {
		return err
	}
	defer conn.Close()
	return conn.Raw(func(c any) error {
		rows, err := c.(sqldriver.QueryerContext).QueryContext(context.Background(), query, nil)
		if err != nil {
			return err
		}
		defer rows.Close()
		values := make([]sqldriver.Value, len(rows.Columns()))
		row := make([]int64, len(values))
		for {
			switch err := rows.Next(values); {
			case errors.Is(err, io.EOF):
				return nil
			case err != nil:
				return err
			}
			for i, v := range values {
				row[i], _ = v.(int64)
			}
			if err := f(row); err != nil {
				return err
			}
		}
	})
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
