package docs_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// ownHeader matches the headers that this plugin reads, sets or removes beside those of
// HTTP itself.
var ownHeader = regexp.MustCompile(`(?i)^(x-replicate-[a-z-]*[a-z]|x-accel-buffering|replicate-webhook-api|idempotency-key|idempotent-replayed|webhook-(id|timestamp|signature)|svix-(id|timestamp|signature)|traceparent)$`)

// TestHeadersPageIsComplete tests that docs/headers.md lists the headers that the source
// names, and no others.
func TestHeadersPageIsComplete(t *testing.T) {
	const page = "docs/headers.md"
	named := make(map[string]string) // by header: a file
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			skipped := []string{"node_modules", "testdata", "bench", "e2e", "scripts", "demo", "fakeapi", ".git"}
			if slices.Contains(skipped, d.Name()) {
				return filepath.SkipDir
			}
			return nil
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for text := range literals(file) {
			if ownHeader.MatchString(text) {
				named[http.CanonicalHeaderKey(text)] = path
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for _, tab := range tables(strings.Split(read(t, page), "\n")) {
		for _, r := range tab.rows {
			listed = append(listed, code(r[0]))
		}
	}
	if !slices.IsSorted(listed) || len(listed) < 20 {
		t.Errorf("%s lists %q, want them sorted", page, listed)
	}
	for _, name := range listed {
		if named[name] == "" {
			t.Errorf("%s lists %s, which the source does not name", page, name)
		}
	}
	for name, file := range named {
		if !slices.Contains(listed, name) {
			t.Errorf("%s names %s, which %s does not list", file, name, page)
		}
	}
}

// TestLongPagesHaveContents tests that a page of docs that is longer than two screens
// begins with links to its chapters.
func TestLongPagesHaveContents(t *testing.T) {
	const twoScreens = 100 // lines
	long := 0
	for file, text := range documents(t) {
		if !strings.HasPrefix(file, "docs/") || strings.Count(text, "\n") <= twoScreens {
			continue
		}
		long++
		top, _, _ := strings.Cut(text, "\n## ")
		for _, line := range prose(text) {
			if title, ok := strings.CutPrefix(line, "## "); ok && !strings.Contains(top, "#"+anchor(title)+")") {
				t.Errorf("%s has %d lines, and does not begin with a link to %q", file, strings.Count(text, "\n"), title)
			}
		}
	}
	if long < 8 {
		t.Errorf("found %d long pages", long)
	}
}
