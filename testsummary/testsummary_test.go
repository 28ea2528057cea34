// Package testsummary ends a run of go test ./... with the tests that were
// skipped and why. Its name makes it the module's last package.
package testsummary

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/caddy-replicate/replicate-webhook/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// TestThisIsTheLastPackage: the summary is complete only if the go command
// starts all other packages before this one.
func TestThisIsTheLastPackage(t *testing.T) {
	out, err := exec.Command("go", "list", "github.com/caddy-replicate/replicate-webhook/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	packages := strings.Fields(string(out))
	if last := packages[len(packages)-1]; !strings.HasSuffix(last, "/testsummary") {
		t.Errorf("%s comes after testsummary", last)
	}
}
