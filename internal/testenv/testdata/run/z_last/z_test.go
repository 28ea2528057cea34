package z

import (
	"os"
	"testing"

	"github.com/caddy-replicate/replicate-webhook/internal/testenv"
)

func TestMain(m *testing.M) {
	if err := os.WriteFile(os.Getenv("TESTENV_LAST_RUNS"), nil, 0o600); err != nil {
		panic(err)
	}
	os.Exit(testenv.Main(m))
}
