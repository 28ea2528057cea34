package nodes_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/e2e/rig/pgtest"
)

// TestBrokenConnections: when the server ends all connections, no event is refused
// for that, and no create goes without its webhook.
func TestBrokenConnections(t *testing.T) {
	c := newCluster(t)
	for range 3 {
		if c.database.Disconnect(t) == 0 {
			t.Fatal("there was no connection to end")
		}
		all(128, func(i int) {
			if i%2 == 0 {
				if a := c.post(i%len(c.nodes), newWebhook()); a.status != http.StatusOK {
					t.Errorf("an event got %v", a)
				}
			} else if _, a := c.create(i % len(c.nodes)); a.status != http.StatusCreated {
				t.Errorf("a create got %v", a)
			}
		})
	}
}

// TestPooler: behind a pooler in transaction mode that has 3 connections to the
// server, 64 senders get 10,000 events through, none refused, and all on disk,
// although the database's default is otherwise.
func TestPooler(t *testing.T) {
	const events, senders = 10_000, 64
	server := pgtest.Start(t)
	pooler := server.Pooler(t, 3)
	database, direct := server.Database(t, "synchronous_commit = off")
	c := newClusterOn(t, server, 2, pooler.DSN(database), direct)
	pgtest.WatchCommits(t, direct, "webhook_dedup", "webhook_predictions", "webhook_deliveries", "webhook_attempts", "webhook_secrets")
	began := time.Now()
	all(senders, func(i int) {
		for n := i; n < events; n += senders {
			if a := c.post(n%2, newWebhook()); a.status != http.StatusOK {
				t.Errorf("an event got %v", a)
				return
			}
		}
	})
	t.Logf("%d events in %v", events, time.Since(began))
	ids := make([]string, senders)
	all(senders, func(i int) {
		var a answer
		if ids[i], a = c.create(i % 2); a.status != http.StatusCreated {
			t.Errorf("a create got %v", a)
		}
	})
	c.until("every webhook to be delivered", func() bool {
		received := c.received()
		for _, id := range ids {
			if received[id+" completed"] == 0 {
				return false
			}
		}
		return true
	})
	if n := pgtest.Value[int](t, direct, "SELECT count(*) FROM webhook_dedup"); n != events {
		t.Errorf("%d events are remembered, want %d", n, events)
	}
	if with := pgtest.CommittedWith(t, direct); with != "on" {
		t.Errorf("committed with synchronous_commit %q", with)
	}
}

// TestConnectionLimit: nodes that have their connections work at a server that has
// none left, and are not taken for dead.
func TestConnectionLimit(t *testing.T) {
	server := pgtest.Start(t, "max_connections=13", "superuser_reserved_connections=0")
	dsn := server.Fresh(t)
	c := newClusterOn(t, server, 2, dsn, dsn) // 6 each
	server.Fill(t)
	for range 3 {
		all(128, func(i int) {
			if i%2 == 0 {
				if a := c.post(i/2%2, newWebhook()); a.status != http.StatusOK {
					t.Errorf("an event got %v", a)
				}
			} else if _, a := c.create(i / 2 % 2); a.status != http.StatusCreated {
				t.Errorf("a create got %v", a)
			}
		})
	}
	for i, n := range c.nodes {
		if lines := n.Logs.Lines("taking over from"); len(lines) > 0 {
			t.Errorf("node %d: %s", i, lines)
		}
		if lines := n.Logs.Lines("store takes no writes"); len(lines) > 0 {
			t.Errorf("node %d: %s", i, lines)
		}
	}
}

// TestGracefulStop: what a node held goes on at once at the others when it is
// stopped, every time.
func TestGracefulStop(t *testing.T) {
	const rounds = 6
	database := pgtest.Start(t)
	dsn := database.Fresh(t)
	c := newClusterOn(t, database, 2, dsn, dsn)
	c.receiver.Answer(func(http.ResponseWriter, *caddyrun.Request) { time.Sleep(20 * time.Millisecond) }) // as receivers take
	registered := func() int { return pgtest.Value[int](t, dsn, "SELECT count(*) FROM webhook_nodes") }
	for round := range rounds {
		c.until("both nodes", func() bool { return registered() == 2 })
		leaving := round % 2
		ids := make([]string, 8)
		all(len(ids), func(i int) {
			var a answer
			if ids[i], a = c.create(leaving); a.status != http.StatusCreated {
				t.Errorf("creating: %v", a)
			}
		})
		c.nodes[leaving].Stop()
		stopped := time.Now()
		if n := registered(); n != 1 {
			t.Errorf("round %d: %d nodes are registered after the stop, want 1", round, n)
		}
		c.until("the other node to finish", func() bool {
			received := c.received()
			for _, id := range ids {
				if received[id+" completed"] == 0 {
					return false
				}
			}
			return true
		})
		if took := time.Since(stopped); took > 15*time.Second {
			t.Errorf("round %d: the deliveries went on after %v", round, took)
		}
		c.nodes[leaving].Start("PORT1")
	}
	for i, n := range c.nodes {
		for _, text := range []string{"could not give back", "nodes are gone"} {
			if lines := n.Logs.Lines(text); len(lines) > 0 {
				t.Errorf("node %d: %s", i, lines)
			}
		}
	}
}
