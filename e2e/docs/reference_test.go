package docs_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
)

var update = flag.Bool("update", false, "write what is got into docs")

// caddyfileReference is the page that lists every option.
const caddyfileReference = "docs/caddyfile.md"

// table is a table of a document, under the comment that says what it is.
type table struct {
	kind, place string // as in <!-- kind: place -->
	first       int    // the index of its first row's line
	rows        [][]string
}

var row = regexp.MustCompile(`^\| .* \|$`)

// tables finds the commented tables among a document's lines.
func tables(lines []string) []table {
	var found []table
	for i := 0; i < len(lines); i++ {
		m := comment.FindStringSubmatch(lines[i])
		if m == nil || i+2 >= len(lines) || !row.MatchString(lines[i+1]) {
			continue
		}
		kind, place, _ := strings.Cut(m[1], ": ")
		t := table{kind: kind, place: place, first: i + 3}
		for i += 3; i < len(lines) && row.MatchString(lines[i]); i++ {
			t.rows = append(t.rows, cells(lines[i]))
		}
		found = append(found, t)
	}
	return found
}

// cells splits a row. A bar inside a cell is written \|.
func cells(line string) []string {
	const bar = "\x00"
	line = strings.ReplaceAll(strings.Trim(line, "|"), `\|`, bar)
	out := strings.Split(line, "|")
	for i := range out {
		out[i] = strings.ReplaceAll(strings.TrimSpace(out[i]), bar, "|")
	}
	return out
}

// code is the text of a cell that holds code alone.
func code(cell string) string { return strings.Trim(cell, "`") }

// whole puts options into the smallest Caddyfile that they can stand in.
// Options that the place requires are added unless they are among them.
func whole(place string, options ...string) string {
	needs := func(name, option string) {
		for _, o := range options {
			if o == name || strings.HasPrefix(o, name+" ") {
				return
			}
		}
		options = append(options, option)
	}
	inner, block, nested := "", "", false
	switch {
	case place == "replicate_webhook":
		needs("secret", "secret {env.WEBHOOK_SECRET}")
		block = "localhost {\n\treplicate_webhook {\n%s\n}\n}\n"
	case place == "replicate_webhook inbox":
		needs("handle", "handle {\nrespond 204\n}")
		block = "localhost {\n\treplicate_webhook {\nsecret {env.WEBHOOK_SECRET}\ninbox {\n%s\n}\n}\n}\n"
	case place == "replicate_predictions":
		needs("api", "api https://api.replicate.com/v1")
		block = "localhost {\n\treplicate_predictions {\n%s\n}\n}\n"
	case place == "replicate_dashboard":
		block = "localhost {\n\treplicate_dashboard {\n%s\n}\n}\n"
	default:
		inner, nested = strings.CutPrefix(place, "global option ")
		block = "{\n\treplicate_webhook {\n%s\n}\n}\n"
	}
	text := strings.Join(options, "\n")
	if nested {
		text = inner + " {\n" + text + "\n}"
	}
	return strings.Replace(block, "%s", text, 1)
}

// refusal is what the adapter says against options, without file and line.
func refusal(place string, options ...string) (string, error) {
	_, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(whole(place, options...)), map[string]any{"filename": "Caddyfile"})
	if err == nil {
		return "", fmt.Errorf("%s takes %q", place, options)
	}
	text := err.Error()
	if i := strings.Index(text, "': "); i >= 0 && strings.HasPrefix(text, "parsing caddyfile tokens") {
		text = text[i+3:]
	}
	text, _, placed := strings.Cut(text, ", at Caddyfile:")
	if !placed {
		return "", fmt.Errorf("%s refuses %q without a place: %w", place, options, err)
	}
	return text, nil
}

// known are the options that a place's parser says it takes.
func known(t *testing.T, place string) []string {
	t.Helper()
	text, err := refusal(place, "no_such_option")
	if err != nil {
		t.Fatal(err)
	}
	_, list, ok := strings.Cut(text, "there is no option no_such_option: use ")
	if !ok {
		t.Fatalf("%s says of an unknown option: %s", place, text)
	}
	options := strings.Split(strings.Replace(list, " or ", ", ", 1), ", ")
	slices.Sort(options)
	return options
}

func reference(t *testing.T) []string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, caddyfileReference))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(data), "\n")
}

// TestCaddyfileReferenceIsComplete: it lists the options that the parsers know,
// and no others.
func TestCaddyfileReferenceIsComplete(t *testing.T) {
	places := make(map[string]bool)
	for _, tab := range tables(reference(t)) {
		if tab.kind != "options" {
			continue
		}
		if places[tab.place] {
			t.Errorf("the reference has two tables for %s", tab.place)
		}
		places[tab.place] = true
		var listed []string
		for _, r := range tab.rows {
			name, _, _ := strings.Cut(code(r[0]), " ")
			listed = append(listed, name)
			if len(r) != 3 || r[1] == "" || r[2] == "" {
				t.Errorf("%s %s: the row is %q, want a default and a meaning", tab.place, name, r)
			}
			if strings.HasSuffix(code(r[0]), "{ … }") {
				places[tab.place+" "+name] = places[tab.place+" "+name] || false
			}
		}
		slices.Sort(listed)
		if want := known(t, tab.place); !slices.Equal(listed, want) {
			t.Errorf("%s: the reference lists %q, the parser takes %q", tab.place, listed, want)
		}
	}
	for _, place := range []string{"replicate_webhook", "replicate_predictions", "replicate_dashboard", "global option"} {
		if !places[place] {
			t.Errorf("the reference has no table for %s", place)
		}
	}
	for place, found := range places {
		if !found {
			t.Errorf("the reference has no table for %s", place)
		}
	}
}

// TestDefaultsCanBeWrittenOut: each default in the reference is a value that
// the option takes.
func TestDefaultsCanBeWrittenOut(t *testing.T) {
	checked := 0
	for _, tab := range tables(reference(t)) {
		if tab.kind != "options" {
			continue
		}
		for _, r := range tab.rows {
			if !strings.HasPrefix(r[1], "`") {
				continue // a word such as none
			}
			name, _, _ := strings.Cut(code(r[0]), " ")
			text := whole(tab.place, name+" "+code(r[1]))
			if _, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"}); err != nil {
				t.Errorf("%s %s: %v", tab.place, name, err)
			}
			checked++
		}
	}
	if checked < 20 {
		t.Errorf("found only %d defaults", checked)
	}
}

// TestCaddyfileErrorsAreAsDocumented: what the reference says is refused is
// refused, in these words. -update writes them.
func TestCaddyfileErrorsAreAsDocumented(t *testing.T) {
	lines := reference(t)
	checked := 0
	for _, tab := range tables(lines) {
		if tab.kind != "refused" {
			continue
		}
		for i, r := range tab.rows {
			got, err := refusal(tab.place, code(r[0]))
			if err != nil {
				t.Error(err)
				continue
			}
			checked++
			if *update {
				lines[tab.first+i] = fmt.Sprintf("| %s | %s |", strings.ReplaceAll(r[0], "|", `\|`), strings.ReplaceAll(got, "|", `\|`))
			} else if r[1] != got {
				t.Errorf("%s: %s\ngot  %s\nwant %s", tab.place, r[0], got, r[1])
			}
		}
	}
	if checked < 20 {
		t.Errorf("found only %d refusals", checked)
	}
	if *update {
		if err := os.WriteFile(filepath.Join(root, caddyfileReference), []byte(strings.Join(lines, "\n")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
