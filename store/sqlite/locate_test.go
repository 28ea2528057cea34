package sqlite

import (
	"context"
	"database/sql"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// tree returns every file below a directory with its mode, links and content.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text := info.Mode().String()
		switch {
		case info.Mode().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += " " + string(b)
		case info.Mode()&os.ModeSymlink != 0:
			to, _ := os.Readlink(path)
			text += " " + to
		}
		files[path] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// must fails the test with the first error.
func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// unusable are the paths that are no database of one process's own. In prepare
// the working directory is an empty one.
var unusable = map[string]struct {
	path, want string
	prepare    func(t *testing.T)
	// late: opening it is what tells.
	late bool
}{
	"no name":                {path: "", want: "has no name"},
	"in memory":              {path: ":memory:", want: "in memory alone"},
	"in memory, absolute":    {path: "/tmp/:memory:", want: "in memory alone"},
	"in memory, with a flag": {path: ":memory:?cache=shared", want: "in memory alone"},
	"URI":                    {path: "file:webhook.db", want: "is a URI"},
	"URI with slashes":       {path: "file:///var/lib/webhook.db?mode=memory", want: "is a URI"},
	"home":                   {path: "~/webhook.db", want: "write the directory out"},
	"home alone":             {path: "~", want: "write the directory out"},
	"another's home":         {path: "~caddy/webhook.db", want: "write the directory out"},
	"variable":               {path: "$HOME/webhook.db", want: "write {env.HOME}"},
	"variable in braces":     {path: "${HOME}/webhook.db", want: "write {env.HOME}"},
	"variable's default":     {path: "${STATE:-/var}/webhook.db", want: "write {env.STATE}"},
	"variable in the middle": {path: "state/$STAGE/webhook.db", want: "write {env.STAGE}"},
	"variable in a name":     {path: "state/webhook-${STAGE}.db", want: "write {env.STAGE}"},
	"variable alone":         {path: "$DATABASE", want: "write {env.DATABASE}"},
	"variable of Windows":    {path: `%APPDATA%\webhook.db`, want: "write {env.APPDATA}"},
	"zero byte":              {path: "web\x00hook.db", want: "zero byte"},
	"slash at the end":       {path: "state/", want: "is the name of a directory"},
	"directory":              {path: "state", want: "is a directory: name a file in it", prepare: func(t *testing.T) { must(t, os.Mkdir("state", 0o700)) }},
	"this directory":         {path: ".", want: "is a directory: name a file in it"},
	"device":                 {path: "/dev/null", want: "not a regular file but a device"},
	"link to a device":       {path: "webhook.db", want: "but a device", prepare: func(t *testing.T) { must(t, os.Symlink("/dev/zero", "webhook.db")) }},
	"named pipe":             {path: "webhook.db", want: "but a named pipe", prepare: func(t *testing.T) { must(t, syscall.Mkfifo("webhook.db", 0o600)) }},
	"below a file":           {path: "file/webhook.db", want: "not a directory", prepare: func(t *testing.T) { must(t, os.WriteFile("file", []byte("x"), 0o600)) }},
	"dangling link": {path: "webhook.db", want: "symbolic link", prepare: func(t *testing.T) {
		must(t, os.Symlink("/nowhere/volume/webhook.db", "webhook.db"))
	}},
	"link to a dangling link": {path: "webhook.db", want: "symbolic link", prepare: func(t *testing.T) {
		must(t, os.Symlink("second", "webhook.db"), os.Symlink("third", "second"))
	}},
	"dangling directory": {path: "state/deep/webhook.db", want: "symbolic link", prepare: func(t *testing.T) {
		must(t, os.Symlink("/nowhere/volume", "state"))
	}},
	"circle of links": {path: "webhook.db", want: "too many links", prepare: func(t *testing.T) {
		must(t, os.Symlink("webhook.db", "second"), os.Symlink("second", "webhook.db"))
	}},
	"two names": {path: "webhook.db", want: "has 2 names (hard links)", prepare: func(t *testing.T) {
		must(t, os.Rename(filled(t), "webhook.db"), os.Link("webhook.db", "other.db"))
	}},
	"link to two names": {path: "link.db", want: "has 2 names (hard links)", prepare: func(t *testing.T) {
		must(t, os.Rename(filled(t), "webhook.db"), os.Link("webhook.db", "other.db"), os.Symlink("webhook.db", "link.db"))
	}},
	"log that is a link": {path: "webhook.db", want: "but a symbolic link", prepare: func(t *testing.T) {
		must(t, os.Rename(filled(t), "webhook.db"), os.Symlink("/nowhere/log", "webhook.db-wal"))
	}},
	"lock that is a directory": {path: "webhook.db", want: "but a directory", prepare: func(t *testing.T) {
		must(t, os.Rename(filled(t), "webhook.db"), os.Mkdir("webhook.db.lock", 0o700))
	}},
	"empty file": {path: "webhook.db", want: "is empty", late: true, prepare: func(t *testing.T) {
		must(t, os.WriteFile("webhook.db", nil, 0o644))
	}},
	"text": {path: "webhook.db", want: "is corrupt", late: true, prepare: func(t *testing.T) {
		must(t, os.WriteFile("webhook.db", []byte(strings.Repeat("a text of somebody's\n", 100)), 0o600))
	}},
	"database of something else": {path: "webhook.db", want: "another program", late: true, prepare: func(t *testing.T) {
		db, err := sql.Open("sqlite", "file:webhook.db?_pragma=journal_mode(DELETE)")
		must(t, err)
		_, err = db.Exec("CREATE TABLE t (x); INSERT INTO t VALUES (1)")
		must(t, err, db.Close(), os.Chmod("webhook.db", 0o644))
	}},
	"journal of a database that is missing": {path: "webhook.db", want: "its log webhook.db-journal exists", late: true, prepare: func(t *testing.T) {
		must(t, os.WriteFile("webhook.db-journal", []byte("x"), 0o600))
	}},
}

// TestUnusablePathsAreRefused: what is no file of one process's own is refused
// when a configuration is loaded, and when a store is opened or copied, with the
// path and what to do. Nothing is made, and what is there stays as it is.
func TestUnusablePathsAreRefused(t *testing.T) {
	for name, c := range unusable {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			t.Chdir(dir)
			if c.prepare != nil {
				c.prepare(t)
			}
			before := tree(t, dir)
			_, err := Open(Options{Path: c.path})
			_, exportErr := OpenExport(c.path)
			tries := map[string]error{"opening": err, "copying": exportErr}
			// A module without a path has the default one.
			if m := (Module{Path: c.path}); !c.late && c.path != "" {
				ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
				defer cancel()
				tries["loading"] = m.Provision(ctx)
			}
			for how, err := range tries {
				if how == "copying" && c.path == "webhook.db" && strings.HasPrefix(name, "journal") {
					continue // there is nothing to copy
				}
				if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "store "+c.path) {
					t.Errorf("%s: got %v, want the path and %q", how, err, c.want)
				}
			}
			after := tree(t, dir)
			delete(after, filepath.Join(dir, "webhook.db.lock"))
			delete(before, filepath.Join(dir, "webhook.db.lock"))
			if !maps.Equal(before, after) {
				t.Errorf("there was\n%q\nand now there is\n%q", before, after)
			}
			if _, err := os.Lstat("/dev/null.lock"); err == nil {
				t.Error("a lock was made in /dev")
			}
		})
	}
}

// TestLinksAreFollowed: a database under a symbolic link is the file that the
// link leads to, and all that belongs to it lies beside that.
func TestLinksAreFollowed(t *testing.T) {
	volume, dir := t.TempDir(), t.TempDir()
	file := filepath.Join(volume, "real.db")
	must(t, os.Rename(filled(t), file), os.Symlink(volume, filepath.Join(dir, "volume")), os.Symlink(file, filepath.Join(dir, "link.db")))
	for _, path := range []string{filepath.Join(dir, "link.db"), filepath.Join(dir, "volume", "real.db"), filepath.Join(dir, "volume", "new", "deep.db")} {
		s, err := Open(Options{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		if err := commitOne(t, s, 1000); err != nil && path != filepath.Join(dir, "volume", "real.db") {
			t.Errorf("%s: %v", path, err)
		}
		if resolved := s.opts.Path; !strings.HasPrefix(resolved, volume) {
			t.Errorf("%s was opened as %s", path, resolved)
		}
		must(t, s.Close())
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("beside the links there are %v, %v", entries, err)
	}
}

// TestOddNamesAreNames: what means something in a URI means nothing in a path.
func TestOddNamesAreNames(t *testing.T) {
	for _, name := range []string{"a b.db", "a?mode=memory", "a#b", "a%41.db", "ä.db", "a&b=c", "x:memory:", "a~b", "file", "a$b", "$1", "100%", "a%b%c"} {
		path := filepath.Join(t.TempDir(), name)
		s, err := Open(Options{Path: path})
		if err != nil {
			t.Errorf("%q: %v", name, err)
			continue
		}
		if err := commitOne(t, s, 1); err != nil {
			t.Errorf("%q: %v", name, err)
		}
		must(t, s.Close())
		if info, err := os.Stat(path); err != nil || info.Size() == 0 {
			t.Errorf("%q: there is no such file: %v", name, err)
		}
	}
}
