// Package docs_test holds the documentation against the program: what it shows
// is loaded, sent and run, and what it lists is compared with what there is.
package docs_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	_ "github.com/caddyserver/caddy/v2/modules/standard" // what Caddyfiles may name

	_ "github.com/caddy-replicate/replicate-webhook"
)

// root is the checkout.
const root = "../.."

// block is a fenced block of a document. An HTML comment right above it may
// say more about it, as in <!-- within: replicate_webhook -->.
type block struct {
	file string // from the root, with slashes
	line int    // of the opening fence
	lang string
	note string // the comment's text, trimmed
	text string
}

// name is what subtests are called.
func (b block) name() string { return fmt.Sprintf("%s:%d", b.file, b.line) }

// noted is the comment's value for a key.
func (b block) noted(key string) string {
	k, v, _ := strings.Cut(b.note, ":")
	if strings.TrimSpace(k) != key {
		return ""
	}
	return strings.TrimSpace(v)
}

var comment = regexp.MustCompile(`^<!--\s*(.*?)\s*-->$`)

// parseBlocks finds the fenced blocks of Markdown text.
func parseBlocks(file, text string) []block {
	var (
		blocks []block
		inside bool
		note   string
	)
	for i, line := range strings.Split(text, "\n") {
		fence := strings.HasPrefix(line, "```")
		switch {
		case fence && !inside:
			blocks = append(blocks, block{file: file, line: i + 1, lang: strings.TrimSpace(line[3:]), note: note})
			inside = true
		case fence:
			inside, note = false, ""
		case inside:
			blocks[len(blocks)-1].text += line + "\n"
		default:
			note = ""
			if m := comment.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
				note = m[1]
			}
		}
	}
	return blocks
}

// documents are the Markdown files of the checkout, by path from the root.
func documents(t *testing.T) map[string]string {
	t.Helper()
	docs := make(map[string]string)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "node_modules" || d.Name() == ".git"):
			return fs.SkipDir
		case d.IsDir() || filepath.Ext(path) != ".md":
			return nil
		}
		data, err := os.ReadFile(path)
		rel, _ := filepath.Rel(root, path)
		docs[filepath.ToSlash(rel)] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if docs["README.md"] == "" {
		t.Fatal("there is no README.md")
	}
	return docs
}

// blocksIn are all blocks of a language, in order.
func blocksIn(t *testing.T, lang string) []block {
	t.Helper()
	var found []block
	for file, text := range documents(t) {
		for _, b := range parseBlocks(file, text) {
			if b.lang == lang {
				found = append(found, b)
			}
		}
	}
	slices.SortFunc(found, func(a, b block) int {
		if c := strings.Compare(a.file, b.file); c != 0 {
			return c
		}
		return a.line - b.line
	})
	return found
}

func TestParseBlocks(t *testing.T) {
	got := parseBlocks("x.md", "# T\n<!-- within: a -->\n```caddyfile\nb\n```\n\n<!-- file: c -->\n\n```js\nd\n\te\n```\n")
	want := []block{
		{"x.md", 3, "caddyfile", "within: a", "b\n"},
		{"x.md", 9, "js", "", "d\n\te\n"},
	}
	if !slices.Equal(got, want) {
		t.Fatalf("got %+v", got)
	}
	if got[0].noted("within") != "a" || got[0].noted("file") != "" {
		t.Error("the comment is misread")
	}
}
