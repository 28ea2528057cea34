package replicatewebhook_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	replicatewebhook "github.com/caddy-replicate/replicate-webhook"
)

// TestFuzzSeedsParseAsFarAsTheyClaim: a seed that stops at an option which does not
// exist leads a fuzzer nowhere. Each is named here with the error that it is meant
// to reach, or none, and the line of that.
func TestFuzzSeedsParseAsFarAsTheyClaim(t *testing.T) {
	claims := map[string]struct {
		err  string // empty: all of it is taken
		line int
	}{
		"app-egress-text-forms":           {"is not a valid port", 5},
		"app-every-block":                 {},
		"app-number-out-of-range":         {"max_attempts is", 4},
		"app-number-that-is-none":         {"backoff_factor is", 4},
		"app-numbers-at-their-edges":      {},
		"app-rate-per-nothing":            {"rate is", 4},
		"app-store-with-a-block":          {"has no options", 3},
		"edge-block-in-a-block":           {"secret", 2},
		"edge-duration-that-is-too-short": {"read_timeout is", 4},
		"edge-durations-at-their-edges":   {},
		"edge-every-option":               {},
		"edge-quotes-and-heredoc":         {},
		"edge-repeated-option":            {"is given twice", 3},
		"edge-unclosed":                   {},
	}
	files, err := filepath.Glob("testdata/fuzz/FuzzCaddyfile/*")
	if err != nil || len(files) != len(claims) {
		t.Errorf("there are %d seeds, and claims of %d, %v", len(files), len(claims), err)
	}
	for _, file := range files {
		name := filepath.Base(file)
		t.Run(name, func(t *testing.T) {
			claim, ok := claims[name]
			if !ok {
				t.Fatal("there is no claim of how far it parses")
			}
			options, global := readSeed(t, file)
			tokens, err := caddyfile.Tokenize([]byte("replicate_webhook {\n"+options+"\n}"), "Caddyfile")
			if err != nil {
				t.Fatal(err)
			}
			var into caddyfile.Unmarshaler = new(replicatewebhook.Edge)
			if global {
				into = new(replicatewebhook.App)
			}
			err = into.UnmarshalCaddyfile(caddyfile.NewDispenser(tokens))
			switch {
			case claim.err == "" && err != nil:
				t.Errorf("it stops: %v", err)
			case claim.err != "" && (err == nil || !strings.Contains(err.Error(), claim.err) || !strings.Contains(err.Error(), "Caddyfile:"+strconv.Itoa(claim.line))):
				t.Errorf("it ends in %v, want %q at line %d", err, claim.err, claim.line)
			}
		})
	}
}

// readSeed reads a seed of FuzzCaddyfile: a string and a bool.
func readSeed(t *testing.T, file string) (options string, global bool) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if quoted, ok := strings.CutPrefix(line, "string("); ok {
			if options, err = strconv.Unquote(strings.TrimSuffix(quoted, ")")); err != nil {
				t.Fatal(err)
			}
		}
		global = global || line == "bool(true)"
	}
	return options, global
}
