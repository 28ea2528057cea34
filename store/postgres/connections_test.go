package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/pgtest"
	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// work takes an event and a prediction through all that a node asks of the
// database, and returns the first error.
func work(s *Store, name string) error {
	c, err := s.Claim(ctx, entryOf(name), time.Minute)
	if err != nil {
		return fmt.Errorf("claiming: %w", err)
	}
	if err := c.Commit(ctx); err != nil {
		return fmt.Errorf("committing: %w", err)
	}
	if err := s.Ready(); err != nil {
		return fmt.Errorf("before a create: %w", err)
	}
	p := store.Prediction{
		API: "https://api.example.com", URL: "https://a.example.com/" + name, Events: event.All, Token: []byte(name),
		PollPath: "/predictions/" + name, CreatedAt: time.Now(),
	}
	if p.Ref, err = s.Reserve(ctx, p); err != nil {
		return fmt.Errorf("reserving: %w", err)
	}
	p.ID = name
	if err := s.Track(ctx, &p, happened(event.Started)); err != nil {
		return fmt.Errorf("tracking: %w", err)
	}
	if err := s.Observe(ctx, p.Ref, p.ID, happened(event.Completed)); err != nil {
		return fmt.Errorf("observing: %w", err)
	}
	if _, err := s.Prediction(ctx, p.API, p.ID); err != nil {
		return fmt.Errorf("finding: %w", err)
	}
	return nil
}

// TestBrokenConnections: when the server ends all connections, whatever is under
// way or comes right after goes on over new ones, and nothing is done twice.
func TestBrokenConnections(t *testing.T) {
	server := pgtest.Start(t)
	dsn := server.Fresh(t)
	s := node(t, dsn)
	const rounds, callers = 5, 64
	for round := range rounds {
		if server.Disconnect(t) == 0 {
			t.Fatal("there was no connection to end")
		}
		var wg sync.WaitGroup
		for i := range callers {
			wg.Go(func() {
				if i == callers/2 {
					server.Disconnect(t) // and once more in the midst of it
				}
				if err := work(s, fmt.Sprintf("p%d-%d", round, i)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	for what, query := range map[string]string{
		"predictions": "SELECT count(*) FROM webhook_predictions WHERE key IS NOT NULL", "reservations": "SELECT count(*) + $1 FROM webhook_predictions WHERE key IS NULL",
		"started events":  "SELECT count(*) FROM webhook_deliveries WHERE event = 1 AND $1 > 0",
		"terminal events": "SELECT count(*) FROM webhook_deliveries WHERE event = 2 AND $1 > 0", "entries": "SELECT count(*) FROM webhook_dedup WHERE $1 > 0",
	} {
		if what == "predictions" {
			query += " AND $1 > 0"
		}
		if n := pgtest.Value[int](t, dsn, query, rounds*callers); n != rounds*callers {
			t.Errorf("%d %s, want %d", n, what, rounds*callers)
		}
	}
	if n := pgtest.Value[int](t, dsn, "SELECT count(*) FROM webhook_claims"); n != 0 {
		t.Errorf("%d claims were left behind", n)
	}
	// Deliveries whose taker did not hear that it has them come free.
	got := make(map[string]bool)
	eventually(t, "every started event", func() bool {
		names, _ := due(t, s)
		for _, name := range names {
			if got[name] {
				t.Errorf("%s is due twice", name)
			}
			got[name] = true
		}
		return len(got) == rounds*callers
	})
}

// TestUnheardCommits: a commit whose outcome nobody heard, since the connection
// broke then, is found done when it is tried again.
func TestUnheardCommits(t *testing.T) {
	server := pgtest.Start(t)
	dsn := server.Fresh(t)
	deaf := newDeaf(t, server.Port())
	s := node(t, strings.Replace(dsn, fmt.Sprint(":", server.Port()), fmt.Sprint(":", deaf.port), 1))
	run := func(f func()) {
		t.Helper()
		deaf.armed.Store(true)
		f()
		if deaf.armed.Load() {
			t.Error("nothing was committed")
		}
	}
	one := func(what string, want int, query string) {
		t.Helper()
		if n := pgtest.Value[int](t, dsn, query); n != want {
			t.Errorf("%s: %d rows, want %d", what, n, want)
		}
	}
	p := store.Prediction{API: "https://api.example.com", URL: "https://a.example.com/", Events: event.All, Token: []byte("token"), PollPath: "/p", CreatedAt: time.Now()}
	run(func() {
		var err error
		if p.Ref, err = s.Reserve(ctx, p); err != nil {
			t.Fatal(err)
		}
	})
	one("reserve", 1, "SELECT count(*) FROM webhook_predictions")
	run(func() {
		p.ID = "x"
		if err := s.Track(ctx, &p, happened(event.Started)); err != nil {
			t.Fatal(err)
		}
	})
	run(func() { track(t, s, "y", event.Started, event.Completed) })
	one("track", 2, "SELECT count(*) FROM webhook_predictions")
	one("track", 3, "SELECT count(*) FROM webhook_deliveries")
	run(func() {
		if err := s.Observe(ctx, p.Ref, "x", happened(event.Completed)); err != nil {
			t.Fatal(err)
		}
	})
	one("observe", 4, "SELECT count(*) FROM webhook_deliveries")
	claimed := wantDue(t, s, "x started", "y started")
	run(func() { complete(t, s, claimed[0], store.Delivered) })
	one("complete", 1, "SELECT count(*) FROM webhook_attempts")
	log, err := s.Attempts(ctx, p.Ref, 0, 10)
	if err != nil || len(log) != 1 {
		t.Fatalf("log %v, %v", log, err)
	}
	run(func() {
		if _, err := s.Redeliver(ctx, p.Ref, log[0].ID); err != nil {
			t.Fatal(err)
		}
	})
	one("redeliver", 5, "SELECT count(*) FROM webhook_deliveries")
	one("redeliver", 1, "SELECT count(*) FROM webhook_deliveries WHERE redelivery")
}

// TestConnectionsBrokenOff: connections that end while they begin are made again,
// for commits and for heartbeats.
func TestConnectionsBrokenOff(t *testing.T) {
	server := pgtest.Start(t)
	dsn := server.Fresh(t)
	deaf := newDeaf(t, server.Port())
	s := node(t, strings.Replace(dsn, fmt.Sprint(":", server.Port()), fmt.Sprint(":", deaf.port), 1))
	for round := range 3 {
		deaf.refuse.Store(connectTries - 1)
		server.Disconnect(t)
		if err := work(s, fmt.Sprint("p", round)); err != nil {
			t.Error(err)
		}
		deaf.refuse.Store(connectTries - 1)
		server.Disconnect(t)
		if err := s.beatWith(func(ctx context.Context, conn *pgx.Conn) error { return conn.Ping(ctx) }); err != nil {
			t.Error(err)
		}
	}
}

// deaf is a proxy that, once armed, breaks the next connection in place of handing
// on that a transaction was committed. It ends as many of the next connections as
// refuse says before the server can answer.
type deaf struct {
	port   int
	armed  atomic.Bool
	refuse atomic.Int64
}

func newDeaf(t *testing.T, server int) *deaf {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	d := &deaf{port: l.Addr().(*net.TCPAddr).Port}
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			if d.refuse.Add(-1) >= 0 {
				_ = client.Close()
				continue
			}
			up, err := net.Dial("tcp", fmt.Sprint("127.0.0.1:", server))
			if err != nil {
				_ = client.Close()
				continue
			}
			go func() {
				_, _ = io.Copy(up, client)
				_ = up.Close()
			}()
			go func() {
				defer func() { _, _ = client.Close(), up.Close() }()
				b := make([]byte, 64<<10)
				for {
					n, err := up.Read(b)
					if err != nil || bytes.Contains(b[:n], []byte("\x0bCOMMIT\x00")) && d.armed.CompareAndSwap(true, false) {
						return
					}
					if _, err := client.Write(b[:n]); err != nil {
						return
					}
				}
			}()
		}
	}()
	return d
}

// TestRestartedServer: while the server is away new work is refused quickly, what
// was begun waits for it, and the first call after its return succeeds.
func TestRestartedServer(t *testing.T) {
	server := pgtest.Start(t)
	s := node(t, server.Fresh(t))
	for i := range 3 {
		if err := work(s, fmt.Sprint("before", i)); err != nil {
			t.Fatal(err)
		}
		p := store.Prediction{API: "https://api.example.com", URL: "https://a.example.com/", Events: event.All, Token: fmt.Append(nil, i), CreatedAt: time.Now()}
		var err error
		if p.Ref, err = s.Reserve(ctx, p); err != nil {
			t.Fatal(err)
		}
		server.Stop()
		eventually(t, "new work to be refused", func() bool { return errors.Is(s.Ready(), store.ErrUnavailable) })
		// The API has made this one already.
		p.ID = fmt.Sprint("begun", i)
		tracked := make(chan error, 1)
		go func() { tracked <- s.Track(ctx, &p, happened(event.Started)) }()
		server.Restart()
		if err := work(s, fmt.Sprint("after", i)); err != nil {
			t.Errorf("right after the restart: %v", err)
		}
		if err := <-tracked; err != nil {
			t.Errorf("what was begun: %v", err)
		}
	}
}

// TestMaxConns: a node takes no more connections than it may, under any load.
func TestMaxConns(t *testing.T) {
	server := pgtest.Start(t)
	for _, limit := range []int{MinMaxConns, 5, DefaultMaxConns} {
		s, err := Open(Options{DSN: server.Fresh(t), Lease: 2 * time.Second, MaxConns: limit, PurgeEvery: 10 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		most := 0
		stop := make(chan struct{})
		var counted sync.WaitGroup
		counted.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					most = max(most, pgtest.Value[int](t, server.DSN("public"), "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'caddy-replicate-webhook'"))
				}
			}
		})
		var wg sync.WaitGroup
		for i := range 64 {
			wg.Go(func() {
				if err := work(s, fmt.Sprint("p", i)); err != nil {
					t.Error(err)
				}
				if _, err := s.Counts(ctx); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		close(stop)
		counted.Wait()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if most > limit {
			t.Errorf("took %d connections, may take %d", most, limit)
		}
	}
}

// TestConnectionLimit: at a server that has no connection left, a node works with
// those it has, and does not look dead; one that can't have what it needs does not
// start, and says why.
func TestConnectionLimit(t *testing.T) {
	const limit = 30
	server := pgtest.Start(t, fmt.Sprint("max_connections=", limit), "superuser_reserved_connections=0")
	dsn := server.Fresh(t)
	core, logs := observer.New(zap.WarnLevel)
	var nodes []*Store
	for range 2 {
		s, err := Open(Options{DSN: dsn, Lease: 5 * time.Second, MaxConns: 14, Logger: func() *zap.Logger { return zap.New(core) }})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		nodes = append(nodes, s)
	}
	var others []*pgx.Conn
	fill := func() {
		for {
			conn, err := pgx.Connect(ctx, server.DSN("public"))
			if err != nil {
				if !serverFull(err) {
					t.Fatal(err)
				}
				return
			}
			others = append(others, conn)
		}
	}
	t.Cleanup(func() {
		for _, conn := range others {
			_ = conn.Close(ctx)
		}
	})
	fill()
	if _, err := Open(Options{DSN: dsn}); !serverFull(err) {
		t.Errorf("a third node: %v", err)
	}
	ids := []int64{nodes[0].nodes.id.Load(), nodes[1].nodes.id.Load()}
	for round := range 3 {
		var wg sync.WaitGroup
		for i := range 128 {
			wg.Go(func() {
				if err := work(nodes[i%2], fmt.Sprintf("p%d-%d", round, i)); err != nil {
					t.Error(err)
				}
				if _, err := nodes[i%2].Counts(ctx); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	// For longer than a lease.
	began := [2]int64{}
	beats := func(i int) int64 {
		return pgBeat(t, others[0], dsn, ids[i])
	}
	for i := range began {
		began[i] = beats(i)
	}
	eventually(t, "heartbeats for two leases", func() bool { return beats(0) >= began[0]+2*beatsPerLease && beats(1) >= began[1]+2*beatsPerLease })
	for i, s := range nodes {
		if s.nodes.id.Load() != ids[i] {
			t.Errorf("node %d was taken for dead", i)
		}
	}
	for _, entry := range logs.All() {
		t.Errorf("logged %q %v", entry.Message, entry.ContextMap())
	}
}

// pgBeat reads a node's count over a connection that is there already.
func pgBeat(t *testing.T, conn *pgx.Conn, dsn string, id int64) (beat int64) {
	t.Helper()
	conf, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	table := pgx.Identifier{conf.RuntimeParams["search_path"], "webhook_nodes"}.Sanitize()
	if err := conn.QueryRow(ctx, "SELECT beat FROM "+table+" WHERE id = $1", id).Scan(&beat); err != nil {
		t.Fatal(err)
	}
	return beat
}
