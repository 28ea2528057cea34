package docs_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-replicate/replicate-webhook/internal/duration"
)

const (
	jsonReference = "docs/json.md"
	modulePath    = "github.com/caddy-replicate/replicate-webhook"
)

// field is a field of a module's JSON.
type field struct {
	path string // as in retry.max_attempts
	kind string
	doc  string
}

// ours are the modules that this plugin adds, by ID, with the type of each.
func ours(t *testing.T) map[string]reflect.Type {
	t.Helper()
	found := make(map[string]reflect.Type)
	for _, id := range caddy.Modules() {
		info, err := caddy.GetModule(id)
		if err != nil {
			t.Fatal(err)
		}
		typ := reflect.TypeOf(info.New())
		if typ.Kind() == reflect.Pointer {
			typ = typ.Elem()
		}
		if strings.HasPrefix(typ.PkgPath(), modulePath) && !strings.Contains(typ.PkgPath(), "/e2e/rig/caddyrun") {
			found[id] = typ
		}
	}
	return found
}

// fields lists what the JSON of a type holds, in the order of the type.
func fields(t *testing.T, typ reflect.Type, prefix string) []field {
	t.Helper()
	var all []field
	for i := range typ.NumField() {
		f := typ.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		inner := f.Type
		for inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		switch {
		case f.Anonymous && name == "":
			all = append(all, fields(t, inner, prefix)...)
		case !f.IsExported() || name == "-" || name == "":
			continue
		case inner.Kind() == reflect.Struct && strings.HasPrefix(inner.PkgPath(), modulePath):
			all = append(all, field{prefix + name, "object", fieldDoc(t, typ, f.Name)})
			all = append(all, fields(t, inner, prefix+name+".")...)
		default:
			all = append(all, field{prefix + name, kindOf(t, f), fieldDoc(t, typ, f.Name)})
		}
	}
	return all
}

// kindOf says in words of JSON what a field holds.
func kindOf(t *testing.T, f reflect.StructField) string {
	t.Helper()
	if f.Type == reflect.TypeFor[json.RawMessage]() {
		for _, part := range strings.Fields(f.Tag.Get("caddy")) {
			if namespace, ok := strings.CutPrefix(part, "namespace="); ok {
				return "module of `" + namespace + "`"
			}
		}
	}
	if f.Type == reflect.TypeFor[caddy.Duration]() || f.Type == reflect.TypeFor[duration.Duration]() {
		return "duration"
	}
	if f.Type == reflect.TypeFor[caddyhttp.Route]() {
		return "route"
	}
	switch f.Type.Kind() {
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "boolean"
	case reflect.Int, reflect.Int64, reflect.Float64:
		return "number"
	case reflect.Slice:
		return "array of " + kindOf(t, reflect.StructField{Type: f.Type.Elem()}) + "s"
	}
	t.Fatalf("no word for the type %s of %s", f.Type, f.Name)
	return ""
}

// typeSpec finds a type's declaration and its comment in the source.
func typeSpec(t *testing.T, typ reflect.Type) (*ast.TypeSpec, string) {
	t.Helper()
	dir := filepath.Join(root, filepath.FromSlash(strings.TrimPrefix(typ.PkgPath(), modulePath)))
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range f.Decls {
			d, ok := decl.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, spec := range d.Specs {
				if s, ok := spec.(*ast.TypeSpec); ok && s.Name.Name == typ.Name() {
					return s, d.Doc.Text()
				}
			}
		}
	}
	t.Fatalf("%s is not declared in %s", typ, dir)
	return nil, ""
}

// fieldDoc is a field's comment, on one line.
func fieldDoc(t *testing.T, typ reflect.Type, name string) string {
	t.Helper()
	spec, _ := typeSpec(t, typ)
	for _, f := range spec.Type.(*ast.StructType).Fields.List {
		for _, n := range f.Names {
			if n.Name == name {
				doc := strings.Join(strings.Fields(f.Doc.Text()), " ")
				if rest, ok := strings.CutPrefix(doc, name+" "); ok {
					doc = "`" + jsonName(t, typ, name) + "` " + rest
				}
				return doc
			}
		}
	}
	t.Fatalf("%s has no field %s", typ, name)
	return ""
}

func jsonName(t *testing.T, typ reflect.Type, name string) string {
	t.Helper()
	f, ok := typ.FieldByName(name)
	if !ok {
		t.Fatalf("%s has no field %s", typ, name)
	}
	tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return tag
}

// summary is the first paragraph of a type's comment, without the type's name.
func summary(t *testing.T, typ reflect.Type) string {
	t.Helper()
	_, doc := typeSpec(t, typ)
	first, _, _ := strings.Cut(doc, "\n\n")
	first = strings.Replace(strings.TrimSpace(first), typ.Name()+" is the ", "The ", 1)
	if rest, ok := strings.CutSuffix(first, ":"); ok {
		first = rest + "."
	}
	return first
}

// jsonPage writes the reference.
func jsonPage(t *testing.T) string {
	t.Helper()
	modules := ours(t)
	ids := make([]string, 0, len(modules))
	for id := range modules {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	var b strings.Builder
	b.WriteString(`# JSON reference

<!-- Written by go test ./e2e/docs -update, from the comments in the Go source. -->

This page lists every field of every module, in the order of the source. The
[Caddyfile reference](caddyfile.md) explains each option and the values it rejects.

* Fields that are omitted or 0 take their defaults. ` + "`-1`" + ` switches off what can be
  switched off.
* A duration is a string such as ` + "`\"10s\"`" + `, or a number of nanoseconds.
* Sizes are numbers of bytes.
* Errors are reported when the configuration is loaded, with the option's name and
  the path of the module.

`)
	for _, id := range ids {
		fmt.Fprintf(&b, "* [`%s`](#%s)\n", id, anchor("`"+id+"`"))
	}
	b.WriteString("* [An example](#an-example)\n")
	for _, id := range ids {
		fmt.Fprintf(&b, "\n## `%s`\n\n%s\n", id, summary(t, modules[id]))
		all := fields(t, modules[id], "")
		if len(all) == 0 {
			b.WriteString("\nIt has no fields.\n")
			continue
		}
		b.WriteString("\n| field | type | meaning |\n|---|---|---|\n")
		for _, f := range all {
			if f.doc == "" {
				t.Errorf("%s: the field %s has no comment", id, f.path)
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", f.path, f.kind, strings.ReplaceAll(f.doc, "|", `\|`))
		}
	}
	b.WriteString("\n## An example\n\nThe README's first configuration, as `caddy adapt` prints it:\n\n```json\n")
	b.WriteString(adaptedExample(t))
	b.WriteString("```\n")
	return b.String()
}

func adaptedExample(t *testing.T) string {
	t.Helper()
	for _, c := range configs(t) {
		if strings.HasPrefix(c.name, "README.md:") && len(edges(t, c.adapt(t))) > 0 {
			var b bytes.Buffer
			if err := json.Indent(&b, c.adapt(t), "", "  "); err != nil {
				t.Fatal(err)
			}
			return b.String() + "\n"
		}
	}
	t.Fatal("the README shows no configuration with the edge")
	return ""
}

// TestJSONReferenceIsCurrent: the page is what the source gives. After a change
// to a module's fields or comments, write it with
//
//	go test ./e2e/docs -update
func TestJSONReferenceIsCurrent(t *testing.T) {
	want := jsonPage(t)
	path := filepath.Join(root, jsonReference)
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is not what the source says: run `go test ./e2e/docs -update`", jsonReference)
	}
}

// TestXcaddyPageListsAllModules: what a build must list is all that there is.
func TestXcaddyPageListsAllModules(t *testing.T) {
	_, after, found := strings.Cut(read(t, "xcaddy.md"), "must list these")
	blocks := parseBlocks("xcaddy.md", after)
	if !found || len(blocks) == 0 {
		t.Fatal("xcaddy.md does not say what a build must list")
	}
	var want []string
	for id := range ours(t) {
		want = append(want, id)
	}
	slices.Sort(want)
	if got := strings.Fields(blocks[0].text); !slices.Equal(got, want) {
		t.Errorf("xcaddy.md lists\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestCaddyfileOptionsAreTheJSONFields: an option writes the field of its name,
// and the two references give it one default.
func TestCaddyfileOptionsAreTheJSONFields(t *testing.T) {
	modules := map[string]string{
		"replicate_webhook":     "http.handlers.replicate_webhook",
		"replicate_predictions": "http.handlers.replicate_predictions",
		"replicate_dashboard":   "http.handlers.replicate_dashboard",
		"global option":         "replicate_webhook",
	}
	types := ours(t)
	for _, tab := range tables(reference(t)) {
		if tab.kind != "options" {
			continue
		}
		place, prefix := tab.place, ""
		for _, outer := range []string{"global option", "replicate_webhook"} {
			if inner, ok := strings.CutPrefix(place, outer+" "); ok {
				place, prefix = outer, inner+"."
			}
		}
		typ := types[modules[place]]
		if typ == nil {
			t.Errorf("%s belongs to no module", place)
			continue
		}
		docs := make(map[string]string)
		var names []string
		for _, f := range fields(t, typ, "") {
			rest, ok := strings.CutPrefix(f.path, prefix)
			if !ok {
				continue
			}
			docs[rest] = f.doc
			if !strings.Contains(rest, ".") {
				names = append(names, rest)
			}
		}
		var listed []string
		for _, r := range tab.rows {
			name, _, _ := strings.Cut(code(r[0]), " ")
			if name == "handle" {
				name = "routes" // as in Caddy's own subroutes
			}
			listed = append(listed, name)
			if !strings.HasPrefix(r[1], "`") || name == "store" {
				continue
			}
			parts := []string{name}
			switch name {
			case "poll":
				parts = []string{"poll.initial", "poll.max", "poll.give_up"}
			case "breaker":
				parts = []string{"breaker.failures", "breaker.cooldown"}
			}
			values := strings.Fields(code(r[1]))
			if len(parts) == 1 {
				values = []string{strings.Join(values, " ")}
			}
			for i, part := range parts {
				if got := defaultIn(docs[part]); got != values[i] {
					t.Errorf("%s: the default of %s is %q in the Caddyfile reference, %q in the comment %q", tab.place, part, values[i], got, docs[part])
				}
			}
		}
		slices.Sort(listed)
		slices.Sort(names)
		if !slices.Equal(listed, names) {
			t.Errorf("%s: the options are %q, the fields %q", tab.place, listed, names)
		}
	}
}

// defaultIn is the default that a comment tells.
func defaultIn(doc string) string {
	_, after, _ := strings.Cut(doc, "Default: ")
	value, _, _ := strings.Cut(after+" ", ". ")
	value = strings.TrimSuffix(strings.TrimSpace(value), ".")
	value = strings.ReplaceAll(value, " and ", " ")
	for _, unit := range []string{"KiB", "MiB", "GiB"} {
		value = strings.ReplaceAll(value, " "+unit, unit)
	}
	return value
}
