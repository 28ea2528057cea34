package sqlite

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestBackup: a copy of a running store has all that was committed, is its
// owner's alone whatever the umask, and opens as it is.
func TestBackup(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	s, path := living(t)
	for _, umask := range []int{0, 0o022, 0o277} {
		to := filepath.Join(t.TempDir(), "backup.db")
		syscall.Umask(umask)
		size, err := Backup(t.Context(), path, to)
		syscall.Umask(0)
		must(t, err)
		info, err := os.Stat(to)
		must(t, err)
		if info.Mode().Perm() != 0o600 || info.Size() != size || size == 0 {
			t.Errorf("umask %o: the backup has mode %v and %d bytes, want 0600 and %d", umask, info.Mode(), info.Size(), size)
		}
		if entries, err := os.ReadDir(filepath.Dir(to)); err != nil || len(entries) != 1 {
			t.Errorf("beside the backup there is %v, %v", entries, err)
		}
		if n := missing(t, map[string]string{"": contents(t, filepath.Dir(to))["backup.db"]}); n > 0 {
			t.Errorf("%d of %d entries are missing", n, presenceEntries)
		}
	}
	must(t, commitOne(t, s, presenceEntries)) // it went on
}

// TestBackupReplacesNothing: whatever is there under the backup's name stays, and
// what could not be completed does not.
func TestBackupReplacesNothing(t *testing.T) {
	_, path := living(t)
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.WriteFile(in("file"), []byte("a backup"), 0o644), os.WriteFile(in("empty"), nil, 0o644),
		os.Symlink(in("nowhere"), in("link")), os.Mkdir(in("directory"), 0o755),
		os.WriteFile(in("text"), []byte(strings.Repeat("no store\n", 100)), 0o600))
	before := tree(t, dir)
	for name, c := range map[string]struct{ from, to, want string }{
		"a file":          {path, in("file"), "is there already"},
		"an empty file":   {path, in("empty"), "is there already"},
		"a link":          {path, in("link"), "is there already"},
		"a directory":     {path, in("directory"), "is there already"},
		"the store":       {path, path, "is there already"},
		"its log":         {path, path + "-wal", "is there already"},
		"no directory":    {path, in("none/backup.db"), "no such file"},
		"a shell's home":  {path, "~/backup.db", "only a shell expands"},
		"memory":          {path, ":memory:", "in memory alone"},
		"no name":         {path, "", "has no name"},
		"no store":        {in("none"), in("new"), "no such file"},
		"an empty store":  {in("empty"), in("new"), "another program"},
		"a text as store": {in("text"), in("new"), "is corrupt"},
	} {
		if _, err := Backup(t.Context(), c.from, c.to); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
	if after := tree(t, dir); !maps.Equal(before, after) {
		t.Errorf("there was\n%q\nand now there is\n%q", before, after)
	}
}

// TestBackupOnAFullDisk: a backup that does not fit leaves nothing.
func TestBackupOnAFullDisk(t *testing.T) {
	if !alone(t) {
		return
	}
	_, path := living(t)
	dir := t.TempDir()
	before := tree(t, dir)
	info, err := os.Stat(path)
	must(t, err)
	fullFor(t, info.Size()/4, func() {
		if _, err := Backup(t.Context(), path, filepath.Join(dir, "new")); err == nil {
			t.Error("a backup was made on a full disk")
		}
	})
	if after := tree(t, dir); !maps.Equal(before, after) {
		t.Errorf("there was\n%q\nand now there is\n%q", before, after)
	}
}

// TestBackupHasItsNameWhenItIsWhole: a process that is killed while it makes a
// backup leaves nothing under the backup's name.
func TestBackupHasItsNameWhenItIsWhole(t *testing.T) {
	_, path := living(t)
	to := filepath.Join(t.TempDir(), "backup.db")
	done, first := make(chan struct{}), make(chan int64)
	go func() {
		for {
			over := false
			select {
			case <-done:
				over = true
			default:
			}
			if info, err := os.Stat(to); err == nil || over {
				if err != nil {
					t.Error(err)
					first <- 0
					return
				}
				first <- info.Size()
				return
			}
		}
	}()
	size, err := Backup(t.Context(), path, to)
	close(done)
	if seen := <-first; err != nil || seen != size {
		t.Errorf("the backup had %d bytes of %d when its name was first there: %v", seen, size, err)
	}
}

// TestInterruptedBackup: a backup that is interrupted leaves nothing at all.
func TestInterruptedBackup(t *testing.T) {
	_, path := living(t)
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Backup(ctx, path, filepath.Join(dir, "backup.db")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if files := contents(t, dir); len(files) > 0 {
		t.Errorf("there is %q", files)
	}
}
