package nodes_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/e2e/rig/pgtest"
	"github.com/caddy-replicate/replicate-webhook/internal/fakeapi"
)

// TestMoveFromSQLite: a Caddy with its key file moves to PostgreSQL by the copy
// command, and all goes on: duplicates stay duplicates, predictions are polled
// with the sealed credential of their client, webhooks are signed with the
// generated secret.
func TestMoveFromSQLite(t *testing.T) {
	c := &cluster{
		t: t, database: pgtest.Start(t), app: caddyrun.NewApp(t), receiver: caddyrun.NewApp(t),
		api: fakeapi.New(fakeapi.Options{Manual: true, Accounts: map[string]string{"r8_the_token_of_a_client": "ada"}}),
	}
	c.hook = c.receiver.URL + "/hook"
	api := httptest.NewServer(c.api)
	t.Cleanup(func() {
		api.CloseClientConnections()
		api.Close()
	})
	c.receiver.AnswerStatus(http.StatusServiceUnavailable)
	_, port, _ := strings.Cut(c.receiver.Addr(), ":")
	config := fmt.Sprintf(clusterCaddyfile, port, c.app.Addr(), api.URL)
	config = strings.Replace(config, "signing shared\n\t\tsigning_secret {env.SECRET}", "signing per_client", 1)
	n := caddyrun.NewChild(t, strings.NewReplacer(postgresStore, "store sqlite {$DIR}/webhook.db", "seal_key {env.SECRET}\n", "\n").Replace(config))
	n.Environ = append(n.Environ, "SECRET="+secret)
	n.Start("PORT1")
	c.nodes = append(c.nodes, n)

	w := newWebhook()
	if a := c.post(0, w); a.status != http.StatusOK {
		t.Fatal(a)
	}
	id, a := c.create(0)
	if a.status != http.StatusCreated {
		t.Fatal(a)
	}
	c.api.Set(id, "processing", "")
	signature := c.receiver.Wait(1).Header.Get("X-Replicate-Signature")
	if signature == "" {
		t.Fatal("the attempt is not signed")
	}
	n.Stop()

	dsn := c.database.Fresh(t)
	copied := n.Command("replicate-webhook", "copy", "--from", n.Path("webhook.db"))
	copied.Env = append(copied.Env, "DATABASE_URL="+dsn)
	out, err := copied.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "1 predictions, 1 deliveries, 0 events, 1 attempts") || strings.Contains(string(out), pgtest.Password) {
		t.Fatalf("%v: %s", err, out)
	}
	t.Logf("%s", out)
	key, err := os.ReadFile(filepath.Join(n.Dir(), "seal.key"))
	if err != nil {
		t.Fatal(err)
	}
	n.Configure(strings.NewReplacer("seal_key {env.SECRET}", "seal_key {env.SEAL_KEY}", postgresStore, "store postgres {env.DATABASE_URL}").Replace(config))
	n.Environ = append(n.Environ, "DATABASE_URL="+dsn, "SEAL_KEY=sealkey_"+base64.StdEncoding.EncodeToString(key))
	c.receiver.AnswerStatus(http.StatusOK)
	n.Start("PORT1")

	if a := c.post(0, w); a.status != http.StatusOK || a.header.Get("X-Replicate-Duplicate") != "true" {
		t.Errorf("what was accepted before: %v", a)
	}
	if got := c.app.Count(); got != 1 {
		t.Errorf("the app was called %d times", got)
	}
	c.api.Set(id, "succeeded", `"done"`)
	c.until("the terminal event", func() bool { return c.received()[id+" completed"] > 0 })
	seen := c.receiver.Seen()
	for _, r := range seen {
		if string(r.Got) == string(seen[0].Got) && r.Header.Get("X-Replicate-Signature") != signature {
			t.Error("the same webhook has another signature: the secret was lost")
		}
	}
	if lines := n.Logs.Lines("can't be read"); len(lines) > 0 {
		t.Errorf("sealed values are lost: %s", lines)
	}
}

// TestCopyCommandIsCareful: the dsn is never an argument.
func TestCopyCommandIsCareful(t *testing.T) {
	n := caddyrun.NewChild(t, "")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--to", "postgres://user:hunter2@host/db"}, "never the dsn itself"},
		{[]string{"--to", "NO_SUCH_VARIABLE_IS_SET"}, "an environment variable that is not set"},
		{[]string{"postgres://user:hunter2@host/db"}, "takes no arguments"},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		cmd := n.Command(append([]string{"replicate-webhook", "copy", "--from", n.Path("none.db")}, c.args...)...)
		stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
		out, err := cmd.CombinedOutput()
		stop()
		cancel()
		if err == nil || !strings.Contains(string(out), c.want) || strings.Contains(string(out), "hunter2") {
			t.Errorf("%q: %v: %s", c.args, err, out)
		}
	}
}
