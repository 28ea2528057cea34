-- A database of schema version 1, as the build that knew no later one wrote it.
PRAGMA application_id=1383094120;
PRAGMA user_version=1;
CREATE TABLE dedup (
	id      INTEGER PRIMARY KEY,
	scope   TEXT    NOT NULL,
	expires INTEGER NOT NULL,
	signed  INTEGER NOT NULL,
	sum     INTEGER NOT NULL,
	entries BLOB    NOT NULL
);
CREATE TABLE purged (
	scope  TEXT    PRIMARY KEY,
	signed INTEGER NOT NULL
) WITHOUT ROWID;
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
INSERT INTO dedup VALUES (1, 'default', 4948776000000, 1795176000000, 1802406906, X'7E72482FD28F39BE14A897D9393744AF000004803A091A00');
INSERT INTO predictions VALUES (1, X'DC0B6BDE69F3A6EE71367A3F389967E036668997F95FA0BC', 'https://api.example.com/v1', 'done', 'client of done', 'https://a.example.com/hook', 7, '/predictions/done', NULL, NULL, '', 0, NULL, 1795176000000, 2, 1);
INSERT INTO predictions VALUES (2, X'B8B6CD2E8608FAC2AA2DFF695FBFE81436668997F95FA0BC', 'https://api.example.com/v1', 'retrying', 'client of retrying', 'https://a.example.com/hook', 7, '/predictions/retrying', NULL, NULL, '', 0, NULL, 1795176000000, 1, 0);
INSERT INTO predictions VALUES (3, X'042F66AC73120C919120608BDAB5B17836668997F95FA0BC', 'https://api.example.com/v1', 'waiting', 'client of waiting', 'https://a.example.com/hook', 7, '/predictions/waiting', NULL, NULL, '', 0, NULL, 1795176000000, 5, 0);
INSERT INTO deliveries VALUES (1, 1464012073137142749, 1, 2, 0, 1, 1, 1795176000000, 1795176000000);
INSERT INTO deliveries VALUES (2, -5135452541142014799, 1, 2, 1, 2, 1, 1795176000000, 1795176000000);
INSERT INTO deliveries VALUES (3, 7753201305232613624, 2, 1, 0, 0, 1, 1795176060000, 1795176000000);
INSERT INTO deliveries VALUES (4, -8023353507421670445, 3, 1, 0, 0, 0, 1795176000000, 1795176000000);
INSERT INTO deliveries VALUES (5, 4860297089194814812, 3, 4, 0, 0, 0, 1795176000000, 1795176000000);
INSERT INTO payloads VALUES (1, X'646F6E652070726564696374696F6E2E636F6D706C65746564');
INSERT INTO payloads VALUES (2, X'616761696E20646F6E652070726564696374696F6E2E636F6D706C65746564');
INSERT INTO payloads VALUES (3, X'7265747279696E672070726564696374696F6E2E73746172746564');
INSERT INTO payloads VALUES (4, X'77616974696E672070726564696374696F6E2E73746172746564');
INSERT INTO payloads VALUES (5, X'77616974696E672070726564696374696F6E2E6661696C6564');
INSERT INTO attempts VALUES (1, 1, 1, 2, 'https://a.example.com/hook', 200, 1, 1795176000000, 1000000, '', '', 0);
INSERT INTO attempts VALUES (2, 2, 1, 2, 'https://a.example.com/hook', 500, 1, 1795176000000, 1000000, '', '', 0);
INSERT INTO attempts VALUES (3, 3, 2, 1, 'https://a.example.com/hook', 503, 1, 1795176000000, 1000000, '', '', 0);
INSERT INTO secrets VALUES ('signing', X'7365616C6564');
