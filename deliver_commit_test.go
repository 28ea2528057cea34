package replicatewebhook_test

import (
	"database/sql"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
)

// storeDir is where the default store is.
func storeDir(e *caddyrun.Env) string { return e.Path("data", "caddy", "replicate_webhook") }

// execSQL runs a statement on the store's file from a connection of its own.
func execSQL(t testing.TB, dir, statement string) {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(dir, "webhook.db")+"?_pragma=busy_timeout(5000)")
	if err == nil {
		_, err = db.Exec(statement)
	}
	if err == nil {
		err = db.Close()
	}
	if err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// Every write of an entry fails between these, as on a disk that is full.
const (
	breakCommits = "CREATE TRIGGER broken BEFORE INSERT ON dedup BEGIN SELECT RAISE(ABORT, 'no space left'); END"
	mendCommits  = "DROP TRIGGER broken"
)

// answerWithEverything answers 200 with headers, a body and a trailer.
func answerWithEverything(w http.ResponseWriter, _ *caddyrun.Request) {
	w.Header().Set("Trailer", "X-App-Trailer")
	w.Header().Set("X-App", "of the app")
	w.Header().Set("Set-Cookie", "of=the-app")
	_, _ = io.WriteString(w, "of the app")
	_ = http.NewResponseController(w).Flush()
	w.Header().Set("X-App-Trailer", "of the app")
}

// TestFailedCommitIs503AndTheAppIsNotCalledAgain: the sender is told to come
// again, nothing of the app's answer leaves, and the retry only commits.
func TestFailedCommitIs503AndTheAppIsNotCalledAgain(t *testing.T) {
	e := newEdge(t, "")
	e.app.Answer(answerWithEverything)
	execSQL(t, storeDir(e.Env), breakCommits)
	w := completed("p1")
	for range 3 {
		a := e.send(w)
		if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" || a.duplicate() {
			t.Fatalf("got %v, want 503 with Retry-After", a)
		}
		for _, name := range []string{"X-App", "Set-Cookie", "Trailer", "X-App-Trailer"} {
			if a.header.Get(name) != "" || a.body != "" {
				t.Fatalf("the app's answer leaks: %v", a)
			}
		}
	}
	execSQL(t, storeDir(e.Env), mendCommits)
	if a := e.send(w); a.status != http.StatusOK || !a.duplicate() {
		t.Fatalf("got %v, want the retry to be a duplicate", a)
	}
	if n := e.app.Count(); n != 1 {
		t.Fatalf("the app got %d requests, want 1", n)
	}
	e.isDuplicate(w)
}

// TestSlowCommitIsNotTheAppsTime: an answer that began in time is not cut short
// because the disk took long to commit it.
func TestSlowCommitIsNotTheAppsTime(t *testing.T) {
	const timeout = 150 * time.Millisecond
	e := newEdge(t, "upstream_timeout "+timeout.String())
	db, err := sql.Open("sqlite", filepath.Join(storeDir(e.Env), "webhook.db")+"?_txlock=immediate&_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	busy, err := db.Begin() // nobody else can commit
	if err != nil {
		t.Fatal(err)
	}
	e.app.Answer(func(w http.ResponseWriter, r *caddyrun.Request) {
		_, _ = io.WriteString(w, "a part, ")
		_ = http.NewResponseController(w).Flush()
		select {
		case <-time.After(3 * timeout):
		case <-r.Context().Done():
		}
		_ = busy.Rollback()
		_, _ = io.WriteString(w, "the rest")
	})
	if a := e.send(completed("p1")); a.status != http.StatusOK || a.body != "a part, the rest" {
		t.Fatalf("got %v", a)
	}
	e.isDuplicate(completed("p1"))
}

// cutOff takes the store's folder away, so that its file can't be opened, and
// fails a commit, so that it has to be. restore undoes both.
func (e *edge) cutOff() (restore func()) {
	e.t.Helper()
	dir := storeDir(e.Env)
	execSQL(e.t, dir, breakCommits)
	move := func(from, to string) {
		if err := os.Rename(from, to); err != nil {
			e.t.Fatal(err)
		}
	}
	move(dir, dir+".away")
	if a := e.send(completed("the one that fails")); a.status/100 == 4 {
		e.t.Fatalf("got %v", a)
	}
	return func() {
		execSQL(e.t, dir+".away", mendCommits)
		move(dir+".away", dir)
		e.Logs.Wait(e.t, "store takes writes again")
	}
}

// TestUnavailableStoreIs503: nothing reaches the app that could not be
// remembered, and all goes on when the store is back.
func TestUnavailableStoreIs503(t *testing.T) {
	e := newEdge(t, "")
	e.accepted(completed("before"))
	restore := e.cutOff()
	if a := e.refused(completed("p1"), http.StatusServiceUnavailable); a.header.Get("Retry-After") == "" {
		t.Fatalf("got %v, want Retry-After", a)
	}
	// What is known needs no disk.
	e.isDuplicate(completed("before"))
	restore()
	e.accepted(completed("p1"))
	e.isDuplicate(completed("p1"))
	e.isDuplicate(completed("the one that fails"))
}

// TestOnStoreErrorPass: being asked to, the edge goes on without the store.
func TestOnStoreErrorPass(t *testing.T) {
	e := newEdge(t, "on_store_error pass")
	e.app.Answer(answerWithEverything)
	restore := e.cutOff()
	if n := e.app.Count(); n != 1 {
		t.Fatalf("the app got %d requests, want 1", n)
	}
	for range 2 {
		e.accepted(completed("p1"))
	}
	e.refused(replicate(older, completed("p1").body), http.StatusUnauthorized)
	e.Logs.Wait(t, "without deduplication", "error")
	restore()
	e.accepted(completed("p2"))
	e.isDuplicate(completed("p2"))
}

// TestStoreThatCannotBeOpened fails the configuration, not the first event.
func TestStoreThatCannotBeOpened(t *testing.T) {
	e := newEdge(t, "")
	if err := os.WriteFile(e.Path("a file"), []byte("not a folder"), 0o600); err != nil {
		t.Fatal(err)
	}
	text := site(withSecret(""), e.app.Addr())
	for _, path := range []string{e.Path("a file", "webhook.db"), e.Dir()} {
		err := e.TryReload(withStore(text, "sqlite "+quote(path)))
		if err == nil {
			t.Fatalf("store sqlite %s was opened", path)
		}
		t.Log(err)
	}
	e.accepted(completed("p1")) // the configuration before is in force
}

// withStore names the store in the global options.
func withStore(text, store string) string {
	return "{\n\t{$GLOBALS}\n\treplicate_webhook {\n\t\tstore " + store + "\n\t}\n}\n" + removeGlobals(text)
}
