package nodes_test

import (
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/e2e/rig/pgtest"
	"github.com/caddy-replicate/replicate-webhook/internal/fakeapi"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/postgres"
)

// asCaddy makes the test binary a Caddy. It has a store that the released one
// lacks: see shortLease.
const asCaddy = "NODES_TEST_AS_CADDY"

func TestMain(m *testing.M) {
	if os.Getenv(asCaddy) != "" {
		caddy.RegisterModule(shortLease{})
		caddycmd.Main()
		return
	}
	os.Exit(m.Run())
}

// lease is shorter than a node takes to give a connection up that is being made.
const lease = 2 * time.Second

// shortLease is the PostgreSQL store with the short lease.
type shortLease struct{}

func (shortLease) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "replicate_webhook.stores.short_lease", New: func() caddy.Module { return new(shortLease) }}
}

func (*shortLease) UnmarshalCaddyfile(*caddyfile.Dispenser) error { return nil }

func (*shortLease) Resource() string { return "short lease" }

func (*shortLease) Open() (store.Closer, error) {
	return postgres.Open(postgres.Options{DSN: os.Getenv("DATABASE_URL"), MaxConns: 6, Lease: lease, Logger: caddy.Log})
}

var shortCaddyfile = strings.NewReplacer(
	postgresStore, "store short_lease",
	"max_delay 100ms", "max_delay 100ms\n concurrency 8",
	"handle {\n\t\t\t\t\treverse_proxy %[2]s\n", "handle {\n reverse_proxy %[2]s {\n header_up X-Node {env.NODE}\n }\n",
).Replace(clusterCaddyfile)

// newShortCluster starts two nodes with the short lease, that trust a receiver.
func newShortCluster(t *testing.T, r *httptest.Server) *cluster {
	t.Helper()
	database := pgtest.Start(t)
	dsn := database.Fresh(t)
	c := &cluster{
		t: t, database: database, app: caddyrun.NewApp(t), hook: r.URL + "/hook",
		api: fakeapi.New(fakeapi.Options{Run: 200 * time.Millisecond}),
	}
	api := httptest.NewServer(c.api)
	t.Cleanup(func() {
		api.CloseClientConnections()
		api.Close()
	})
	_, port, _ := net.SplitHostPort(r.Listener.Addr().String())
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate().Raw})
	config := fmt.Sprintf(shortCaddyfile, port, c.app.Addr(), api.URL)
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		n := caddyrun.NewChild(t, config)
		n.Program = program
		if err := os.WriteFile(n.Path("ca.pem"), authority, 0o600); err != nil {
			t.Fatal(err)
		}
		n.Environ = append(n.Environ, asCaddy+"=1", "DATABASE_URL="+dsn, "SECRET="+secret, "SSL_CERT_FILE="+n.Path("ca.pem"), fmt.Sprint("NODE=", i))
		n.Start("PORT1")
		n.Logs.Wait(t, "serving initial configuration")
		c.nodes = append(c.nodes, n)
	}
	return c
}

// suspend stops a node where it is, until resume is called.
func (c *cluster) suspend(node int) (resume func()) {
	c.t.Helper()
	process, err := os.FindProcess(c.nodes[node].PID())
	if err != nil {
		c.t.Fatal(err)
	}
	stopped := time.Now()
	if err := process.Signal(syscall.SIGSTOP); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = process.Signal(syscall.SIGCONT) })
	return func() {
		c.t.Helper()
		if err := process.Signal(syscall.SIGCONT); err != nil {
			c.t.Fatal(err)
		}
		c.t.Logf("the node was stopped for %v", time.Since(stopped))
	}
}

// TestStoppedNodesEventsReachTheApp: a node is stopped with events in hand, for longer
// than its lease. The other one passes them on meanwhile, in order. What the first
// then learns from the app changes nothing, and it passes on nothing that the other has
// passed on.
func TestStoppedNodesEventsReachTheApp(t *testing.T) {
	const predictions = 24
	r := newSlowReceiver(t)
	c := newShortCluster(t, r.Server)
	var (
		mu       sync.Mutex
		accepted = make(map[string][]string) // by prediction
		late     []string                    // what the first node passed on once it went on
		resumed  bool
	)
	release := make(chan struct{})
	c.app.Answer(func(_ http.ResponseWriter, r *caddyrun.Request) {
		name := strings.TrimPrefix(r.Header.Get("X-Replicate-Event"), "prediction.")
		id := r.Header.Get("X-Replicate-Prediction-Id")
		first := r.Header.Get("X-Node") == "0"
		mu.Lock()
		if first && resumed {
			late = append(late, id+" "+name)
		}
		mu.Unlock()
		if first {
			<-release
			return
		}
		mu.Lock()
		defer mu.Unlock()
		accepted[id] = append(accepted[id], name)
	})
	ids := make([]string, predictions)
	all(predictions, func(i int) {
		ids[i] = fmt.Sprint("stopped", i)
		for _, e := range [][2]string{{"started", "processing"}, {"completed", "succeeded"}} {
			w := newWebhookOf(ids[i], e[0], e[1])
			if a := c.do(i%2, "/webhooks/inbox", w.body, "X-Replicate-Signature", w.signature); a.status != http.StatusOK {
				t.Errorf("accepting: %v", a)
			}
		}
	})
	held := func() (n int) {
		for _, r := range c.app.Seen() {
			if r.Header.Get("X-Node") == "0" {
				n++
			}
		}
		return n
	}
	c.until("the first node to have its share in hand", func() bool { return held() == 8 })
	resume := c.suspend(0)
	c.until("the other to pass on all events", func() bool {
		mu.Lock()
		defer mu.Unlock()
		for _, id := range ids {
			if got := accepted[id]; len(got) == 0 || got[len(got)-1] != "completed" {
				return false
			}
		}
		return true
	})
	mu.Lock()
	resumed = true
	mu.Unlock()
	close(release)
	resume()
	// The first node takes part again.
	w := newWebhookOf("after", "completed", "succeeded")
	c.until("the first node to accept an event", func() bool {
		return c.do(0, "/webhooks/inbox", w.body, "X-Replicate-Signature", w.signature).status == http.StatusOK
	})
	c.until("that event to reach the app", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(accepted["after"])+len(late) > 0
	})
	mu.Lock()
	defer mu.Unlock()
	for _, id := range ids {
		if got := strings.Join(accepted[id], " "); got != "started completed" {
			t.Errorf("the other node passed on %q of %s", got, id)
		}
	}
	for _, event := range late {
		if event != "after completed" {
			t.Errorf("the first node passed on %s when it went on", event)
		}
	}
}

// TestStoppedNodeSendsNothingLate: a node is stopped while it connects to a
// receiver, for longer than its lease. The other one delivers all of the
// prediction's events meanwhile. When the first goes on, and has its connection,
// it does not send the started event after the terminal one.
func TestStoppedNodeSendsNothingLate(t *testing.T) {
	r := newSlowReceiver(t)
	c := newShortCluster(t, r.Server)
	id, a := c.create(0)
	if a.status != http.StatusCreated {
		t.Fatal(a)
	}
	select {
	case <-r.held:
	case <-time.After(caddyrun.Patience):
		t.Fatal("no node connects to the receiver")
	}
	resume := c.suspend(0)
	c.until("the other node to deliver all", func() bool { return len(r.received()) >= 2 })
	close(r.goOn)
	resume()
	select {
	case <-r.closed:
	case <-time.After(caddyrun.Patience):
		t.Error("the connection stays open")
	}
	want := []string{id + " started", id + " completed"}
	if got := r.received(); strings.Join(got, ", ") != strings.Join(want, ", ") {
		t.Errorf("the receiver got %q, want %q", got, want)
	}
}

// slowReceiver is a receiver by TLS that leaves the first connection's handshake
// until goOn is closed.
type slowReceiver struct {
	*httptest.Server
	held, goOn, closed chan struct{}

	mu     sync.Mutex
	first  net.Conn
	events []string
}

func newSlowReceiver(t *testing.T) *slowReceiver {
	r := &slowReceiver{held: make(chan struct{}), goOn: make(chan struct{}), closed: make(chan struct{})}
	r.Server = httptest.NewUnstartedServer(r)
	r.TLS = &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		r.mu.Lock()
		first := r.first == nil
		if first {
			r.first = hello.Conn
		}
		r.mu.Unlock()
		if first {
			close(r.held)
			<-r.goOn
		}
		return nil, nil
	}}
	r.Config.ConnState = func(conn net.Conn, state http.ConnState) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if state == http.StateClosed && conn.(*tls.Conn).NetConn() == r.first {
			close(r.closed)
		}
	}
	r.StartTLS()
	t.Cleanup(r.Close)
	return r
}

func (r *slowReceiver) ServeHTTP(_ http.ResponseWriter, req *http.Request) {
	var p struct {
		Event      string
		Prediction struct{ ID string }
	}
	err := json.NewDecoder(req.Body).Decode(&p)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, p.Prediction.ID+" "+strings.TrimPrefix(p.Event, "prediction."))
	if err != nil {
		r.events = append(r.events, err.Error())
	}
}

// received returns the events that came, in their order.
func (r *slowReceiver) received() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.events...)
}
