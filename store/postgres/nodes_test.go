package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/pgtest"
	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// patience is for what should happen within a lease or so.
const patience = time.Minute

var ctx = context.Background()

// node opens a store whose lease is short.
func node(t *testing.T, dsn string) *Store {
	t.Helper()
	s, err := Open(Options{DSN: dsn, Lease: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// crash ends a node that says nothing to anybody.
func (s *Store) crash() {
	s.closing.Do(func() {
		close(s.stop)
		s.pool.Close()
		s.working.Wait()
	})
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func entryOf(name string) store.Entry {
	return store.Entry{Scope: "default", Keys: []store.Key{store.KeyOf("default", "event", name)}, SignedAt: time.Now(), Expires: time.Now().Add(time.Hour)}
}

func mustClaim(t *testing.T, s *Store, e store.Entry) store.Claim {
	t.Helper()
	c, err := s.Claim(ctx, e, 0)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func track(t *testing.T, s *Store, id string, events ...event.Set) store.Prediction {
	t.Helper()
	p := store.Prediction{
		API: "https://api.example.com", ID: id, URL: "https://a.example.com/hook", Events: event.All,
		PollPath: "/predictions/" + id, CreatedAt: time.Now(), PollAt: time.Now().Add(time.Hour),
	}
	if err := s.Track(ctx, &p, happened(events...)); err != nil {
		t.Fatal(err)
	}
	return p
}

func happened(events ...event.Set) (out []store.Event) {
	for _, e := range events {
		out = append(out, store.Event{Kind: e, Payload: []byte(e.Name())})
	}
	return out
}

func plenty(store.Lane) store.Slots { return store.Slots{N: 1000} }

// due claims what is due, as "<id> <event>".
func due(t *testing.T, s *Store) (names []string, claimed []store.Delivery) {
	t.Helper()
	claimed, _, err := s.ClaimDeliveries(ctx, 1000, plenty)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range claimed {
		names = append(names, d.PredictionID+" "+strings.TrimPrefix(d.Event.Name(), "prediction."))
	}
	return names, claimed
}

func wantDue(t *testing.T, s *Store, want ...string) []store.Delivery {
	t.Helper()
	names, claimed := due(t, s)
	if !slices.Equal(names, want) {
		t.Fatalf("due: %q, want %q", names, want)
	}
	return claimed
}

func outcome(d store.Delivery, v store.Disposition) store.Outcome {
	return store.Outcome{Delivery: d, Disposition: v, Due: time.Now(), Attempt: store.Attempt{
		Delivery: d.ID, Event: d.Event, URL: d.URL, Status: 200, Number: d.Attempts + 1, At: time.Now(), Took: time.Millisecond,
	}}
}

func complete(t *testing.T, s *Store, d store.Delivery, v store.Disposition) {
	t.Helper()
	if err := s.Complete(ctx, outcome(d, v)); err != nil {
		t.Fatal(err)
	}
}

// TestNodes is what several nodes on one database owe each other.
func TestNodes(t *testing.T) {
	server := pgtest.Start(t)
	for _, c := range []struct {
		name string
		test func(t *testing.T, dsn string)
	}{
		{"a waiting claim sees another node's commit", func(t *testing.T, dsn string) {
			a, b := node(t, dsn), node(t, dsn)
			c := mustClaim(t, a, entryOf("x"))
			if _, err := b.Claim(ctx, entryOf("x"), 0); !errors.Is(err, store.ErrInFlight) {
				t.Fatalf("got %v, want in flight", err)
			}
			got := make(chan error, 1)
			go func() {
				_, err := b.Claim(ctx, entryOf("x"), patience)
				got <- err
			}()
			eventually(t, "the other node to wait", func() bool {
				return pgtest.Value[bool](t, dsn, "SELECT coalesce(bool_or(waited), false) FROM webhook_claims")
			})
			if err := c.Commit(ctx); err != nil {
				t.Fatal(err)
			}
			if err := <-got; !errors.Is(err, store.ErrDuplicate) {
				t.Fatalf("got %v, want a duplicate", err)
			}
		}},
		{"a waiting claim takes over what another node releases", func(t *testing.T, dsn string) {
			a, b := node(t, dsn), node(t, dsn)
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
				t.Fatal(err)
			}
			if _, err := a.Claim(ctx, entryOf("x"), 0); !errors.Is(err, store.ErrDuplicate) {
				t.Fatalf("got %v, want a duplicate", err)
			}
		}},
		{"one of many claims on many nodes wins", func(t *testing.T, dsn string) {
			nodes := []*Store{node(t, dsn), node(t, dsn), node(t, dsn)}
			for i := range 20 {
				var mu sync.Mutex
				won := 0
				var wg sync.WaitGroup
				for n := range 12 {
					wg.Go(func() {
						e := entryOf(fmt.Sprint(i))
						// Of two keys, so that one may be had and not the other.
						e.Keys = append(e.Keys, store.KeyOf("default", "message", fmt.Sprint(i, n%2)))
						c, err := nodes[n%3].Claim(ctx, e, patience)
						if errors.Is(err, store.ErrDuplicate) {
							return
						}
						if err == nil {
							mu.Lock()
							won++
							mu.Unlock()
							err = c.Commit(ctx)
						}
						if err != nil {
							t.Error(err)
						}
					})
				}
				wg.Wait()
				if won != 1 {
					t.Fatalf("event %d was won %d times", i, won)
				}
			}
		}},
		{"a dead node's claim is free after the lease", func(t *testing.T, dsn string) {
			a, b := node(t, dsn), node(t, dsn)
			mustClaim(t, a, entryOf("x"))
			a.crash()
			c, err := b.Claim(ctx, entryOf("x"), patience)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Commit(ctx); err != nil {
				t.Fatal(err)
			}
		}},
		{"a dead node's deliveries and polls go on", func(t *testing.T, dsn string) {
			a, b := node(t, dsn), node(t, dsn)
			_, stop := a.Changed() // a delivers, so it takes ahead what it commits
			defer stop()
			p := track(t, a, "x", event.Started)
			track(t, a, "y", event.Started)
			a.queue.mu.Lock()
			ahead := len(a.queue.waiting)
			a.queue.mu.Unlock()
			if ahead != 2 {
				t.Fatalf("%d were taken ahead", ahead)
			}
			d := wantDue(t, a, "x started", "y started")[0]
			wantDue(t, b)
			if polls, _, err := b.ClaimPolls(ctx, 10); err != nil || len(polls) != 0 {
				t.Fatalf("polls %v, %v", polls, err)
			}
			a.crash()
			var names []string
			var claimed []store.Delivery
			eventually(t, "the deliveries", func() bool {
				n, c := due(t, b)
				names, claimed = append(names, n...), append(claimed, c...)
				return len(names) == 2
			})
			if claimed[0].ID != d.ID || claimed[0].Attempts != 0 {
				t.Fatalf("goes on as %+v, was %+v", claimed[0], d)
			}
			var polls []string
			eventually(t, "the polls", func() bool {
				claimed, _, err := b.ClaimPolls(ctx, 10)
				if err != nil {
					t.Fatal(err)
				}
				for _, p := range claimed {
					polls = append(polls, p.ID)
				}
				return len(polls) == 2
			})
			complete(t, b, claimed[0], store.Delivered)
			if rows, err := b.Attempts(ctx, p.Ref, 0, 10); err != nil || len(rows) != 1 {
				t.Fatalf("log is %v, %v", rows, err)
			}
		}},
		{"a node that leaves is followed at once", func(t *testing.T, dsn string) {
			a, b := node(t, dsn), node(t, dsn)
			track(t, a, "x", event.Started)
			wantDue(t, a, "x started")
			if err := a.Close(); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the delivery", func() bool { names, _ := due(t, b); return len(names) == 1 })
		}},
		{"the order of events holds across nodes", func(t *testing.T, dsn string) {
			a, b := node(t, dsn), node(t, dsn)
			p := track(t, a, "x", event.Started)
			d := wantDue(t, a, "x started")[0]
			if err := b.Observe(ctx, p.Ref, p.ID, happened(event.Started, event.Completed)); err != nil {
				t.Fatal(err)
			}
			wantDue(t, b)
			complete(t, a, d, store.Retry) // superseded
			a.queue.look(0)
			b.queue.look(0)
			d = wantDue(t, b, "x completed")[0]
			wantDue(t, a)
			complete(t, b, d, store.Delivered)
			found, err := a.Prediction(ctx, p.API, p.ID)
			if err != nil || found.Webhook != store.WebhookDelivered {
				t.Fatalf("webhook is %v, %v", found.Webhook, err)
			}
		}},
		{"a webhook changed elsewhere counts from the next attempt on", func(t *testing.T, dsn string) {
			a, b := node(t, dsn), node(t, dsn)
			_, stop := a.Changed()
			defer stop()
			p := track(t, a, "x", event.Started)
			if err := b.SetWebhook(ctx, p.Ref, "https://b.example.com/other", event.All); err != nil {
				t.Fatal(err)
			}
			var claimed []store.Delivery
			eventually(t, "the delivery", func() bool {
				_, c := due(t, a)
				claimed = append(claimed, c...)
				return len(claimed) > 0
			})
			if claimed[0].URL != "https://b.example.com/other" {
				t.Fatalf("goes to %s", claimed[0].URL)
			}
			q := track(t, a, "y", event.Started)
			if err := b.SetWebhook(ctx, q.Ref, "", event.All); err != nil {
				t.Fatal(err)
			}
			wantDue(t, a)
			// What was canceled holds nothing up once its claim is gone.
			if err := b.SetWebhook(ctx, q.Ref, "https://b.example.com/other", event.All); err != nil {
				t.Fatal(err)
			}
			if err := b.Observe(ctx, q.Ref, q.ID, happened(event.Completed)); err != nil {
				t.Fatal(err)
			}
			var names []string
			eventually(t, "the terminal event", func() bool {
				for _, s := range []*Store{a, b} {
					s.queue.look(0)
					n, _ := due(t, s)
					names = append(names, n...)
				}
				return len(names) > 0
			})
			if !slices.Equal(names, []string{"y completed"}) {
				t.Fatalf("due: %q", names)
			}
		}},
		{"a node taken for dead begins again with nothing", func(t *testing.T, dsn string) {
			a, b := node(t, dsn), node(t, dsn)
			p := track(t, a, "x", event.Started)
			d := wantDue(t, a, "x started")[0]
			old := a.nodes.id.Load()
			if _, err := b.pool.Exec(ctx, "DELETE FROM webhook_nodes WHERE id = $1", old); err != nil {
				t.Fatal(err)
			}
			eventually(t, "a new id", func() bool { return a.nodes.id.Load() != old })
			var again []store.Delivery
			eventually(t, "the delivery", func() bool {
				_, c := due(t, b)
				again = append(again, c...)
				return len(again) > 0
			})
			complete(t, a, d, store.Exhausted) // is no longer its business
			complete(t, b, again[0], store.Delivered)
			rows, err := b.Attempts(ctx, p.Ref, 0, 10)
			if err != nil || len(rows) != 1 || again[0].ID != d.ID {
				t.Fatalf("log is %v, %v", rows, err)
			}
			// And it works on.
			mustClaim(t, a, entryOf("y")).Release()
			track(t, a, "z", event.Started)
		}},
		{"every delivery is claimed once by all nodes together", func(t *testing.T, dsn string) {
			const n = 200
			nodes := []*Store{node(t, dsn), node(t, dsn), node(t, dsn)}
			var mu sync.Mutex
			got := make(map[string]int)
			finished := func() bool {
				mu.Lock()
				defer mu.Unlock()
				return len(got) >= 2*n
			}
			var wg sync.WaitGroup
			for at, s := range nodes {
				wg.Go(func() {
					for i := at; i < n; i += len(nodes) {
						track(t, s, fmt.Sprint(i), event.Started, event.Completed)
					}
				})
				wg.Go(func() {
					changed, stop := s.Changed()
					defer stop()
					for !finished() && !t.Failed() {
						claimed, _, err := s.ClaimDeliveries(ctx, 20, func(store.Lane) store.Slots { return store.Slots{N: 10} })
						if err != nil {
							t.Error(err)
							return
						}
						for _, d := range claimed {
							mu.Lock()
							got[d.ID]++
							mu.Unlock()
							complete(t, s, d, store.Delivered)
						}
						if len(claimed) == 0 {
							select {
							case <-changed:
							case <-time.After(50 * time.Millisecond): // others may have finished
							}
						}
					}
				})
			}
			wg.Wait()
			for id, times := range got {
				if times != 1 {
					t.Errorf("%s was claimed %d times", id, times)
				}
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, server.Fresh(t)) })
	}
}

// TestLook: a node is gone when its count stands still for a lease, as seen by
// one who looked all that time.
func TestLook(t *testing.T) {
	n := nodes{lease: 20 * time.Second}
	n.id.Store(1)
	start := time.Now()
	look := func(sent, read int, counts map[int64]int64, want ...int64) {
		t.Helper()
		at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
		if gone := n.look(counts, at(sent), at(read)); !slices.Equal(gone, want) {
			t.Errorf("at %d s: gone are %v, want %v", sent, gone, want)
		}
	}
	look(0, 0, map[int64]int64{1: 1, 2: 7, 3: 9})
	look(10, 10, map[int64]int64{1: 1, 2: 8, 3: 9})
	look(19, 19, map[int64]int64{1: 1, 2: 8, 3: 9})
	look(20, 20, map[int64]int64{1: 1, 2: 8, 3: 9}, 3)
	look(29, 60, map[int64]int64{1: 1, 2: 8}) // this node slept after it had read
	look(60, 60, map[int64]int64{1: 1, 2: 9, 4: 1})
	look(79, 79, map[int64]int64{1: 1, 2: 9, 4: 1})
	n.seen = nil // a beat failed: the others may have been cut off as well
	look(100, 100, map[int64]int64{1: 1, 2: 9, 4: 1})
	look(119, 119, map[int64]int64{1: 1, 2: 9, 4: 1})
	look(120, 120, map[int64]int64{1: 1, 2: 9, 4: 2}, 2)
}

// TestClaimWhileTakenForGone: a claim that the database grants to a node that others
// took for gone meanwhile would protect nothing. The node claims again as what it is
// now.
func TestClaimWhileTakenForGone(t *testing.T) {
	dsn := pgtest.Start(t).Fresh(t)
	a, b := node(t, dsn), node(t, dsn)
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	// On a machine that is too busy the claim gives up while it waits, before the node
	// has registered again.
	var x store.Entry
	for try := 1; ; try++ {
		x = entryOf(fmt.Sprint("x", try))
		err := claimWhileTakenForGone(t, a, b, conn, x)
		if err == nil {
			break
		}
		if !errors.Is(err, store.ErrUnavailable) || try == 10 {
			t.Fatal(err)
		}
	}
	if _, err := b.Claim(ctx, x, 0); !errors.Is(err, store.ErrInFlight) {
		t.Errorf("the other node got %v, want in flight", err)
	}
}

// claimWhileTakenForGone has a claim of node a wait in the database until the node,
// which b takes for gone, has registered again.
func claimWhileTakenForGone(t *testing.T, a, b *Store, conn *pgx.Conn, x store.Entry) error {
	t.Helper()
	tx, err := conn.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(ctx, "LOCK TABLE webhook_claims"); err != nil {
		t.Fatal(err)
	}
	granted := make(chan error, 1)
	go func() { granted <- second(a.Claim(ctx, x, time.Minute)) }()
	eventually(t, "the claim to wait", func() bool {
		var n int
		_ = tx.QueryRow(ctx, "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'webhook_claims'::regclass").Scan(&n)
		return n > 0
	})
	before := a.nodes.id.Load()
	if _, err := b.pool.Exec(ctx, "DELETE FROM webhook_nodes WHERE id = $1", before); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the node to register again", func() bool { return a.nodes.id.Load() != before })
	if err := tx.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	return <-granted
}

// TestOutage: while the database is away everything is refused quickly, and
// what the app was given is remembered and committed when it is back.
func TestOutage(t *testing.T) {
	server := pgtest.Start(t)
	for _, stop := range []struct {
		name string
		do   func()
	}{{"stopped", server.Stop}, {"killed", server.Kill}} {
		t.Run(stop.name, func(t *testing.T) {
			dsn := server.Fresh(t)
			a, b := node(t, dsn), node(t, dsn)
			forwarded, open := mustClaim(t, a, entryOf("forwarded")), mustClaim(t, a, entryOf("open"))
			p := track(t, a, "x", event.Started)
			d := wantDue(t, a, "x started")[0]
			stop.do()
			if err := forwarded.Commit(ctx); !errors.Is(err, store.ErrUnavailable) {
				t.Fatalf("committing: %v", err)
			}
			began := time.Now()
			for name, err := range map[string]error{
				"claim":    second(b.Claim(ctx, entryOf("new"), time.Minute)),
				"complete": a.Complete(ctx, outcome(d, store.Delivered)),
				"find":     second(b.Prediction(ctx, p.API, p.ID)),
			} {
				if !errors.Is(err, store.ErrUnavailable) {
					t.Errorf("%s: got %v, want unavailable", name, err)
				}
				if err != nil && strings.Contains(err.Error(), pgtest.Password) {
					t.Errorf("%s: %v", name, err)
				}
			}
			if a.Ready() == nil {
				t.Error("ready without a database")
			}
			if c, err := a.Claim(ctx, entryOf("forwarded"), 0); err != nil || !c.Forwarded() {
				t.Errorf("claim of what the app has: %v, %v", c, err)
			} else {
				c.Release()
			}
			if took := time.Since(began); took > 15*time.Second {
				t.Errorf("refusing took %v", took)
			}
			server.Restart()
			began = time.Now()
			eventually(t, "the store", func() bool { return a.Ready() == nil && b.Ready() == nil })
			t.Logf("back after %v", time.Since(began))
			// Without a retry: it was the sender's last.
			eventually(t, "the other node to know", func() bool {
				c, err := b.Claim(ctx, entryOf("forwarded"), 0)
				if err == nil {
					c.Release() // a crash forgets claims
				}
				return errors.Is(err, store.ErrDuplicate)
			})
			if err := open.Commit(ctx); err != nil {
				t.Error(err)
			}
			complete(t, a, d, store.Delivered)
			if rows, err := b.Attempts(ctx, p.Ref, 0, 10); err != nil || len(rows) != 1 {
				t.Errorf("log is %v, %v", rows, err)
			}
		})
	}
}

func second[T any](_ T, err error) error { return err }

// TestRefusals: what can't work says so when it is opened, what to do, and no
// password.
func TestRefusals(t *testing.T) {
	server := pgtest.Start(t)
	server.Exec(t, `CREATE ROLE poor LOGIN PASSWORD '`+pgtest.Password+`'; CREATE SCHEMA bare; GRANT USAGE ON SCHEMA bare TO poor;
		CREATE SCHEMA ours; GRANT USAGE ON SCHEMA ours TO poor; CREATE SCHEMA newer`)
	for _, schema := range []string{"ours", "newer"} {
		s, err := Open(Options{DSN: server.DSN(schema)})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	server.Exec(t, "UPDATE newer.webhook_schema SET version = 99; GRANT SELECT ON ALL TABLES IN SCHEMA ours TO poor")
	good := server.DSN("ours")
	replica := server.Replica(t)
	for _, c := range []struct{ name, dsn, want string }{
		{"no dsn at all", "postgres://user:" + pgtest.Password + "@host:port/db", "port must be a number"},
		{"wrong password", server.DSNAs("poor", pgtest.Password+"x", "ours"), "check user and password"},
		{"no such role", server.DSNAs("nobody_here", pgtest.Password, "ours"), "check user and password"},
		{"no such database", strings.Replace(good, "/postgres?", "/elsewhere?", 1), "create the database"},
		{"no such schema", server.DSN("nowhere"), "create the one in search_path"},
		{"no right to create", server.DSNAs("poor", pgtest.Password, "bare"), "grant CREATE"},
		{"no right to write", server.DSNAs("poor", pgtest.Password, "ours"), "grant SELECT, INSERT, UPDATE and DELETE"},
		{"newer schema", server.DSN("newer"), "has schema version 99, newer than"},
		{"takes no writes", good + "&default_transaction_read_only=on", "name the primary"},
		{"read replica", replica.DSN("ours"), "name the primary"},
		{"nobody there", strings.Replace(good, fmt.Sprint(":", server.Port()), ":1", 1), "can't be reached"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := Open(Options{DSN: c.dsn})
			if err == nil {
				_ = s.Close()
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), pgtest.Password) {
				t.Errorf("got: %v\nwant: …%s…", err, c.want)
			}
		})
	}
}

// TestPrimaryIsFound: of several servers the primary is used, also once it has
// become another.
func TestPrimaryIsFound(t *testing.T) {
	primary := pgtest.Start(t)
	dsn := primary.Fresh(t)
	replica := primary.Replica(t)
	both := strings.Replace(dsn, fmt.Sprintf("127.0.0.1:%d", primary.Port()), fmt.Sprintf("127.0.0.1:%d,127.0.0.1:%d", replica.Port(), primary.Port()), 1)
	s := node(t, both)
	c := mustClaim(t, s, entryOf("x"))
	if err := c.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	written := pgtest.Value[string](t, primary.DSN("public"), "SELECT pg_current_wal_lsn()::text")
	eventually(t, "the replica to follow", func() bool {
		return pgtest.Value[bool](t, replica.DSN("public"), "SELECT pg_last_wal_replay_lsn() >= '"+written+"'")
	})
	primary.Kill()
	replica.Exec(t, "SELECT pg_promote()")
	eventually(t, "a duplicate", func() bool {
		_, err := s.Claim(ctx, entryOf("x"), 0)
		return errors.Is(err, store.ErrDuplicate)
	})
	eventually(t, "a commit", func() bool {
		c, err := s.Claim(ctx, entryOf("y"), 0)
		return err == nil && c.Commit(ctx) == nil
	})
}

// TestDurability: a database that would acknowledge what is not on disk is told
// otherwise, and what asks for more than that is left alone.
func TestDurability(t *testing.T) {
	server := pgtest.Start(t)
	for setting, want := range map[string]string{"off": "on", "on": "on", "remote_apply": "remote_apply"} {
		s, err := Open(Options{DSN: server.Fresh(t) + "&synchronous_commit=" + setting})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		if err := s.use(func(ctx context.Context, conn *pgx.Conn) (err error) {
			got, err = collect(ctx, conn, pgx.RowTo[string], "SELECT current_setting('synchronous_commit')")
			return err
		}); err != nil || got[0] != want {
			t.Errorf("%s became %s, %v; want %s", setting, got, err, want)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	core, logs := observer.New(zap.WarnLevel)
	unsafe := pgtest.Start(t, "fsync=off")
	s, err := Open(Options{DSN: unsafe.Fresh(t), Logger: func() *zap.Logger { return zap.New(core) }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if logs.FilterMessageSnippet("fsync off").Len() != 1 {
		t.Errorf("no warning: %v", logs.All())
	}
}

// TestMigrationsTogether: nodes may start at the same time.
func TestMigrationsTogether(t *testing.T) {
	dsn := pgtest.Start(t).Fresh(t)
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			s, err := Open(Options{DSN: dsn})
			if err != nil {
				t.Error(err)
				return
			}
			_ = s.Close()
		})
	}
	wg.Wait()
}

// TestBadOperationFailsAlone: one that the database refuses must not fail those
// that share its transaction.
func TestBadOperationFailsAlone(t *testing.T) {
	s := node(t, pgtest.Start(t).Fresh(t))
	bad := entryOf("bad")
	bad.Scope = "no text \x00"
	const n = 50
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			c, err := s.Claim(ctx, entryOf(fmt.Sprint(i)), 0)
			if err == nil {
				err = c.Commit(ctx)
			}
			if err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			b := bad
			b.Keys = []store.Key{store.KeyOf("bad", "event", fmt.Sprint(i))}
			if _, err := s.Claim(ctx, b, 0); !errors.Is(err, store.ErrUnavailable) {
				t.Errorf("got %v, want unavailable", err)
			}
		})
	}
	wg.Wait()
	if err := s.Ready(); err != nil {
		t.Error(err)
	}
	// What others wrote may be anything.
	p := store.Prediction{API: "a\x00\xff", ID: "i\x00\xff", Client: "\x00", URL: "https://a.example.com/\x00\xff", Events: event.All, Traceparent: "\xff", CreatedAt: time.Now()}
	if err := s.Track(ctx, &p, happened(event.Started)); err != nil {
		t.Fatal(err)
	}
	_, claimed := due(t, s)
	if len(claimed) != 1 || claimed[0].URL != p.URL || claimed[0].Client != p.Client {
		t.Fatalf("claimed %+v", claimed)
	}
	o := outcome(claimed[0], store.Delivered)
	o.Attempt.Response, o.Attempt.Error = "\x00\xff", "\x00"
	if err := s.Complete(ctx, o); err != nil {
		t.Fatal(err)
	}
	rows, err := s.Attempts(ctx, p.Ref, 0, 10)
	if err != nil || len(rows) != 1 || rows[0].Response != "\x00\xff" || rows[0].Error != "\x00" {
		t.Fatalf("log is %+v, %v", rows, err)
	}
}

// TestStoppedNodeHoldsNothing: a node that was stopped for longer than its lease
// knows that before it sends anything, whatever it had claimed.
func TestStoppedNodeHoldsNothing(t *testing.T) {
	t.Parallel()
	s, err := Open(Options{DSN: pgtest.Start(t).Fresh(t), Lease: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	track(t, s, "a", event.Started)
	claimed, _, err := s.ClaimDeliveries(ctx, 10, plenty)
	if err != nil || len(claimed) != 1 || !s.Holds(claimed[0]) {
		t.Fatalf("claimed %+v, %v", claimed, err)
	}
	heard := s.nodes.confirmed.Load()
	long := heard.Add(-time.Hour)
	s.nodes.confirmed.Store(&long)
	if s.Holds(claimed[0]) {
		t.Error("a claim is held after a lease without a heartbeat")
	}
	s.nodes.confirmed.Store(heard)
	if !s.Holds(claimed[0]) {
		t.Error("a claim is not held within the lease")
	}
	s.nodes.id.Add(1) // it was taken for dead, and began again
	if s.Holds(claimed[0]) {
		t.Error("the claim of a node that is no more is held")
	}
	s.nodes.id.Add(-1)
}
