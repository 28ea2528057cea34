package docs_test

import (
	"context"
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

const adminPage = "docs/admin.md"

// listed is the first column of the page's table of a kind.
func listed(t *testing.T, page, kind string) (list []string) {
	t.Helper()
	for _, tab := range tables(strings.Split(read(t, page), "\n")) {
		if tab.kind == kind {
			for _, r := range tab.rows {
				list = append(list, code(r[0]))
			}
		}
	}
	slices.Sort(list)
	return list
}

// TestAdminPageHasAllRoutes of the admin API.
func TestAdminPageHasAllRoutes(t *testing.T) {
	var routes []string
	for _, m := range regexp.MustCompile(`\{method: http\.Method(\w+), path: "([^"]+)"`).FindAllStringSubmatch(read(t, "admin/admin.go"), -1) {
		routes = append(routes, strings.ToUpper(m[1])+" "+m[2])
	}
	slices.Sort(routes)
	if got := listed(t, adminPage, "routes"); len(routes) == 0 || !slices.Equal(got, routes) {
		t.Errorf("%s lists\n%s\nthe API has\n%s", adminPage, strings.Join(got, "\n"), strings.Join(routes, "\n"))
	}
}

// TestAdminPageHasAllCommands that the program has.
func TestAdminPageHasAllCommands(t *testing.T) {
	out, err := exec.Command(caddyrun.Binary(t), "replicate-webhook", "--help").Output()
	if err != nil {
		t.Fatal(err)
	}
	_, help, _ := strings.Cut(string(out), "Available Commands:\n")
	var commands []string
	for line := range strings.Lines(help) {
		if !strings.HasPrefix(line, "  ") {
			break
		}
		commands = append(commands, strings.Fields(line)[0])
	}
	slices.Sort(commands)
	if got := listed(t, adminPage, "commands"); len(commands) == 0 || !slices.Equal(got, commands) {
		t.Errorf("%s lists %q, the program has %q", adminPage, got, commands)
	}
}

// TestAdminPageCommandsWork runs the page's shell blocks beside a Caddy.
func TestAdminPageCommandsWork(t *testing.T) {
	bash := testenv.Need(t, "bash", "apt-get install bash")
	testenv.Need(t, "curl", "apt-get install curl")
	app := caddyrun.NewApp(t)
	c := caddyrun.NewChild(t, "")
	c.Configure("{\n" + strings.Replace(c.Expand("{$GLOBALS}"), "admin off", "admin "+c.Addr("PORT2"), 1) + `
	replicate_webhook {
		store sqlite {$DIR}/webhook.db
	}
}
http://127.0.0.1:{$PORT1} {
	handle /webhooks/replicate {
		replicate_webhook {
			secret {env.WEBHOOK_SECRET}
		}
		reverse_proxy ` + app.Addr() + `
	}
}
`)
	c.Environ = []string{"WEBHOOK_SECRET=" + secret}
	c.Start("PORT1")
	ran := 0
	for _, b := range parseBlocks(adminPage, read(t, adminPage)) {
		name := b.noted("shell")
		if name == "" {
			continue
		}
		ran++
		t.Run(name, func(t *testing.T) {
			script := strings.NewReplacer("localhost:8080", c.Addr("PORT1"), "localhost:2019", c.Addr("PORT2")).Replace(b.text)
			address := ""
			if name == "operators" {
				address = " --address " + c.Addr("PORT2")
			}
			ctx, cancel := context.WithTimeout(context.Background(), 4*caddyrun.Patience)
			defer cancel()
			cmd := exec.CommandContext(ctx, bash, "-euo", "pipefail", "-c",
				"caddy() { '"+caddyrun.Binary(t)+"' \"$@\""+address+"; }\n"+script)
			cmd.Dir, cmd.Env = t.TempDir(), append(os.Environ(), "HOME="+c.Dir())
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if name == "manuals" {
				for _, file := range []string{"caddy.bash", "man8/caddy-replicate-webhook-deliveries.8"} {
					if _, err := os.Stat(filepath.Join(cmd.Dir, file)); err != nil {
						t.Error(err)
					}
				}
			}
			if name == "verify" && !strings.Contains(string(out), "valid") {
				t.Errorf("it printed\n%s", out)
			}
		})
	}
	if ran != 4 {
		t.Errorf("ran %d blocks, want 4", ran)
	}
	if seen := app.Seen(); len(seen) != 2 {
		t.Errorf("the app got %d events, want 2", len(seen))
	}
}
