package sqlite

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// filled makes a closed store with entries and gives its path.
func filled(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "webhook.db")
	s, err := Open(Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	commitRange(t, s, 8, 0, 500)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func refused(t *testing.T, path, want string) {
	t.Helper()
	s, err := Open(Options{Path: path})
	if err == nil {
		_ = s.Close()
		t.Fatal("it was opened")
	}
	if !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
		t.Fatalf("got %v, want the path and %q", err, want)
	}
}

func TestDamagedFilesAreRefused(t *testing.T) {
	for _, c := range []struct {
		name, want string
		damage     func([]byte) []byte
	}{
		{"no database", "is corrupt", func(b []byte) []byte { return bytes.Repeat([]byte("x"), len(b)) }},
		{"header overwritten", "is corrupt", func(b []byte) []byte { copy(b, "not a database at all"); return b }},
		{"cut to nothing", "is empty", func([]byte) []byte { return nil }},
		{"cut to half", "is corrupt", func(b []byte) []byte { return b[:len(b)/2] }},
		{"cut in the header", "is corrupt", func(b []byte) []byte { return b[:50] }},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filled(t)
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, c.damage(data), 0o600); err != nil {
				t.Fatal(err)
			}
			refused(t, path, c.want)
		})
	}
}

// A flipped bit in a key would let an event through twice.
func TestFlippedBitInAnEntryIsRefused(t *testing.T) {
	path := filled(t)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	e := benchEntry(250)
	at := bytes.Index(data, e.Keys[0][:])
	if at < 0 {
		t.Fatal("the entry is not in the file")
	}
	data[at+3] ^= 1
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, path, "checksum of dedup row")
}

func TestForeignAndNewerFilesAreRefused(t *testing.T) {
	for _, c := range []struct{ name, pragma, want string }{
		{"something else's database", "PRAGMA application_id=1", "of another program"},
		{"newer schema", "PRAGMA user_version=99", "schema version 99"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filled(t)
			s, err := Open(Options{Path: path})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.db.Exec(c.pragma); err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			refused(t, path, c.want)
		})
	}
}

func TestLogWithoutDatabaseIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "webhook.db")
	if err := os.WriteFile(path+"-wal", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, path, "is missing but its log")
}

func TestOneProcessAtATime(t *testing.T) {
	path := filled(t)
	s, err := Open(Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	start := time.Now()
	refused(t, path, "in use by another process")
	if time.Since(start) > 2*lockWait {
		t.Error("it took too long to say so")
	}
}

// TestFileModes: nobody but the owner has a right on a file of the store, or on
// a directory that it made, whatever the umask is and whatever was there.
func TestFileModes(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	for _, umask := range []int{0, 0o022, 0o277} {
		path := filepath.Join(t.TempDir(), "state", "webhook.db")
		if umask == 0o277 {
			must(t, os.Mkdir(filepath.Dir(path), 0o700)) // nobody can work with one of mode 0500
		}
		opened := func(when string, entry int64) {
			t.Helper()
			syscall.Umask(umask)
			defer syscall.Umask(0)
			s, err := Open(Options{Path: path})
			if err != nil {
				t.Fatalf("umask %o, %s: %v", umask, when, err)
			}
			defer s.Close()
			must(t, commitOne(t, s, entry))
			for _, name := range append([]string{filepath.Dir(path)}, path, path+"-wal", path+"-shm", path+".lock") {
				info, err := os.Stat(name)
				if err != nil {
					t.Fatal(err)
				}
				want := os.FileMode(0o600)
				if info.IsDir() {
					want = 0o700
				}
				// A lock that its owner may not write locks as well.
				if got := info.Mode().Perm(); got != want && (name != path+".lock" || got != 0o400) {
					t.Errorf("umask %o, %s: %s has mode %o, want %o", umask, when, filepath.Base(name), got, want)
				}
			}
		}
		opened("when it is new", 1)
		// A crash leaves the log and its index behind, and somebody opens all
		// of it up.
		must(t, os.WriteFile(path+"-wal", nil, 0o600), os.WriteFile(path+"-shm", nil, 0o600))
		for _, suffix := range companions {
			must(t, os.Chmod(path+suffix, 0o666))
		}
		opened("when others had rights", 2)
	}
}
