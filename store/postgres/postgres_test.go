package postgres

import (
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/pgtest"
	"github.com/caddy-replicate/replicate-webhook/store/storetest"
)

// resources gives each test a schema of its own in one server.
func resources(t *testing.T) func(t *testing.T) storetest.Resource {
	server := pgtest.Start(t)
	return func(t *testing.T) storetest.Resource {
		dsn := server.Fresh(t)
		return func(t *testing.T, now func() time.Time) storetest.Opened {
			t.Helper()
			s, err := Open(Options{DSN: dsn, Now: now})
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
	}
}

func TestConformance(t *testing.T) { storetest.Run(t, resources(t)) }

func TestTrackingConformance(t *testing.T) { storetest.RunTracking(t, resources(t)) }

func TestOperatingConformance(t *testing.T) { storetest.RunOperating(t, resources(t)) }
