package docs_test

import (
	"net/http"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
)

const (
	recipes        = "docs/recipes/"
	frameworksPage = recipes + "frameworks.md"
)

// TestRecipesSayWhatTheyNeed tests that each recipe begins with what it needs and what
// of it the tests execute, and that the index lists it.
func TestRecipesSayWhatTheyNeed(t *testing.T) {
	index := read(t, recipes+"README.md")
	pages := 0
	for file, text := range documents(t) {
		if path.Dir(file)+"/" != recipes || path.Base(file) == "README.md" {
			continue
		}
		pages++
		top := strings.Join(strings.SplitN(text, "\n", 12)[:11], "\n")
		for _, heading := range []string{"**Needs:** ", "**Executed by tests:** "} {
			if !strings.Contains(top, "\n"+heading) {
				t.Errorf("%s does not begin with %q", file, heading)
			}
		}
		if !strings.Contains(index, "]("+path.Base(file)+")") {
			t.Errorf("the index does not list %s", file)
		}
	}
	if pages < 5 {
		t.Errorf("there are %d recipes", pages)
	}
}

// TestFrameworksBehindAnInbox runs each framework's program behind the page's own
// configuration: an event arrives once, whatever its size, and a forgery does not.
func TestFrameworksBehindAnInbox(t *testing.T) {
	page := parseBlocks(frameworksPage, read(t, frameworksPage))
	front := ""
	for _, b := range page {
		if b.lang == "caddyfile" && b.note == "" {
			front = strings.NewReplacer("hooks.example.com", "http://127.0.0.1:{$PORT1}", "localhost:3000", "127.0.0.1:{$PORT2}").Replace(b.text)
			break
		}
	}
	t.Setenv("WEBHOOK_SECRET", secret)
	programs := programs(t, frameworksPage, "edge")
	if len(programs) != len(frameworks) {
		t.Fatalf("the page has %d programs, want %d", len(programs), len(frameworks))
	}
	for file, b := range programs {
		t.Run(file, func(t *testing.T) {
			s := caddyrun.New(t)
			p := run(t, s.Env, b, file, "PORT2")
			s.Reload("{\n{$GLOBALS}\n}\n" + front)
			arrives(t, s, large, func(line string) { p.output.Wait(t, line) })
			if lines := p.output.Lines(" of pred_"); len(lines) != 1 {
				t.Errorf("the program printed %q, want one event", lines)
			}
		})
	}
}

// arrives posts an event of a size, its duplicate and a forgery, and waits until the app
// has said which event it got.
func arrives(t *testing.T, s *caddyrun.Server, size int, said func(line string)) {
	t.Helper()
	url := s.URL("PORT1", "/webhooks/replicate")
	body := payload("pred_1", size)
	for _, duplicate := range []bool{false, true} {
		resp := post(t, s.Client, url, http.Header{"X-Replicate-Signature": {hexSignature(body)}}, body)
		if resp.StatusCode != 200 || (resp.Header.Get("X-Replicate-Duplicate") == "true") != duplicate {
			t.Fatalf("a webhook of %d bytes got %s %v, a duplicate: %v", len(body), resp.Status, resp.Header, duplicate)
		}
	}
	if resp := post(t, s.Client, url, http.Header{"X-Replicate-Signature": {hexSignature("x")}}, payload("forged", 1)); resp.StatusCode != 401 {
		t.Errorf("a forgery got %s", resp.Status)
	}
	said("prediction.completed of pred_1")
}

// TestPHPFrameworkBehindAnInbox runs the page's front controller in PHP-FPM: it gets an
// event through the webhook's route, and no request of the app's own site passes for one.
func TestPHPFrameworkBehindAnInbox(t *testing.T) {
	socket := caddyrun.StartFPM(t)
	t.Setenv("WEBHOOK_SECRET", secret)
	front := ""
	for _, b := range parseBlocks(frameworksPage, read(t, frameworksPage)) {
		if b.noted("caddyfile") == "laravel" {
			front = b.text
		}
	}
	const site = `
http://127.0.0.1:{$PORT2} {
	root * /srv/app/public
	php_fastcgi unix//run/php/php-fpm.sock
}
`
	s := caddyrun.New(t)
	place := strings.NewReplacer("hooks.example.com", "http://127.0.0.1:{$PORT1}", "/srv/app", s.Path("app"), "unix//run/php/php-fpm.sock", "unix/"+socket)
	if err := os.MkdirAll(s.Path("app", "public"), 0o700); err != nil {
		t.Fatal(err)
	}
	index := programs(t, frameworksPage, "file")["index.php"]
	if err := os.WriteFile(s.Path("app", "public", "index.php"), []byte(index.text), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Reload("{\n{$GLOBALS}\n}\n" + place.Replace(front+site))
	log := s.Path("app", "events.log")
	arrives(t, s, large, func(line string) {
		caddyrun.Until(t, line, func() bool {
			data, _ := os.ReadFile(log)
			return strings.Contains(string(data), line)
		})
	})
	// The parameter is no header: nothing that a client sends sets it.
	header := http.Header{"Webhook-Verified": {"1"}, "Webhook_verified": {"1"}, "X-Replicate-Event": {"e"}, "X-Replicate-Prediction-Id": {"p"}}
	resp := post(t, s.Client, s.URL("PORT2", "/webhooks/replicate"), header, payload("forged", 1))
	if resp.StatusCode != 404 {
		t.Errorf("an unsigned webhook at the app's own site got %s", resp.Status)
	}
	if data, err := os.ReadFile(log); err != nil || strings.Count(string(data), "\n") != 1 {
		t.Errorf("the app got %q, %v, want one event", data, err)
	}
}

// TestFrameworksSayWhatIsExecuted tests that the page's table calls executed what has a
// program here or in the receivers that the tests run.
func TestFrameworksSayWhatIsExecuted(t *testing.T) {
	text := read(t, frameworksPage)
	rows := regexp.MustCompile(`(?m)^\| \[([^\]]+)\]\(#[a-z]+\) \| (.*) \|$`).FindAllStringSubmatch(text, -1)
	if len(rows) != 8 {
		t.Fatalf("the table has %d frameworks, want 8", len(rows))
	}
	for _, r := range rows {
		_, section, ok := strings.Cut(text, "\n## "+r[1]+"\n")
		section, _, _ = strings.Cut(section, "\n## ")
		runs := strings.Contains(section, "<!-- edge: ") || strings.Contains(section, "](../receivers.md#")
		want := map[bool]string{true: "yes", false: "no"}[runs]
		if slices.Contains([]string{"Next.js", "Laravel"}, r[1]) {
			want = "the" // what of it is executed
		}
		if said := strings.FieldsFunc(r[2], func(r rune) bool { return r == ':' || r == ' ' })[0]; !ok || said != want {
			t.Errorf("%s: the table says %q, want %q", r[1], r[2], want)
		}
	}
}

// TestRecipesNameFilesThatExist tests that files of the checkout that a recipe's commands
// name are there.
func TestRecipesNameFilesThatExist(t *testing.T) {
	named := regexp.MustCompile(`\b(?:packaging|monitoring)/[A-Za-z0-9_./-]*[a-z]`)
	for file, text := range documents(t) {
		if path.Dir(file)+"/" != recipes {
			continue
		}
		for _, name := range named.FindAllString(text, -1) {
			if _, err := os.Stat(filepath.Join(root, name)); err != nil {
				t.Errorf("%s names %s: %v", file, name, err)
			}
		}
	}
}

// TestBackupIsRestoredAsDocumented backs up a running Caddy, loses its files, and restores
// them: what was accepted before is a duplicate again.
func TestBackupIsRestoredAsDocumented(t *testing.T) {
	const page = recipes + "backup.md"
	app := caddyrun.NewApp(t)
	c := caddyrun.NewChild(t, `{
	{$GLOBALS}
	replicate_webhook {
		store sqlite {$DIR}/state/webhook.db
		signing per_client
	}
}
http://127.0.0.1:{$PORT1} {
	handle /webhooks/replicate {
		replicate_webhook {
			secret {env.WEBHOOK_SECRET}
		}
		reverse_proxy `+app.Addr()+`
	}
	replicate_predictions /v1/* {
		api off
	}
}
`)
	c.Environ = []string{"WEBHOOK_SECRET=" + secret}
	c.Start("PORT1")
	ch := newCommands(t, c.Env, "", page, read(t, page))
	environ := []string{"DATA=" + c.Path("state"), "BACKUP=" + c.Path("backup"), "KEYS=" + c.Path("keys")}
	for _, dir := range []string{"backup", "keys"} {
		if err := os.Mkdir(c.Path(dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	body := payload("pred_1", 10)
	sent := func(want bool) {
		t.Helper()
		resp := post(t, c.Client, c.URL("PORT1", "/webhooks/replicate"), http.Header{"X-Replicate-Signature": {hexSignature(body)}}, body)
		if resp.StatusCode != 200 || (resp.Header.Get("X-Replicate-Duplicate") == "true") != want {
			t.Fatalf("got %s, a duplicate: %q", resp.Status, resp.Header.Get("X-Replicate-Duplicate"))
		}
	}
	sent(false)
	ch.run("back up", environ...)
	ch.run("back up the key", environ...)
	c.Stop()
	key, err := os.ReadFile(c.Path("state", "seal.key"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(c.Path("state")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(c.Path("state"), 0o700); err != nil {
		t.Fatal(err)
	}
	ch.run("restore", environ...)
	if restored, err := os.ReadFile(c.Path("state", "seal.key")); err != nil || string(restored) != string(key) {
		t.Errorf("the key is %q, %v", restored, err)
	}
	c.Start("PORT1")
	sent(true)
}
