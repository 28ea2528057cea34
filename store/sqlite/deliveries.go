package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/ledger"
)

// maxLoadedLanes is how many lanes loadQueue keeps by client and URL.
const maxLoadedLanes = 4096

// loadQueue reads what is pending. Payloads are not read.
func (s *Store) loadQueue() error {
	var n int
	if err := s.db.QueryRow("SELECT count(*) FROM deliveries INDEXED BY deliveries_pending WHERE state = 0 AND n < " + firstEventText).Scan(&n); err != nil {
		return err
	}
	s.queue = newQueue(n, s.opts.window.withDefaults())
	for scope := range s.inbox.boxes.pauses {
		if s.inbox.Paused(scope) {
			s.queue.paused[store.InboxLane(scope)] = true
		}
	}
	rows, err := s.db.Query(`SELECT d.n, d.due, d.prediction, d.attempts, d.event, d.redelivery, p.client, p.url
		FROM deliveries d INDEXED BY deliveries_pending JOIN predictions p ON p.ref = d.prediction
		WHERE d.state = 0 AND d.n < ` + firstEventText + ` ORDER BY d.n`)
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
		var client, url string
		if err := rows.Scan(&i.n, &i.due, &i.prediction, &i.attempts, &i.event, &i.redelivery, &client, &url); err != nil {
			return err
		}
		if i.due > now {
			if i.due, err = s.waiting(i.n, i.prediction, i.due, i.attempts, now); err != nil {
				return err
			}
		}
		i.due += shift
		// Deliveries that wait long are mostly for a few receivers.
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
	if err := rows.Err(); err != nil {
		return err
	}
	return s.loadTails()
}

// maxWait is the longest wait that a receiver can request. A longer one comes from
// the configuration, or from a clock that was wrong.
const maxWait = time.Hour

// waiting returns the due time, in Unix milliseconds, of a stored delivery that is
// due later than now. One whose due time was set by a clock that was ahead waits
// no longer than it would have.
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

// ClaimDeliveries implements store.Queue.
func (s *Store) ClaimDeliveries(ctx context.Context, limit int, slots func(store.Lane) store.Slots) ([]store.Delivery, time.Time, error) {
	if err := s.closed(); err != nil {
		return nil, time.Time{}, err
	}
	taken, next, err := s.take(ctx, limit, slots)
	read, readErr := s.readClaimed(ctx, s.queue.unread(taken))
	if err = errors.Join(err, readErr); err != nil {
		// What is in memory is not handed out either: with an error nothing
		// is claimed.
		again := s.opts.Now().Add(claimAgain)
		for _, i := range taken {
			s.unclaim(i, again)
		}
		return nil, again, s.readError(err)
	}
	out := make([]store.Delivery, 0, len(taken))
	for _, i := range taken {
		d, err := s.handOut(i, read[i.n])
		switch {
		case err != nil:
			s.opts.Logger().Error("delivery can't be read", zap.String("store", s.opts.Path), zap.Int64("number", i.n))
		case d != nil:
			out = append(out, *d)
		}
	}
	return out, s.opts.clock.Time(next), nil
}

// claimAgain is when to claim again after a failed read.
const claimAgain = time.Second

// errDamaged reports a delivery whose prediction or payload is missing.
var errDamaged = errors.New("delivery is damaged")

// unread returns those of claimed items that are not in memory.
func (q *queue) unread(taken []*item) (stored []*item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, i := range taken {
		if i.fresh() == nil {
			stored = append(stored, i)
		}
	}
	return stored
}

// handOut returns a claimed delivery. If it was canceled meanwhile, or moved to
// another lane, handOut ends the claim and returns nil: the slot that it used is
// one of the lane that it was claimed from. It also returns nil if the outcome of
// an attempt before has ended the claim.
func (s *Store) handOut(i *item, read *stored) (*store.Delivery, error) {
	q := s.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	if !i.claimed || q.items[i.n] != i {
		return nil, nil
	}
	d, k := i.fresh(), q.known[i.prediction]
	inbound := ledger.IsInbound(i.prediction)
	if d == nil {
		if read == nil {
			// A damaged delivery must not block the others. It is in the
			// queue again when the store is opened.
			q.unclaim(i)
			q.remove(i)
			return nil, errDamaged
		}
		d = &read.Delivery
		if !inbound && !k.current {
			k.set(&read.prediction)
		}
	}
	q.dropFresh(i)
	switch {
	case inbound && i.canceled:
		q.requeue(i)
		return nil, nil
	case inbound:
		d.PredictionID = d.Inbound.PredictionID
	default:
		if i.canceled = i.canceled || k.url == ""; i.canceled || !i.lane.key.Takes(k.client, k.url) {
			i.sendTo(store.LaneOf(k.client, k.url))
			q.requeue(i)
			return nil, nil
		}
		d.PredictionID, d.Client, d.URL, d.Traceparent, d.Native = k.id, k.client, k.url, k.traceparent, k.events.Has(event.Native)
	}
	d.Prediction, d.Event, d.Attempts = i.prediction, i.event, int(i.attempts)
	d.Lane, d.DueAt = i.lane.key, s.opts.clock.Time(i.due)
	return d, nil
}

// readBatch is how many deliveries one query reads.
const readBatch = 32

// selectDeliveries reads up to readBatch deliveries by their numbers.
var selectDeliveries = `SELECT d.n, d.nonce, d.created, p.id, p.client, p.url, p.traceparent, p.events, p.happened, p.webhook, b.body
	FROM deliveries d JOIN predictions p ON p.ref = d.prediction JOIN payloads b ON b.n = ` + payloadNumber + `
	WHERE d.n IN (?` + strings.Repeat(", ?", readBatch-1) + ")"

// stored is a delivery that was read, and what was read of its prediction.
type stored struct {
	store.Delivery
	prediction store.Prediction
}

// readClaimed reads the deliveries of items, by number. What is missing is left out.
func (s *Store) readClaimed(ctx context.Context, items []*item) (map[int64]*stored, error) {
	if len(items) == 0 {
		return nil, nil
	}
	read := make(map[int64]*stored, len(items))
	events := slices.IndexFunc(items, func(i *item) bool { return ledger.IsInbound(i.prediction) })
	if events < 0 {
		return read, readBatches(ctx, s.reader, items, func(rows *sql.Rows) error { return scanDeliveries(rows, read) })
	}
	slices.SortStableFunc(items, func(a, b *item) int { return cmp.Compare(a.n, b.n) })
	events = slices.IndexFunc(items, func(i *item) bool { return ledger.IsInbound(i.prediction) })
	return read, errors.Join(
		readBatches(ctx, s.reader, items[:events], func(rows *sql.Rows) error { return scanDeliveries(rows, read) }),
		readBatches(ctx, s.eventReader, items[events:], func(rows *sql.Rows) error { return s.scanEvents(rows, read) }),
	)
}

// readBatches reads the rows of items with a query of readBatch numbers.
func readBatches(ctx context.Context, query *sql.Stmt, items []*item, scan func(*sql.Rows) error) error {
	for batch := range slices.Chunk(items, readBatch) {
		var numbers [readBatch]any
		for k := range numbers {
			numbers[k] = int64(0) // no delivery's number
		}
		for k, i := range batch {
			numbers[k] = i.n
		}
		rows, err := query.QueryContext(ctx, numbers[:]...)
		if err != nil {
			return err
		}
		if err := scan(rows); err != nil {
			return err
		}
	}
	return nil
}

func scanDeliveries(rows *sql.Rows, into map[int64]*stored) error {
	defer rows.Close()
	for rows.Next() {
		d := new(stored)
		p := &d.prediction
		var nonce, created int64
		if err := rows.Scan(&d.N, &nonce, &created, &p.ID, &p.Client, &p.URL, &p.Traceparent, &p.Events, &p.Seen, &p.Webhook, &d.Payload); err != nil {
			return err
		}
		d.ID, d.CreatedAt = ledger.DeliveryID(d.N, nonce), timeOf(created)
		into[d.N] = d
	}
	return rows.Err()
}

// unclaim ends a claim without an attempt.
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

// Postpone implements store.Queue. Nothing is written: after a restart the
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

// SetApart implements store.Queue. Nothing is written: after a restart the
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

// setApart makes an item go to the lane of its URL, unless its URL was changed
// meanwhile.
func (q *queue) setApart(i *item, d *store.Delivery) {
	if key := i.goesTo(); key.Takes(d.Client, d.URL) && (i.extra == nil || i.extra.lane == store.Lane{}) {
		i.sendTo(store.LaneOf(d.Client, d.URL).Only(d.URL))
	}
}

// Holds implements store.Queue. A claim is the process's own.
func (s *Store) Holds(d store.Delivery) bool { return s.claimed(d.N) != nil }

func (s *Store) claimed(n int64) *item {
	s.queue.mu.Lock()
	defer s.queue.mu.Unlock()
	if i := s.queue.items[n]; i != nil && i.claimed {
		return i
	}
	return nil
}

// Complete implements store.Queue.
func (s *Store) Complete(ctx context.Context, o store.Outcome) error {
	i := s.claimed(o.Delivery.N)
	if i == nil {
		return s.closed()
	}
	return s.run(ctx, op{ends: true, write: func(g *group) error { return g.complete(i, &o) }})
}

// complete writes an outcome. It does nothing when the claim has ended.
func (g *group) complete(i *item, o *store.Outcome) error {
	e, d := g.claimed(i)
	if d == nil {
		return nil
	}
	if o.Disposition == store.Gone && !ledger.IsInbound(e.Ref) {
		if err := g.addPending(e); err != nil {
			return err
		}
	}
	if err := g.insertAttempt(e.Ref, d.N, d.Event, &o.Attempt); err != nil {
		return err
	}
	d.Row.ended, d.Row.due, d.Row.at = true, o.Due.UnixMilli(), g.w.opts.clock.At(o.Due)
	if ledger.IsInbound(e.Ref) {
		return g.completeEvent(e, i, d, o)
	}
	e.Complete(g.ledger(), d, o, d.Row.due)
	return g.write(e)
}
