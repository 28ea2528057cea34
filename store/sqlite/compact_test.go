package sqlite

import (
	"errors"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
)

func TestCompactingKeepsEveryEntry(t *testing.T) {
	path := filepath.Join(t.TempDir(), "webhook.db")
	var clock atomic.Int64 // the store's own loop looks at it too
	clock.Store(time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC).UnixMilli())
	now := func() time.Time { return time.UnixMilli(clock.Load()) }
	open := func() *Store {
		s, err := Open(Options{Path: path, Now: now})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	entry := func(n int) store.Entry {
		e := benchEntry(int64(n))
		e.SignedAt, e.Expires = now(), now().Add(time.Hour+time.Duration(n%3)*20*time.Minute)
		if n%5 == 0 {
			e.Scope = "other"
		}
		return e
	}
	const entries = 1000
	s := open()
	for n := range entries {
		c, err := s.Claim(t.Context(), entry(n), 0)
		if err == nil {
			err = c.Commit(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Compact(); err != nil {
		t.Fatal(err)
	}
	var rows int
	if err := s.db.QueryRow("SELECT count(*) FROM dedup").Scan(&rows); err != nil {
		t.Fatal(err)
	}
	if rows > entries/2 {
		t.Fatalf("%d rows are left of %d", rows, entries)
	}
	check := func(want error, n int) {
		t.Helper()
		if _, err := s.Claim(t.Context(), entry(n), 0); !errors.Is(err, want) {
			t.Fatalf("entry %d: got %v, want %v", n, err, want)
		}
	}
	for range 2 {
		for n := range entries {
			check(store.ErrDuplicate, n)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open()
	}
	defer s.Close()

	// Merged rows are purged as a whole, and their signed times remembered.
	old := entry(1)
	clock.Add((3 * time.Hour).Milliseconds())
	if err := s.Purge(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Claim(t.Context(), old, 0); !errors.Is(err, store.ErrReplayed) {
		t.Fatalf("got %v, want a refusal of what was purged", err)
	}
	if err := s.Compact(); err != nil {
		t.Fatal(err)
	}
}
