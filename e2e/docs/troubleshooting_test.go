package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestTroubleshootingQuotesWhatIsSaid: the texts of errors in the table are in
// the source that writes them, numbers and durations apart.
func TestTroubleshootingQuotesWhatIsSaid(t *testing.T) {
	const page = "docs/troubleshooting.md"
	checked := 0
	for _, tab := range tables(strings.Split(read(t, page), "\n")) {
		if tab.kind != "errors" {
			continue
		}
		var source strings.Builder
		for _, dir := range strings.Fields(tab.place) {
			files, err := filepath.Glob(filepath.Join(root, dir, "*.go"))
			if err != nil || len(files) == 0 {
				t.Fatalf("%s: found no file, %v", dir, err)
			}
			for _, file := range files {
				if strings.HasSuffix(file, "_test.go") {
					continue
				}
				data, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				source.Write(data)
			}
		}
		for _, r := range tab.rows {
			for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(r[0], -1) {
				// What is put together at run time is looked for in pieces.
				for _, piece := range regexp.MustCompile(`\d+s?|: no such|(connecting|awaiting)`).Split(m[1], -1) {
					if piece = strings.TrimSpace(piece); piece != "" && !strings.Contains(source.String(), piece) {
						t.Errorf("%s quotes %q, and nothing says %q", page, m[1], piece)
					}
				}
				checked++
			}
		}
	}
	if checked < 10 {
		t.Errorf("found only %d texts", checked)
	}
}
