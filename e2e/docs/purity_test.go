package docs_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// withCaddy are the packages below internal and store that depend on Caddy.
// Every other one is pure logic, which is tested without Caddy.
var withCaddy = []string{
	// They adapt Caddy's modules, requests or syntax.
	"internal/app", "internal/clientip", "internal/demo", "internal/directive", "internal/history",
	"internal/inbox/route",
	"internal/secret",
	"store/copy", "store/postgres", "store/shared", "store/sqlite",
	// They acquire the store, which store/shared keeps in Caddy's usage pool.
	"internal/operator", "internal/poller", "internal/sealing", "internal/signingkey", "internal/tracker",
}

// TestPureLogicDoesNotDependOnCaddy: what decides something can be tested, and
// used, without Caddy.
func TestPureLogicDoesNotDependOnCaddy(t *testing.T) {
	cmd := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Deps " "}}`, "./internal/...", "./store/...")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) < len(withCaddy) {
		t.Fatalf("go list shows %d packages", len(lines))
	}
	for _, line := range lines {
		deps := strings.Fields(line)
		name := strings.TrimPrefix(deps[0], modulePath+"/")
		if slices.Contains(withCaddy, name) {
			continue
		}
		if i := slices.IndexFunc(deps, func(d string) bool { return strings.HasPrefix(d, "github.com/caddyserver/") }); i >= 0 {
			t.Errorf("%s depends on %s: keep Caddy out of it, or move what needs Caddy to a package that adapts it", name, deps[i])
		}
	}
}
