package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/ledger"
)

// history is the part of the store that lists deliveries and attempts, makes them
// again, and forgets them in time.
type history struct {
	s     *Store
	swept sweeps
}

// Attempts implements store.Log.
func (h *history) Attempts(ctx context.Context, ref int64, before int64, limit int) ([]store.Attempt, error) {
	if before <= 0 {
		before = 1<<63 - 1
	}
	return h.attempts(ctx, "a.prediction = ? AND a.id < ? ORDER BY a.id DESC LIMIT ?", ref, before, limit)
}

func (h *history) attempts(ctx context.Context, where string, args ...any) ([]store.Attempt, error) {
	rows, err := h.s.db.QueryContext(ctx, `SELECT a.id, a.delivery, d.nonce, a.prediction, a.event, a.url, a.status, a.number, a.at, a.took, a.response, a.error, a.exception
		FROM attempts a JOIN deliveries d ON d.n = a.delivery WHERE `+where, args...)
	if err != nil {
		return nil, h.s.readError(err)
	}
	defer rows.Close()
	var out []store.Attempt
	for rows.Next() {
		var a store.Attempt
		var n, nonce, prediction, at int64
		if err := rows.Scan(&a.ID, &n, &nonce, &prediction, &a.Event, &a.URL, &a.Status, &a.Number, &at, &a.Took, &a.Response, &a.Error, &a.Exception); err != nil {
			return nil, h.s.readError(err)
		}
		a.Delivery, a.At = ledger.IDOf(n, nonce, prediction), timeOf(at)
		out = append(out, a)
	}
	return out, h.s.readError(rows.Err())
}

// Redeliver implements store.Log.
func (h *history) Redeliver(ctx context.Context, ref int64, attempt int64) (string, error) {
	return h.redeliver(ctx, "d.n = (SELECT delivery FROM attempts WHERE id = ?1 AND prediction = ?2) AND d.prediction = ?2", attempt, ref)
}

// redeliver commits a new delivery like the one that the condition selects.
func (h *history) redeliver(ctx context.Context, where string, args ...any) (string, error) {
	var id string
	err := h.s.commit(ctx, func(g *group) error {
		var ref int64
		var kind event.Set
		var payload int64
		stmt, err := g.stmt("SELECT d.prediction, d.event, b.n FROM deliveries d JOIN payloads b ON b.n = " + payloadNumber + " WHERE " + where)
		if err != nil {
			return err
		}
		switch err := stmt.QueryRow(args...).Scan(&ref, &kind, &payload); {
		case errors.Is(err, sql.ErrNoRows):
			return store.ErrNotFound
		case err != nil:
			return err
		}
		e, err := g.entry(ref)
		if err != nil {
			return err
		}
		d, err := e.Redeliver(g.ledger(), kind, payload)
		if err != nil {
			return err
		}
		err = g.write(e)
		id = d.Row.id
		return err
	})
	if err != nil {
		return "", err
	}
	return id, nil
}

// Forget implements store.Retention.
func (h *history) Forget(ctx context.Context, before store.Before) error {
	if err := h.s.closed(); err != nil {
		return err
	}
	return errors.Join(
		h.forgetRows(ctx, forgetting{before.Deliveries, "deliveries", "n", 0, ledger.FirstEvent - 1, "state <> 0 AND due < ?2", (*group).forgetDelivery}),
		h.forgetRows(ctx, forgetting{before.Predictions, "predictions", "ref", 0, math.MaxInt64, "(key IS NULL OR webhook <> 0 AND happened >= 2) AND " + undelivered, (*group).forgetPrediction}),
		h.forgetRows(ctx, forgetting{before.Events, "deliveries", "n", ledger.FirstEvent - 1, math.MaxInt64, "state <> 0 AND expires = 0 AND due < ?2", (*group).forgetEvent}),
		h.forgetRecorded(ctx),
	)
}

// forgetRecorded deletes the recorded events whose own time has passed.
func (h *history) forgetRecorded(ctx context.Context) error {
	for {
		var found int
		err := h.s.commit(ctx, func(g *group) error {
			old, err := g.numbers("SELECT n FROM deliveries INDEXED BY deliveries_recorded WHERE expires > 0 AND state <> 0 AND expires <= ? LIMIT ?", h.s.opts.clock.Settled().UnixMilli(), forgetBatch)
			if err != nil {
				return err
			}
			for _, n := range old {
				if err := g.forgetEvent(n); err != nil {
					return err
				}
			}
			found = len(old)
			return nil
		})
		if err != nil || found == 0 {
			return err
		}
	}
}

// deletions deletes what a group forgets.
type deletions struct{ g *group }

// forgetEvent deletes an event that has ended. It may have been replayed since it was
// read.
func (d *deletions) forgetEvent(n int64) error {
	stmt, err := d.g.stmt("DELETE FROM deliveries WHERE n = ? AND state <> 0 RETURNING prediction, state, scope, size")
	if err != nil {
		return err
	}
	var number, scope, size int64
	var state store.DeliveryState
	err = stmt.QueryRow(n).Scan(&number, &state, &scope, &size)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	d.g.boxOf(scope).count(state, size, -1)
	return errors.Join(
		d.g.exec("DELETE FROM attempts WHERE prediction = ? AND delivery = ?", number, n),
		d.g.exec("DELETE FROM inbound WHERE n = ?", n),
	)
}

func (d *deletions) forgetDelivery(n int64) error {
	if err := d.g.exec("DELETE FROM attempts WHERE prediction = (SELECT prediction FROM deliveries WHERE n = ?1) AND delivery = ?1", n); err != nil {
		return err
	}
	payloads, err := d.numbers("SELECT "+payloadNumber+" FROM deliveries d WHERE n = ?", n)
	if err != nil {
		return err
	}
	states, err := d.numbers("DELETE FROM deliveries WHERE n = ? RETURNING state", n)
	for _, state := range states {
		d.g.totals.deliveries[state]--
	}
	for _, payload := range payloads {
		err = errors.Join(err, d.g.exec(`DELETE FROM payloads WHERE n = ?1 AND NOT EXISTS (SELECT 1 FROM deliveries WHERE n = ?1)
			AND NOT EXISTS (SELECT 1 FROM deliveries WHERE payload = ?1 AND payload <> 0)`, payload))
	}
	return err
}

// numbers reads a column of numbers.
func (d *deletions) numbers(query string, args ...any) (out []int64, err error) {
	rows, err := d.g.query(query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var n int64
		if err := rows.Scan(&n); err != nil {
			return nil, err
		}
		out = append(out, n)
	}
	return out, rows.Err()
}

func (d *deletions) forgetPrediction(ref int64) error {
	// A redelivery may have been committed since the row was read.
	return d.g.exec("DELETE FROM predictions WHERE ref = ? AND "+undelivered, ref)
}

const undelivered = "NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.prediction = predictions.ref)"

// forgetBatch is how many rows one transaction deletes.
const forgetBatch = 200

// sweepRows is how many rows one call of Forget reads beside those that are oldest
// by number.
const sweepRows = 20_000

// forgetting is what forgetRows deletes: of the rows of a table with numbers above
// low and up to high, those that match a condition.
type forgetting struct {
	before        time.Time
	table, number string
	low, high     int64
	condition     string
	forget        func(*group, int64) error
}

// forgetRows deletes the rows made before the time that match the condition,
// oldest first. Numbers follow time, so a walk from the oldest ends at the first
// younger row. Where the clock was set that may hide old rows behind it: a sweep
// looks at some of all rows with each call, one call going on where the last ended.
func (h *history) forgetRows(ctx context.Context, f forgetting) error {
	if f.before.IsZero() {
		return nil
	}
	before, table, number, condition, forget := f.before, f.table, f.number, f.condition, f.forget
	query := fmt.Sprintf("SELECT %[1]s, %[2]s FROM %[3]s WHERE %[1]s > ?1 AND created < ?2 AND %[1]s <= ?3 ORDER BY %[1]s LIMIT %[4]d", number, condition, table, forgetBatch)
	youngest := fmt.Sprintf("SELECT created FROM %[1]s WHERE %[2]s > ? AND %[2]s <= ? ORDER BY %[2]s LIMIT 1", table, number)
	for from := f.low; ; {
		var created int64
		err := h.s.db.QueryRowContext(ctx, youngest, from, f.high).Scan(&created)
		if err == nil && created < before.UnixMilli() {
			from, err = h.forgetSome(ctx, query, from, f.high, before, forget)
			if err != nil {
				return err
			}
			continue
		}
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return h.s.readError(err)
		}
		break
	}
	swept := fmt.Sprint(table, f.low)
	from := max(h.swept.next(swept), f.low)
	var end int64
	last := fmt.Sprintf("SELECT coalesce(max(%[1]s), 0) FROM (SELECT %[1]s FROM %[2]s WHERE %[1]s > ? AND %[1]s <= ? ORDER BY %[1]s LIMIT %[3]d)", number, table, sweepRows)
	if err := h.s.db.QueryRowContext(ctx, last, from, f.high).Scan(&end); err != nil {
		return h.s.readError(err)
	}
	for from < end {
		var err error
		if from, err = h.forgetSome(ctx, query, from, end, before, forget); err != nil {
			return err
		}
	}
	h.swept.set(swept, end)
	return nil
}

// forgetSome deletes those of the next rows up to a number that may be deleted. It
// returns the last number that it has read.
func (h *history) forgetSome(ctx context.Context, query string, from, end int64, before time.Time, forget func(*group, int64) error) (int64, error) {
	last, found, due, err := h.forgettable(ctx, query, from, end, before.UnixMilli())
	if err != nil {
		return from, h.s.readError(err)
	}
	if found < forgetBatch && end < 1<<63-1 {
		last = end
	}
	if len(due) == 0 {
		return last, nil
	}
	return last, h.s.commit(ctx, func(g *group) error {
		for _, n := range due {
			if err := forget(g, n); err != nil {
				return err
			}
		}
		return nil
	})
}

func (h *history) forgettable(ctx context.Context, query string, from, end, before int64) (last int64, found int, due []int64, err error) {
	rows, err := h.s.db.QueryContext(ctx, query, from, before, end)
	if err != nil {
		return from, 0, nil, err
	}
	defer rows.Close()
	last = from
	for ; rows.Next(); found++ {
		var ok bool
		if err := rows.Scan(&last, &ok); err != nil {
			return last, found, nil, err
		}
		if ok {
			due = append(due, last)
		}
	}
	return last, found, due, rows.Err()
}

// sweeps are the numbers up to which tables were swept. The zero value is ready.
type sweeps struct {
	mu sync.Mutex
	at map[string]int64
}

func (s *sweeps) next(table string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at[table]
}

// set records where the next sweep begins. An end of 0 means at the beginning.
func (s *sweeps) set(table string, end int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	set(&s.at, table, end)
}
