package secret

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// rig is a secret in a file, within a synctest bubble.
type rig struct {
	t    *testing.T
	w    *Watcher
	path string
	logs *observer.ObservedLogs
	used []string
}

var errShort = errors.New("it is short")

func newRig(t *testing.T, path string) *rig {
	t.Helper()
	core, logs := observer.New(zapcore.InfoLevel)
	r := &rig{t: t, path: path, logs: logs, w: NewWatcher(zap.New(core))}
	err := r.w.Use("secret", "secret 1", "{file."+path+"}", func(value string) error {
		if len(value) < 4 {
			return errShort
		}
		r.used = append(r.used, value)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	r.w.Start()
	return r
}

// within lets the promised time pass, and says which value is in use then.
func (r *rig) within(d time.Duration, want string) {
	r.t.Helper()
	time.Sleep(d)
	synctest.Wait()
	if got := r.used[len(r.used)-1]; got != want {
		r.t.Fatalf("after %s %q is in use, want %q", d, got, want)
	}
}

func (r *rig) write(text string) {
	r.t.Helper()
	if err := os.WriteFile(r.path, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) warnings() int { return r.logs.FilterLevelExact(zapcore.WarnLevel).Len() }

const promised = 30 * time.Second

func TestChangedFileIsUsedWithin30Seconds(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, path, text string){
		"written in place": func(t *testing.T, path, text string) {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"renamed over": func(t *testing.T, path, text string) {
			if err := errors.Join(os.WriteFile(path+".new", []byte(text), 0o600), os.Rename(path+".new", path)); err != nil {
				t.Fatal(err)
			}
		},
		"removed and created": func(t *testing.T, path, text string) {
			if err := errors.Join(os.Remove(path), os.WriteFile(path, []byte(text), 0o600)); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "secret")
				put := func(text string) { change(t, path, text) }
				if err := os.WriteFile(path, []byte("first\n"), 0o600); err != nil {
					t.Fatal(err)
				}
				r := newRig(t, path)
				defer r.w.Stop()
				r.within(promised, "first")
				put("second\r\n")
				r.within(promised, "second")
				put("third")
				r.within(promised, "third")
				if len(r.used) != 3 || r.warnings() != 0 {
					t.Errorf("used %v, with %d warnings", r.used, r.warnings())
				}
			})
		})
	}
}

// TestSwitchedSymlinkIsFollowed: Kubernetes replaces a mounted secret by
// switching the link ..data to another directory.
func TestSwitchedSymlinkIsFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		for _, v := range []string{"first", "second"} {
			d := filepath.Join(dir, "..of-"+v)
			if err := errors.Join(os.Mkdir(d, 0o700), os.WriteFile(filepath.Join(d, "secret"), []byte(v), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		data, path := filepath.Join(dir, "..data"), filepath.Join(dir, "secret")
		if err := errors.Join(os.Symlink("..of-first", data), os.Symlink("..data/secret", path)); err != nil {
			t.Fatal(err)
		}
		r := newRig(t, path)
		defer r.w.Stop()
		r.within(promised, "first")
		if err := errors.Join(os.Symlink("..of-second", data+".new"), os.Rename(data+".new", data), os.RemoveAll(filepath.Join(dir, "..of-first"))); err != nil {
			t.Fatal(err)
		}
		r.within(promised, "second")
	})
}

// TestHalfWrittenFileIsNotUsed: a writer that takes its time between two writes
// is waited for.
func TestHalfWrittenFileIsNotUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "secret")
		if err := os.WriteFile(path, []byte("first"), 0o600); err != nil {
			t.Fatal(err)
		}
		r := newRig(t, path)
		defer r.w.Stop()
		for _, part := range []string{"", "seco", "second-", "second-who"} {
			r.write(part)
			r.within(readInterval, "first")
		}
		r.write("second-whole")
		r.within(promised, "second-whole")
		if len(r.used) != 2 || r.warnings() != 0 {
			t.Errorf("used %v, with %d warnings", r.used, r.warnings())
		}
	})
}

// TestUnusableFileKeepsTheOldValue, and says so without repeating itself.
func TestUnusableFileKeepsTheOldValue(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(path string) error
		want  string
	}{
		"removed":     {os.Remove, "no such file"},
		"empty":       {func(path string) error { return os.WriteFile(path, nil, 0o600) }, "empty"},
		"only breaks": {func(path string) error { return os.WriteFile(path, []byte("\r\n\n"), 0o600) }, "empty"},
		"invalid":     {func(path string) error { return os.WriteFile(path, []byte("SEC"), 0o600) }, "short"},
		"too large":   {func(path string) error { return os.Truncate(path, 2<<20) }, "larger than"},
		"a directory": {func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) }, "directory"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "secret")
				if err := os.WriteFile(path, []byte("first"), 0o600); err != nil {
					t.Fatal(err)
				}
				r := newRig(t, path)
				defer r.w.Stop()
				r.within(promised, "first")
				if err := c.spoil(path); err != nil {
					t.Fatal(err)
				}
				r.within(promised, "first")
				if r.warnings() != 1 || len(r.w.Problems()) != 1 || !strings.Contains(r.w.Problems()[0], c.want) {
					t.Errorf("%d warnings, problems %v", r.warnings(), r.w.Problems())
				}
				r.within(10*time.Minute-promised, "first")
				if age := r.w.Ages()["secret"]; age < 9*time.Minute || r.warnings() != 1 {
					t.Errorf("age %s, %d warnings", age, r.warnings())
				}
				r.within(2*time.Minute, "first")
				if r.warnings() != 2 {
					t.Errorf("%d warnings after 12 minutes", r.warnings())
				}
				for _, e := range r.logs.All() {
					if strings.Contains(e.Message, "SEC") || strings.Contains(e.ContextMap()["problem"].(string), "SEC") {
						t.Errorf("the value shows: %v", e)
					}
				}
				if err := errors.Join(os.RemoveAll(path), os.WriteFile(path, []byte("second"), 0o600)); err != nil {
					t.Fatal(err)
				}
				r.within(promised, "second")
				if age := r.w.Ages()["secret"]; age > promised || len(r.w.Problems()) != 0 {
					t.Errorf("age %s, problems %v", age, r.w.Problems())
				}
			})
		})
	}
}

// TestStopEndsReading: whoever stopped is not called any more.
func TestStopEndsReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "secret")
		if err := os.WriteFile(path, []byte("first"), 0o600); err != nil {
			t.Fatal(err)
		}
		r := newRig(t, path)
		r.w.Stop()
		r.w.Stop()
		r.w.Start()
		r.write("second")
		r.within(time.Hour, "first")
	})
}

func TestListReplacesOneSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "secret")
		if err := os.WriteFile(path, []byte("first"), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Setenv("SECRET_OF_TEST", "from env")
		w := NewWatcher(zap.NewNop())
		parse := func(v string) (string, error) { return "<" + v + ">", nil }
		l, err := NewList(w, "secret", []string{"{env.SECRET_OF_TEST}", "{file." + path + "}", "literal"}, parse)
		if err != nil {
			t.Fatal(err)
		}
		w.Start()
		defer w.Stop()
		before := l.Values()
		if err := os.WriteFile(path, []byte("second"), 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(promised)
		synctest.Wait()
		if got := strings.Join(l.Values(), " "); got != "<from env> <second> <literal>" {
			t.Errorf("values are %s", got)
		}
		if got := strings.Join(before, " "); got != "<from env> <first> <literal>" {
			t.Errorf("what was read before became %s", got)
		}
	})
}

func TestExpandNamesTheFile(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	for _, configured := range []string{"{file." + missing + "}", "prefix-{file." + missing + "}"} {
		if _, _, err := Expand(configured); err == nil || !strings.Contains(err.Error(), missing) {
			t.Errorf("%s: %v", configured, err)
		}
	}
	for _, configured := range []string{"{env.NOT_SET_ANYWHERE}", "{nothing.known}", ""} {
		if _, _, err := Expand(configured); err == nil {
			t.Errorf("%s: no error", configured)
		}
	}
}
