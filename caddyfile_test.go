package replicatewebhook_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
)

var update = flag.Bool("update", false, "write what is got into testdata/adapt")

const separator = "----------\n"

// adapt turns Caddyfile text into indented JSON.
func adapt(text string) (string, error) {
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	if err := json.Indent(&b, config, "", "\t"); err != nil {
		return "", err
	}
	return b.String(), nil
}

// TestAdapt compares what Caddyfiles turn into, JSON or the error's whole text.
// Errors name the file and the line.
func TestAdapt(t *testing.T) {
	files, err := filepath.Glob("testdata/adapt/*.caddyfiletest")
	if err != nil || len(files) == 0 {
		t.Fatalf("found no golden files: %v", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".caddyfiletest")
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			text, want, found := strings.Cut(string(data), separator)
			if !found {
				t.Fatalf("%s has no separator", file)
			}
			got, err := adapt(text)
			if failing := strings.HasPrefix(name, "error_"); failing != (err != nil) {
				t.Fatalf("got error %v", err)
			}
			if err != nil {
				got = err.Error()
				if !strings.Contains(got, "Caddyfile:") {
					t.Errorf("the error names no place: %s", got)
				}
			}
			if got += "\n"; *update {
				if err := os.WriteFile(file, []byte(text+separator+got), 0o600); err != nil {
					t.Fatal(err)
				}
			} else if got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// provision loads a configuration without starting it, as `caddy validate`
// does.
func provision(t *testing.T, config string) error {
	t.Helper()
	var c caddy.Config
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		t.Fatal(err)
	}
	return caddy.Validate(&c)
}

// TestAdaptedConfigurationsLoad: what adapts can be provisioned.
func TestAdaptedConfigurationsLoad(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_DATA_HOME", dir)
	t.Setenv("WEBHOOK_SECRET", whsec)
	t.Setenv("OTHER", older)
	t.Setenv("DATABASE_URL", "postgres://caddy:a-password@127.0.0.1:5432/webhooks")
	t.Setenv("DATABASE_DIRECT_URL", "postgres://caddy:a-password@127.0.0.1:5433/webhooks")
	t.Setenv("SEAL_KEY", "a sealing key of some length")
	t.Setenv("NOTIFY_URL", "https://chat.example.com/services/s3cret")
	files, _ := filepath.Glob("testdata/adapt/*.caddyfiletest")
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".caddyfiletest")
		if strings.HasPrefix(name, "error_") || name == "edge_all_options" { // the latter reads a file
			continue
		}
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			text, _, _ := strings.Cut(string(data), separator)
			config, err := adapt("{\n\tadmin off\n\tpersist_config off\n}\n" + text)
			if strings.HasPrefix(text, "{\n") {
				config, err = adapt("{\n\tadmin off\n\tpersist_config off\n" + text[2:])
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := provision(t, config); err != nil {
				t.Error(err)
			}
		})
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "caddy", "replicate_webhook", "*")); len(files) > 0 {
		t.Errorf("provisioning left %v", files)
	}
}

// jsonEdge is a configuration with one handler, in JSON.
func jsonEdge(options string) string {
	return `{"admin":{"disabled":true,"config":{"persist":false}},"apps":{"http":{"servers":{"s":{"listen":["127.0.0.1:0"],"routes":[{"handle":[` +
		`{"handler":"replicate_webhook"` + options + `}]}]}}}}}`
}

// TestJSONIsCheckedAtLoad: what did not come through the Caddyfile is checked
// all the same, and the error names the option and the module.
func TestJSONIsCheckedAtLoad(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	t.Setenv("EDGE_TEST_SECRET", whsec)
	t.Setenv("EDGE_TEST_EMPTY", "")
	t.Setenv("EDGE_TEST_SHORT", "only 15 chars..")
	const ok = `,"secret":["{env.EDGE_TEST_SECRET}"]`
	for _, c := range []struct{ name, options, want string }{
		{"no secret", ``, "secret is missing"},
		{"unresolved", `,"secret":["{env.EDGE_TEST_NOBODY}"]`, "{env.EDGE_TEST_NOBODY}"},
		{"unresolved file", `,"secret":["{file.no/such/file}"]`, "{file.no/such/file}"},
		{"empty", `,"secret":["{env.EDGE_TEST_EMPTY}"]`, "{env.EDGE_TEST_EMPTY}"},
		{"unknown placeholder", `,"secret":["{nothing.of.the.kind}"]`, "{nothing.of.the.kind}"},
		{"short", `,"secret":["{env.EDGE_TEST_SHORT}"]`, "secret 1"},
		{"second is short", `,"secret":["{env.EDGE_TEST_SECRET}","{env.EDGE_TEST_SHORT}"]`, "secret 2"},
		{"unknown scheme", ok + `,"scheme":"both"`, "scheme"},
		{"unknown key", ok + `,"dedup_key":"x"`, "dedup_key"},
		{"unknown choice", ok + `,"on_store_error":"x"`, "on_store_error"},
		{"negative tolerance", ok + `,"tolerance":-2`, "tolerance"},
		{"in_flight_wait off", ok + `,"in_flight_wait":-1`, "in_flight_wait"},
		{"negative max_body", ok + `,"max_body":-1`, "max_body"},
		{"dedup too short", ok + `,"dedup":"9m"`, "dedup"},
		{"unknown field", ok + `,"secrets":[]`, "secrets"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := provision(t, jsonEdge(c.options))
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "replicate_webhook") {
				t.Fatalf("got %v, want it to name %q and the module", err, c.want)
			}
			for _, secret := range []string{whsec, "only 15 chars"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("the error tells a secret: %v", err)
				}
			}
		})
	}
	for name, options := range map[string]string{
		"defaults": ok, "off": ok + `,"tolerance":-1,"dedup":-1`, "zeroes": ok + `,"tolerance":0,"dedup":0,"max_body":0`,
		"number of nanoseconds": ok + `,"tolerance":60000000000`,
	} {
		if err := provision(t, jsonEdge(options)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSharedScopeIsCheckedAtLoad names both handlers, in JSON too.
func TestSharedScopeIsCheckedAtLoad(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	t.Setenv("EDGE_TEST_SECRET", whsec)
	t.Setenv("EDGE_TEST_SAME", whsec)
	t.Setenv("EDGE_TEST_OTHER", older)
	two := func(second string) string {
		first := `{"handler":"replicate_webhook","secret":["{env.EDGE_TEST_SECRET}"]}`
		return strings.Replace(jsonEdge(""), `{"handler":"replicate_webhook"}`, first+`,{"handler":"replicate_webhook",`+second+`}`, 1)
	}
	// Secrets are compared by what they expand to.
	if err := provision(t, two(`"secret":["{env.EDGE_TEST_SAME}"]`)); err != nil {
		t.Errorf("the same secret under another name: %v", err)
	}
	if err := provision(t, two(`"secret":["{env.EDGE_TEST_OTHER}"],"scope":"other"`)); err != nil {
		t.Errorf("another scope: %v", err)
	}
	for name, second := range map[string]string{
		"secret": `"secret":["{env.EDGE_TEST_OTHER}"]`, "tolerance": `"secret":["{env.EDGE_TEST_SECRET}"],"tolerance":-1`,
		"dedup": `"secret":["{env.EDGE_TEST_SECRET}"],"dedup":"1h"`, "events": `"secret":["{env.EDGE_TEST_SECRET}"],"events":["started"]`,
	} {
		err := provision(t, two(second))
		if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "number 1 and 2") {
			t.Errorf("%s: got %v, want both handlers and the option named", name, err)
		}
	}
}

// TestLiteralSecretsAreWarnedOf, naming the option and not the secret.
func TestLiteralSecretsAreWarnedOf(t *testing.T) {
	e := newEdge(t, "secret {env.EDGE_TEST_SECRET} "+older)
	line := e.Logs.Wait(t, "warn", "secret 2 of replicate_webhook")
	if strings.Contains(line, older) {
		t.Errorf("the warning tells the secret: %s", line)
	}
	if lines := e.Logs.Lines("secret 1 of replicate_webhook"); len(lines) > 0 {
		t.Errorf("a placeholder is warned of: %s", lines)
	}
}

// TestDedupKeyPredictionIsWarnedOf where it would take the first event of each
// prediction for all of them.
func TestDedupKeyPredictionIsWarnedOf(t *testing.T) {
	e := newEdge(t, "")
	for _, c := range []struct {
		options string
		warned  bool
	}{
		{"", false},
		{"dedup_key message", false},
		{"dedup_key prediction", true},
		{"dedup_key prediction\nevents completed failed", true},
		{"dedup_key prediction\nevents completed", false},
		{"dedup_key prediction\nevents completed prediction.completed", false},
	} {
		before := len(e.Logs.Lines("warn", "dedup_key prediction"))
		e.reload(c.options)
		if warned := len(e.Logs.Lines("warn", "dedup_key prediction")) > before; warned != c.warned {
			t.Errorf("%q: warned is %v", c.options, warned)
		}
	}
}
