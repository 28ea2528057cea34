package docs_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/internal/testenv"
)

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestVersionsAgree: what is built and checked with, wherever it is named, is of
// one version.
func TestVersionsAgree(t *testing.T) {
	for _, c := range []struct {
		what    string
		pattern string
		files   []string
	}{
		{"Caddy", `caddyserver/caddy/v2 v([0-9.]+)|xcaddy build v([0-9.]+)|build v([0-9.]+) |CADDY := v([0-9.]+)|image: caddy:([0-9.]+)|FROM caddy:([0-9.]+)|caddy: \[v([0-9.]+), latest\]`,
			[]string{"go.mod", "xcaddy.md", "Dockerfile", "Makefile", "packaging/compose/compose.yaml", ".github/workflows/test.yml"}},
		{"xcaddy", `cmd/xcaddy@v([0-9.]+)`, []string{"xcaddy.md", "Makefile", ".github/workflows/test.yml"}},
		{"staticcheck", `cmd/staticcheck@v([0-9.]+)`, []string{".ci/run", "Makefile"}},
		{"actionlint", `cmd/actionlint@v([0-9.]+)`, []string{".ci/run", "Makefile"}},
	} {
		pattern, want := regexp.MustCompile(c.pattern), ""
		for _, file := range c.files {
			found := pattern.FindAllStringSubmatch(read(t, file), -1)
			if len(found) == 0 {
				t.Errorf("%s names no version of %s", file, c.what)
			}
			for _, m := range found {
				version := strings.Join(m[1:], "")
				if want == "" {
					want = version
				}
				if version != want {
					t.Errorf("%s has %s %s, %s has %s", file, c.what, version, c.files[0], want)
				}
			}
		}
	}
}

// TestSystemdUnit has systemd read the unit and judge how far it is shut off.
func TestSystemdUnit(t *testing.T) {
	testenv.Need(t, "systemd-analyze", "apt-get install systemd")
	const name = "caddy-replicate-webhook.service"
	unit := read(t, "packaging/"+name)
	binary, err := exec.LookPath("true") // must be there for the check
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(unit, "/usr/bin/caddy", binary)), 0o600); err != nil {
		t.Fatal(err)
	}
	// It complains of units of the system, too, so only lines about this one
	// count.
	out, _ := exec.Command("systemd-analyze", "verify", "--man=no", path).CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, name) {
			t.Errorf("verify: %s", line)
		}
	}
	// 2.0 of 10 is what systemd itself calls OK.
	if out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", path).CombinedOutput(); err != nil {
		t.Errorf("security: %v\n%s", err, out)
	}
}

// TestMakefile: help lists every target, each of them can be made up, and those
// that documents name exist.
func TestMakefile(t *testing.T) {
	testenv.Need(t, "make", "apt-get install make")
	text := read(t, "Makefile")
	m := regexp.MustCompile(`(?m)^\.PHONY: (.*)$`).FindStringSubmatch(text)
	if m == nil {
		t.Fatal("it has no targets")
	}
	targets := strings.Fields(m[1])
	help, err := exec.Command("make", "-C", root, "--no-print-directory").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range targets {
		if !regexp.MustCompile(`(?m)^  make ` + target + ` +\S`).Match(help) {
			t.Errorf("help does not list %s", target)
		}
		if out, err := exec.Command("make", "-C", root, "-n", target).CombinedOutput(); err != nil {
			t.Errorf("make %s: %v\n%s", target, err, out)
		}
	}
	for file, text := range documents(t) {
		for _, m := range regexp.MustCompile("(?m)(?:^|`)make ([a-z]+)").FindAllStringSubmatch(text, -1) {
			if !slices.Contains(targets, m[1]) {
				t.Errorf("%s names make %s, which is no target", file, m[1])
			}
		}
	}
}

// TestTheExampleLeavesTheCheckoutClean runs Caddyfile.example: git must ignore
// all files that it makes in the current directory.
func TestTheExampleLeavesTheCheckoutClean(t *testing.T) {
	c := caddyrun.NewChild(t, strings.NewReplacer("localhost:8080", "127.0.0.1:{$PORT1}", "localhost:8081", "127.0.0.1:{$PORT2}",
		"localhost:3000", "127.0.0.1:{$PORT3}").Replace(read(t, "Caddyfile.example")))
	c.Environ = []string{"WEBHOOK_SECRET=" + secret}
	before := c.Files()
	patterns := strings.Fields(read(t, ".gitignore"))
	made := 0
	check := func() {
		for name := range c.Files() {
			name = strings.TrimPrefix(name, "/")
			if _, ok := before["/"+name]; ok || strings.HasPrefix(name, "config/") || strings.HasPrefix(name, "data/") {
				continue
			}
			made++
			if !slices.ContainsFunc(patterns, func(p string) bool { ok, _ := filepath.Match(p, name); return ok }) {
				t.Errorf("it makes %s, which .gitignore does not have", name)
			}
		}
	}
	for _, end := range []func(){c.Kill, c.Stop} {
		c.Start("PORT1")
		c.Logs.Wait(t, "serving initial configuration") // the port answers before the store is open
		end()
		check()
	}
	if made < 4 {
		t.Errorf("it made only %d files", made)
	}
}
