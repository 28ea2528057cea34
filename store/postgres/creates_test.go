package postgres

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/pgtest"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/storetest"
)

func TestCreatesConformance(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, "fsync=off")
	storetest.RunCreates(t, func(t *testing.T) storetest.Resource {
		dsn := server.Fresh(t)
		return func(t *testing.T, now func() time.Time) storetest.Opened {
			t.Helper()
			s, err := Open(Options{DSN: dsn, Now: now, DatabaseNow: now, MaxCreates: storetest.MaxCreates})
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
	})
}

// TestCreateOfADeadNodeIsUnknown: while a node holds the claim on a key, others find
// it in flight; after its lease they get the claim, and find a create without a
// response. A node that was only slow commits its response all the same.
func TestCreateOfADeadNodeIsUnknown(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Start(t, "fsync=off").Fresh(t)
	a, b := node(t, dsn), node(t, dsn)
	ctx := context.Background()
	key := store.KeyOf(store.CreateScope, "create", "k")
	entry := store.Entry{Scope: store.CreateScope, Keys: []store.Key{key}, Expires: time.Now().Add(time.Hour), Lock: true}
	mustClaim(t, a, entry)
	c := store.Create{Key: key, Expires: entry.Expires}
	if err := a.BeginCreate(ctx, &c, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Claim(ctx, entry, 0); !errors.Is(err, store.ErrInFlight) {
		t.Fatalf("got %v, want in flight", err)
	}
	a.crash()
	eventually(t, "the lease to end", func() bool {
		claim, err := b.Claim(ctx, entry, 0)
		if err != nil {
			return false
		}
		claim.Release()
		return true
	})
	got, err := b.Create(ctx, key)
	if err != nil || got.Status != 0 || got.Nonce != c.Nonce {
		t.Fatalf("got %+v, %v", got, err)
	}
	again := store.Create{Key: key, Expires: entry.Expires}
	if err := b.BeginCreate(ctx, &again, nil); !errors.Is(err, store.ErrCreateKnown) {
		t.Fatalf("got %v, want that the key is in use", err)
	}
	if err := b.AnswerCreate(ctx, &c, store.CreateAnswer{Status: 201, ID: "late"}); err != nil {
		t.Fatal(err)
	}
	if got, err := b.Create(ctx, key); err != nil || got.ID != "late" {
		t.Fatalf("got %+v, %v", got, err)
	}
}
