package docs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// placeholder is one of this plugin's, in braces as documents have it.
var placeholder = regexp.MustCompile(`\{(http\.replicate[\w.]*)\}`)

// literals returns the strings that a file of the source holds.
func literals(file *ast.File) iter.Seq[string] {
	return func(yield func(string) bool) {
		going := true
		ast.Inspect(file, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); going && ok && lit.Kind == token.STRING {
				if text, err := strconv.Unquote(lit.Value); err == nil {
					going = yield(text)
				}
			}
			return going
		})
	}
}

// TestPlaceholdersAreWhatTheSourceGives: the placeholders that comments of the
// source and the documents name are those that the source knows, to the letter,
// and each is in both.
func TestPlaceholdersAreWhatTheSourceGives(t *testing.T) {
	var known []string
	comments, pages := make(map[string][]string), make(map[string][]string) // by placeholder: where it is named
	name := func(in map[string][]string, text, file string) {
		for _, m := range placeholder.FindAllStringSubmatch(text, -1) {
			in[m[1]] = append(in[m[1]], file)
		}
	}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "node_modules" || d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && len(d.Name()) > 2):
			return filepath.SkipDir
		case strings.HasSuffix(path, ".md"), strings.HasSuffix(path, "Caddyfile.example"):
			data, err := os.ReadFile(path)
			name(pages, string(data), path)
			return err
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		for _, group := range file.Comments {
			name(comments, group.Text(), path)
		}
		for text := range literals(file) {
			if placeholder.MatchString("{"+text+"}") && strings.Count(text, ".") == 2 {
				known = append(known, text)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(known) < 6 {
		t.Errorf("the source knows only %q", known)
	}
	for where, named := range map[string]map[string][]string{"comments": comments, "documents": pages} {
		for p, files := range named {
			if !slices.Contains(known, p) {
				t.Errorf("%s names {%s}, which the source does not know", strings.Join(files, ", "), p)
			}
		}
		for _, p := range known {
			if len(named[p]) == 0 {
				t.Errorf("no %s name {%s}", where, p)
			}
		}
	}
}
