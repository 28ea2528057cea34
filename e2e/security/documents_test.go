package security_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

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
