package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
)

// schemaVersion is the newest schema this build reads and writes.
const schemaVersion = 2

// migrations lead from each schema version to the next, beginning with an empty
// file. A released one is never changed.
//
// Version 2: a redelivery shares the payload of the delivery it repeats, and
// outages outlive the process that found them.
var migrations = [schemaVersion]string{schema, `
ALTER TABLE deliveries ADD COLUMN payload INTEGER NOT NULL DEFAULT 0;
CREATE INDEX deliveries_sharing ON deliveries (payload) WHERE payload <> 0;
CREATE TABLE outages (
	lane   TEXT    PRIMARY KEY,
	since  INTEGER NOT NULL,
	reason TEXT    NOT NULL
) WITHOUT ROWID;
CREATE TABLE presence (
	began INTEGER PRIMARY KEY,
	ended INTEGER NOT NULL
);
`}

// payloadNumber is the number of the payload of a row d of deliveries. A
// delivery's own payload has its number.
const payloadNumber = "iif(d.payload = 0, d.n, d.payload)"

// upgrade returns the statements that bring a file of a version up to date in
// one transaction.
func upgrade(version int) string {
	return fmt.Sprintf("BEGIN IMMEDIATE; %s PRAGMA user_version=%d; COMMIT", strings.Join(migrations[version:], ""), schemaVersion)
}

// migrate brings a file that an earlier build wrote up to date. Others are left
// to openDB to judge.
func migrate(path string) error {
	db, err := sql.Open("sqlite", dsn(path, connPragmas...))
	if err != nil {
		return err
	}
	conn, err := db.Conn(context.Background())
	if err != nil {
		return errors.Join(err, db.Close())
	}
	ctx := context.Background()
	var app, version int
	err = errors.Join(
		conn.QueryRowContext(ctx, "PRAGMA application_id").Scan(&app),
		conn.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version),
	)
	if err == nil && app == applicationID && version > 0 && version < schemaVersion {
		_, err = conn.ExecContext(ctx, upgrade(version))
	}
	return errors.Join(err, conn.Close(), db.Close())
}
