package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/ledger"
)

// history is the part of the store that lists deliveries and attempts, makes them
// again, and forgets them in time.
type history struct {
	s *Store
	// swept has the numbers up to which tables were swept, by name.
	swept sync.Map
}

// Attempts implements store.Log.
func (h *history) Attempts(ctx context.Context, ref int64, before int64, limit int) ([]store.Attempt, error) {
	if before <= 0 {
		before = never
	}
	return h.readAttempts(ctx, "a.prediction = $1 AND a.id < $2 ORDER BY a.id DESC LIMIT $3", ref, before, limit)
}

func (h *history) readAttempts(ctx context.Context, where string, args ...any) (out []store.Attempt, err error) {
	err = h.s.read(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, `SELECT a.id, a.delivery, d.nonce, d.prediction, a.event, a.url, a.status, a.number, a.at, a.took, a.response, a.error, a.exception
			FROM webhook_attempts a JOIN webhook_deliveries d ON d.n = a.delivery WHERE `+where, args...)
		if err != nil {
			return err
		}
		out, err = pgx.CollectRows(rows, scanAttempt)
		return err
	})
	return out, err
}

func scanAttempt(row pgx.CollectableRow) (store.Attempt, error) {
	var a store.Attempt
	var n, nonce, number, at, took int64
	var kind int16
	var url, response, text []byte
	err := row.Scan(&a.ID, &n, &nonce, &number, &kind, &url, &a.Status, &a.Number, &at, &took, &response, &text, &a.Exception)
	a.Delivery, a.Event, a.At, a.Took = ledger.IDOf(n, nonce, number), event.Set(kind), timeOf(at), time.Duration(took)
	a.URL, a.Response, a.Error = string(url), string(response), string(text)
	return a, err
}

// Redeliver implements store.Log.
func (h *history) Redeliver(ctx context.Context, ref int64, attempt int64) (string, error) {
	return h.redeliver(ctx, ref, "d.n = (SELECT delivery FROM webhook_attempts WHERE id = $1 AND prediction = $2) AND d.prediction = $2", attempt, ref)
}

// payloadNumber is the number of the payload of a row d of deliveries. A
// delivery's own payload has its number.
const payloadNumber = "CASE d.payload WHEN 0 THEN d.n ELSE d.payload END"

// redeliver commits a new delivery like the one that the condition selects. Its
// payload is locked, so that no other node deletes it meanwhile.
func (h *history) redeliver(ctx context.Context, ref int64, where string, args ...any) (string, error) {
	query := "SELECT d.event, b.n FROM webhook_deliveries d JOIN webhook_payloads b ON b.n = " + payloadNumber + " WHERE " + where + " FOR KEY SHARE OF b"
	var made *delivery
	err := h.s.change(ctx, ref, func(u *unit, t *tracked) error {
		if made != nil {
			if done, err := u.committed(made); err != nil || done {
				return err
			}
		}
		var kind int16
		var payload int64
		switch err := u.conn.QueryRow(u.ctx, query, args...).Scan(&kind, &payload); {
		case errors.Is(err, pgx.ErrNoRows):
			return store.ErrNotFound
		case err != nil:
			return err
		}
		d, err := t.Redeliver(&u.tx, event.Set(kind), payload)
		made = d
		return err
	})
	if err != nil {
		return "", err
	}
	return ledger.DeliveryID(made.N, made.Row.nonce), nil
}

// committed reports whether an earlier run has committed a delivery after all.
func (u *unit) committed(d *delivery) (done bool, err error) {
	err = u.conn.QueryRow(u.ctx, "SELECT EXISTS (SELECT 1 FROM webhook_deliveries WHERE n = $1 AND nonce = $2)", d.N, d.Row.nonce).Scan(&done)
	return done, err
}

// Forget implements store.Retention. All nodes may do so at once.
func (h *history) Forget(ctx context.Context, before store.Before) error {
	if err := h.s.closed(); err != nil || h.s.clock.wrong.Load() {
		return err // the log and the status report a wrong clock
	}
	deliveries, predictions, events := h.s.toDatabase(before.Deliveries), h.s.toDatabase(before.Predictions), h.s.toDatabase(before.Events)
	return errors.Join(
		h.forgetRows(ctx, deliveries, "deliveries", "n", 0, ledger.FirstEvent, "r.state <> 0 AND r.owner = 0 AND r.due < $2",
			"DELETE FROM webhook_attempts a USING webhook_deliveries d WHERE d.n = ANY($1) AND a.prediction = d.prediction AND a.delivery = d.n",
			// A redelivery locks the payload that it shares. The statement
			// after this one sees deliveries that were committed meanwhile.
			"SELECT b.n FROM webhook_payloads b WHERE b.n IN (SELECT "+payloadNumber+" FROM webhook_deliveries d WHERE d.n = ANY($1)) ORDER BY b.n FOR UPDATE",
			"DELETE FROM webhook_payloads b WHERE b.n IN (SELECT "+payloadNumber+" FROM webhook_deliveries d WHERE d.n = ANY($1))"+
				" AND NOT EXISTS (SELECT 1 FROM webhook_deliveries d WHERE d.n = b.n AND d.n <> ALL($1))"+
				" AND NOT EXISTS (SELECT 1 FROM webhook_deliveries d WHERE d.payload = b.n AND d.payload <> 0 AND d.n <> ALL($1))",
			"DELETE FROM webhook_deliveries WHERE n = ANY($1)"),
		// The lock on a prediction keeps others from adding deliveries to it,
		// and the second condition sees those that were added before.
		h.forgetRows(ctx, predictions, "predictions", "ref", 0, never, "(r.key IS NULL OR r.webhook <> 0 AND r.happened >= 2) AND "+undelivered,
			"DELETE FROM webhook_predictions r WHERE ref = ANY($1) AND "+undelivered),
		h.forgetRows(ctx, events, "deliveries", "n", ledger.FirstEvent-1, never, "r.state <> 0 AND r.owner = 0 AND r.due < $2"+
			" AND NOT EXISTS (SELECT 1 FROM webhook_inbound i WHERE i.n = r.n AND i.recorded AND i.expires <> 0)", deleteEvents...),
		h.forgetRecorded(ctx),
	)
}

// deleteEvents deletes events.
var deleteEvents = []string{
	`INSERT INTO webhook_inbox_counts (scope, waiting, accepted, failed, discarded, refused, bytes, ended)
		SELECT i.scope, 0, -count(*) FILTER (WHERE d.state = 1), -count(*) FILTER (WHERE d.state = 2), -count(*) FILTER (WHERE d.state = 4),
			-count(*) FILTER (WHERE d.state = 5), -sum(i.size), -sum(i.size)
		FROM webhook_inbound i JOIN webhook_deliveries d ON d.n = i.n WHERE i.n = ANY($1) GROUP BY i.scope`,
	"DELETE FROM webhook_attempts a USING webhook_deliveries d WHERE d.n = ANY($1) AND a.prediction = d.prediction AND a.delivery = d.n",
	"DELETE FROM webhook_payloads WHERE n = ANY($1)",
	"DELETE FROM webhook_inbound WHERE n = ANY($1)",
	"DELETE FROM webhook_deliveries WHERE n = ANY($1)",
}

// findExpired selects recorded events that are to be deleted by a time of their own.
const findExpired = "SELECT n FROM webhook_inbound WHERE recorded AND expires <> 0 AND expires < $1 ORDER BY expires LIMIT $2 FOR UPDATE SKIP LOCKED"

// forgetRecorded deletes the recorded events that have a time of their own.
func (h *history) forgetRecorded(ctx context.Context) error {
	f := forgetting{s: h.s, deletes: deleteEvents}
	for {
		n := 0
		err := h.s.use(func(_ context.Context, conn *pgx.Conn) error {
			within, cancel := context.WithTimeout(ctx, groupTimeout)
			defer cancel()
			return f.delete(within, conn, &n, findExpired, h.s.now().UnixMilli(), forgetBatch)
		})
		switch {
		case err != nil:
			return fmt.Errorf("%w: deleting from %s: %w", store.ErrUnavailable, h.s.name, err)
		case n < forgetBatch:
			return nil
		}
	}
}

const undelivered = "NOT EXISTS (SELECT 1 FROM webhook_deliveries d WHERE d.prediction = r.ref)"

// forgetBatch is how many rows one transaction reads.
const forgetBatch = 500

// sweepBatches is how many batches one call of Forget reads beside those that are
// oldest by number.
const sweepBatches = 40

// forgetting is one call of Forget on one table.
type forgetting struct {
	s          *Store
	span, lock string
	before     int64
	to         int64
	deletes    []string
}

// forgetRows deletes the rows made before the time that match the condition,
// oldest first. Numbers follow time but for a few that were given at the same
// time, so a walk from the oldest ends at a batch of younger ones. Where a clock
// was set that may hide old rows behind it: a sweep looks at some of all rows with
// each call, one call going on where the last ended. It looks at numbers above from
// and below to.
func (h *history) forgetRows(ctx context.Context, before time.Time, table, number string, first, to int64, condition string, deletes ...string) error {
	f := forgetting{
		s: h.s, before: before.UnixMilli(), to: to, deletes: deletes,
		span: fmt.Sprintf("SELECT coalesce(max(%[1]s), 0), coalesce(min(created), $2) FROM (SELECT %[1]s, created FROM webhook_%[2]s WHERE %[1]s > $1 AND %[1]s < $3 ORDER BY %[1]s LIMIT %[3]d) r",
			number, table, forgetBatch),
		lock: fmt.Sprintf("SELECT r.%[1]s FROM webhook_%[2]s r WHERE r.%[1]s > $1 AND r.%[1]s <= $3 AND r.created < $2 AND %[3]s ORDER BY r.%[1]s FOR UPDATE SKIP LOCKED",
			number, table, condition),
	}
	for from, old := first, true; old; {
		var err error
		if from, old, err = f.batch(ctx, from); err != nil {
			return err
		}
	}
	swept, _ := h.swept.Load(f.lock)
	from, _ := swept.(int64)
	from = max(from, first)
	for range sweepBatches {
		last, _, err := f.batch(ctx, from)
		if err != nil {
			return err
		}
		if from = last; last == 0 {
			break // from the beginning the next time
		}
	}
	h.swept.Store(f.lock, from)
	return nil
}

// batch deletes those of the next rows that may go. It returns the last number it
// looked at, 0 when there are no more, and whether any row was old enough.
func (f *forgetting) batch(ctx context.Context, from int64) (last int64, old bool, err error) {
	if err := f.s.available(); err != nil {
		return from, false, err
	}
	err = f.s.use(func(_ context.Context, conn *pgx.Conn) error {
		within, cancel := context.WithTimeout(ctx, groupTimeout)
		defer cancel()
		var oldest int64
		if err := conn.QueryRow(within, f.span, from, f.before, f.to).Scan(&last, &oldest); err != nil {
			return err
		}
		if old = last > 0 && oldest < f.before; !old {
			return nil
		}
		var n int
		return f.delete(within, conn, &n, f.lock, from, f.before, last)
	})
	if err != nil {
		err = fmt.Errorf("%w: deleting from %s: %w", store.ErrUnavailable, f.s.name, err)
	}
	return last, old, err
}

// delete deletes the rows whose numbers a query selects, and counts them.
func (f *forgetting) delete(ctx context.Context, conn *pgx.Conn, n *int, query string, args ...any) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, settings); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, query, args...)
		if err != nil {
			return err
		}
		due, err := pgx.CollectRows(rows, pgx.RowTo[int64])
		if *n = len(due); err != nil || len(due) == 0 {
			return err
		}
		for _, statement := range f.deletes {
			if _, err := tx.Exec(ctx, statement, due); err != nil {
				return err
			}
		}
		return nil
	})
}
