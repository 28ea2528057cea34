package postgres

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/pgtest"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// version1Rows is what a node of the first schema version left: a delivery that
// was delivered.
const version1Rows = `
INSERT INTO webhook_predictions VALUES (1, '\x01', '', 'p', 'client', 'https://a.example.com/hook', 7, '', NULL, NULL, '', false, NULL, 1795176000000, 2, 1, 0);
INSERT INTO webhook_deliveries VALUES (2, 77, 1, 2, false, 1, 1, 1795176000000, 1795176000000, 'https://a.example.com:443', false, 0, 0);
INSERT INTO webhook_payloads VALUES (2, 'payload');
INSERT INTO webhook_attempts VALUES (3, 2, 1, 2, 'https://a.example.com/hook', 200, 1, 1795176000000, 1000000, '', '', false);
SELECT setval('webhook_numbers', 3);
`

func TestDatabaseOfVersion1IsUpgraded(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	dsn := pgtest.Start(t).Fresh(t)
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	for _, statements := range []string{
		"CREATE TABLE webhook_schema (version integer NOT NULL); INSERT INTO webhook_schema VALUES (1)", migrations[0], version1Rows,
	} {
		if _, err := conn.Exec(ctx, statements); err != nil {
			t.Fatal(err)
		}
	}
	now := time.UnixMilli(1795176000000).Add(time.Minute)
	clock := func() time.Time { return now }
	s, err := Open(Options{DSN: dsn, Now: clock, DatabaseNow: clock})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	payloads := func() (n int) {
		if err := conn.QueryRow(ctx, "SELECT count(*) FROM webhook_payloads").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	for range 40 {
		log, err := s.Attempts(ctx, 1, 0, 1)
		if err != nil || len(log) != 1 {
			t.Fatalf("log %+v, %v", log, err)
		}
		if _, err := s.Redeliver(ctx, 1, log[0].ID); err != nil {
			t.Fatal(err)
		}
		claimed, _, err := s.ClaimDeliveries(ctx, 10, func(store.Lane) store.Slots { return store.Slots{N: 10} })
		if err != nil || len(claimed) != 1 || string(claimed[0].Payload) != "payload" {
			t.Fatalf("claimed %+v, %v", claimed, err)
		}
		o := store.Outcome{Delivery: claimed[0], Disposition: store.Delivered, Attempt: store.Attempt{Event: claimed[0].Event, Number: 1, At: now}}
		if err := s.Complete(ctx, o); err != nil {
			t.Fatal(err)
		}
	}
	if n := payloads(); n != 1 {
		t.Errorf("%d payloads are stored for 41 deliveries", n)
	}
	now = now.Add(time.Hour)
	if err := s.Forget(ctx, store.Before{Deliveries: now, Predictions: now.Add(-24 * time.Hour)}); err != nil {
		t.Fatal(err)
	}
	if n := payloads(); n != 0 {
		t.Errorf("%d payloads are left of deliveries that were forgotten", n)
	}
}
