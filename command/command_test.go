package command_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/e2e/rig/siterun"
	"github.com/caddy-replicate/replicate-webhook/internal/operator"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// shell runs the real binary.
type shell struct {
	t     *testing.T
	dir   string
	env   []string
	admin string
}

func newShell(t *testing.T, s *siterun.Site) *shell {
	t.Helper()
	sh := &shell{t: t, dir: t.TempDir(), env: []string{"WEBHOOK_SECRET=" + siterun.EdgeSecret}}
	if s != nil {
		sh.admin = s.AdminAddr
	}
	return sh
}

// result is how a command ended.
type result struct {
	t        *testing.T
	command  string
	out, err string
	code     int
}

// run runs caddy replicate-webhook with the arguments.
func (sh *shell) run(args ...string) result { return sh.pipe("", args...) }

func (sh *shell) pipe(stdin string, args ...string) result {
	sh.t.Helper()
	cmd := exec.Command(caddyrun.Binary(sh.t), append([]string{"replicate-webhook"}, args...)...)
	cmd.Dir = sh.dir
	cmd.Env = append(append(os.Environ(), "HOME="+sh.dir, "XDG_DATA_HOME="+sh.dir, "XDG_CONFIG_HOME="+sh.dir, "COLUMNS="), sh.env...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		sh.t.Fatal(err)
	}
	return result{sh.t, strings.Join(args, " "), out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// ask is like run, for commands that need the admin endpoint.
func (sh *shell) ask(args ...string) result {
	sh.t.Helper()
	return sh.run(append(args, "--address", sh.admin)...)
}

// ok expects success, and the texts in the output.
func (r result) ok(texts ...string) result {
	r.t.Helper()
	if r.code != 0 || r.err != "" {
		r.t.Fatalf("%s: exit code %d, error output %q, output %q", r.command, r.code, r.err, r.out)
	}
	r.says(r.out, texts...)
	return r
}

// fails expects an exit code, and the texts in one plain line of error output.
func (r result) fails(code int, texts ...string) result {
	r.t.Helper()
	if r.code != code {
		r.t.Fatalf("%s: exit code %d, want %d; error output %q, output %q", r.command, r.code, code, r.err, r.out)
	}
	if !strings.HasPrefix(r.err, "Error: ") || strings.Count(r.err, "\n") != 1 || strings.Contains(r.err, "goroutine") {
		r.t.Errorf("%s: error output is no sentence: %q", r.command, r.err)
	}
	r.says(r.err, texts...)
	return r
}

func (r result) says(in string, texts ...string) {
	r.t.Helper()
	for _, text := range texts {
		if !strings.Contains(in, text) {
			r.t.Errorf("%s: %q is not in %q", r.command, text, in)
		}
	}
}

func (r result) json(into any) {
	r.t.Helper()
	r.ok()
	if err := json.Unmarshal([]byte(r.out), into); err != nil {
		r.t.Fatalf("%s: %v in %s", r.command, err, r.out)
	}
}

// stocked returns a site with deliveries that succeeded and deliveries that
// failed.
func stocked(t *testing.T) (s *siterun.Site, good, bad string) {
	t.Helper()
	s = siterun.Start(t, siterun.Options{})
	s.Hook.Answer(func(w http.ResponseWriter, r *caddyrun.Request) {
		if r.URL.Path == "/bad" {
			w.WriteHeader(http.StatusTeapot)
			_, _ = io.WriteString(w, "no \x1b[2J coffee\nhere")
		}
	})
	good = s.Create("/good")
	bad = s.Create("/bad")
	s.Settled(4)
	return s, good, bad
}

func TestListsAndDetails(t *testing.T) {
	s, good, bad := stocked(t)
	sh := newShell(t, s)
	sh.ask("status").ok("sqlite, ready", "delivered   2\n")
	sh.ask("predictions").ok(good, bad, "failed", "delivered", "started,completed")
	sh.ask("predictions", "--status", "failed").ok(bad)
	if r := sh.ask("predictions", "--status", "failed").ok(); strings.Contains(r.out, good) {
		t.Errorf("lists what is not failed: %s", r.out)
	}
	sh.ask("predictions", good).ok("webhook     delivered", "/good", "completed", "dlv_")
	sh.ask("deliveries").ok(good, bad, "TRIES")
	sh.ask("deliveries", "list", "--state", "delivered", "--event", "completed", "--prediction", good, "--since", "1h").ok(good)
	sh.ask("deliveries", "--state", "pending").ok("No deliveries.")
	sh.ask("endpoints").ok(s.Hook.Addr(), "closed")

	var page operator.DeliveryPage
	sh.ask("deliveries", "--state", "failed", "--json").json(&page)
	if len(page.Results) == 0 || page.Results[0].Prediction != bad {
		t.Fatalf("failed ones: %+v", page)
	}
	id := page.Results[0].ID
	// The answer's escape sequence must not reach the terminal.
	r := sh.ask("deliveries", "show", id).ok("attempt 1: ", "attempt 2: ", "418", `coffee\nhere`, "failed", "committed")
	if strings.Contains(r.out, "\x1b") {
		t.Errorf("a receiver writes to the terminal: %q", r.out)
	}
	payload := sh.ask("deliveries", "show", id, "--payload").ok(bad)
	if !json.Valid([]byte(payload.out)) || strings.HasSuffix(payload.out, "\n") {
		t.Errorf("payload is %q", payload.out)
	}
}

func TestPagesGoOnWhereTheCursorSays(t *testing.T) {
	s, _, _ := stocked(t)
	sh := newShell(t, s)
	var all, first, rest operator.DeliveryPage
	sh.ask("deliveries", "--json").json(&all)
	sh.ask("deliveries", "--json", "-n", "1").json(&first)
	if len(first.Results) != 1 || first.Next == "" {
		t.Fatalf("one of %d: %+v", len(all.Results), first)
	}
	sh.ask("deliveries", "--json", "--cursor", first.Next).json(&rest)
	if len(rest.Results) != len(all.Results)-1 || first.Results[0].ID != all.Results[0].ID || rest.Results[0].ID != all.Results[1].ID || rest.Next != "" {
		t.Fatalf("the rest is %+v of %+v", rest, all)
	}
	if r := sh.ask("deliveries", "-n", "1"); r.code != 0 || r.err != "There are more: --cursor "+first.Next+"\n" {
		t.Errorf("said %q", r.err)
	}
}

func TestRedelivering(t *testing.T) {
	s, _, bad := stocked(t)
	sh := newShell(t, s)
	var page operator.DeliveryPage
	sh.ask("deliveries", "--state", "failed", "--prediction", bad, "--json").json(&page)
	failed := len(page.Results)
	sh.ask("deliveries", "redeliver", "--all", "--dry-run").ok(fmt.Sprintf("%d would be sent again", failed))
	if d := s.Status().Deliveries; d.Pending != 0 || d.Delivered != 2 {
		t.Fatalf("after a dry run: %+v", d)
	}
	s.Hook.AnswerStatus(http.StatusOK)
	var sum operator.Bulk
	sh.ask("deliveries", "redeliver", "--all", "--json").json(&sum)
	if sum.Redelivered != failed || sum.DryRun || sum.Next != "" {
		t.Fatalf("redelivered %+v, want %d", sum, failed)
	}
	s.Settled(4 + failed)
	sh.ask("deliveries", "redeliver", "--all").ok("0 sent again", fmt.Sprintf("%d arrived since", failed))
	sh.ask("predictions", bad).ok("webhook     delivered")

	id := page.Results[0].ID
	sh.ask("deliveries", "redeliver", id).ok(id + " is sent again as dlv_")
	r := sh.ask("deliveries", "redeliver", id, "dlv_1_0000000000000000")
	r.fails(2, "there is no delivery dlv_1_0000000000000000")
	r.says(r.out, id+" is sent again as dlv_")
	sh.ask("deliveries", "redeliver").fails(1, "no delivery is named")
	sh.ask("deliveries", "redeliver", "--state", "failed", id).fails(1, "a filter needs --all")
	sh.ask("deliveries", "redeliver", "--all", id).fails(1, "--all can't be combined with deliveries")
	sh.ask("deliveries", "redeliver", "--all", "--state", "pending").fails(1, "on their way already")
}

func TestSecretSignsWhatIsDelivered(t *testing.T) {
	s, good, _ := stocked(t)
	sh := newShell(t, s)
	secret := strings.TrimSpace(sh.ask("secret", "--prediction", good).ok("whsec_").out)
	var doc operator.Secret
	sh.ask("secret", "--client", s.APIURL()+siterun.Client, "--json").json(&doc)
	if doc.Secret != secret || doc.Signing != "per_client" {
		t.Fatalf("got %+v, want the secret of the prediction's client", doc)
	}
	sh.ask("secret").fails(1, "client is missing")
	if r := sh.ask("secret", "--client", "nobody").fails(1, `client "nobody" has no predictions`); strings.Contains(r.out, "whsec_") {
		t.Errorf("a secret is printed for nobody: %s", r.out)
	}
	// What arrived verifies with it.
	hook := s.Hook.Seen()[0]
	headers := ""
	for name, values := range hook.Header {
		headers += name + ": " + values[0] + "\r\n"
	}
	file := filepath.Join(sh.dir, "headers")
	if err := os.WriteFile(file, []byte("POST / HTTP/1.1\r\n"+headers+"\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	sh.env = append(sh.env, "CLIENT_SECRET="+secret)
	sh.pipe(string(hook.Got), "verify", "--headers", file, "--secret", "CLIENT_SECRET").ok("valid", "replicate+standard", "prediction.started")
	sh.pipe(string(hook.Got), "verify", "--headers", file).says(sh.pipe(string(hook.Got), "verify", "--headers", file).out, "another secret")
}

// TestSecretRotate: the new secret signs, and the old one as well until the overlap ends.
func TestSecretRotate(t *testing.T) {
	s, good, _ := stocked(t)
	sh := newShell(t, s)
	name := s.APIURL() + siterun.Client
	secret := func() string {
		t.Helper()
		return strings.TrimSpace(sh.ask("secret", "--client", name).ok("whsec_").out)
	}
	first := secret()
	until := time.Now().Add(48 * time.Hour).UTC().Format("2006-01-02T")
	sh.ask("secret", "rotate", "--prediction", good, "--overlap", "2d").ok(name + " has a new signing secret; those before sign, too, until " + until)
	second := secret()
	var doc operator.Rotation
	sh.ask("secret", "rotate", "--json").json(&doc)
	if doc.Client != "" || doc.Generation != 2 || time.Until(doc.Until) > 24*time.Hour || time.Until(doc.Until) < 23*time.Hour {
		t.Errorf("rotated %+v", doc)
	}
	sh.ask("secret", "rotate", "--overlap", "0s").ok("each client has a new signing secret; those before sign no more")
	if third := secret(); first == second || second == third || first == third {
		t.Error("a secret is there twice")
	}

	sh.ask("secret", "rotate", "--client", "nobody").fails(1, `client "nobody" has no predictions`)
	sh.ask("secret", "rotate", "--client", "").fails(1, "--client is empty")
	sh.ask("secret", "rotate", "--overlap", "-1h").fails(1, `overlap is "-1h": write for how long`)
	for range store.MaxOverlaps {
		if _, err := s.Admin.Rotate(t.Context(), name, "1h"); err != nil {
			t.Fatal(err)
		}
	}
	sh.ask("secret", "rotate", "--client", name).fails(4, "too many earlier keys still sign: 4 rotations overlap", "with an overlap of 0")
}

func TestBadInput(t *testing.T) {
	s := siterun.Start(t, siterun.Options{})
	sh := newShell(t, s)
	for _, command := range []string{"status", "predictions", "deliveries", "endpoints", "secret"} {
		sh.run(command, "--address", "127.0.0.1:1").fails(3, "can't be reached at 127.0.0.1:1", "is Caddy running?")
	}
	sh.run("status", "--address", "unix//nowhere.sock").fails(3, "can't be reached")
	sh.run("status", "--address", "not an address:x:y").fails(1, "is not a valid admin endpoint")
	sh.run("status", "--config", "nowhere.json").fails(1, "finding the admin endpoint")
	sh.ask("status", "--nonsense").fails(1, "unknown flag: --nonsense")
	sh.ask("status", "more").fails(1, "takes no arguments")
	sh.run("nonsense").fails(1, `unknown command "nonsense"`)
	sh.ask("deliveries", "show").fails(1, "accepts 1 arg(s)")
	sh.ask("deliveries", "show", "dlv_none").fails(2, "there is no delivery dlv_none")
	sh.ask("deliveries", "show", "../../config").fails(2, "there is no delivery ../../config")
	sh.ask("predictions", "nobody").fails(2, "there is no prediction nobody")
	sh.ask("endpoints", "reset", "https://nobody.example.com").fails(2, "there is no endpoint https://nobody.example.com")
	sh.ask("endpoints", "reset", "::").fails(1, "endpoint is not a valid endpoint")
	sh.ask("deliveries", "--state", "open").fails(1, `state is "open"`)
	sh.ask("deliveries", "--since", "yesterday").fails(1, `since is "yesterday"`)
	sh.ask("deliveries", "--limit", "0").fails(1, "--limit is 0")
	sh.ask("deliveries", "--limit", "many").fails(1, "invalid argument")
	sh.ask("deliveries", "--cursor", "!").fails(1, "cursor is not a valid cursor")
	sh.ask("predictions", "--status", "gone").fails(1, `status is "gone"`)
}

// TestOtherAdminEndpoints tests that responses of other APIs are refused before
// their documents are used.
func TestOtherAdminEndpoints(t *testing.T) {
	app := caddyrun.NewApp(t)
	sh := newShell(t, nil)
	address := app.Addr()
	app.Answer(func(w http.ResponseWriter, _ *caddyrun.Request) { _, _ = io.WriteString(w, `{"api":1}`) })
	sh.run("status", "--address", address).fails(3, "not a Caddy with this plugin")
	app.Answer(func(w http.ResponseWriter, _ *caddyrun.Request) {
		w.Header().Set("Replicate-Webhook-Api", "2")
		_, _ = io.WriteString(w, `{"api":2}`)
	})
	sh.run("status", "--address", address).fails(3, "speaks version 2, this command version 1")
	app.Answer(func(w http.ResponseWriter, _ *caddyrun.Request) {
		w.Header().Set("Replicate-Webhook-Api", "1")
		_, _ = io.WriteString(w, "\x00 no json")
	})
	sh.run("status", "--address", address).fails(1, "reading the response")
	app.AnswerStatus(http.StatusForbidden)
	sh.run("status", "--address", address).fails(3, "refuses")
}

// TestNarrowTerminal: at 40 columns no line is longer, and ids are whole.
func TestNarrowTerminal(t *testing.T) {
	s, good, bad := stocked(t)
	sh := newShell(t, s)
	sh.env = append(sh.env, "COLUMNS=40")
	var page operator.DeliveryPage
	sh.ask("deliveries", "--state", "failed", "--json").json(&page)
	for _, r := range []result{
		sh.ask("status").ok(), sh.ask("predictions").ok(good, bad), sh.ask("predictions", bad).ok(bad),
		sh.ask("deliveries").ok(page.Results[0].ID), sh.ask("deliveries", "show", page.Results[0].ID).ok("attempt 2"),
		sh.ask("endpoints").ok("closed"),
	} {
		for line := range strings.SplitSeq(r.out, "\n") {
			if n := utf8.RuneCountInString(line); n > 40 {
				t.Errorf("%s: %d columns: %s", r.command, n, line)
			}
		}
	}
}

// TestNoColoursOutsideATerminal: pipes and files get text alone.
func TestNoColoursOutsideATerminal(t *testing.T) {
	s, _, _ := stocked(t)
	sh := newShell(t, s)
	sh.env = append(sh.env, "TERM=xterm-256color")
	for _, command := range []string{"status", "predictions", "deliveries", "endpoints"} {
		if r := sh.ask(command).ok(); strings.Contains(r.out, "\x1b") {
			t.Errorf("%s: colors in %q", command, r.out)
		}
	}
}

// TestBrokenPipe: a reader that goes away ends the command without a word.
func TestBrokenPipe(t *testing.T) {
	s, _, _ := stocked(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Close()
	cmd := exec.Command(caddyrun.Binary(t), "replicate-webhook", "deliveries", "--address", s.AdminAddr)
	var errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = w, &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		if err == nil || errs.Len() > 0 {
			t.Errorf("ended with %v and said %q", err, errs.String())
		}
	case <-time.After(4 * caddyrun.Patience):
		_ = cmd.Process.Kill()
		t.Fatal("the command goes on")
	}
}

// TestCompletionAndManPages of Caddy include the command.
func TestCompletionAndManPages(t *testing.T) {
	sh := newShell(t, nil)
	caddy := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(caddyrun.Binary(t), args...)
		cmd.Dir = sh.dir
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %v", args, err)
		}
		return string(out)
	}
	if out := caddy("__complete", "replicate-webhook", ""); !strings.Contains(out, "deliveries") || !strings.Contains(out, "verify") {
		t.Errorf("completes to %q", out)
	}
	if out := caddy("__complete", "replicate-webhook", "deliveries", "--st"); !strings.Contains(out, "--state") {
		t.Errorf("completes to %q", out)
	}
	caddy("manpage", "--directory", "man")
	for _, page := range []string{"caddy-replicate-webhook.8", "caddy-replicate-webhook-deliveries-redeliver.8", "caddy-replicate-webhook-verify.8"} {
		if b, err := os.ReadFile(filepath.Join(sh.dir, "man", page)); err != nil || len(b) < 500 {
			t.Errorf("%s: %d bytes, %v", page, len(b), err)
		}
	}
}
