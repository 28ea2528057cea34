package sqlite

// trackingSchema holds predictions and deliveries.
//
// Times are Unix milliseconds. Numbers of rows are given by the writer, which
// counts in memory. What is pending is found at opening by partial indexes, and
// in memory from then on. What was not sent has small partial indexes as well, so
// that operators find it among much that was. Payloads stand apart because they
// never change while the state of their delivery does.
const trackingSchema = `
CREATE TABLE predictions (
	ref         INTEGER PRIMARY KEY,
	key         BLOB,
	api         TEXT    NOT NULL,
	id          TEXT    NOT NULL,
	client      TEXT    NOT NULL,
	url         TEXT    NOT NULL,
	events      INTEGER NOT NULL,
	poll_path   TEXT    NOT NULL,
	credential  BLOB,
	token       BLOB,
	traceparent TEXT    NOT NULL,
	test        INTEGER NOT NULL,
	body        BLOB,
	created     INTEGER NOT NULL,
	happened    INTEGER NOT NULL,
	webhook     INTEGER NOT NULL
);
CREATE UNIQUE INDEX predictions_key ON predictions (key) WHERE key IS NOT NULL;
CREATE UNIQUE INDEX predictions_token ON predictions (token) WHERE token IS NOT NULL;
CREATE INDEX predictions_tracked ON predictions (ref) WHERE happened < 2;
CREATE INDEX predictions_unsent ON predictions (webhook) WHERE webhook >= 2;
CREATE TABLE deliveries (
	n          INTEGER PRIMARY KEY,
	nonce      INTEGER NOT NULL,
	prediction INTEGER NOT NULL,
	event      INTEGER NOT NULL,
	redelivery INTEGER NOT NULL,
	state      INTEGER NOT NULL,
	attempts   INTEGER NOT NULL,
	due        INTEGER NOT NULL,
	created    INTEGER NOT NULL
);
CREATE INDEX deliveries_prediction ON deliveries (prediction);
CREATE INDEX deliveries_pending ON deliveries (n) WHERE state = 0;
CREATE INDEX deliveries_unsent ON deliveries (state) WHERE state >= 2;
CREATE TABLE payloads (
	n    INTEGER PRIMARY KEY,
	body BLOB NOT NULL
);
CREATE TABLE attempts (
	id         INTEGER PRIMARY KEY,
	delivery   INTEGER NOT NULL,
	prediction INTEGER NOT NULL,
	event      INTEGER NOT NULL,
	url        TEXT    NOT NULL,
	status     INTEGER NOT NULL,
	number     INTEGER NOT NULL,
	at         INTEGER NOT NULL,
	took       INTEGER NOT NULL,
	response   TEXT    NOT NULL,
	error      TEXT    NOT NULL,
	exception  INTEGER NOT NULL
);
CREATE INDEX attempts_prediction ON attempts (prediction, id);
CREATE TABLE secrets (
	name   TEXT PRIMARY KEY,
	sealed BLOB NOT NULL
) WITHOUT ROWID;
`
