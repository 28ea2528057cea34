// Package pgtest runs a PostgreSQL for tests: a cluster of its own in a
// temporary directory, on a loopback port of its own, made by the installed
// server programs. fsync stays on, so that it loses and keeps what a real one
// would.
package pgtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-replicate/replicate-webhook/internal/testenv"
)

// Password is that of the superuser, who is called postgres. Tests look for it
// where no secret may be.
const Password = "pgtest-secret-7f3a"

// patience is the time that the server may take to start or stop.
const patience = time.Minute

// TB is the part of testing.TB that is needed.
type TB interface {
	testenv.TB
	Cleanup(func())
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

// Server is a cluster that a test can stop, kill and start again.
type Server struct {
	t    TB
	bin  string
	dir  string
	port int
	args []string

	cmd    *exec.Cmd
	exited chan struct{}
	fresh  atomic.Int64
}

// Start makes a cluster and starts it, with options such as
// "max_connections=20". It ends with the test. Where PostgreSQL is not
// installed the test is skipped.
func Start(t TB, options ...string) *Server {
	t.Helper()
	return StartIn(t, "", options...)
}

// StartIn is like Start, for a cluster in a new directory below dir, which
// every user may enter.
func StartIn(t TB, dir string, options ...string) *Server {
	t.Helper()
	bin := programs()
	if bin == "" {
		testenv.Skip(t, "PostgreSQL (initdb and postgres on the PATH or under /usr/lib/postgresql)", "apt-get install postgresql")
	}
	s := (&Server{bin: bin}).beside(t, dir)
	for _, o := range options {
		s.args = append(s.args, "-c", o)
	}
	s.initdb()
	s.Restart()
	return s
}

// beside prepares another cluster of the same programs.
func (s *Server) beside(t TB, dir string) *Server {
	t.Helper()
	// Not t.TempDir, which the user that the server runs as may not enter.
	dir, err := os.MkdirTemp(dir, "pgtest-*")
	if err != nil {
		t.Fatal(err)
	}
	n := &Server{t: t, bin: s.bin, dir: dir, port: freePort(t)}
	t.Cleanup(func() {
		n.Kill()
		_ = os.RemoveAll(dir)
	})
	if err := give(dir); err != nil {
		t.Fatal(err)
	}
	n.args = []string{
		"-D", n.data(), "-p", fmt.Sprint(n.port), "-k", dir,
		"-c", "listen_addresses=127.0.0.1", "-c", "max_connections=200", "-c", "log_min_messages=fatal",
	}
	return n
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

// programs returns the directory of the newest installed server.
func programs() string {
	if path, err := exec.LookPath("initdb"); err == nil {
		// A link leads to where all of them are.
		if real, err := filepath.EvalSymlinks(path); err == nil {
			return filepath.Dir(real)
		}
	}
	var newest string
	var version int
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	for _, path := range found {
		var v int
		if _, err := fmt.Sscan(filepath.Base(filepath.Dir(filepath.Dir(path))), &v); err == nil && v > version {
			newest, version = filepath.Dir(path), v
		}
	}
	return newest
}

func (s *Server) initdb() {
	s.t.Helper()
	file := filepath.Join(s.dir, "password")
	if err := os.WriteFile(file, []byte(Password), 0o644); err != nil {
		s.t.Fatal(err)
	}
	defer os.Remove(file)
	cmd := s.program("initdb", "-D", s.data(), "-U", "postgres", "--auth=scram-sha-256", "--pwfile="+file, "-E", "UTF8", "--locale=C", "--no-sync")
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("initdb: %v\n%s", err, out)
	}
	// The superuser's password is not asked for, which makes connecting
	// cheap. Those of roles that tests make are.
	hba := "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\nhost replication postgres 127.0.0.1/32 trust\n"
	if err := os.WriteFile(filepath.Join(s.data(), "pg_hba.conf"), []byte(hba), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// program runs as another user than root, whom the server refuses to serve.
func (s *Server) program(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	cmd.Dir = s.dir
	demote(cmd)
	return cmd
}

// Restart starts the server after Stop or Kill, on the same port, and waits
// until it takes connections.
func (s *Server) Restart() {
	s.t.Helper()
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	s.cmd = s.program("postgres", s.args...)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatalf("starting PostgreSQL: %v", err)
	}
	s.exited = make(chan struct{})
	go func(cmd *exec.Cmd, exited chan struct{}) {
		_ = cmd.Wait()
		close(exited)
	}(s.cmd, s.exited)
	deadline := time.Now().Add(patience)
	for {
		conn, err := s.connect()
		if err == nil {
			_ = conn.Close(context.Background())
			return
		}
		select {
		case <-s.exited:
			s.t.Fatalf("PostgreSQL ended: %s", s.log())
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("PostgreSQL does not start: %v: %s", err, s.log())
		}
	}
}

func (s *Server) log() string {
	text, _ := os.ReadFile(filepath.Join(s.dir, "log"))
	return string(text)
}

// Stop shuts the server down in order, whoever is connected.
func (s *Server) Stop() { s.end(syscall.SIGINT) }

// Kill ends the server as a crash does.
func (s *Server) Kill() { s.end(syscall.SIGQUIT) }

func (s *Server) end(signal syscall.Signal) {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(signal)
	select {
	case <-s.exited:
	case <-time.After(patience):
		_ = s.cmd.Process.Kill()
		<-s.exited
		s.t.Errorf("PostgreSQL did not stop: %s", s.log())
	}
	s.cmd = nil
}

// Replica starts a read replica of the server as it is now.
func (s *Server) Replica(t TB) *Server {
	t.Helper()
	r := s.beside(t, "")
	cmd := r.program("pg_basebackup", "-h", "127.0.0.1", "-p", fmt.Sprint(s.port), "-U", "postgres", "-D", r.data(), "-R", "--checkpoint=fast", "--no-sync")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("pg_basebackup: %v\n%s", err, out)
	}
	r.Restart()
	return r
}

// DSN names the database and the schema in it that a store is to use.
func (s *Server) DSN(schema string) string { return s.DSNAs("postgres", Password, schema) }

// DSNAs is like DSN, for another user.
func (s *Server) DSNAs(user, password, schema string) string {
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(user, password),
		Host: fmt.Sprintf("127.0.0.1:%d", s.port), Path: "/postgres",
		RawQuery: url.Values{"sslmode": {"disable"}, "search_path": {schema}}.Encode(),
	}
	return u.String()
}

// Port returns the port that the server listens on.
func (s *Server) Port() int { return s.port }

// Fresh creates an empty schema and returns the DSN for it.
func (s *Server) Fresh(t TB) string {
	t.Helper()
	schema := fmt.Sprintf("fresh_%d", s.fresh.Add(1))
	s.Exec(t, "CREATE SCHEMA "+schema)
	return s.DSN(schema)
}

// Exec runs statements as the superuser.
func (s *Server) Exec(t TB, sql string) {
	t.Helper()
	conn, err := s.connect()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	if _, err := conn.Exec(context.Background(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// Value runs a query and returns its one value.
func Value[T any](t TB, dsn, query string, args ...any) T {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	var v T
	if err := conn.QueryRow(context.Background(), query, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return v
}

func (s *Server) connect() (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return pgx.Connect(ctx, s.DSN("public"))
}

// freePort returns a port outside the range of outgoing connections.
func freePort(t TB) int {
	t.Helper()
	for port := 5500 + rand.IntN(4000); port < 10000; port++ {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			_ = l.Close()
			return port
		}
	}
	t.Fatal("found no free port on 127.0.0.1")
	return 0
}
