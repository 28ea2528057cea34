package ecmajson

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/caddy-replicate/replicate-webhook/internal/testenv"
)

func TestLimits(t *testing.T) {
	rep := strings.Repeat
	for _, c := range []struct {
		name, in string
		lim      Limits
		err      error // nil: accepted
		at       string
	}{
		{"default depth", rep("[", 10000) + rep("]", 10000), Limits{}, nil, ""},
		{"beyond default depth", rep("[", 10001), Limits{}, ErrDepth, "byte 10000"},
		{"depth", `[{"a":[]}]`, Limits{MaxDepth: 3}, nil, ""},
		{"beyond depth", `[{"a":[{}]}]`, Limits{MaxDepth: 3}, ErrDepth, "byte 7"},
		{"depth is not the number of containers", rep("[[]],", 50), Limits{MaxDepth: 2}, &SyntaxError{}, ""},
		{"scalar needs no depth", `1`, Limits{MaxDepth: 1}, nil, ""},
		{"default number", rep("1", 4096), Limits{}, nil, ""},
		{"beyond default number", "[" + rep("1", 4097) + "]", Limits{}, ErrLiteral, "byte 1"},
		{"number", `-1.5e9`, Limits{MaxNumber: 6}, nil, ""},
		{"beyond number", `[0,-1.5e10]`, Limits{MaxNumber: 6}, ErrLiteral, "byte 3"},
		{"plain number", `1234567`, Limits{MaxNumber: 6}, ErrLiteral, "byte 0"},
		{"no string limit", `"` + rep("x", 1<<20) + `"`, Limits{}, nil, ""},
		{"string", `{"abcd":"\u0041"}`, Limits{MaxString: 6}, nil, ""},
		{"beyond string", `{"abcd":"\u0041b"}`, Limits{MaxString: 6}, ErrLiteral, "byte 8"},
		{"key", `{"abcdefg":1}`, Limits{MaxString: 6}, ErrLiteral, "byte 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse([]byte(c.in), c.lim, nil)
			var se *SyntaxError
			switch {
			case c.err == nil && err != nil:
				t.Fatal(err)
			case errors.As(c.err, &se):
				if !errors.As(err, &se) {
					t.Fatalf("got %v", err)
				}
			case !errors.Is(err, c.err):
				t.Fatalf("got %v, want %v", err, c.err)
			}
			if c.at != "" && !strings.HasSuffix(err.Error(), c.at) {
				t.Errorf("%q does not end in %q", err, c.at)
			}
		})
	}
	t.Run("size", func(t *testing.T) {
		if testing.Short() || math.MaxInt == math.MaxInt32 {
			testenv.Skip(t, "a gigabyte of address space", "run it on a 64-bit machine without -short")
		}
		// Never written to nor read, so that it takes no memory.
		if _, err := Parse(make([]byte, maxSize+1), Limits{}, nil); !errors.Is(err, ErrSize) {
			t.Errorf("got %v", err)
		}
	})
}
