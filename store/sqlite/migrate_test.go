package sqlite

import (
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/clock/clocktest"
	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// version1 returns the path of a database that the first version of this plugin
// wrote: one delivery was delivered and redelivered in vain, one waits for its
// retry, and two of one prediction were not tried.
func version1(t *testing.T) string { return oldDatabase(t, "version1") }

// version2 returns the path of a database of schema version 2: one delivery was
// delivered, its redelivery waits, one failed, and two of one prediction were not
// tried. There is an outage.
func version2(t *testing.T) string { return oldDatabase(t, "version2") }

func oldDatabase(t *testing.T, version string) string {
	t.Helper()
	dump, err := os.ReadFile("testdata/" + version + ".sql")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "webhook.db")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", dsn(path, "journal_mode(DELETE)"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(string(dump)); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDatabaseOfVersion1IsUpgraded(t *testing.T) {
	path := version1(t)
	now := time.Date(2026, 11, 20, 12, 1, 0, 0, time.UTC)
	ctx := context.Background()
	open := func() *Store {
		s, err := Open(Options{Path: path, Now: func() time.Time { return now }})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open()
	rows, _, err := s.ListDeliveries(ctx, store.DeliveryFilter{Limit: 10})
	if err != nil || len(rows) != 5 {
		t.Fatalf("listed %d deliveries, %v", len(rows), err)
	}
	for _, r := range rows {
		if d, _, err := s.FindDelivery(ctx, r.ID); err != nil || len(d.Payload) == 0 {
			t.Errorf("%s has payload %q, %v", r.ID, d.Payload, err)
		}
	}
	p, err := s.Prediction(ctx, "https://api.example.com/v1", "done")
	if err != nil {
		t.Fatal(err)
	}
	// The redelivery of that version has a payload of its own.
	log, err := s.Attempts(ctx, p.Ref, 0, 10)
	if err != nil || len(log) != 2 {
		t.Fatalf("log %+v, %v", log, err)
	}
	if _, err := s.Redeliver(ctx, p.Ref, log[0].ID); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open()
	defer s.Close()
	claimed, _, err := s.ClaimDeliveries(ctx, 10, func(store.Lane) store.Slots { return store.Slots{N: 10} })
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range claimed {
		got = append(got, string(d.Payload))
	}
	slices.Sort(got)
	if want := []string{"again done prediction.completed", "retrying prediction.started", "waiting prediction.started"}; !slices.Equal(got, want) {
		t.Errorf("claimed %q, want %q", got, want)
	}
	e := store.Entry{Scope: "default", Keys: []store.Key{store.KeyOf("default", "event", "accepted")}, SignedAt: now, Expires: now.Add(time.Hour)}
	if _, err := s.Claim(ctx, e, 0); err != store.ErrDuplicate {
		t.Errorf("claiming an accepted event: %v", err)
	}
}

func TestDatabaseOfVersion2IsUpgraded(t *testing.T) {
	path := version2(t)
	x, err := OpenExport(path)
	if err != nil {
		t.Fatal(err)
	}
	for e, err := range x.Events() {
		t.Errorf("a database of version 2 has the event %+v, %v", e, err)
	}
	for r, err := range x.Rotations() {
		t.Errorf("a database of version 2 has the rotation %+v, %v", r, err)
	}
	must(t, x.Close())
	now := time.Date(2026, 11, 26, 12, 1, 0, 0, time.UTC)
	open := func() *Store {
		s, err := Open(Options{Path: path, Now: func() time.Time { return now }})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open()
	id := accepted(t, s, "key", &store.Inbound{Scope: "default", Name: "prediction.completed", Body: []byte("body")})
	for range 2 {
		counts, err := s.Counts(t.Context())
		if err != nil || counts.Deliveries != [5]int{3, 1, 1, 0, 0} || counts.Entries != 2 {
			t.Errorf("counts are %+v, %v", counts, err)
		}
		if outages, err := s.Outages(t.Context()); err != nil || len(outages) != 1 {
			t.Errorf("outages are %+v, %v", outages, err)
		}
		if rows, _, err := s.ListDeliveries(t.Context(), store.DeliveryFilter{Limit: 10}); err != nil || len(rows) != 5 {
			t.Errorf("%d deliveries are listed, %v", len(rows), err)
		}
		if r, _, err := s.FindDelivery(t.Context(), id); err != nil || string(r.Payload) != "body" {
			t.Errorf("the event is %+v, %v", r, err)
		}
		must(t, s.Close())
		s = open()
	}
	defer s.Close()
	claimed, _, err := s.ClaimDeliveries(t.Context(), 10, all)
	if err != nil || len(claimed) != 3 {
		t.Errorf("claimed %d, %v, want the redelivery, a started event and the inbound one", len(claimed), err)
	}
}

func TestUpgradedDatabaseHasTheSchemaOfANewOne(t *testing.T) {
	columns := func(path string) (out []string) {
		s, err := Open(Options{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		rows, err := s.db.Query("SELECT m.name || '.' || coalesce(c.name, '') || ' ' || coalesce(c.type, '') FROM sqlite_master m LEFT JOIN pragma_table_info(m.name) c ORDER BY 1")
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		for rows.Next() {
			var c string
			if err := rows.Scan(&c); err != nil {
				t.Fatal(err)
			}
			out = append(out, c)
		}
		return out
	}
	fresh := columns(filepath.Join(t.TempDir(), "webhook.db"))
	for _, path := range []string{version1(t), version2(t)} {
		if upgraded := columns(path); !slices.Equal(upgraded, fresh) || len(fresh) < 50 {
			t.Errorf("upgraded: %q\nfresh: %q", upgraded, fresh)
		}
	}
}

func TestRedeliveriesAddNoPayload(t *testing.T) {
	ctx := context.Background()
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	clock := clocktest.At(now)
	s, err := Open(Options{Path: filepath.Join(t.TempDir(), "webhook.db"), Now: clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	payloads := func() (n int) {
		if err := s.db.QueryRow("SELECT count(*) FROM payloads").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	p := store.Prediction{ID: "p", URL: "https://example.com/", Events: event.All, CreatedAt: now}
	if err := s.Track(ctx, &p, []store.Event{{Kind: event.Completed, Payload: []byte("payload")}}); err != nil {
		t.Fatal(err)
	}
	deliver := func(want int) {
		t.Helper()
		claimed, _, err := s.ClaimDeliveries(ctx, 100, func(store.Lane) store.Slots { return store.Slots{N: 100} })
		if err != nil || len(claimed) != want {
			t.Fatalf("claimed %d, %v; want %d", len(claimed), err, want)
		}
		for _, d := range claimed {
			if string(d.Payload) != "payload" {
				t.Errorf("payload is %q", d.Payload)
			}
			if err := s.Complete(ctx, store.Outcome{Delivery: d, Disposition: store.Delivered, Attempt: store.Attempt{Number: 1, At: now}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	deliver(1)
	for range 40 {
		log, err := s.Attempts(ctx, p.Ref, 0, 1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Redeliver(ctx, p.Ref, log[0].ID); err != nil {
			t.Fatal(err)
		}
		deliver(1)
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
