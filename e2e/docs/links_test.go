package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`^#{1,6} +(.*)$`)
	unkept  = regexp.MustCompile(`[^\p{L}\p{N}\-_ ]`)
)

// anchor is the fragment that GitHub gives a heading.
func anchor(heading string) string {
	return strings.ReplaceAll(unkept.ReplaceAllString(strings.ToLower(heading), ""), " ", "-")
}

// prose is a document without its fenced blocks.
func prose(text string) (lines []string) {
	inside := false
	for _, line := range strings.Split(text, "\n") {
		if strings.HasPrefix(line, "```") {
			inside = !inside
		} else if !inside {
			lines = append(lines, line)
		}
	}
	return lines
}

// TestLinksLeadSomewhere: a link to a file of the checkout finds it, and its
// fragment a heading. llms.txt links to every page of docs.
func TestLinksLeadSomewhere(t *testing.T) {
	docs := documents(t)
	anchors := make(map[string]map[string]bool)
	for file, text := range docs {
		anchors[file] = make(map[string]bool)
		for _, line := range prose(text) {
			if m := heading.FindStringSubmatch(line); m != nil {
				anchors[file][anchor(m[1])] = true
			}
		}
	}
	found := 0
	for file, text := range docs {
		for _, m := range link.FindAllStringSubmatch(strings.Join(prose(text), "\n"), -1) {
			if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
				continue
			}
			found++
			path, fragment, _ := strings.Cut(m[1], "#")
			target := file
			if path != "" {
				target = filepath.ToSlash(filepath.Join(filepath.Dir(file), path))
			}
			if _, err := os.Stat(filepath.Join(root, target)); err != nil {
				t.Errorf("%s links to %s, which is not there", file, m[1])
			} else if fragment != "" && !anchors[target][fragment] {
				t.Errorf("%s links to %s, and %s has no such heading", file, m[1], target)
			}
		}
	}
	for _, m := range link.FindAllStringSubmatch(read(t, "llms.txt"), -1) {
		if _, err := os.Stat(filepath.Join(root, m[1])); err != nil {
			t.Errorf("llms.txt links to %s, which is not there", m[1])
		}
	}
	for file := range docs {
		if strings.HasPrefix(file, "docs/") && !strings.HasPrefix(file, "docs/recipes/") && !strings.Contains(read(t, "llms.txt"), "]("+file+")") {
			t.Errorf("llms.txt does not link to %s", file)
		}
	}
	if found == 0 {
		t.Error("found no links")
	}
}
