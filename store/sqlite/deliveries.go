package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/rules"
)

// maxLoadedLanes is how many lanes loadQueue remembers at a time.
const maxLoadedLanes = 4096

// loadQueue reads what is pending. Payloads stay on disk.
func (s *Store) loadQueue() error {
	var n int
	if err := s.db.QueryRow("SELECT count(*) FROM deliveries INDEXED BY deliveries_pending WHERE state = 0").Scan(&n); err != nil {
		return err
	}
	s.queue = newQueue(n)
	rows, err := s.db.Query(`SELECT d.n, d.due, d.prediction, d.attempts, d.event, d.redelivery, p.events, p.happened, p.client, p.url
		FROM deliveries d INDEXED BY deliveries_pending JOIN predictions p ON p.ref = d.prediction
		WHERE d.state = 0 ORDER BY d.n`)
	if err != nil {
		return err
	}
	defer rows.Close()
	wall := s.opts.Now()
	now := wall.UnixMilli()
	shift := s.opts.clock.At(wall) - now    // to the clock's scale
	lanes := make(map[[2]string]store.Lane) // by client and URL
	for rows.Next() {
		i := new(item)
		var p store.Prediction
		var client, url string
		if err := rows.Scan(&i.n, &i.due, &i.prediction, &i.attempts, &i.event, &i.redelivery, &p.Events, &p.Happened, &client, &url); err != nil {
			return err
		}
		if i.due > now {
			if i.due, err = s.waiting(i.n, i.prediction, i.due, i.attempts, now); err != nil {
				return err
			}
		}
		i.due += shift
		i.last = rules.IsLast(i.event, &p)
		// Those that wait for long wait for few receivers.
		key, known := lanes[[2]string{client, url}]
		if !known {
			if len(lanes) >= maxLoadedLanes {
				clear(lanes)
			}
			key = store.LaneOf(client, url)
			lanes[[2]string{client, url}] = key
		}
		s.queue.add(i, key)
	}
	return rows.Err()
}

// maxWait is the longest wait that a receiver can ask for. One that is longer
// comes from the configuration, or from a clock that was wrong.
const maxWait = time.Hour

// waiting returns the due time of a stored delivery, in Unix milliseconds, that
// is due later than now. One by a clock that was ahead waits no longer than it
// would have.
func (s *Store) waiting(n, prediction, due int64, attempts int32, now int64) (int64, error) {
	if attempts == 0 {
		return now, nil // an event's first attempt is due when it is committed
	}
	if due-now <= maxWait.Milliseconds() {
		return due, nil
	}
	var begun, took int64
	err := s.db.QueryRow("SELECT at, took FROM attempts WHERE prediction = ? AND delivery = ? ORDER BY id DESC LIMIT 1", prediction, n).Scan(&begun, &took)
	if end := begun + time.Duration(took).Milliseconds(); err == nil && end > now {
		due = now + max(due-end, 0)
	}
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return due, err
}

// ClaimDeliveries implements store.Tracking.
func (s *Store) ClaimDeliveries(ctx context.Context, limit int, slots func(store.Lane) store.Slots) ([]store.Delivery, time.Time, error) {
	if err := s.closed(); err != nil {
		return nil, time.Time{}, err
	}
	taken, next := s.queue.take(s.opts.clock, limit, slots)
	fresh, stored := s.queue.fetch(taken)
	read, err := s.readDeliveries(ctx, stored)
	if err != nil {
		// What was kept in memory is not handed out either: it would be
		// lost on a caller that looks at the error first.
		again := s.opts.Now().Add(claimAgain)
		for _, i := range taken {
			s.unclaim(i, again)
		}
		return nil, again, s.readError(err)
	}
	out := make([]store.Delivery, 0, len(taken))
	for _, i := range taken {
		if d := fresh[i]; d != nil {
			s.label(i, d)
			out = append(out, *d)
			continue
		}
		d, ok := read[i.n]
		switch {
		case !ok:
			// Damage to one must not hold up the others. What is left of
			// it is looked at again when the store is opened.
			s.opts.Logger().Error("delivery can't be read", zap.String("store", s.opts.Path), zap.Int64("number", i.n))
			s.queue.drop(i)
		case s.queue.holds(i, d.Client, d.URL):
			d.Prediction, d.Event, d.Attempts = i.prediction, i.event, int(i.attempts)
			s.label(i, &d)
			out = append(out, d)
		}
	}
	return out, s.opts.clock.Time(next), nil
}

// claimAgain is how long a delivery waits that could not be read.
const claimAgain = time.Second

// fetch gives the deliveries of claimed items that are still in memory, and the
// items that have to be read.
func (q *queue) fetch(taken []*item) (fresh map[*item]*store.Delivery, stored []*item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, i := range taken {
		if d := i.fresh(); d != nil && !i.canceled {
			set(&fresh, i, d)
		} else {
			stored = append(stored, i)
		}
		q.dropFresh(i)
	}
	return fresh, stored
}

// holds reports whether a claimed item still goes where it was claimed for. If
// it was canceled, or given to another lane, the claim is given back: the slot
// that was counted for it is not its own.
func (q *queue) holds(i *item, client, url string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	i.canceled = i.canceled || url == ""
	if !i.canceled && i.lane.key.Takes(client, url) {
		return true
	}
	i.sendTo(store.LaneOf(client, url))
	q.requeue(i)
	return false
}

// label notes in a delivery where it was claimed.
func (s *Store) label(i *item, d *store.Delivery) {
	q := s.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	if d.DueAt = s.opts.clock.Time(i.due); i.lane != nil {
		d.Lane = i.lane.key
	}
}

// readBatch is how many deliveries one query reads.
const readBatch = 32

// selectDeliveries reads up to readBatch deliveries by their numbers.
var selectDeliveries = `SELECT d.n, d.nonce, d.created, p.id, p.client, p.url, p.traceparent, b.body
	FROM deliveries d JOIN predictions p ON p.ref = d.prediction JOIN payloads b ON b.n = ` + payloadNumber + `
	WHERE d.n IN (?` + strings.Repeat(", ?", readBatch-1) + ")"

// readDeliveries reads what is stored of items, by number. What is not there is
// left out.
func (s *Store) readDeliveries(ctx context.Context, items []*item) (map[int64]store.Delivery, error) {
	read := make(map[int64]store.Delivery, len(items))
	for batch := range slices.Chunk(items, readBatch) {
		var numbers [readBatch]any
		for k := range numbers {
			numbers[k] = int64(0) // no delivery's number
		}
		for k, i := range batch {
			numbers[k] = i.n
		}
		rows, err := s.reader.QueryContext(ctx, numbers[:]...)
		if err != nil {
			return nil, err
		}
		if err := scanDeliveries(rows, read); err != nil {
			return nil, err
		}
	}
	return read, nil
}

func scanDeliveries(rows *sql.Rows, into map[int64]store.Delivery) error {
	defer rows.Close()
	for rows.Next() {
		var d store.Delivery
		var nonce, created int64
		if err := rows.Scan(&d.N, &nonce, &created, &d.PredictionID, &d.Client, &d.URL, &d.Traceparent, &d.Payload); err != nil {
			return err
		}
		d.ID, d.CreatedAt = rules.DeliveryID(d.N, nonce), timeOf(created)
		into[d.N] = d
	}
	return rows.Err()
}

// drop forgets a claimed item.
func (q *queue) drop(i *item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.unclaim(i)
	q.remove(i)
}

// unclaim gives a claim back without an attempt.
func (s *Store) unclaim(i *item, due time.Time) {
	at := s.opts.clock.At(due)
	q := s.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	if !i.claimed || q.items[i.n] != i {
		return
	}
	i.due = at
	q.requeue(i)
}

// Postpone implements store.Tracking. Nothing is written: after a restart the
// delivery is due as it was before.
func (s *Store) Postpone(_ context.Context, d store.Delivery, due time.Time) error {
	if err := s.closed(); err != nil {
		return err
	}
	if i := s.claimed(d.N); i != nil {
		s.unclaim(i, due)
	}
	return nil
}

// SetApart implements store.Tracking. Nothing is written: after a restart the
// delivery waits with the others.
func (s *Store) SetApart(_ context.Context, d store.Delivery) error {
	if err := s.closed(); err != nil {
		return err
	}
	if i := s.claimed(d.N); i != nil {
		q := s.queue
		q.mu.Lock()
		defer q.mu.Unlock()
		if i.claimed && q.items[i.n] == i {
			q.setApart(i, &d)
			q.requeue(i)
		}
	}
	return nil
}

// setApart makes an item go to the lane of its URL alone, unless it was given
// another URL meanwhile.
func (q *queue) setApart(i *item, d *store.Delivery) {
	if key := i.goesTo(); key.Takes(d.Client, d.URL) && (i.aside == nil || i.aside.lane == store.Lane{}) {
		i.sendTo(store.LaneOf(d.Client, d.URL).Only(d.URL))
	}
}

// Holds implements store.Tracking. A claim is the process's own.
func (s *Store) Holds(d store.Delivery) bool { return s.claimed(d.N) != nil }

func (s *Store) claimed(n int64) *item {
	s.queue.mu.Lock()
	defer s.queue.mu.Unlock()
	if i := s.queue.items[n]; i != nil && i.claimed {
		return i
	}
	return nil
}

// Complete implements store.Tracking.
func (s *Store) Complete(ctx context.Context, o store.Outcome) error {
	i := s.claimed(o.Delivery.N)
	if i == nil {
		return s.closed()
	}
	var end *ending
	return s.run(ctx, op{
		ends: true,
		write: func(g *group) (err error) {
			end, err = g.complete(i, &o)
			return err
		},
		after: func(err error) {
			if err == nil && end != nil {
				s.queue.completed(i, end, &o)
			}
		},
	})
}

// ending is what an attempt's outcome means for its delivery and the
// prediction's others.
type ending struct {
	state    int
	attempts int
	due      int64 // of a pending delivery, by the wall clock
	at       int64 // the same, on the clock's scale
	canceled []int64
}

// complete writes an outcome. It gives nil when the claim was given back
// before.
func (g *group) complete(i *item, o *store.Outcome) (*ending, error) {
	q := g.w.queue
	q.mu.Lock()
	held, canceled, last, next := i.claimed && q.items[i.n] == i, i.canceled, i.last, i.next
	q.mu.Unlock()
	if !held || g.written.endings[i] != nil {
		return nil, nil
	}
	if p := g.written.predictions[i.prediction]; p != nil {
		last = rules.IsLast(i.event, p)
	}
	if next == nil && i.event == event.Started && !i.redelivery {
		next = g.written.terminal[i.prediction]
	}
	end := &ending{state: statePending, attempts: o.Attempt.Number, due: o.Due.UnixMilli(), at: g.w.opts.clock.At(o.Due)}
	switch o.Verdict {
	case store.Retry:
		if there, err := g.goesTo(i.prediction, o.Delivery.URL); err != nil {
			return nil, err
		} else if !there {
			end.due, end.at = g.now(), g.w.opts.clock.Now() // the new receiver has asked for no wait
		}
	case store.Delivered:
		end.state = stateDelivered
	case store.Exhausted:
		end.state = stateFailed
	case store.Gone:
		gone, err := g.disable(i.prediction, o.Delivery.URL)
		if err != nil {
			return nil, err
		}
		if gone {
			end.state = stateFailed
		} else {
			end.due, end.at = g.now(), g.w.opts.clock.Now()
		}
	}
	if end.state == statePending || end.state == stateFailed && o.Verdict != store.Gone {
		switch {
		case canceled:
			end.state = stateCanceled
		case next != nil:
			end.state = stateSuperseded
		}
	}
	set(&g.written.endings, i, end)
	return end, g.writeEnding(i, o, end, last)
}

// goesTo reports whether a prediction's webhooks go to a URL.
func (g *group) goesTo(ref int64, url string) (bool, error) {
	stmt, err := g.stmt("SELECT count(*) FROM predictions WHERE ref = ? AND url = ?")
	if err != nil {
		return false, err
	}
	var n int
	err = stmt.QueryRow(ref, url).Scan(&n)
	return n == 1, err
}

// disable switches a webhook off whose receiver said 410, unless its URL was
// changed meanwhile: then it was another receiver that said so.
func (g *group) disable(ref int64, url string) (bool, error) {
	n, err := g.changed("UPDATE predictions SET url = '', webhook = ? WHERE ref = ? AND url = ?", store.WebhookDisabled, ref, url)
	return n == 1, err
}

func (g *group) writeEnding(i *item, o *store.Outcome, end *ending, last bool) error {
	a := &o.Attempt
	g.w.lastAttempt++
	err := g.exec("INSERT INTO attempts (id, delivery, prediction, event, url, status, number, at, took, response, error, exception) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
		g.w.lastAttempt, i.n, i.prediction, i.event, a.URL, a.Status, a.Number, a.At.UnixMilli(), a.Took, a.Response, a.Error, a.Exception)
	if err != nil {
		return err
	}
	// A finished delivery's due time is when it finished.
	due := end.due
	if end.state != statePending {
		due = g.now()
	}
	if err := g.end(i.n, end.state, a.Number, due); err != nil {
		return err
	}
	switch {
	case o.Verdict == store.Gone && end.state == stateFailed:
		end.canceled, err = g.cancelPending(i.prediction)
		return err
	case last && end.state == stateDelivered:
		return g.exec("UPDATE predictions SET webhook = ? WHERE ref = ? AND (webhook <> ? OR url <> '')", store.WebhookDelivered, i.prediction, store.WebhookDisabled)
	case last && end.state == stateFailed && !i.redelivery:
		return g.exec("UPDATE predictions SET webhook = ? WHERE ref = ? AND webhook = ?", store.WebhookFailed, i.prediction, store.WebhookPending)
	}
	return nil
}

// end writes the state of a delivery after an attempt. What was canceled stays
// so, also when that came earlier in this transaction, unless it was delivered
// after all.
func (g *group) end(n int64, state, attempts int, due int64) error {
	changed, err := g.changed("UPDATE deliveries SET state = ?, attempts = ?, due = ? WHERE n = ? AND state = ?", state, attempts, due, n, statePending)
	if err != nil || changed == 1 {
		g.moved(statePending, state, changed)
		return err
	}
	if state != stateDelivered {
		return g.exec("UPDATE deliveries SET attempts = ?, due = ? WHERE n = ?", attempts, due, n)
	}
	changed, err = g.changed("UPDATE deliveries SET state = ?, attempts = ?, due = ? WHERE n = ? AND state = ?", state, attempts, due, n, stateCanceled)
	g.moved(stateCanceled, state, changed)
	return err
}

// completed brings the memory up to a committed outcome.
func (q *queue) completed(i *item, end *ending, o *store.Outcome) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !i.claimed || q.items[i.n] != i {
		return // given back meanwhile by a caller that did not wait
	}
	for _, n := range end.canceled {
		if other := q.items[n]; other != nil && other != i {
			q.cancel(other)
		}
	}
	if end.state == statePending {
		i.attempts, i.due = int32(end.attempts), end.at
		switch {
		case o.Apart:
			q.setApart(i, &o.Delivery)
		case i.goesTo().URL != 0:
			i.sendTo(store.LaneOf(o.Delivery.Client, o.Delivery.URL))
		}
		q.requeue(i)
		return
	}
	q.unclaim(i)
	q.remove(i)
}
