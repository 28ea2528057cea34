package sqlite

import (
	"context"
	"database/sql"
	"math"
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
