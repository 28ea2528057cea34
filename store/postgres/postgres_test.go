package postgres

import (
	"flag"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/pgtest"
	"github.com/caddy-replicate/replicate-webhook/store/storetest"
)

// resources gives each test a schema of its own in one server.
func resources(t *testing.T, wrap func(*Store) storetest.Opened) func(t *testing.T) storetest.Resource {
	server := pgtest.Start(t, "fsync=off")
	return func(t *testing.T) storetest.Resource {
		dsn := server.Fresh(t)
		return func(t *testing.T, now func() time.Time) storetest.Opened {
			t.Helper()
			s, err := Open(Options{DSN: dsn, Now: now, DatabaseNow: now})
			if err != nil {
				t.Fatal(err)
			}
			return wrap(s)
		}
	}
}

func plain(s *Store) storetest.Opened { return s }

func TestConformance(t *testing.T) {
	t.Parallel()
	storetest.Run(t, resources(t, plain))
}

func TestInspectorConformance(t *testing.T) {
	t.Parallel()
	storetest.RunInspector(t, resources(t, plain))
}

var leases = flag.String("leases", "mixed", "whether the nodes of TestTrackingConformance take deliveries ahead: always, never, or mixed, each in every second test")

// TestTrackingConformance is of nodes that deliver, which take ahead what they
// commit themselves, and of nodes that do not, and take what any node may take.
// To run all of it with the one and with the other:
//
//	go test ./store/postgres -run TestTrackingConformance -leases always
//	go test ./store/postgres -run TestTrackingConformance -leases never
func TestTrackingConformance(t *testing.T) {
	t.Parallel()
	fresh := resources(t, plain)
	delivering := *leases == "always"
	storetest.RunTracking(t, func(t *testing.T) storetest.Resource {
		if *leases == "mixed" {
			delivering = !delivering
		}
		resource, delivering := fresh(t), delivering
		return func(t *testing.T, now func() time.Time) storetest.Opened {
			s := resource(t, now)
			if !delivering {
				return s
			}
			_, stop := s.Changed()
			return &subscribed{s, stop}
		}
	})
}

// subscribed is a store with somebody who comes for deliveries.
type subscribed struct {
	storetest.Opened
	stop func()
}

func (s *subscribed) Close() error {
	s.stop()
	return s.Opened.Close()
}
