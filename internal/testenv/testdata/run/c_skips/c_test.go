package c

import (
	"os"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/testenv"
)

// TestSkipsLate skips when the last package runs already.
func TestSkipsLate(t *testing.T) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		if _, err := os.Stat(os.Getenv("TESTENV_LAST_RUNS")); err == nil {
			break
		}
	}
	for _, name := range []string{"one", "two"} {
		t.Run(name, func(t *testing.T) { testenv.Skip(t, "a server", "install no-such-server") })
	}
}
