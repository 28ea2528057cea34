package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
)

// settings hold for one transaction, since a pooler may give the next one another
// session.
//
// Commits are on disk when they return, whatever the default of the database or the
// role is. A stronger setting, such as remote_apply, stays.
//
// The locks of a node that has vanished end with idle_in_transaction_session_timeout.
//
// Plans use keys and indexes, whatever the statistics say. Those of a queue are soon
// out of date, and a plan made for an empty table would still be used when there are
// a million rows.
const settings = durable + `,
	set_config('idle_in_transaction_session_timeout', '30000', true),
	set_config('enable_seqscan', 'off', true), set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true),
	set_config('enable_bitmapscan', 'off', true), set_config('jit', 'off', true), set_config('plan_cache_mode', 'force_generic_plan', true)`

const durable = "SELECT set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, true)"

// newBatch returns a batch that is one transaction and begins with the settings.
func newBatch() *pgx.Batch {
	b := new(pgx.Batch)
	b.Queue(settings)
	return b
}

// send sends a batch that newBatch returned. The results begin with those of the
// first statement that was queued after that.
func send(ctx context.Context, conn *pgx.Conn, b *pgx.Batch) (pgx.BatchResults, error) {
	res := conn.SendBatch(ctx, b)
	if _, err := res.Exec(); err != nil {
		return res, errors.Join(err, res.Close())
	}
	return res, nil
}

// collect runs one query with the settings and returns its rows.
func collect[T any](ctx context.Context, conn *pgx.Conn, scan pgx.RowToFunc[T], query string, args ...any) ([]T, error) {
	b := newBatch()
	b.Queue(query, args...)
	res, err := send(ctx, conn, b)
	if err != nil {
		return nil, err
	}
	out, err := collectNext(res, scan)
	return out, errors.Join(err, res.Close())
}

// collectNext returns the rows of a batch's next query.
func collectNext[T any](res pgx.BatchResults, scan pgx.RowToFunc[T]) ([]T, error) {
	rows, err := res.Query()
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scan)
}

// execute runs one statement with the settings.
func execute(ctx context.Context, conn *pgx.Conn, statement string, args ...any) error {
	b := newBatch()
	b.Queue(statement, args...)
	return conn.SendBatch(ctx, b).Close()
}
