package postgres

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/pgtest"
)

// written are the tables whose rows were acknowledged.
var written = []string{"webhook_dedup", "webhook_predictions", "webhook_deliveries", "webhook_attempts", "webhook_secrets"}

// TestPooler: behind a pooler in transaction mode all works, and what is
// acknowledged is on disk, although the database's default is otherwise. Nodes
// hear of each other by a dsn that leads past the pooler, and without one they
// look.
func TestPooler(t *testing.T) {
	server := pgtest.Start(t)
	pooler := server.Pooler(t, 3)
	for _, listening := range []bool{true, false} {
		t.Run(fmt.Sprint("listening=", listening), func(t *testing.T) {
			database, direct := server.Database(t, "synchronous_commit = off")
			core, logs := observer.New(zap.WarnLevel)
			open := func() *Store {
				o := Options{DSN: pooler.DSN(database), Lease: 4 * time.Second, Logger: func() *zap.Logger { return zap.New(core) }}
				if listening {
					o.ListenDSN = direct
				}
				s, err := Open(o)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = s.Close() })
				return s
			}
			a, b := open(), open()
			if !a.connector.pooled.Load() {
				t.Error("the pooler was not noticed")
			}
			pgtest.WatchCommits(t, direct, written...)
			if _, err := a.Secret(ctx, "name", func() ([]byte, error) { return []byte("sealed"), nil }); err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			for i := range 64 {
				wg.Go(func() {
					for n := range 10 {
						if err := work([]*Store{a, b}[i%2], fmt.Sprintf("p%d-%d", i, n)); err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			_, claimed := due(t, a)
			for _, d := range claimed {
				complete(t, a, d, 0)
			}
			if with := pgtest.CommittedWith(t, direct); with != "on" {
				t.Errorf("committed with synchronous_commit %q", with)
			}
			// A claim that another node holds.
			c := mustClaim(t, a, entryOf("x"))
			got := make(chan error, 1)
			go func() {
				c, err := b.Claim(ctx, entryOf("x"), patience)
				if err == nil {
					err = c.Commit(ctx)
				}
				got <- err
			}()
			c.Release()
			if err := <-got; err != nil {
				t.Error(err)
			}
			// And what a node leaves behind that is gone.
			mustClaim(t, a, entryOf("y"))
			a.crash()
			c, err := b.Claim(ctx, entryOf("y"), patience)
			if err != nil {
				t.Fatal(err)
			}
			c.Release()
			if deaf := logs.FilterMessageSnippet("receives no notifications").Len() > 0; deaf == listening {
				t.Errorf("logged that it receives no notifications: %v", deaf)
			}
		})
	}
}
