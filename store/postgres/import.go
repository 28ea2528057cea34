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
	_, err = tx.Exec(ctx, "LOCK TABLE webhook_predictions, webhook_deliveries, webhook_dedup, webhook_secrets IN EXCLUSIVE MODE")
	if err == nil {
		err = tx.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM webhook_predictions) OR EXISTS (SELECT 1 FROM webhook_deliveries)
			OR EXISTS (SELECT 1 FROM webhook_dedup) OR EXISTS (SELECT 1 FROM webhook_purged) OR EXISTS (SELECT 1 FROM webhook_secrets)`).Scan(&used)
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
	_, err = tx.Exec(ctx, "SELECT setval('webhook_numbers', $1)", last)
	return r, err
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
