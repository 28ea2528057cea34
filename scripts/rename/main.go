// Command rename gives the plugin's module another path, throughout a checkout: in go.mod,
// in all imports, in documents, workflows and the build's commands.
//
//	go run ./scripts/rename github.com/you/your-repository
//
// The path in go.mod is the one that it replaces. It writes files, and commits nothing.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"go/format"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"unicode/utf8"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: go run ./scripts/rename <module path>")
		os.Exit(2)
	}
	changed, err := rename(".", os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "rename:", err)
		os.Exit(1)
	}
	fmt.Printf("changed %d files; run `go vet ./...`, then commit\n", changed)
}

// modulePath matches what the program accepts as a module path: a host name and at least
// one element.
var modulePath = regexp.MustCompile(`^[a-z0-9.-]+\.[a-z]+(/[A-Za-z0-9_.-]+)+$`)

// rename replaces the module's path by another one in all text files below dir. It returns
// how many it changed.
func rename(dir, to string) (changed int, err error) {
	if !modulePath.MatchString(to) {
		return 0, fmt.Errorf("%q is not a module path: write it like github.com/you/your-repository", to)
	}
	from, err := current(dir)
	if err != nil {
		return 0, err
	}
	if from == to {
		return 0, fmt.Errorf("the module is %s already", to)
	}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == ".git" || d.Name() == "node_modules"):
			return fs.SkipDir
		case !d.Type().IsRegular():
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !bytes.Contains(text, []byte(from)) || !utf8.Valid(text) {
			return nil
		}
		text = bytes.ReplaceAll(text, []byte(from), []byte(to))
		if filepath.Ext(path) == ".go" { // a path may now sort elsewhere among the imports
			if text, err = format.Source(text); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		changed++
		return os.WriteFile(path, text, info.Mode().Perm())
	})
	return changed, err
}

// current returns the path of the module in dir.
func current(dir string) (string, error) {
	text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		return "", fmt.Errorf("run it in the checkout's directory: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if path, ok := strings.CutPrefix(line, "module "); ok {
			return strings.TrimSpace(path), nil
		}
	}
	return "", errors.New("go.mod names no module")
}
