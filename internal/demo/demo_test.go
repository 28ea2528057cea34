package demo_test

import (
	"context"
	"strings"
	"testing"

	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-replicate/replicate-webhook"
	"github.com/caddy-replicate/replicate-webhook/internal/demo"
)

// TestOnce: all steps come true.
func TestOnce(t *testing.T) {
	var out strings.Builder
	if err := demo.Run(t.Context(), &out, demo.Options{Once: true}); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	t.Log(out.String())
}

// TestEnds: without Once it shows the same, goes on, and ends without an error
// when it is asked to. With Once being asked to end is no success.
func TestEnds(t *testing.T) {
	for _, once := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		out := &until{text: map[bool]string{false: "Ctrl-C", true: "3. "}[once], then: cancel}
		err := demo.Run(ctx, out, demo.Options{Once: once})
		if (err != nil) != once {
			t.Errorf("once %v: %v\n%s", once, err, out.String())
		}
	}
}

// until calls a function when a text is written.
type until struct {
	strings.Builder
	text string
	then func()
}

func (u *until) Write(p []byte) (int, error) {
	if strings.Contains(string(p), u.text) {
		u.then()
	}
	return u.Builder.Write(p)
}
