package security_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestEveryDependencyIsAccountedFor: docs/dependencies.md has a line for each
// module that go.mod requires directly, and for no other.
func TestEveryDependencyIsAccountedFor(t *testing.T) {
	read := func(path string) string {
		t.Helper()
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	mod, docs := read("../../go.mod"), read("../../docs/dependencies.md")
	listed := make(map[string]bool)
	for _, row := range regexp.MustCompile("(?m)^\\| (`[^|]+) \\|").FindAllStringSubmatch(docs, -1) {
		var first string
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[1], -1) {
			name := m[1]
			// The second of a pair may be shortened.
			if rest, short := strings.CutPrefix(name, "…"); short {
				name = first[:strings.LastIndex(first, "/otel")] + rest
			} else {
				first = name
			}
			listed[name] = true
		}
	}
	direct := 0
	for _, m := range regexp.MustCompile(`(?m)^\t(\S+) v\S+$`).FindAllStringSubmatch(mod, -1) {
		direct++
		if !listed[m[1]] {
			t.Errorf("docs/dependencies.md has no line for %s", m[1])
		}
		delete(listed, m[1])
	}
	for name := range listed {
		t.Errorf("docs/dependencies.md has a line for %s, which go.mod does not require directly", name)
	}
	if direct < 10 {
		t.Errorf("go.mod has only %d direct requirements", direct)
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
