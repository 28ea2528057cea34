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

var shortCaddyfile = strings.Replace(clusterCaddyfile, postgresStore, "store short_lease", 1)

// TestStoppedNodeSendsNothingLate: a node is stopped while it connects to a
// receiver, for longer than its lease. The other one delivers all of the
// prediction's events meanwhile. When the first goes on, and has its connection,
// it does not send the started event after the terminal one.
func TestStoppedNodeSendsNothingLate(t *testing.T) {
	database := pgtest.Start(t)
	dsn := database.Fresh(t)
	c := &cluster{
		t: t, database: database, app: caddyrun.NewApp(t),
		api: fakeapi.New(fakeapi.Options{Run: 200 * time.Millisecond}),
	}
	api := httptest.NewServer(c.api)
	t.Cleanup(func() {
		api.CloseClientConnections()
		api.Close()
	})
	r := newSlowReceiver(t)
	_, port, _ := net.SplitHostPort(r.Listener.Addr().String())
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate().Raw})
	config := fmt.Sprintf(shortCaddyfile, port, c.app.Addr(), api.URL)
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		n := caddyrun.NewChild(t, config)
		n.Program = program
		if err := os.WriteFile(n.Path("ca.pem"), authority, 0o600); err != nil {
			t.Fatal(err)
		}
		n.Environ = append(n.Environ, asCaddy+"=1", "DATABASE_URL="+dsn, "SECRET="+secret, "SSL_CERT_FILE="+n.Path("ca.pem"))
		n.Start("PORT1")
		n.Logs.Wait(t, "serving initial configuration")
		c.nodes = append(c.nodes, n)
	}
	c.hook = r.URL + "/hook"
	id, a := c.create(0)
	if a.status != http.StatusCreated {
		t.Fatal(a)
	}
	select {
	case <-r.held:
	case <-time.After(caddyrun.Patience):
		t.Fatal("no node connects to the receiver")
	}
	stopped := time.Now()
	process, err := os.FindProcess(c.nodes[0].PID())
	if err != nil {
		t.Fatal(err)
	}
	must := func(s syscall.Signal) {
		if err := process.Signal(s); err != nil {
			t.Fatal(err)
		}
	}
	must(syscall.SIGSTOP)
	t.Cleanup(func() { _ = process.Signal(syscall.SIGCONT) })
	c.until("the other node to deliver all", func() bool { return len(r.received()) >= 2 })
	close(r.goOn)
	must(syscall.SIGCONT)
	t.Logf("the node was stopped for %v", time.Since(stopped))
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
