package pgtest

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-replicate/replicate-webhook/internal/testenv"
)

// Pooler is a pgbouncer in transaction mode before a server.
type Pooler struct{ port int }

// Pooler starts a pgbouncer that has so many connections to the server. It ends
// with the test. Where pgbouncer is not installed the test is skipped.
func (s *Server) Pooler(t TB, connections int) *Pooler {
	t.Helper()
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		program = "/usr/sbin/pgbouncer"
		if _, err := os.Stat(program); err != nil {
			testenv.Skip(t, "pgbouncer (on the PATH or in /usr/sbin)", "apt-get install pgbouncer")
		}
	}
	dir, err := os.MkdirTemp("", "pgbouncer-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := give(dir); err != nil {
		t.Fatal(err)
	}
	p := &Pooler{port: freePort(t)}
	config := fmt.Sprintf(`[databases]
* = host=127.0.0.1 port=%d
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = trust
auth_file = %s
pool_mode = transaction
default_pool_size = %d
max_client_conn = 500
server_reset_query =
`, s.port, p.port, filepath.Join(dir, "users"), connections)
	for name, text := range map[string]string{"config": config, "users": `"postgres" ""` + "\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(program, filepath.Join(dir, "config"))
	cmd.Stdout, cmd.Stderr = log, log
	demote(cmd)
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting pgbouncer: %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		conn, err := pgx.Connect(ctx, p.DSN("postgres"))
		cancel()
		if err == nil {
			_ = conn.Close(context.Background())
			return p
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(log.Name())
			t.Fatalf("pgbouncer does not start: %v: %s", err, text)
		}
	}
}

// DSN names a database by way of the pooler.
func (p *Pooler) DSN(database string) string { return dsn(p.port, database) }

// Database makes an empty database, with settings such as
// "synchronous_commit = off", and returns its name and the DSN that leads to it
// past every pooler.
func (s *Server) Database(t TB, settings ...string) (name, direct string) {
	t.Helper()
	name = fmt.Sprintf("database_%d", s.fresh.Add(1))
	s.Exec(t, "CREATE DATABASE "+name)
	for _, setting := range settings {
		s.Exec(t, "ALTER DATABASE "+name+" SET "+setting)
	}
	return name, dsn(s.port, name)
}

func dsn(port int, database string) string {
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword("postgres", Password),
		Host: fmt.Sprintf("127.0.0.1:%d", port), Path: "/" + database, RawQuery: "sslmode=disable",
	}
	return u.String()
}

// Disconnect ends all connections of stores, as the server does when it is told
// to, and returns how many there were.
func (s *Server) Disconnect(t TB) int {
	t.Helper()
	return Value[int](t, s.DSN("public"), "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'caddy-replicate-webhook'")
}

// Fill takes all connections that the server has left, until the test ends.
func (s *Server) Fill(t TB) {
	t.Helper()
	for {
		conn, err := s.connect()
		if err != nil {
			return
		}
		t.Cleanup(func() { _ = conn.Close(context.Background()) })
	}
}

// WatchCommits makes the database record with which setting of synchronous_commit
// the transactions end that write to the tables. CommittedWith returns what was
// seen.
func WatchCommits(t TB, dsn string, tables ...string) {
	t.Helper()
	var sql strings.Builder
	sql.WriteString(`CREATE TABLE seen_commits (setting text PRIMARY KEY);
CREATE FUNCTION see_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	INSERT INTO seen_commits VALUES (current_setting('synchronous_commit')) ON CONFLICT DO NOTHING; RETURN NULL; END $$;
`)
	for _, table := range tables {
		fmt.Fprintf(&sql, "CREATE CONSTRAINT TRIGGER see AFTER INSERT OR UPDATE ON %s DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION see_commit();\n", table)
	}
	execute(t, dsn, sql.String())
}

// CommittedWith returns what WatchCommits has recorded.
func CommittedWith(t TB, dsn string) string {
	t.Helper()
	return Value[string](t, dsn, "SELECT coalesce(string_agg(setting, ' '), '') FROM seen_commits")
}

func execute(t TB, dsn, sql string) {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	if _, err := conn.Exec(context.Background(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}
