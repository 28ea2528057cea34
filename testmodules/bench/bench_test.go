// Package bench runs the tests of the module bench in a run of go test ./...
package bench

import (
	"os"
	"testing"

	"github.com/caddy-replicate/replicate-webhook/internal/testenv"
)

func TestMain(*testing.M) { os.Exit(testenv.RunModule("../../bench")) }
