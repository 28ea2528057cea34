package sqlite

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// alone reports whether the test is in a process of its own. If not, it runs the
// test in one.
func alone(t *testing.T) bool {
	t.Helper()
	const env = "SQLITE_TEST_ALONE"
	if os.Getenv(env) != "" {
		return true
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), env+"=1")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("in a process of its own: %v\n%s", err, out)
	}
	return false
}

// fullFor lets no file grow beyond a size while f runs, as a full disk does. The
// limit holds for all files of the process, among them the log that go test keeps
// of opened files, so the test has to be alone.
func fullFor(t *testing.T, size int64, f func()) {
	t.Helper()
	signal.Ignore(syscall.SIGXFSZ)
	defer signal.Reset(syscall.SIGXFSZ)
	var old syscall.Rlimit
	must(t, syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old))
	must(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: uint64(size), Max: old.Max}))
	defer func() { must(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old)) }()
	f()
}

// TestFailedCheckpointGivesItsConnectionUp: what a checkpoint that failed has left
// undone is not taken for done by a connection that remembers it.
func TestFailedCheckpointGivesItsConnectionUp(t *testing.T) {
	if !alone(t) {
		return
	}
	s, err := Open(Options{Path: filepath.Join(t.TempDir(), "webhook.db"), PurgeEvery: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.db.SetMaxOpenConns(1)
	connection := func() (c any) {
		t.Helper()
		conn, err := s.db.Conn(t.Context())
		if err == nil {
			err = errors.Join(conn.Raw(func(driverConn any) error { c = driverConn; return nil }), conn.Close())
		}
		must(t, err)
		return c
	}
	must(t, s.checkpoint())
	info, err := os.Stat(s.opts.Path)
	must(t, err)
	before := connection()
	must(t, s.checkpoint())
	if connection() != before {
		t.Fatal("a checkpoint that succeeded gave its connection up")
	}
	// The database has to grow for these, and can't. As long as a reader is in
	// the middle of something no checkpoint copies them.
	reader, err := s.keeper.Conn(t.Context())
	must(t, err)
	run := func(query string) { _, err := reader.ExecContext(t.Context(), query); must(t, err) }
	run("BEGIN")
	run("SELECT count(*) FROM dedup")
	commitRange(t, s, 64, 0, 5000)
	var checkpointErr error
	fullFor(t, info.Size(), func() {
		run("ROLLBACK")
		checkpointErr = s.checkpoint()
	})
	must(t, reader.Close())
	if checkpointErr == nil {
		t.Fatal("the checkpoint succeeded, though the database could not grow")
	}
	if connection() == before {
		t.Error("the connection whose checkpoint failed is used again")
	}
	must(t, s.checkpoint())
}

// TestGivingUpAConnectionCheckpointsNothing: SQLite checkpoints when a database's
// last connection closes. One that is given up because its fsync failed is never
// the last, or the same descriptor would be fsynced again.
func TestGivingUpAConnectionCheckpointsNothing(t *testing.T) {
	s, path := living(t)
	s.db.SetMaxIdleConns(-1) // no reader is there by chance
	before, err := os.Stat(path + "-wal")
	must(t, err)
	err = s.writer.do(t.Context(), &op{write: func(g *group) error {
		_, err := g.w.conn.ExecContext(context.Background(), "INSERT INTO nowhere VALUES (1)")
		return err
	}})
	if !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("the database's error was told as %v", err)
	}
	after, err := os.Stat(path + "-wal")
	if err != nil || !os.SameFile(before, after) || after.Size() == 0 {
		t.Fatalf("the log was checkpointed and removed: %v", err)
	}
	until(t, "did the store take writes again", func() bool { return s.Ready() == nil })
	must(t, commitOne(t, s, presenceEntries))
}
