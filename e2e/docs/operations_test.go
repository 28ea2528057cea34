package docs_test

import (
	"context"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/e2e/rig/siterun"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
	"github.com/caddy-replicate/replicate-webhook/internal/testenv"
)

const operationsPage = "docs/operations.md"

// chapter is a chapter of docs/operations.md, with the places it names moved into
// a test's directory.
type chapter struct {
	t      *testing.T
	dir    string // the HOME of commands
	admin  string // the admin endpoint that they ask
	blocks []block
	places *strings.Replacer
}

func newChapter(t *testing.T, c *caddyrun.Env, admin, heading string) *chapter {
	t.Helper()
	_, text, ok := strings.Cut(read(t, operationsPage), "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("%s has no chapter %q", operationsPage, heading)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	return newCommands(t, c, admin, operationsPage, text)
}

// newCommands is newChapter for any text of a page. Without an admin endpoint, commands
// ask none.
func newCommands(t *testing.T, c *caddyrun.Env, admin, page, text string) *chapter {
	t.Helper()
	var lines []string
	for line := range strings.Lines(text) {
		lines = append(lines, strings.TrimPrefix(line, "   ")) // blocks stand in lists
	}
	if err := os.MkdirAll(c.Path("secrets"), 0o700); err != nil {
		t.Fatal(err)
	}
	return &chapter{t, c.Dir(), admin, parseBlocks(page, strings.Join(lines, "")), strings.NewReplacer("/run/secrets", c.Path("secrets"))}
}

// run runs a shell block as it is written.
func (ch *chapter) run(name string, environ ...string) string {
	ch.t.Helper()
	for _, b := range ch.blocks {
		if b.noted("shell") != name {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), 4*caddyrun.Patience)
		defer cancel()
		caddy := "'" + caddyrun.Binary(ch.t) + "' \"$@\""
		if ch.admin != "" {
			caddy += " --address " + ch.admin
		}
		cmd := exec.CommandContext(ctx, testenv.Need(ch.t, "bash", "apt-get install bash"), "-euo", "pipefail", "-c",
			"caddy() { "+caddy+"; }\n"+ch.places.Replace(b.text))
		cmd.Env = append(append(os.Environ(), "HOME="+ch.dir), environ...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			ch.t.Fatalf("%s: %v\n%s", name, err, out)
		}
		return string(out)
	}
	ch.t.Fatalf("there is no block %q", name)
	return ""
}

// caddyfile is the nth Caddyfile block.
func (ch *chapter) caddyfile(n int) string {
	ch.t.Helper()
	for _, b := range ch.blocks {
		if b.lang == "caddyfile" {
			if n--; n < 0 {
				return ch.places.Replace(b.text)
			}
		}
	}
	ch.t.Fatal("a Caddyfile block is missing")
	return ""
}

// withAdmin is the child's global options with the admin endpoint at PORT2.
func withAdmin(c *caddyrun.Child) string {
	return strings.Replace(c.Expand("{$GLOBALS}"), "admin off", "admin "+c.Addr("PORT2"), 1)
}

// TestSecretsAreRotatedAsDocumented, under a running Caddy and without a reload.
func TestSecretsAreRotatedAsDocumented(t *testing.T) {
	const before, after = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	c := caddyrun.NewChild(t, "")
	ch := newChapter(t, c.Env, c.Addr("PORT2"), "Rotate secrets in files")
	for _, name := range []string{"webhook", "webhook-before"} {
		if err := os.WriteFile(c.Path("secrets", name), []byte(before+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	app := caddyrun.NewApp(t)
	c.Configure("{\n" + withAdmin(c) + `
	replicate_webhook {
		store sqlite {$DIR}/webhook.db
	}
}
http://127.0.0.1:{$PORT1} {
	handle /webhooks/replicate {
		replicate_webhook {
` + ch.caddyfile(0) + `
		}
		reverse_proxy ` + app.Addr() + `
	}
}
`)
	c.Start("PORT1")
	number := 0
	taken := func(secret string) bool {
		t.Helper()
		number++
		key, err := signature.ParseSecret(secret)
		if err != nil {
			t.Fatal(err)
		}
		body := []byte(`{"id":"p` + strings.Repeat("x", number) + `","status":"succeeded"}`)
		req, err := http.NewRequest(http.MethodPost, c.URL("PORT1", "/webhooks/replicate"), strings.NewReader(string(body)))
		if err != nil {
			t.Fatal(err)
		}
		signature.Sign(req.Header, []signature.Secret{key}, "m"+strings.Repeat("x", number), time.Now(), body)
		req.Header.Del("X-Replicate-Signature")
		resp, err := c.Client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	}
	if !taken(before) || taken(after) {
		t.Fatal("at first it takes another secret than its own")
	}
	ch.run("replace the secret", "NEW_SECRET="+after)
	c.Logs.Wait(t, "a secret has changed in its file", "secret 1")
	if !taken(before) || !taken(after) {
		t.Error("one of the two is refused meanwhile")
	}
	ch.run("end the old secret")
	c.Logs.Wait(t, "a secret has changed in its file", "secret 2")
	if taken(before) || !taken(after) {
		t.Error("afterwards the old secret is taken, or the new one is not")
	}
}

// TestClientsKeysAreRotatedAsDocumented, with a receiver that knows one secret at a time.
func TestClientsKeysAreRotatedAsDocumented(t *testing.T) {
	s := siterun.Start(t, siterun.Options{})
	ch := newChapter(t, s.Env, s.AdminAddr, "Rotate clients' signing keys")
	client := "CLIENT=" + s.APIURL() + siterun.Client
	sent := 0
	send := func() *caddyrun.Request {
		t.Helper()
		s.Create("/hook")
		sent += 2
		s.Settled(sent)
		return s.Hook.Seen()[sent-1]
	}
	takes := func(r *caddyrun.Request, secret string) bool {
		t.Helper()
		key, err := signature.ParseSecret(strings.TrimSpace(secret))
		if err != nil {
			t.Fatal(err)
		}
		claim, err := signature.ParseHeaders(r.Header, signature.Standard)
		if err != nil {
			t.Fatal(err)
		}
		_, err = claim.Verify([]signature.Secret{key}, r.Got, nil)
		return err == nil
	}
	send()
	first := ch.run("show the secret", client)
	if out := ch.run("rotate a key", client); !strings.Contains(out, "has a new signing secret; those before sign, too, until") {
		t.Errorf("it printed %q", out)
	}
	second := ch.run("show the secret", client)
	if r := send(); first == second || !takes(r, first) || !takes(r, second) {
		t.Error("during the overlap one of the two secrets verifies nothing")
	}
	if out := ch.run("revoke a key", client); !strings.Contains(out, "those before sign no more") {
		t.Errorf("it printed %q", out)
	}
	third := ch.run("show the secret", client)
	if r := send(); takes(r, first) || takes(r, second) || !takes(r, third) {
		t.Error("a secret that was revoked verifies, or the new one does not")
	}
	if out := ch.run("rotate all keys"); !strings.Contains(out, "each client has a new signing secret") {
		t.Errorf("it printed %q", out)
	}
	if r := send(); !takes(r, third) || !takes(r, ch.run("show the secret", client)) {
		t.Error("after the rotation of all keys one of the two secrets verifies nothing")
	}
}

// TestSealingKeyIsRotatedAsDocumented, and given up where it is lost.
func TestSealingKeyIsRotatedAsDocumented(t *testing.T) {
	testenv.Need(t, "sqlite3", "apt-get install sqlite3")
	c := caddyrun.NewChild(t, "")
	ch := newChapter(t, c.Env, c.Addr("PORT2"), "Rotate the sealing key")
	data := c.Path("data", "caddy", "replicate_webhook")
	configure := func(options string) {
		t.Helper()
		c.Configure("{\n" + withAdmin(c) + "\n\treplicate_webhook {\n" + options + "\n\t}\n}\nhttp://127.0.0.1:{$PORT1} {\n\trespond ok\n}\n")
	}
	address := []string{"--address", c.Addr("PORT2")}
	reload := func(options string) {
		t.Helper()
		configure(options)
		if out, err := c.Run("reload", address...); err != nil {
			t.Fatalf("reloading: %v\n%s", err, out)
		}
	}
	signing := func() string {
		t.Helper()
		// Sites listen before the admin endpoint knows the configuration.
		for deadline := time.Now().Add(4 * caddyrun.Patience); ; {
			out, err := c.Command(append([]string{"replicate-webhook", "secret"}, address...)...).Output()
			if err == nil {
				return string(out)
			}
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
	}
	const shared = "signing shared\n"
	configure(shared)
	c.Start("PORT1")
	secret := signing() // makes one, which is sealed
	ch.run("make the keys", "DATA="+data)
	reload(shared + ch.caddyfile(0))
	reload(shared + ch.caddyfile(1))
	deadline := time.Now().Add(4 * caddyrun.Patience)
	for !strings.Contains(ch.run("ask for the status"), "no longer needed by this node") {
		if time.Now().After(deadline) {
			t.Fatalf("the old key is still needed: %s", ch.run("ask for the status"))
		}
	}
	reload(shared + ch.caddyfile(2))
	if got := signing(); got != secret {
		t.Error("the signing secret is another one now")
	}
	c.Stop()

	// With neither key there is no start, until what is sealed is given up.
	if err := os.Remove(filepath.Join(data, "seal.key")); err != nil {
		t.Fatal(err)
	}
	configure(shared)
	if out, err := c.Run("run"); err == nil || !strings.Contains(out, "is missing") || !strings.Contains(out, "Lost sealing keys") {
		t.Fatalf("it runs without its key: %v\n%s", err, out)
	}
	ch.run("give up what is sealed", "DATA="+data)
	c.Start("PORT1")
	if got := signing(); got == secret {
		t.Error("the signing secret is the old one")
	}
}
