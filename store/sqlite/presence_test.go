package sqlite

import (
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
)

const presenceEntries = 300

// living opens a store in a directory of its own and commits entries.
func living(t *testing.T) (s *Store, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "state", "webhook.db")
	s, err := Open(Options{Path: path, PurgeEvery: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	commitRange(t, s, 8, 0, presenceEntries)
	return s, path
}

// commitOne reports what a commit of the nth entry gets.
func commitOne(t *testing.T, s *Store, n int64) error {
	t.Helper()
	c, err := s.Claim(t.Context(), benchEntry(n), 0)
	if err != nil {
		return err
	}
	return c.Commit(t.Context())
}

// until waits for something that the store does by itself once a second.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("10 seconds have passed, and not %s", what)
		}
	}
}

// contents returns what is in a directory, by name.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil && e.Type().IsRegular() {
			t.Fatal(err)
		}
		files[e.Name()] = string(b)
	}
	return files
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// missing counts the entries that a database does not have, after its process
// has died without a word.
func missing(t *testing.T, files map[string]string) (n int) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "webhook.db")
	for suffix, content := range files {
		if err := os.WriteFile(path+suffix, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, err := Open(Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var whole string
	if err := s.db.QueryRow("PRAGMA integrity_check").Scan(&whole); err != nil || whole != "ok" {
		t.Fatalf("the database is not whole: %s %v", whole, err)
	}
	for i := range presenceEntries {
		if err := commitOne(t, s, int64(i)); !errors.Is(err, store.ErrDuplicate) {
			n++
		}
	}
	return n
}

// losses are the ways in which the files of a running store get lost.
var losses = map[string]struct {
	want string
	do   func(t *testing.T, path string) error
	// undo puts the very same files back, where that can be done.
	undo func(path string) error
}{
	"deleted":           {want: "webhook.db was deleted or moved", do: func(_ *testing.T, path string) error { return os.Remove(path) }},
	"all deleted":       {want: "webhook.db was deleted or moved", do: func(_ *testing.T, path string) error { return os.RemoveAll(filepath.Dir(path)) }},
	"the log deleted":   {want: "webhook.db-wal was deleted or moved", do: func(_ *testing.T, path string) error { return os.Remove(path + "-wal") }},
	"the index deleted": {want: "webhook.db-shm was deleted or moved", do: func(_ *testing.T, path string) error { return os.Remove(path + "-shm") }},
	"the lock deleted":  {want: "webhook.db.lock was deleted or moved", do: func(_ *testing.T, path string) error { return os.Remove(path + ".lock") }},
	"moved": {
		want: "webhook.db was deleted or moved",
		do:   func(_ *testing.T, path string) error { return os.Rename(path, path+".bak") },
		undo: func(path string) error { return os.Rename(path+".bak", path) },
	},
	"its directory moved": {
		want: "webhook.db was deleted or moved",
		do:   func(_ *testing.T, path string) error { return os.Rename(filepath.Dir(path), filepath.Dir(path)+".bak") },
		undo: func(path string) error { return os.Rename(filepath.Dir(path)+".bak", filepath.Dir(path)) },
	},
	"its directory replaced": {
		want: "webhook.db was deleted or moved",
		do: func(_ *testing.T, path string) error {
			dir := filepath.Dir(path)
			return errors.Join(os.Rename(dir, dir+".bak"), os.Mkdir(dir, 0o700))
		},
		undo: func(path string) error {
			dir := filepath.Dir(path)
			return errors.Join(os.Remove(dir), os.Rename(dir+".bak", dir))
		},
	},
	"replaced by an empty file": {
		want: "webhook.db was replaced",
		do: func(_ *testing.T, path string) error {
			return errors.Join(os.Rename(path, path+".bak"), os.WriteFile(path, nil, 0o644))
		},
		undo: func(path string) error { return os.Rename(path+".bak", path) },
	},
	"replaced by a copy of itself": {
		want: "webhook.db was replaced",
		do: func(t *testing.T, path string) error {
			copyFile(t, path, path+".copy")
			return os.Rename(path+".copy", path)
		},
	},
	"replaced by another store": {
		want: "webhook.db was replaced",
		do:   func(t *testing.T, path string) error { return os.Rename(filled(t), path) },
	},
	"replaced by a link to itself": {
		want: "webhook.db was replaced",
		do: func(_ *testing.T, path string) error {
			return errors.Join(os.Rename(path, path+".bak"), os.Symlink(path+".bak", path))
		},
		undo: func(path string) error { return os.Rename(path+".bak", path) },
	},
	"the log replaced": {
		want: "webhook.db-wal was replaced",
		do: func(t *testing.T, path string) error {
			copyFile(t, path+"-wal", path+"-new")
			return os.Rename(path+"-new", path+"-wal")
		},
	},
	"emptied": {want: "webhook.db was emptied", do: func(_ *testing.T, path string) error { return os.Truncate(path, 0) }},
}

// TestLostFilesAreFoundOut: of a store whose files are deleted, moved or replaced
// nothing is acknowledged any more, not even the commit that comes right after,
// and an idle one says so within 10 seconds.
func TestLostFilesAreFoundOut(t *testing.T) {
	for name, c := range losses {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, path := living(t)
			if err := c.do(t, path); err != nil {
				t.Fatal(err)
			}
			if err := commitOne(t, s, presenceEntries); !errors.Is(err, store.ErrUnavailable) {
				t.Fatalf("the first commit after the loss got %v", err)
			}
			if err := s.Ready(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("the status is %v, want %q", err, c.want)
			}
		})
		t.Run(name+", idle", func(t *testing.T) {
			t.Parallel()
			s, path := living(t)
			if err := c.do(t, path); err != nil {
				t.Fatal(err)
			}
			until(t, "was it found out", func() bool { return s.Ready() != nil })
			if err := s.Ready(); !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("the status is %v, want %q", err, c.want)
			}
			if err := commitOne(t, s, presenceEntries); !errors.Is(err, store.ErrUnavailable) {
				t.Errorf("a commit got %v", err)
			}
			if c.undo == nil {
				return
			}
			if err := c.undo(path); err != nil {
				t.Fatal(err)
			}
			until(t, "did it go on with the same files", func() bool { return s.Ready() == nil })
			if err := commitOne(t, s, presenceEntries+1); err != nil {
				t.Errorf("a commit with the same files back got %v", err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if n := missing(t, map[string]string{"": contents(t, filepath.Dir(path))["webhook.db"]}); n > 0 {
				t.Errorf("%d entries are missing", n)
			}
		})
	}
}

// TestLostFilesLeaveNothingBehind: a store whose files were lost makes no file in
// their place, and changes none that was put there, as long as it runs and when
// it closes.
func TestLostFilesLeaveNothingBehind(t *testing.T) {
	for _, name := range []string{"deleted", "all deleted", "its directory replaced", "replaced by an empty file", "replaced by another store"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, path := living(t)
			if err := losses[name].do(t, path); err != nil {
				t.Fatal(err)
			}
			before := contents(t, filepath.Dir(path))
			// Readers beyond those that are idle are opened by name.
			var all []io.Closer
			for range 4 {
				if conn, err := s.db.Conn(t.Context()); err == nil {
					_, _ = conn.ExecContext(t.Context(), "SELECT count(*) FROM dedup")
					all = append(all, conn)
				}
			}
			for _, c := range all {
				_ = c.Close()
			}
			until(t, "was it found out", func() bool { return s.Ready() != nil })
			_ = s.checkpoint()
			_ = commitOne(t, s, presenceEntries)
			_ = s.Close()
			after := contents(t, filepath.Dir(path))
			if a, b := slices.Sorted(maps.Keys(after)), slices.Sorted(maps.Keys(before)); !slices.Equal(a, b) {
				t.Errorf("there were %q, and now there are %q", b, a)
			}
			if after["webhook.db"] != before["webhook.db"] {
				t.Error("the file that was put in the place of the database was changed")
			}
		})
	}
}

// TestLostFilesKeepWhatWasAcknowledged: when its loss is found out the database
// that is open has all of it, also where its log is gone, and the log
// mixes with nothing that was put in the database's place.
func TestLostFilesKeepWhatWasAcknowledged(t *testing.T) {
	for name, left := range map[string]string{
		"the log deleted":           "webhook.db",
		"moved":                     "webhook.db.bak",
		"replaced by another store": "webhook.db", // which has the same entries, in other rows
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, path := living(t)
			if err := losses[name].do(t, path); err != nil {
				t.Fatal(err)
			}
			until(t, "was it found out", func() bool { return s.Ready() != nil })
			files := contents(t, filepath.Dir(path))
			if n := len(files["webhook.db-wal"]); n > 0 {
				t.Errorf("a log of %d bytes is left", n)
			}
			if n := missing(t, map[string]string{"": files[left]}); n > 0 {
				t.Errorf("%d of %d entries are missing", n, presenceEntries)
			}
		})
	}
}

// BenchmarkPresence measures what each commit pays to know that its files are
// where they were opened.
func BenchmarkPresence(b *testing.B) {
	s, err := Open(Options{Path: filepath.Join(b.TempDir(), "webhook.db")})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	for b.Loop() {
		if err := s.presence.check(); err != nil {
			b.Fatal(err)
		}
	}
}

// TestOpeningCreatesNoDatabase: whatever opens a database that is missing fails,
// and leaves no file. Only createFile makes one.
func TestOpeningCreatesNoDatabase(t *testing.T) {
	for name, open := range map[string]func(path string) error{
		"the store's first connection": func(path string) error {
			db, err := openDB(path)
			if err == nil {
				_ = db.Close()
			}
			return err
		},
		"a further connection": func(path string) error {
			// After the connector's check, which finds nothing to complain of.
			db, err := (&presence{path: path}).connect()
			must(t, err)
			conn, err := db.Driver().Open(dsn(path, connPragmas...))
			if err == nil {
				_ = conn.Close()
			}
			return errors.Join(err, db.Close())
		},
		"migrating":         func(path string) error { return migrate(path) },
		"making the schema": func(path string) error { return writeSchema(path) },
		"checking a backup": func(path string) error { return checkBackup(t.Context(), path) },
		"a backup": func(path string) error {
			_, err := Backup(t.Context(), path, filepath.Join(t.TempDir(), "backup.db"))
			return err
		},
		"a copy": func(path string) error { _, err := OpenExport(path); return err },
	} {
		dir := t.TempDir()
		if err := open(filepath.Join(dir, "webhook.db")); err == nil {
			t.Errorf("%s: a missing database was opened", name)
		}
		if files := contents(t, dir); len(files) > 0 {
			t.Errorf("%s: it made a file", name)
		}
	}
}
