package main

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const (
	root    = "../.."
	another = "example.org/acme/hooks"
)

// copyCheckout copies the checkout's files to a new directory, and returns it.
func copyCheckout(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // of another test, which has removed it
		}
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == ".git" || d.Name() == "node_modules") {
			return fs.SkipDir
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(dir, rel), 0o700)
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !d.Type().IsRegular() || info.Size() > 4<<20 { // nothing that was built
			return err
		}
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, rel), data, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestModuleIsRenamedByOneCommand renames a copy of the checkout: no file has the former
// path, all imports of all modules resolve, and packages compile.
func TestModuleIsRenamedByOneCommand(t *testing.T) {
	dir := copyCheckout(t)
	from, err := current(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rename(dir, another); err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte(from)) {
			t.Errorf("%s still has the former path", strings.TrimPrefix(path, dir))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, module := range []string{".", "bench", "e2e/interop"} {
		run(t, filepath.Join(dir, module), "list", "-deps", "-test", "-f", "{{with .Error}}{{.}}{{end}}", "./...")
	}
	run(t, dir, "vet", "./internal/event", "./internal/signature", "./store")
}

// run runs the go command, which must print nothing.
func run(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=") // -v prints the packages
	out, err := cmd.CombinedOutput()
	if err != nil || len(bytes.TrimSpace(out)) > 0 {
		t.Errorf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func TestRenameRefuses(t *testing.T) {
	dir := t.TempDir()
	if _, err := rename(dir, another); err == nil || !strings.Contains(err.Error(), "run it in the checkout's directory") {
		t.Errorf("without go.mod: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module "+another+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{another: "already", "hooks": "not a module path", "example.org": "not a module path", "example.org/a b": "not a module path"} {
		if _, err := rename(dir, path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", path, err)
		}
	}
}
