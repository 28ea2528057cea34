package postgres

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/ledger"
	"github.com/caddy-replicate/replicate-webhook/store/internal/move"
)

// Import fills an empty database with what another store holds, all of it or
// nothing. It sets the database up where that was not done yet. The errors are
// those of Open, and those of the source.
func Import(ctx context.Context, dsn string, from move.Source) (report move.Report, err error) {
	c, err := newConnector(dsn)
	if err != nil {
		return report, fmt.Errorf("store postgres: %w", err)
	}
	s := &Store{opts: Options{Logger: zap.NewNop}, name: place(c.conf)}
	conn, err := c.connect(ctx)
	if err == nil {
		defer disconnect(conn)
		err = s.prepare(ctx, conn)
	}
	if err == nil {
		err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) (err error) {
			if _, err = tx.Exec(ctx, durable); err != nil {
				return err
			}
			report, err = fill(ctx, tx, from)
			return err
		})
	}
	if err != nil {
		return move.Report{}, fmt.Errorf("store postgres at %s %w", s.name, explain(err))
	}
	return report, nil
}

func fill(ctx context.Context, tx pgx.Tx, from move.Source) (r move.Report, err error) {
	var used bool
	_, err = tx.Exec(ctx, "LOCK TABLE webhook_predictions, webhook_deliveries, webhook_dedup, webhook_secrets, webhook_inbound, webhook_inbox_pauses, webhook_creates, webhook_rotations IN EXCLUSIVE MODE")
	if err == nil {
		err = tx.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM webhook_predictions) OR EXISTS (SELECT 1 FROM webhook_deliveries)
			OR EXISTS (SELECT 1 FROM webhook_dedup) OR EXISTS (SELECT 1 FROM webhook_purged) OR EXISTS (SELECT 1 FROM webhook_secrets)
			OR EXISTS (SELECT 1 FROM webhook_inbox_pauses) OR EXISTS (SELECT 1 FROM webhook_creates)
			OR EXISTS (SELECT 1 FROM webhook_rotations)`).Scan(&used)
	}
	switch {
	case err != nil:
		return r, err
	case used:
		return r, errors.New("is in use: a copy needs one that is empty, before any Caddy was started on it; name another database or search_path")
	}
	entries, err := from.Entries()
	if err != nil {
		return r, err
	}
	last := int64(1)
	if r.Entries, err = fillTable(ctx, tx, "dedup", []string{"key", "scope", "expires", "signed"}, entries, func(e move.Entry) []any {
		return []any{[16]byte(e.Key), e.Scope, e.Expires, e.Signed}
	}); err != nil {
		return r, err
	}
	if _, err = fillTable(ctx, tx, "purged", []string{"scope", "signed"}, from.Marks(), func(m move.Mark) []any {
		return []any{m.Scope, m.Signed}
	}); err != nil {
		return r, err
	}
	columns := []string{"ref", "key", "api", "id", "client", "url", "events", "poll_path", "credential", "token", "traceparent", "test", "body", "created", "happened", "webhook", "poller"}
	if r.Predictions, err = fillTable(ctx, tx, "predictions", columns, from.Predictions(), func(p store.Prediction) []any {
		last = max(last, p.Ref)
		return []any{p.Ref, ledger.PredictionKey(p.API, p.ID), []byte(p.API), []byte(p.ID), []byte(p.Client), []byte(p.URL), int16(p.Events), []byte(p.PollPath),
			p.Credential, p.Token, []byte(p.Traceparent), p.Test, p.Body, p.CreatedAt.UnixMilli(), int16(p.Seen), int16(p.Webhook), int64(0)}
	}); err != nil {
		return r, err
	}
	if _, err = fillTable(ctx, tx, "payloads", []string{"n", "body"}, from.Payloads(), func(p move.Payload) []any {
		return []any{p.N, orEmpty(p.Body)}
	}); err != nil {
		return r, err
	}
	columns = []string{"n", "nonce", "prediction", "event", "redelivery", "state", "attempts", "due", "created", "endpoint", "held", "owner", "lease", "payload"}
	if r.Deliveries, err = fillTable(ctx, tx, "deliveries", columns, from.Deliveries(), func(d move.Delivery) []any {
		last = max(last, d.N)
		return []any{d.N, d.Nonce, d.Prediction, int16(d.Event), d.Redelivery, d.State, int32(d.Attempts), d.Due, d.Created, []byte(d.Endpoint), false, int64(0), int64(0), d.Payload}
	}); err != nil {
		return r, err
	}
	// Some of them wait for others.
	if _, err := tx.Exec(ctx, `UPDATE webhook_deliveries d SET held = true WHERE state = 0 AND event <> 1 AND NOT redelivery
		AND EXISTS (SELECT 1 FROM webhook_deliveries s WHERE s.prediction = d.prediction AND s.event = 1 AND NOT s.redelivery AND s.state = 0)`); err != nil {
		return r, err
	}
	if r.Events, err = fillEvents(ctx, tx, from); err != nil {
		return r, err
	}
	columns = []string{"id", "delivery", "prediction", "event", "url", "status", "number", "at", "took", "response", "error", "exception"}
	if r.Attempts, err = fillTable(ctx, tx, "attempts", columns, from.Attempts(), func(a move.Attempt) []any {
		last = max(last, a.ID)
		return []any{a.ID, a.Delivery, a.Prediction, int16(a.Event), []byte(a.URL), int32(a.Status), int32(a.Number), a.At.UnixMilli(), int64(a.Took),
			[]byte(a.Response), []byte(a.Error), a.Exception}
	}); err != nil {
		return r, err
	}
	if r.Secrets, err = fillTable(ctx, tx, "secrets", []string{"name", "sealed"}, from.Secrets(), func(s move.Secret) []any {
		return []any{s.Name, s.Sealed}
	}); err != nil {
		return r, err
	}
	columns = []string{"key", "caller", "digest", "expires", "nonce", "ref", "status", "prediction", "answer"}
	if r.Creates, err = fillTable(ctx, tx, "creates", columns, from.Creates(), func(c move.Create) []any {
		return []any{[16]byte(c.Key), [16]byte(c.Caller), c.Digest[:], c.Expires, c.Nonce, c.Ref, int32(c.Status), []byte(c.ID), c.Sealed}
	}); err != nil {
		return r, err
	}
	if _, err = fillTable(ctx, tx, "rotations", []string{"generation", "client", "until"}, from.Rotations(), func(r store.Rotation) []any {
		return []any{r.Generation, []byte(r.Client), r.Until.UnixMilli()}
	}); err != nil {
		return r, err
	}
	_, err = tx.Exec(ctx, "SELECT setval('webhook_numbers', $1)", last)
	return r, err
}

// fillEvents copies inbound events and the pauses of their inboxes.
func fillEvents(ctx context.Context, tx pgx.Tx, from move.Source) (n int64, err error) {
	last := int64(ledger.FirstEvent)
	columns := []string{"n", "nonce", "prediction", "event", "redelivery", "state", "attempts", "due", "created", "endpoint", "held", "owner", "lease", "payload"}
	if n, err = fillTable(ctx, tx, "deliveries", columns, from.Events(), func(e move.Event) []any {
		d := &e.Delivery
		last = max(last, d.N, e.Place)
		return []any{d.N, d.Nonce, d.Prediction, int16(0), d.Redelivery, d.State, int32(d.Attempts), d.Due, d.Created, []byte(store.InboxLane(e.Scope).String()), false, int64(0), int64(0), int64(0)}
	}); err != nil {
		return n, err
	}
	columns = []string{"n", "scope", "name", "prediction", "refusals", "overtaken", "recorded", "place", "since", "ended", "expires", "size", "keys", "head"}
	if _, err = fillTable(ctx, tx, "inbound", columns, from.Events(), func(e move.Event) []any {
		d, ended, head := &e.Delivery, int64(0), orEmpty(e.Head)
		if d.State != int16(store.DeliveryPending) {
			ended = d.Due
		}
		if deleted(e) {
			head = nil
		}
		return []any{d.N, e.Scope, []byte(e.Name), []byte(e.PredictionID), int32(e.Refusals), e.Overtaken, e.Recorded, e.Place, e.Since, ended, e.Expires,
			ledger.Size(&e.Inbound), [][16]byte{}, head}
	}); err != nil {
		return n, err
	}
	bodies := func(yield func(move.Event, error) bool) {
		for e, err := range from.Events() {
			if (err != nil || !deleted(e)) && !yield(e, err) {
				return
			}
		}
	}
	if _, err = fillTable(ctx, tx, "payloads", []string{"n", "body"}, bodies, func(e move.Event) []any {
		return []any{e.Delivery.N, orEmpty(e.Body)}
	}); err != nil {
		return n, err
	}
	if _, err = fillTable(ctx, tx, "inbox_pauses", []string{"scope", "began", "ended"}, from.Pauses(), func(p move.Pause) []any {
		return []any{p.Scope, p.Began, p.Ended}
	}); err != nil {
		return n, err
	}
	for _, statement := range settleImported {
		if _, err := tx.Exec(ctx, statement); err != nil {
			return n, err
		}
	}
	_, err = tx.Exec(ctx, "SELECT setval('webhook_event_numbers', $1)", last)
	return n, err
}

// deleted reports whether the head and body of an event were deleted to make room.
func deleted(e move.Event) bool {
	return e.Delivery.State != int16(store.DeliveryPending) && e.Head == nil && e.Body == nil
}

// settleImported brings events that were copied into the form of this store.
var settleImported = []string{
	// An entry expires when its event says so. Where several entries of a scope
	// expire at the same millisecond, each waiting event of them keeps all.
	"UPDATE webhook_inbound i SET keys = ARRAY(SELECT d.key FROM webhook_dedup d WHERE d.scope = i.scope AND d.expires = i.expires) WHERE i.ended = 0",
	"UPDATE webhook_dedup SET expires = 9223372036854775807 WHERE key IN (SELECT unnest(keys) FROM webhook_inbound WHERE ended = 0)",
	// Of the events of a line one may be claimed, see tracked.narrow.
	`WITH line AS (
		SELECT d.n, d.prediction, d.due, i.place, count(*) FILTER (WHERE i.refusals < 10)
			OVER (PARTITION BY d.prediction ORDER BY i.place ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS blocking
		FROM webhook_deliveries d JOIN webhook_inbound i ON i.n = d.n WHERE d.state = 0 AND d.prediction < 0 AND d.prediction % 2 = 0
	), ranked AS (
		SELECT n, row_number() OVER (PARTITION BY prediction ORDER BY blocking > 0, due, place) AS rank FROM line
	) UPDATE webhook_deliveries SET held = true WHERE n IN (SELECT n FROM ranked WHERE rank > 1)`,
	`INSERT INTO webhook_inbox_counts (scope, waiting, accepted, failed, discarded, refused, bytes, ended)
		SELECT i.scope, count(*) FILTER (WHERE d.state = 0), count(*) FILTER (WHERE d.state = 1), count(*) FILTER (WHERE d.state = 2), count(*) FILTER (WHERE d.state = 4),
			count(*) FILTER (WHERE d.state = 5), sum(i.size), coalesce(sum(i.size) FILTER (WHERE d.state <> 0), 0)
		FROM webhook_inbound i JOIN webhook_deliveries d ON d.n = i.n GROUP BY i.scope`,
}

// fillTable copies rows into a table.
func fillTable[T any](ctx context.Context, tx pgx.Tx, table string, columns []string, rows iter.Seq2[T, error], values func(T) []any) (int64, error) {
	next, stop := iter.Pull2(rows)
	defer stop()
	return tx.CopyFrom(ctx, pgx.Identifier{"webhook_" + table}, columns, pgx.CopyFromFunc(func() ([]any, error) {
		row, err, ok := next()
		if !ok || err != nil {
			return nil, err
		}
		return values(row), nil
	}))
}
