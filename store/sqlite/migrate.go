package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/caddy-replicate/replicate-webhook/store/internal/ledger"
)

// schemaVersion is the newest schema this build reads and writes.
const schemaVersion = 3

// migrations lead from each schema version to the next, beginning with an empty
// file. A released one is never changed.
//
// Version 2: a redelivery shares the payload of the delivery it repeats, and
// outages outlive the process that found them.
//
// Version 3: inbound events are deliveries with numbers from ledger.FirstEvent on, and
// negative prediction numbers. The columns say of an event: the row of inboxes of
// its scope, its name, how often it was refused, the size of its head and body, and
// when its entry of dedup expires while it waits, or when it is to be deleted if it
// was recorded. A line is ordered by the events' numbers, or by their place where they
// were replayed. The counts of an inbox are kept with it, so that opening a store need
// not count. And there are creates with an Idempotency-Key, and rotations of signing
// keys. Operators find predictions by client and by endpoint.
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
`, `
ALTER TABLE deliveries ADD COLUMN scope INTEGER NOT NULL DEFAULT 0;
ALTER TABLE deliveries ADD COLUMN name TEXT NOT NULL DEFAULT '';
ALTER TABLE deliveries ADD COLUMN refusals INTEGER NOT NULL DEFAULT 0;
ALTER TABLE deliveries ADD COLUMN size INTEGER NOT NULL DEFAULT 0;
ALTER TABLE deliveries ADD COLUMN expires INTEGER NOT NULL DEFAULT 0;
ALTER TABLE deliveries ADD COLUMN place INTEGER NOT NULL DEFAULT 0;
CREATE INDEX deliveries_replayed ON deliveries (place) WHERE place > 0 AND state = 0;
CREATE INDEX deliveries_sized ON deliveries (scope, due) WHERE size > 0 AND state <> 0;
CREATE INDEX deliveries_recorded ON deliveries (expires) WHERE expires > 0 AND state <> 0;
CREATE TABLE inbound (
	n          INTEGER PRIMARY KEY,
	prediction TEXT    NOT NULL,
	since      INTEGER NOT NULL,
	overtaken  INTEGER NOT NULL,
	recorded   INTEGER NOT NULL,
	head       BLOB,
	body       BLOB
);
CREATE TABLE inboxes (
	id        INTEGER PRIMARY KEY,
	scope     TEXT    NOT NULL UNIQUE,
	waiting   INTEGER NOT NULL DEFAULT 0,
	accepted  INTEGER NOT NULL DEFAULT 0,
	failed    INTEGER NOT NULL DEFAULT 0,
	discarded INTEGER NOT NULL DEFAULT 0,
	refused   INTEGER NOT NULL DEFAULT 0,
	bytes     INTEGER NOT NULL DEFAULT 0,
	ended     INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE pauses (
	scope TEXT    NOT NULL,
	began INTEGER NOT NULL,
	ended INTEGER NOT NULL,
	PRIMARY KEY (scope, began)
) WITHOUT ROWID;
CREATE TABLE rotations (
	generation INTEGER PRIMARY KEY,
	client     TEXT    NOT NULL,
	until      INTEGER NOT NULL
);
CREATE INDEX rotations_client ON rotations (client, generation);
CREATE INDEX predictions_client ON predictions (client);
CREATE INDEX predictions_origin ON predictions (` + origin + `);
` + createsSchema}

// firstEventText is ledger.FirstEvent in statements, whose partial indexes want a
// constant.
var firstEventText = strconv.Itoa(ledger.FirstEvent)

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
