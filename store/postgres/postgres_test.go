//go:build unix

package postgres

import (
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/pgtest"
	"github.com/caddy-replicate/replicate-webhook/store/storetest"
)

// resources gives each test a schema of its own in one server.
func resources(t *testing.T, wrap func(*Store) storetest.Opened) func(t *testing.T) storetest.Resource {
	server := pgtest.Start(t)
	return func(t *testing.T) storetest.Resource {
		dsn := server.Fresh(t)
		return func(t *testing.T, now func() time.Time) storetest.Opened {
			t.Helper()
			s, err := Open(Options{DSN: dsn, Now: now})
			if err != nil {
				t.Fatal(err)
			}
			return wrap(s)
		}
	}
}

func plain(s *Store) storetest.Opened { return s }

func TestConformance(t *testing.T) { storetest.Run(t, resources(t, plain)) }

func TestOperatingConformance(t *testing.T) { storetest.RunOperating(t, resources(t, plain)) }

// TestTrackingConformance is of a node that delivers: it takes ahead what it
// commits itself.
func TestTrackingConformance(t *testing.T) {
	storetest.RunTracking(t, resources(t, func(s *Store) storetest.Opened {
		_, stop := s.Changed()
		return &subscribed{s, stop}
	}))
}

// TestTrackingWithoutLeases is of a node that takes what any node may take.
func TestTrackingWithoutLeases(t *testing.T) { storetest.RunTracking(t, resources(t, plain)) }

// subscribed is a store with somebody who comes for deliveries.
type subscribed struct {
	*Store
	stop func()
}

func (s *subscribed) Close() error {
	s.stop()
	return s.Store.Close()
}
