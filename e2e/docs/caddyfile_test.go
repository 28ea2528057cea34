package docs_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// secret stands in for every secret that a documented configuration names.
const secret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"

// frames are what a piece of a Caddyfile is put into to be a whole one, by the
// place that its comment names.
var frames = map[string]string{
	"global options":        "{\n%s}\n",
	"replicate_webhook":     "localhost {\n\treplicate_webhook {\n%s}\n}\n",
	"replicate_predictions": "localhost {\n\treplicate_predictions {\n%s}\n}\n",
	"global option":         "{\n\treplicate_webhook {\n%s}\n}\n",
	"site":                  "localhost {\n%s}\n",
}

// config is a documented configuration.
type config struct {
	name string
	text string
}

// configs are the documented Caddyfiles, pieces of them made whole.
func configs(t *testing.T) []config {
	t.Helper()
	var all []config
	for _, pattern := range []string{"Caddyfile.example", "packaging/*/Caddyfile*"} {
		files, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: found no file, %v", pattern, err)
		}
		for _, file := range files {
			name, _ := filepath.Rel(root, file)
			all = append(all, config{filepath.ToSlash(name), read(t, name)})
		}
	}
	all = append(all, manifests(t)...)
	for _, b := range blocksIn(t, "caddyfile") {
		text := b.text
		if place := b.noted("within"); place != "" {
			frame, ok := frames[place]
			if !ok {
				t.Fatalf("%s: unknown place %q", b.name(), place)
			}
			text = string(caddyfile.Format([]byte(strings.Replace(frame, "%s", text, 1))))
		}
		all = append(all, config{b.name(), text})
	}
	return all
}

// manifests are the Caddyfiles in the ConfigMaps of the manifests for Kubernetes.
func manifests(t *testing.T) (all []config) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, "packaging/kubernetes/*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("found no manifest, %v", err)
	}
	for _, file := range files {
		name, _ := filepath.Rel(root, file)
		_, text, ok := strings.Cut(read(t, name), "\n  Caddyfile: |\n")
		text, _, _ = strings.Cut(text, "\n---\n")
		if !ok {
			t.Fatalf("%s has no Caddyfile", name)
		}
		text = regexp.MustCompile("(?m)^ {4}").ReplaceAllString(text, "")
		all = append(all, config{filepath.ToSlash(name), text + "\n"})
	}
	return all
}

var (
	envName  = regexp.MustCompile(`\{(?:env\.|\$)([A-Za-z0-9_]+)[^}]*\}`)
	fileName = regexp.MustCompile(`\{file\.([^}]+)\}`)
)

// adapt adapts a configuration, with a value for everything that it takes from
// its surroundings.
func (c config) adapt(t *testing.T) []byte {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("XDG_DATA_HOME", dir)
	for _, m := range envName.FindAllStringSubmatch(c.text, -1) {
		value := secret
		switch {
		case strings.Contains(m[1], "DATABASE"):
			value = "postgres://webhook:password@127.0.0.1:1/webhook"
		case m[1] == "SITE":
			value = "localhost"
		case strings.Contains(m[1], "NOTIFY"):
			value = "https://chat.example.com/services/T0"
		case strings.Contains(m[1], "HASH"):
			value = "$2a$14$eFQa0aYlTGSM/SO1oy4ct.JOV0VfTxZr/gM4BFzgnppCDq3YVqQI6" // nobody knows of what
		}
		t.Setenv(m[1], value)
	}
	text := fileName.ReplaceAllStringFunc(c.text, func(s string) string {
		path := filepath.Join(dir, "secret")
		if err := os.WriteFile(path, []byte(secret+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return "{file." + path + "}"
	})
	out, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	for _, w := range warnings {
		t.Errorf("adapting warns: %s", w)
	}
	return out
}

// TestDocumentedCaddyfilesLoad: each is formatted, adapts without a warning,
// and loads as `caddy validate` loads it.
func TestDocumentedCaddyfilesLoad(t *testing.T) {
	all := configs(t)
	if len(all) < 5 {
		t.Fatalf("found only %d documented Caddyfiles", len(all))
	}
	for _, b := range blocksIn(t, "caddyfile") { // the adapter warns of files, not of pieces
		if got := string(caddyfile.Format([]byte(b.text))); strings.TrimSpace(got) != strings.TrimSpace(b.text) {
			t.Errorf("%s is not formatted as `caddy fmt` does:\n%s", b.name(), got)
		}
	}
	for _, c := range all {
		t.Run(c.name, func(t *testing.T) {
			var loaded caddy.Config
			if err := json.Unmarshal(quiet(t, c.adapt(t)), &loaded); err != nil {
				t.Fatal(err)
			}
			if err := caddy.Validate(&loaded); err != nil {
				t.Error(err)
			}
		})
	}
}

// quiet takes out of a configuration what would leave traces outside the test:
// the admin endpoint, autosave and logs.
func quiet(t *testing.T, config []byte) []byte {
	t.Helper()
	return edit(t, config, func(c map[string]any) {
		c["admin"] = map[string]any{"disabled": true, "config": map[string]any{"persist": false}}
		c["logging"] = map[string]any{"logs": map[string]any{"default": map[string]any{"writer": map[string]any{"output": "discard"}}}}
	})
}

// edit changes a configuration in JSON.
func edit(t *testing.T, config []byte, change func(map[string]any)) []byte {
	t.Helper()
	var c map[string]any
	if err := json.Unmarshal(config, &c); err != nil {
		t.Fatal(err)
	}
	change(c)
	out, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
