package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// schemaVersion is the newest schema this build reads and writes.
const schemaVersion = 3

// migrations lead from each schema version to the next. A released one is never
// changed. Version 2: a redelivery shares the payload of the delivery it repeats,
// and outages outlive the nodes that found them. Version 3: inbound events, creates
// with an Idempotency-Key, rotations of signing keys, and what operators find
// predictions by. They run in the schema that the connection's search_path names
// first, under an advisory lock, so that nodes may start together.
//
// Times are Unix milliseconds by the clock of the node that wrote them. An
// owner is a node's id, 0 for none.
//
// Claims are unlogged: a claim must not outlive a crash of the server, and
// taking one costs no fsync. Whoever holds one when that happens commits its
// entry all the same.
var migrations = [schemaVersion]string{`
CREATE SEQUENCE webhook_node_ids;
CREATE TABLE webhook_nodes (
	id   bigint PRIMARY KEY,
	beat bigint NOT NULL DEFAULT 0
);
CREATE TABLE webhook_dedup (
	key     uuid   PRIMARY KEY,
	scope   text   NOT NULL,
	expires bigint NOT NULL,
	signed  bigint NOT NULL
);
CREATE INDEX webhook_dedup_expires ON webhook_dedup (expires);
CREATE TABLE webhook_purged (
	scope  text   PRIMARY KEY,
	signed bigint NOT NULL
);
CREATE UNLOGGED TABLE webhook_claims (
	key    uuid    PRIMARY KEY,
	owner  bigint  NOT NULL,
	token  bigint  NOT NULL,
	waited boolean NOT NULL DEFAULT false
);
` + trackingSchema, `
ALTER TABLE webhook_deliveries ADD COLUMN payload bigint NOT NULL DEFAULT 0;
CREATE INDEX webhook_deliveries_sharing ON webhook_deliveries (payload) WHERE payload <> 0;
CREATE TABLE webhook_outages (
	lane   bytea  PRIMARY KEY,
	since  bigint NOT NULL,
	reason bytea  NOT NULL
);
CREATE TABLE webhook_presence (
	began bigint PRIMARY KEY,
	ended bigint NOT NULL
);
`, inboxSchema + createsSchema + finderSchema}

// finderSchema is what operators find predictions by.
const finderSchema = `
CREATE INDEX webhook_predictions_client ON webhook_predictions ((` + indexedClient + `), (ref + 0));
CREATE INDEX webhook_predictions_origin ON webhook_predictions ((` + origin + `), (ref + 0));
`

// inboxSchema holds what inbound events have beside their rows of deliveries and
// payloads. Their numbers begin at ledger.FirstEvent, so that a walk over the
// deliveries to clients reads no events, and the other way round.
//
// The entries of a waiting event, whose keys it has, never expire: expires is when
// they would. Of an ended event that was recorded it is when that is deleted, of any
// other it is 0. place is what the events of one order are ordered by, and ended when
// the event ended, 0 while it waits.
//
// What a scope holds is the sum of its rows of counts. Each transaction adds one,
// so that none waits for another, and they are merged from time to time.
const inboxSchema = `
CREATE SEQUENCE webhook_event_numbers START 1099511627776;
CREATE TABLE webhook_inbound (
	n          bigint  PRIMARY KEY,
	scope      text    NOT NULL,
	name       bytea   NOT NULL,
	prediction bytea   NOT NULL,
	refusals   integer NOT NULL,
	overtaken  boolean NOT NULL,
	recorded   boolean NOT NULL,
	place      bigint  NOT NULL,
	since      bigint  NOT NULL,
	ended      bigint  NOT NULL,
	expires    bigint  NOT NULL,
	size       bigint  NOT NULL,
	keys       uuid[]  NOT NULL,
	head       bytea
);
CREATE INDEX webhook_inbound_waiting ON webhook_inbound (scope, n) WHERE ended = 0;
CREATE INDEX webhook_inbound_ended ON webhook_inbound (scope, ended) WHERE ended <> 0 AND size > 0;
CREATE INDEX webhook_inbound_expires ON webhook_inbound (expires) WHERE recorded AND expires <> 0;
CREATE TABLE webhook_inbox_counts (
	scope     text   NOT NULL,
	id        bigint GENERATED ALWAYS AS IDENTITY,
	waiting   bigint NOT NULL,
	accepted  bigint NOT NULL,
	failed    bigint NOT NULL,
	discarded bigint NOT NULL,
	refused   bigint NOT NULL,
	bytes     bigint NOT NULL,
	ended     bigint NOT NULL,
	PRIMARY KEY (scope, id)
);
CREATE TABLE webhook_inbox_pauses (
	scope text   NOT NULL,
	began bigint NOT NULL,
	ended bigint NOT NULL,
	PRIMARY KEY (scope, began)
);
CREATE TABLE webhook_rotations (
	generation bigint PRIMARY KEY,
	client     bytea  NOT NULL,
	until      bigint NOT NULL
);
`

// trackingSchema holds predictions and deliveries.
//
// What others than the operator wrote is kept as bytes, since text takes no
// NUL. A delivery that is ready is one that any node may take: its index leads
// by endpoint, since a claim takes a few of each.
const trackingSchema = `
CREATE SEQUENCE webhook_numbers;
CREATE TABLE webhook_predictions (
	ref         bigint   PRIMARY KEY,
	key         bytea,
	api         bytea    NOT NULL,
	id          bytea    NOT NULL,
	client      bytea    NOT NULL,
	url         bytea    NOT NULL,
	events      smallint NOT NULL,
	poll_path   bytea    NOT NULL,
	credential  bytea,
	token       bytea,
	traceparent bytea    NOT NULL,
	test        boolean  NOT NULL,
	body        bytea,
	created     bigint   NOT NULL,
	happened    smallint NOT NULL,
	webhook     smallint NOT NULL,
	poller      bigint   NOT NULL
);
CREATE UNIQUE INDEX webhook_predictions_key ON webhook_predictions (key) WHERE key IS NOT NULL;
CREATE UNIQUE INDEX webhook_predictions_token ON webhook_predictions (token) WHERE token IS NOT NULL;
CREATE INDEX webhook_predictions_unsent ON webhook_predictions (webhook, ref) WHERE webhook >= 2;
CREATE INDEX webhook_predictions_polled ON webhook_predictions (poller, ref) WHERE happened < 2 AND poll_path <> '';
CREATE TABLE webhook_deliveries (
	n          bigint   PRIMARY KEY,
	nonce      bigint   NOT NULL,
	prediction bigint   NOT NULL,
	event      smallint NOT NULL,
	redelivery boolean  NOT NULL,
	state      smallint NOT NULL,
	attempts   integer  NOT NULL,
	due        bigint   NOT NULL,
	created    bigint   NOT NULL,
	endpoint   bytea    NOT NULL,
	held       boolean  NOT NULL,
	owner      bigint   NOT NULL,
	lease      bigint   NOT NULL
);
CREATE INDEX webhook_deliveries_prediction ON webhook_deliveries (prediction);
CREATE INDEX webhook_deliveries_pending ON webhook_deliveries (n) WHERE state = 0;
CREATE INDEX webhook_deliveries_unsent ON webhook_deliveries (state, n) WHERE state >= 2;
CREATE INDEX webhook_deliveries_ready ON webhook_deliveries (endpoint, due, n) WHERE state = 0 AND owner = 0 AND NOT held;
CREATE INDEX webhook_deliveries_owner ON webhook_deliveries (owner) WHERE owner <> 0;
CREATE TABLE webhook_payloads (
	n    bigint PRIMARY KEY,
	body bytea  NOT NULL
);
CREATE TABLE webhook_attempts (
	id         bigint   PRIMARY KEY,
	delivery   bigint   NOT NULL,
	prediction bigint   NOT NULL,
	event      smallint NOT NULL,
	url        bytea    NOT NULL,
	status     integer  NOT NULL,
	number     integer  NOT NULL,
	at         bigint   NOT NULL,
	took       bigint   NOT NULL,
	response   bytea    NOT NULL,
	error      bytea    NOT NULL,
	exception  boolean  NOT NULL
);
CREATE INDEX webhook_attempts_prediction ON webhook_attempts (prediction, id);
CREATE TABLE webhook_secrets (
	name   text  PRIMARY KEY,
	sealed bytea NOT NULL
);
`

// tables are those whose rights are looked at when the store is opened.
var tables = []string{
	"nodes", "dedup", "purged", "claims", "predictions", "deliveries", "payloads", "attempts", "secrets", "outages", "presence",
	"inbound", "inbox_counts", "inbox_pauses", "creates", "rotations",
}

// migrate brings the schema up to date, or says why it can't be used.
func (s *Store) migrate(ctx context.Context, conn *pgx.Conn) error {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	var schema *string
	var oid uint32
	err = tx.QueryRow(ctx, "SELECT current_schema(), coalesce((SELECT oid FROM pg_namespace WHERE nspname = current_schema()), 0)").Scan(&schema, &oid)
	if err != nil {
		return err
	}
	if schema == nil {
		return errors.New("names no schema that is there: create the one in search_path, and grant the user USAGE and CREATE on it")
	}
	s.channel = fmt.Sprintf("webhook_%d", oid)
	if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtext('webhook_schema'), hashtext($1))", *schema); err != nil {
		return err
	}
	version := 0
	var exists bool
	if err := tx.QueryRow(ctx, "SELECT to_regclass(quote_ident($1) || '.webhook_schema') IS NOT NULL", *schema).Scan(&exists); err != nil {
		return err
	}
	if exists {
		if err := tx.QueryRow(ctx, "SELECT version FROM webhook_schema").Scan(&version); err != nil {
			return err
		}
	}
	if version > schemaVersion {
		return fmt.Errorf("has schema version %d, newer than the %d this build knows: run the newer build, or restore a backup made before the upgrade", version, schemaVersion)
	}
	if version < schemaVersion {
		if !exists {
			if _, err := tx.Exec(ctx, "CREATE TABLE webhook_schema (version integer NOT NULL); INSERT INTO webhook_schema VALUES (0)"); err != nil {
				return fmt.Errorf("can't be set up in schema %s: %w", *schema, err)
			}
		}
		for _, m := range migrations[version:] {
			if _, err := tx.Exec(ctx, m); err != nil {
				return fmt.Errorf("can't be set up in schema %s: %w", *schema, err)
			}
		}
		if _, err := tx.Exec(ctx, "UPDATE webhook_schema SET version = $1", schemaVersion); err != nil {
			return err
		}
	}
	if err := checkRights(ctx, tx); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// checkRights finds what the user may not do before the first event does.
func checkRights(ctx context.Context, tx pgx.Tx) error {
	var lacking []string
	err := tx.QueryRow(ctx, `SELECT coalesce(array_agg(t), '{}') FROM unnest($1::text[]) t
		WHERE NOT (has_table_privilege('webhook_' || t, 'SELECT') AND has_table_privilege('webhook_' || t, 'INSERT')
			AND has_table_privilege('webhook_' || t, 'UPDATE') AND has_table_privilege('webhook_' || t, 'DELETE'))`, tables).Scan(&lacking)
	if err != nil {
		return err
	}
	var sequences bool
	err = tx.QueryRow(ctx, "SELECT has_sequence_privilege('webhook_numbers', 'USAGE') AND has_sequence_privilege('webhook_node_ids', 'USAGE') AND has_sequence_privilege('webhook_event_numbers', 'USAGE')").Scan(&sequences)
	if err != nil {
		return err
	}
	switch {
	case len(lacking) > 0:
		return fmt.Errorf("is not the user's to write: grant SELECT, INSERT, UPDATE and DELETE on webhook_%s and the other webhook_ tables", lacking[0])
	case !sequences:
		return errors.New("is not the user's to write: grant USAGE on the sequences webhook_numbers, webhook_node_ids and webhook_event_numbers")
	}
	return nil
}
