// Package testenv skips tests that need what a machine may lack, and lists at
// the end of a run of go test ./... which were skipped and why. In that mode
// the go command drops what a passing package prints, so that a skip would
// otherwise be invisible.
//
// Tests call Skip, Need or NeedRoot, never the Skip methods of testing.T. The
// package testsummary, which the go command runs last, calls Main.
package testenv

import (
	"os"
	"os/exec"
	"path"
	"path/filepath"
)

// NoSkips names the environment variable under which Skip fails a test. CI
// sets it.
const NoSkips = "NO_SKIPS"

// TB is the part of testing.TB that a skip needs.
type TB interface {
	Helper()
	Name() string
	Skip(args ...any)
	Fatal(args ...any)
}

// Skip skips the test because the machine lacks something. It names what the
// test needs, such as "Node.js", and the way to get it, such as
// "apt-get install nodejs".
func Skip(t TB, needs, remedy string) {
	t.Helper()
	text := "this test needs " + needs + ": " + remedy
	if os.Getenv(NoSkips) != "" {
		t.Fatal(text)
	}
	if dir := recordDir(); dir != "" {
		if err := record(dir, skip{Package: testedPackage(), Test: t.Name(), Needs: needs, Remedy: remedy}); err != nil {
			t.Fatal("recording a skipped test: ", err)
		}
		forbidCaching()
	}
	t.Skip(text)
}

// Need skips the test where a program is not on the PATH. It returns the
// program's path.
func Need(t TB, program, remedy string) string {
	t.Helper()
	found, err := exec.LookPath(program)
	if err != nil {
		Skip(t, "the program "+program, remedy)
	}
	return found
}

// NeedRoot skips the test where it does not run as root.
func NeedRoot(t TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Skip(t, "the rights of root", "run go test as root, best in a container or virtual machine")
	}
}

// NeedNode skips the test without Node.js or where npm did not install the
// packages of a directory, which is relative to the tested package's. It
// returns the path of node.
func NeedNode(t TB, dir string) string {
	t.Helper()
	remedy := "apt-get install nodejs npm, then npm ci in " + path.Join(testedPackage(), filepath.ToSlash(dir))
	node, err := exec.LookPath("node")
	if err == nil {
		_, err = os.Stat(filepath.Join(dir, "node_modules"))
	}
	if err != nil {
		Skip(t, "Node.js and packages of npm", remedy)
	}
	return node
}
