// Package interop runs the tests of the module e2e/interop in a run of go test ./...
package interop

import (
	"os"
	"testing"

	"github.com/caddy-replicate/replicate-webhook/internal/testenv"
)

func TestMain(*testing.M) { os.Exit(testenv.RunModule("../../e2e/interop")) }
