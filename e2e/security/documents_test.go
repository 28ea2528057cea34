package security_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestEveryDependencyIsAccountedFor checks that docs/dependencies.md has a line
// for each module that a go.mod of the project requires directly, and for no
// other.
func TestEveryDependencyIsAccountedFor(t *testing.T) {
	read := func(path string) string {
		t.Helper()
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	docs := read("../../docs/dependencies.md")
	mods := read("../../go.mod") + read("../../bench/go.mod") + read("../interop/go.mod")
	listed := make(map[string]bool)
	for _, row := range regexp.MustCompile("(?m)^\\| (`[^|]+) \\|").FindAllStringSubmatch(docs, -1) {
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[1], -1) {
			listed[m[1]] = true
		}
	}
	direct := make(map[string]bool)
	for _, m := range regexp.MustCompile(`(?m)^\t(\S+) v\S+$`).FindAllStringSubmatch(mods, -1) {
		if name := m[1]; !strings.HasPrefix(name, "github.com/caddy-replicate/") {
			direct[name] = true
		}
	}
	for name := range direct {
		if !listed[name] {
			t.Errorf("docs/dependencies.md has no line for %s", name)
		}
	}
	for name := range listed {
		if !direct[name] {
			t.Errorf("docs/dependencies.md has a line for %s, which no go.mod requires directly", name)
		}
	}
	if len(direct) < 10 {
		t.Errorf("the go.mod files have only %d direct requirements", len(direct))
	}
}

// TestSecurityDocNamesTests: every test that SECURITY.md names is there.
func TestSecurityDocNamesTests(t *testing.T) {
	text, err := os.ReadFile("../../SECURITY.md")
	if err != nil {
		t.Fatal(err)
	}
	named := 0
	for line := range strings.Lines(string(text)) {
		// A package stands behind the names that it is for, if it is not
		// this one.
		var waiting []string
		check := func(dir string) {
			for _, name := range waiting {
				named++
				if !hasTest(t, filepath.Join("../..", dir), name) && !hasTest(t, ".", name) {
					t.Errorf("SECURITY.md names %s, which %s does not have", name, dir)
				}
			}
			waiting = nil
		}
		for _, m := range regexp.MustCompile("`((?:Test|Fuzz)\\w+)`|\\(([a-z][a-z0-9/]*)\\)|, ").FindAllStringSubmatch(line, -1) {
			switch {
			case m[1] != "":
				waiting = append(waiting, m[1])
			case m[2] == "root":
				check(".")
			case m[2] != "" && len(waiting) > 0:
				check(m[2])
			}
		}
		check("e2e/security")
	}
	if named < 40 {
		t.Errorf("SECURITY.md names only %d tests", named)
	}
}

func hasTest(t *testing.T, dir, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "\nfunc "+name+"(") {
			return true
		}
	}
	return false
}
