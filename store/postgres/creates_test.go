package postgres

import (
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/pgtest"
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
