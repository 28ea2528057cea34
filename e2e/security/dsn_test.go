package security_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/internal/pgtest"
)

// TestDatabasePasswordAppearsNowhere: store postgres takes a dsn with a password.
// It is in nothing that leaves Caddy, also while the database is away, which is
// when there are errors to tell of.
func TestDatabasePasswordAppearsNowhere(t *testing.T) {
	db := pgtest.Start(t)
	secrets := planted{{"the database's password", pgtest.Password}}
	app := caddyrun.NewApp(t)
	text := fmt.Sprintf(`{
	{$GLOBALS}
	metrics
	replicate_webhook {
		store postgres {env.C_DSN}
		seal_key {env.C_SEAL}
	}
}
http://127.0.0.1:{$PORT1} {
	log
	handle /webhooks/replicate {
		replicate_webhook {
			secret {env.C_EDGE}
		}
		reverse_proxy %s
	}
	handle {
		respond 404
	}
}
`, app.Addr())
	c := caddyrun.NewChild(t, text, "admin 127.0.0.1:{$PORT_ADMIN}")
	c.Configure(c.Expand(text)) // twice: the global options have a port, too
	c.Environ = []string{"C_DSN=" + db.Fresh(t), "C_SEAL=a seal key, long enough", "C_EDGE=" + unknown}
	c.Start("PORT1")
	look := func() {
		t.Helper()
		for _, path := range []string{"/config/", "/metrics", "/debug/pprof/cmdline", "/replicate_webhook/status", "/replicate_webhook/deliveries"} {
			secrets.request(t, c.Client, http.MethodGet, c.URL("PORT_ADMIN", path), "")
		}
		for _, args := range [][]string{
			{"adapt", "--config", c.Path("Caddyfile")}, {"validate", "--config", c.Path("Caddyfile")},
			{"replicate-webhook", "status", "--address", c.Addr("PORT_ADMIN")},
		} {
			out, _ := c.Command(args...).CombinedOutput()
			if len(out) == 0 {
				t.Errorf("caddy %v says nothing", args)
			}
			secrets.absent(t, "the output of caddy "+args[0], out)
		}
	}
	post := func(id string) answer {
		t.Helper()
		w := replicate(t, unknown, payload(id, time.Now()))
		return secrets.request(t, c.Client, http.MethodPost, c.URL("PORT1", route), w.body, "X-Replicate-Signature", w.header.Get("X-Replicate-Signature"))
	}
	if a := post("p1"); a.status != http.StatusOK {
		t.Fatalf("got %v", a)
	}
	look()
	db.Stop()
	eventually(t, "the database to be missed", func() bool { return post("p2").status == http.StatusServiceUnavailable })
	c.Logs.Wait(t, "store takes no writes")
	look()
	// A Caddy that starts now says what is wrong, and not how it signs in.
	out, err := c.Run("start")
	if err == nil {
		t.Errorf("a second Caddy started: %s", out)
	}
	secrets.absent(t, "the output of caddy start", []byte(out))
	c.Kill()
	secrets.absent(t, "the log", []byte(c.Logs.String()))
	for path, text := range c.Files() {
		secrets.absent(t, path, []byte(text))
	}
}
