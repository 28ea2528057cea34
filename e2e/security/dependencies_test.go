package security_test

import (
	"os"
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
