-- A database of schema version 2, as the build that knew no later one wrote it.
PRAGMA application_id=1383094120;
PRAGMA user_version=2;
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
INSERT INTO "attempts" VALUES(1,1,1,2,'https://receiver.example.com/hook',0,1,1795789875457,0,'','',0);
INSERT INTO "attempts" VALUES(2,3,2,4,'https://receiver.example.com/hook',0,1,1795789875469,0,'','',0);
CREATE TABLE dedup (
	id      INTEGER PRIMARY KEY,
	scope   TEXT    NOT NULL,
	expires INTEGER NOT NULL,
	signed  INTEGER NOT NULL,
	sum     INTEGER NOT NULL,
	entries BLOB    NOT NULL
);
INSERT INTO "dedup" VALUES(1,'default',1795698000000,1795694400000,3022578914,X'7E72482FD28F39BE14A897D9393744AF000001A217F10080');
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
, payload INTEGER NOT NULL DEFAULT 0);
INSERT INTO "deliveries" VALUES(1,-2753075637006284757,1,2,0,1,1,1795694400000,1795694400000,0);
INSERT INTO "deliveries" VALUES(2,4114004566977986208,1,2,1,0,0,1795694400000,1795694400000,1);
INSERT INTO "deliveries" VALUES(3,2626002172969545109,2,4,0,2,1,1795694400000,1795694400000,0);
INSERT INTO "deliveries" VALUES(4,9067911663921780611,3,1,0,0,0,1795694400000,1795694400000,0);
INSERT INTO "deliveries" VALUES(5,6795253935117846996,3,2,0,0,0,1795694400000,1795694400000,0);
CREATE TABLE outages (
	lane   TEXT    PRIMARY KEY,
	since  INTEGER NOT NULL,
	reason TEXT    NOT NULL
) WITHOUT ROWID;
INSERT INTO "outages" VALUES('https://receiver.example.com:443',1795694400000,'connection refused');
CREATE TABLE payloads (
	n    INTEGER PRIMARY KEY,
	body BLOB NOT NULL
);
INSERT INTO "payloads" VALUES(1,X'646F6E652070726564696374696F6E2E636F6D706C65746564');
INSERT INTO "payloads" VALUES(3,X'6661696C65642070726564696374696F6E2E6661696C6564');
INSERT INTO "payloads" VALUES(4,X'77616974696E672070726564696374696F6E2E73746172746564');
INSERT INTO "payloads" VALUES(5,X'77616974696E672070726564696374696F6E2E636F6D706C65746564');
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
INSERT INTO "predictions" VALUES(1,X'DC0B6BDE69F3A6EE71367A3F389967E036668997F95FA0BC','https://api.example.com/v1','done','c','https://receiver.example.com/hook',7,'',NULL,NULL,'',0,NULL,1795694400000,2,1);
INSERT INTO "predictions" VALUES(2,X'6BBDAAC8675A91E488E8B09B0954075F36668997F95FA0BC','https://api.example.com/v1','failed','c','https://receiver.example.com/hook',7,'',NULL,NULL,'',0,NULL,1795694400000,4,2);
INSERT INTO "predictions" VALUES(3,X'042F66AC73120C919120608BDAB5B17836668997F95FA0BC','https://api.example.com/v1','waiting','c','https://receiver.example.com/hook',7,'',NULL,NULL,'',0,NULL,1795694400000,3,0);
CREATE TABLE presence (
	began INTEGER PRIMARY KEY,
	ended INTEGER NOT NULL
);
CREATE TABLE purged (
	scope  TEXT    PRIMARY KEY,
	signed INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE secrets (
	name   TEXT PRIMARY KEY,
	sealed BLOB NOT NULL
) WITHOUT ROWID;
CREATE UNIQUE INDEX predictions_key ON predictions (key) WHERE key IS NOT NULL;
CREATE UNIQUE INDEX predictions_token ON predictions (token) WHERE token IS NOT NULL;
CREATE INDEX predictions_tracked ON predictions (ref) WHERE happened < 2;
CREATE INDEX predictions_unsent ON predictions (webhook) WHERE webhook >= 2;
CREATE INDEX deliveries_prediction ON deliveries (prediction);
CREATE INDEX deliveries_pending ON deliveries (n) WHERE state = 0;
CREATE INDEX deliveries_unsent ON deliveries (state) WHERE state >= 2;
CREATE INDEX attempts_prediction ON attempts (prediction, id);
CREATE INDEX deliveries_sharing ON deliveries (payload) WHERE payload <> 0;
