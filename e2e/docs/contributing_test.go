package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// TestContributingNamesWhatExists tests that every file and package that
// CONTRIBUTING.md names is in the checkout.
func TestContributingNamesWhatExists(t *testing.T) {
	text := read(t, "CONTRIBUTING.md")
	found := regexp.MustCompile(`\b(?:admin|command|dashboard|docs|e2e|internal|monitoring|predictions|store|testdata)/[a-z][a-z0-9_./]*[a-z]|\b[a-z_]+\.go\b`).FindAllString(text, -1)
	if len(found) < 50 {
		t.Errorf("it names only %d files and packages", len(found))
	}
	for _, name := range found {
		if _, err := os.Stat(filepath.Join(root, name)); err != nil {
			t.Errorf("it names %s: %v", name, err)
		}
	}
}
