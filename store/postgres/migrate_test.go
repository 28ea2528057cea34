package postgres

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/pgtest"
	"github.com/caddy-replicate/replicate-webhook/internal/clock/clocktest"
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

// version2Rows is what a node of the second schema version left beside these: a
// redelivery that is due and shares their payload, what was accepted, an outage and
// the time in which the node ran.
const version2Rows = `
INSERT INTO webhook_deliveries VALUES (4, 78, 1, 2, true, 0, 0, 1795176000000, 1795176000000, 'https://a.example.com:443', false, 0, 0, 2);
INSERT INTO webhook_dedup VALUES ('00000000-0000-0000-0000-000000000001', 'default', 1795179600000, 1795176000000);
INSERT INTO webhook_outages VALUES ('https://b.example.com:443', 1795176000000, 'connection refused');
INSERT INTO webhook_presence VALUES (1795175000000, 1795176000000);
SELECT setval('webhook_numbers', 4);
`

// ofVersion returns the dsn of a database of an older schema version with rows in it,
// and a connection to it.
func ofVersion(t *testing.T, version int, rows string) (dsn string, conn *pgx.Conn) {
	t.Helper()
	dsn = pgtest.Start(t).Fresh(t)
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(ctx) })
	made := fmt.Sprintf("CREATE TABLE webhook_schema (version integer NOT NULL); INSERT INTO webhook_schema VALUES (%d);", version)
	if _, err := conn.Exec(ctx, made+strings.Join(migrations[:version], "")+rows); err != nil {
		t.Fatal(err)
	}
	return dsn, conn
}

func TestDatabaseOfVersion2IsUpgraded(t *testing.T) {
	t.Parallel()
	dsn, _ := ofVersion(t, 2, version1Rows+version2Rows)
	now := time.UnixMilli(1795176000000).Add(time.Minute)
	clock := clocktest.At(now)
	open := func() *Store {
		s, err := Open(Options{DSN: dsn, Now: clock.Now, DatabaseNow: clock.Now})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open()
	defer func() { s.Close() }()
	ev := inboundEvent("event", "p")
	if err := acceptEvent(s, ev); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		counts, err := s.Counts(ctx)
		if err != nil || counts.Deliveries != [5]int{1, 1, 0, 0, 0} || counts.Entries != 2 {
			t.Errorf("counts are %+v, %v", counts, err)
		}
		if outages, err := s.Outages(ctx); err != nil || len(outages) != 1 {
			t.Errorf("outages are %+v, %v", outages, err)
		}
		if log, err := s.Attempts(ctx, 1, 0, 10); err != nil || len(log) != 1 {
			t.Errorf("the log is %+v, %v", log, err)
		}
		if r, _, err := s.FindDelivery(ctx, ev.ID); err != nil || string(r.Payload) != "event" || r.State != store.DeliveryPending {
			t.Errorf("the event is %+v, %v", r, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open()
	}
	claimed, _, err := s.ClaimDeliveries(ctx, 10, plenty)
	if err != nil || len(claimed) != 2 {
		t.Fatalf("claimed %+v, %v; want the redelivery and the event", claimed, err)
	}
	for _, d := range claimed {
		if want := map[bool]string{true: "event", false: "payload"}[d.Inbound != nil]; string(d.Payload) != want {
			t.Errorf("the payload is %q, want %q", d.Payload, want)
		}
	}
}

func TestDatabaseOfVersion1IsUpgraded(t *testing.T) {
	t.Parallel()
	dsn, conn := ofVersion(t, 1, version1Rows)
	now := time.UnixMilli(1795176000000).Add(time.Minute)
	clock := clocktest.At(now)
	s, err := Open(Options{DSN: dsn, Now: clock.Now, DatabaseNow: clock.Now})
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
	now = clock.Add(time.Hour)
	if err := s.Forget(ctx, store.Before{Deliveries: now, Predictions: now.Add(-24 * time.Hour)}); err != nil {
		t.Fatal(err)
	}
	if n := payloads(); n != 0 {
		t.Errorf("%d payloads are left of deliveries that were forgotten", n)
	}
}
