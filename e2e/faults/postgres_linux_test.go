package faults_test

import (
	"syscall"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/pgtest"
)

// TestPostgres has Caddy killed, and the machine of Caddy and database without
// power, with the store in PostgreSQL. Both wait for the leases of what died, side
// by side.
func TestPostgres(t *testing.T) {
	t.Run("kills", func(t *testing.T) {
		t.Parallel()
		newPostgresWorld(t, pgtest.Start(t)).surviveKills(count(kills, 5))
	})
	t.Run("power cuts", func(t *testing.T) {
		t.Parallel()
		d := newDisk(t)
		d.forgets()
		server := pgtest.StartIn(t, d.dir)
		w := newPostgresWorld(t, server)
		syscall.Sync() // the cluster was made without fsync
		w.surviveCuts(d, count(cuts, 1), 10, func(restore func()) {
			server.Kill()
			restore()
			server.Restart()
		})
	})
}

// newPostgresWorld is a world whose store is a database of the server.
func newPostgresWorld(t *testing.T, server *pgtest.Server) *world {
	t.Helper()
	w := newWorld(t, "postgres {env.FAULTS_DSN}")
	w.Environ = append(w.Environ, "FAULTS_DSN="+server.Fresh(t))
	w.lease = 30 * time.Second
	return w
}
