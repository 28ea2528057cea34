package docs_test

import (
	"encoding/json"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// requirements returns the modules that the go.mod of a directory of the checkout
// requires directly.
func requirements(t *testing.T, dir string) (paths []string) {
	t.Helper()
	out, err := exec.Command("go", "-C", path.Join(root, dir), "mod", "edit", "-json").Output()
	if err != nil {
		t.Fatal(err)
	}
	var mod struct {
		Require []struct {
			Path     string
			Indirect bool
		}
	}
	if err := json.Unmarshal(out, &mod); err != nil {
		t.Fatal(err)
	}
	for _, r := range mod.Require {
		if !r.Indirect && r.Path != modulePath {
			paths = append(paths, r.Path)
		}
	}
	return paths
}

// TestPluginRequiresNothingForTests tests that the program imports what the
// plugin's go.mod requires. A requirement of tests alone belongs in the go.mod of
// e2e/interop or bench.
func TestPluginRequiresNothingForTests(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", "-f", `{{with .Module}}{{if .Main}}{{join $.Imports "\n"}}{{end}}{{end}}`, modulePath+"/cmd/caddy")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	imports := strings.Fields(string(out))
	required := requirements(t, ".")
	if len(imports) < 100 || len(required) < 10 {
		t.Fatalf("there are only %d imports of %d modules", len(imports), len(required))
	}
	for _, module := range required {
		if !slices.ContainsFunc(imports, func(p string) bool { return p == module || strings.HasPrefix(p, module+"/") }) {
			t.Errorf("go.mod requires %s, which no package of cmd/caddy imports", module)
		}
	}
}

// TestDependenciesAreDocumented checks that docs/dependencies.md has a row for
// each module that is required directly, and for no other.
func TestDependenciesAreDocumented(t *testing.T) {
	var required, listed []string
	for _, dir := range []string{".", "bench", "e2e/interop"} {
		required = append(required, requirements(t, dir)...)
	}
	for _, row := range regexp.MustCompile("(?m)^\\| (`[^|]+) \\|").FindAllStringSubmatch(read(t, "docs/dependencies.md"), -1) {
		for name := range strings.SplitSeq(row[1], ", ") {
			listed = append(listed, code(name))
		}
	}
	for _, module := range required {
		if !slices.Contains(listed, module) {
			t.Errorf("docs/dependencies.md has no row for %s", module)
		}
	}
	for _, module := range listed {
		if !slices.Contains(required, module) {
			t.Errorf("docs/dependencies.md has a row for %s, which no go.mod requires directly", module)
		}
	}
}
