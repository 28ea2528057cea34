package security_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/e2e/rig/pgtest"
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
	caddyrun.Until(t, "the database to be missed", func() bool { return post("p2").status == http.StatusServiceUnavailable })
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

// TestMalformedDatabaseURLIsNotRepeated: a dsn that was pasted without escaping its
// password is refused when it is loaded, and no part of it appears in what Caddy and
// its commands say.
func TestMalformedDatabaseURLIsNotRepeated(t *testing.T) {
	secrets := planted{{"what precedes the character", "hunterbefore"}, {"what follows it", "trustnoafter"}}
	const text = `{
	{$GLOBALS}
	replicate_webhook {
		store postgres {env.C_DSN} {
			listen_dsn {env.C_LISTEN}
		}
		seal_key {env.C_SEAL}
	}
}
http://127.0.0.1:{$PORT1} {
	replicate_webhook {
		secret {env.C_EDGE}
	}
}
`
	const good = "postgres://app:x@127.0.0.1:1/hooks?sslmode=disable"
	c := caddyrun.NewChild(t, text)
	c.Configure(c.Expand(text))
	for i, dsn := range []string{
		"postgres://app:hunterbefore@trustnoafter@db/hooks", "postgres://app:hunterbefore/trustnoafter@db/hooks", "postgres://app:hunterbefore#trustnoafter@db/hooks",
		"postgres://app:hunterbefore?trustnoafter=1@db/hooks", "postgres://app:hunterbefore:trustnoafter@db/hooks", "postgres://app:hunterbefore%trustnoafter@db/hooks",
		"postgres://app:hunterbefore[trustnoafter@db/hooks", "postgres://app:hunterbefore trustnoafter@db/hooks", "postgres://hunterbefore@trustnoafter:x@db/hooks",
		"host=db user=app password=hunterbefore trustnoafter", "host=db user=app password=hunterbefore trustnoafter=1", "host=hunterbefore@trustnoafter user=app",
		"postgres://app:hunterbefore@db/hooks?sslmode=trustnoafter", "postgres://app:hunterbefore@db:trustnoafter/hooks", "DATABASE_URL=postgres://app:hunterbefore@trustnoafter/hooks",
	} {
		// One place each: what a dsn may look like is the store's own test.
		c.Environ = []string{"C_DSN=" + dsn, "C_LISTEN=" + good, "C_SEAL=a seal key, long enough", "C_EDGE=" + unknown}
		cmd := c.Command("validate", "--config", c.Path("Caddyfile"))
		switch i % 3 {
		case 1:
			c.Environ = []string{"C_DSN=" + good, "C_LISTEN=" + dsn, "C_SEAL=a seal key, long enough", "C_EDGE=" + unknown}
			cmd = c.Command("validate", "--config", c.Path("Caddyfile"))
		case 2:
			cmd = c.Command("replicate-webhook", "copy", "--from", c.Path("none.db"))
			cmd.Env = append(cmd.Env, "DATABASE_URL="+dsn)
		}
		out, err := cmd.CombinedOutput()
		if err == nil || len(out) == 0 || i%3 != 2 && !strings.Contains(string(out), "dsn") {
			t.Errorf("%v of %s: %v: %s", cmd.Args[1:], dsn, err, out)
		}
		secrets.absent(t, "the output of "+cmd.Args[1], out)
	}
	// Nor where a running Caddy is given it.
	c.Environ = []string{"C_DSN=" + good, "C_LISTEN=" + good, "C_SEAL=a seal key, long enough", "C_EDGE=" + unknown}
	out, err := c.Run("start")
	if err == nil || !strings.Contains(out, "can't be reached") {
		t.Errorf("started without a database: %s", out)
	}
}
