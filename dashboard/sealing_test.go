package dashboard_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/e2e/rig/dashrun"
)

// TestOverviewShowsSealing: the overview says when values are being sealed with
// another key, and when the sealing key is missing.
func TestOverviewShowsSealing(t *testing.T) {
	t.Setenv("SEAL_OLD", "the sealing key of last year")
	t.Setenv("SEAL_NEW", "the sealing key of this year")
	v := dashrun.Start(t, nil).Visitor()
	overview := func(has bool, text string) {
		t.Helper()
		caddyrun.Until(t, fmt.Sprintf("the overview to have %q: %v", text, has), func() bool {
			return strings.Contains(v.Page("/_webhooks/"), text) == has
		})
	}
	perClient := func(keys string) string {
		return strings.Replace(v.Config, "signing shared\n\t\tsigning_secret {env.SIGNING_SECRET}", "signing per_client\n\t\t"+keys, 1)
	}
	v.Reload(perClient("seal_key {env.SEAL_OLD}"))
	v.Create("/hook") // with a generated secret, which is sealed
	v.Reload(perClient("seal_key {env.SEAL_NEW} {env.SEAL_OLD}"))
	overview(true, "sealed with an older key")
	overview(false, "sealed with an older key")

	v.Stop()
	v = dashrun.Start(t, nil).Visitor()
	overview(false, "role=\"alert\"")
	if err := os.Remove(v.Path("seal.key")); err != nil {
		t.Fatal(err)
	}
	overview(true, "deliveries wait. ")
}
