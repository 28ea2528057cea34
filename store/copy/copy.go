// Package copy moves what a store holds into another.
package copy

import (
	"context"
	"errors"

	"github.com/caddy-replicate/replicate-webhook/store/internal/move"
	"github.com/caddy-replicate/replicate-webhook/store/postgres"
	"github.com/caddy-replicate/replicate-webhook/store/sqlite"
)

// Report counts what was copied.
type Report = move.Report

// SQLiteToPostgres copies the file at path into the database of the dsn: what
// dedup remembers, predictions, deliveries, inbound events with the pauses of their
// inboxes, the log, and secrets. Sealed values stay sealed with the key they were
// sealed with.
//
// No Caddy may run on the file, and the database must be empty. It is all or
// nothing, so that a copy which failed can be made again.
func SQLiteToPostgres(ctx context.Context, path, dsn string) (r Report, err error) {
	from, err := sqlite.OpenExport(path)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	return postgres.Import(ctx, dsn, from)
}
