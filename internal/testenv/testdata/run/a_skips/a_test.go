package a

import (
	"testing"

	"github.com/caddy-replicate/replicate-webhook/internal/testenv"
)

func TestNeedsATool(t *testing.T) {
	testenv.Need(t, "no-such-program", "install no-such-package")
	t.Error("it runs without the program")
}

func TestPasses(t *testing.T) {}
