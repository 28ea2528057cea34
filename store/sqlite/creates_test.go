package sqlite

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/storetest"
)

func TestCreatesConformance(t *testing.T) {
	storetest.RunCreates(t, func(t *testing.T) storetest.Resource {
		path := filepath.Join(t.TempDir(), "webhook.db")
		return func(t *testing.T, now func() time.Time) storetest.Opened {
			t.Helper()
			s, err := Open(Options{Path: path, Now: now, MaxCreates: storetest.MaxCreates})
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
	})
}

// TestNoCommitWaitsForARunningCreate: the claim on the key of a create is open for as
// long as the API takes, and no commit comes of it that others could be committed with.
func TestNoCommitWaitsForARunningCreate(t *testing.T) {
	s, _ := living(t)
	for lock, want := range map[bool]int64{true: 0, false: 1} {
		c, err := s.Claim(t.Context(), store.Entry{Scope: store.CreateScope, Keys: []store.Key{store.KeyOf(store.CreateScope, "a")}, Expires: time.Now().Add(time.Hour), Lock: lock}, 0)
		must(t, err)
		if n := s.writer.siblings(); n != want {
			t.Errorf("while a claim is open (a lock: %t), commits wait for %d more, want %d", lock, n, want)
		}
		c.Release()
		if n := s.writer.siblings(); n != 0 {
			t.Errorf("after its release they wait for %d more", n)
		}
	}
}
