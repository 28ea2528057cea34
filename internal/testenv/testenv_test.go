package testenv

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// goTest runs go test on packages of testdata, with two in parallel, as the
// go command would on a machine of two cores.
func goTest(t *testing.T, out *os.File, env []string, flags ...string) (string, error) {
	t.Helper()
	cmd := exec.Command("go", slices.Concat([]string{"test", "-p=2"}, flags, []string{"./testdata/run/..."})...)
	cmd.Env = slices.Concat(os.Environ(), []string{"GOFLAGS=", NoSkips + "=", "TESTENV_LAST_RUNS=" + filepath.Join(t.TempDir(), "runs")}, env)
	if out == nil {
		text, err := cmd.CombinedOutput()
		return string(text), err
	}
	cmd.Stdout, cmd.Stderr = out, out
	err := cmd.Run()
	if _, e := out.WriteString("printed behind it\n"); e != nil {
		t.Fatal(e)
	}
	text, e := os.ReadFile(out.Name())
	if e != nil {
		t.Fatal(e)
	}
	return string(text), err
}

const wantSummary = `
3 tests skipped, because this machine lacks what they need:

2 tests needed a server
  to run them: install no-such-server
  internal/testenv/testdata/run/c_skips: TestSkipsLate/one TestSkipsLate/two

1 test needed the program no-such-program
  to run them: install no-such-package
  internal/testenv/testdata/run/a_skips: TestNeedsATool

All other tests ran. Tests that were skipped run again each time.
`

// TestARunEndsWithWhatWasSkipped runs the go command twice: what it caches of
// the first run must not hide a skip of the second.
func TestARunEndsWithWhatWasSkipped(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	for _, c := range []struct {
		name string
		out  *os.File
	}{{"a pipe", nil}, {"a file", file}} {
		got, err := goTest(t, c.out, nil)
		if err != nil {
			t.Fatalf("%s: %v\n%s", c.name, err, got)
		}
		_, end, ok := strings.Cut(got, wantSummary)
		if !ok {
			t.Fatalf("%s: want\n%s\nin\n%s", c.name, wantSummary, got)
		}
		if c.out != nil {
			end = strings.TrimSuffix(end, "printed behind it\n")
		}
		// The go command's own line on the last package comes after it.
		if !regexp.MustCompile(`^(ok  \t\S+/z_last\t\S+ \[no tests to run\]\n)?$`).MatchString(end) {
			t.Errorf("%s: behind the summary comes %q", c.name, end)
		}
		for _, p := range []string{"a_skips", "b_passes", "c_skips"} {
			if !regexp.MustCompile(`(?m)^ok  \t\S+/` + p + `\t`).MatchString(got) {
				t.Errorf("%s: no line on %s in\n%s", c.name, p, got)
			}
		}
	}
}

func TestASkipIsAFailureWhereNoneIsAllowed(t *testing.T) {
	got, err := goTest(t, nil, []string{NoSkips + "=1"})
	if err == nil || !strings.Contains(got, "this test needs the program no-such-program: install no-such-package") {
		t.Errorf("%v\n%s", err, got)
	}
}

func TestARunWithoutSkipsSaysSo(t *testing.T) {
	got, err := goTest(t, nil, nil, "-run", "TestPasses")
	if err != nil || !strings.Contains(got, "\nNo test was skipped.\n") {
		t.Errorf("%v\n%s", err, got)
	}
}

// TestEveryModuleIsTested tests that a run of go test ./... includes the tests of
// each module of the checkout.
func TestEveryModuleIsTested(t *testing.T) {
	root := filepath.Join("..", "..")
	runs, err := filepath.Glob(filepath.Join(root, "testmodules", "*", "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	var text []byte
	for _, path := range runs {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, data...)
	}
	modules := 0
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "node_modules" || d.Name() == ".git") {
			return filepath.SkipDir
		}
		if dir := filepath.Dir(path); d.Name() == "go.mod" && dir != root {
			modules++
			if call := `RunModule("` + filepath.ToSlash(dir) + `")`; !strings.Contains(string(text), call) {
				t.Errorf("no package in testmodules has testenv.%s", call)
			}
		}
		return nil
	})
	if err != nil || modules == 0 {
		t.Fatalf("%d modules, %v", modules, err)
	}
}

// TestEverySkipIsReported: no file of the module calls the Skip methods of the
// testing package, which the summary does not hear of.
func TestEverySkipIsReported(t *testing.T) {
	root := filepath.Join("..", "..")
	files := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "node_modules" || d.Name() == ".git") {
			return filepath.SkipDir
		}
		if filepath.Ext(path) != ".go" || path == filepath.Join(root, "internal", "testenv", "skip.go") {
			return nil
		}
		files++
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || !slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, sel.Sel.Name) {
				return true
			}
			if x, ok := sel.X.(*ast.Ident); !ok || x.Name != "testenv" {
				t.Errorf("%s: a skip that is not reported; call testenv.Skip, Need or NeedRoot", fset.Position(call.Pos()))
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 300 {
		t.Errorf("only %d files were read", files)
	}
}
