package command_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/e2e/rig/siterun"
)

// guideBody returns a payload in the form of JSON.stringify.
func guideBody() string {
	return fmt.Sprintf(`{"event":"prediction.completed","prediction":{"id":"p1","output":"für <a/b>","status":"succeeded"},"timestamp":%q}`,
		time.Now().UTC().Format("2006-01-02T15:04:05.000Z"))
}

func (sh *shell) file(name, content string) string {
	sh.t.Helper()
	path := filepath.Join(sh.dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		sh.t.Fatal(err)
	}
	return path
}

// hmacHeader signs as a sender does who has that key and that body.
func hmacHeader(key, body string) string {
	m := hmac.New(sha256.New, []byte(key))
	m.Write([]byte(body))
	return "X-Replicate-Signature: " + hex.EncodeToString(m.Sum(nil))
}

func TestSignedVerifies(t *testing.T) {
	sh := newShell(t, nil)
	body := guideBody()
	headers := sh.file("headers", sh.pipe(body, "sign").ok("X-Replicate-Signature: ", "Webhook-Signature: v1,", "Webhook-Id: msg_").out)
	sh.pipe(body, "verify", "--headers", headers).ok("valid", "replicate+standard", "p1")
	sh.run("verify", "--headers", headers, sh.file("body", body)).ok("valid")
	other := `{"type":"response.completed"}`
	others := sh.file("others", sh.pipe(other, "sign", "--scheme", "standard").ok().out)
	r := sh.pipe(other, "verify", "--headers", others)
	r.says(r.out, "not valid", "prediction_id", "--payload any")
	sh.pipe(other, "verify", "--headers", others, "--payload", "any").ok("valid", "response.completed")
	r = sh.pipe(other, "verify", "--headers", others, "--payload", "json")
	r.says(r.err, "use prediction or any")
	sh.pipe(body, "verify", "--headers", headers, "--json").ok(`"valid": true`, `"scheme": "replicate+standard"`)
	// What the edge takes for the same: another spelling of what was signed.
	sh.pipe(strings.ReplaceAll(body, `,"`, `, "`), "verify", "-H", hmacHeader(siterun.EdgeSecret, body)).ok("valid", "JSON.stringify")
	one := sh.pipe(body, "sign", "--scheme", "standard", "--id", "msg_1", "--timestamp", "2026-11-25T12:00:00Z").ok("Webhook-Id: msg_1", "Webhook-Timestamp: 1795608000")
	if strings.Contains(one.out, "X-Replicate") {
		t.Errorf("standard alone has %s", one.out)
	}
	if got := strings.TrimSpace(sh.pipe(body, "sign", "--scheme", "replicate").ok().out); got != hmacHeader(siterun.EdgeSecret, body) {
		t.Errorf("signed as %s", got)
	}
}

// TestVerifyExplains what was signed instead.
func TestVerifyExplains(t *testing.T) {
	body := guideBody()
	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(siterun.EdgeSecret, "whsec_"))
	if err != nil {
		t.Fatal(err)
	}
	const right = siterun.EdgeSecret
	python := strings.NewReplacer(`":"`, `": "`, `,"`, `, "`, `":{`, `": {`, "ü", `\u00fc`).Replace(body)
	sh := newShell(t, nil)
	for _, c := range []struct {
		name   string
		header string
		sent   string // default: the body
		want   []string
	}{
		{"secret", hmacHeader("another secret", body), "", []string{"reason     signature", "another secret, or for another body"}},
		{"body", hmacHeader(right, strings.Replace(body, "p1", "p2", 1)), "", []string{"another secret, or for another body"}},
		{"line break", hmacHeader(right, body+"\n"), "", []string{"the secret is right", "with a line break at its end"}},
		{"python", hmacHeader(right, python), "", []string{"the secret is right", "as Python's json.dumps writes it"}},
		{"go", hmacHeader(right, strings.NewReplacer("<", `\u003c`, ">", `\u003e`).Replace(body)), "", []string{"as Go's json.Marshal writes it"}},
		{"php", hmacHeader(right, strings.NewReplacer("/", `\/`, "ü", `\u00fc`).Replace(body)), "", []string{"as PHP's json_encode writes it"}},
		{"indented", hmacHeader(right, "{\n  \"a\": 1\n}"), `{"a":1}`, []string{"indented by two spaces"}},
		{"compact", hmacHeader(right, `{"b":1.0}`), `{ "b": 1.0 }`, []string{"without white space between its parts"}},
		{"file's line break", hmacHeader(right+"\n", body), "", []string{"the secret with white space or a line break around it", "trim it there"}},
		{"quotes", hmacHeader(`"`+right+`"`, body), "", []string{"the secret in quotes"}},
		{"prefix", hmacHeader(strings.TrimPrefix(right, "whsec_"), body), "", []string{"the secret without its prefix whsec_"}},
		{"decoded", hmacHeader(string(raw), body), "", []string{"the bytes that the secret's base64 stands for"}},
		{"no time", hmacHeader(right, `{"id":"p1"}`), `{"id":"p1"}`, []string{"timestamp_missing", "nothing signed says when"}},
		{"no prediction", hmacHeader(right, `{"timestamp":"`+time.Now().UTC().Format(time.RFC3339)+`"}`), `{"timestamp":"` + time.Now().UTC().Format(time.RFC3339) + `"}`, []string{"prediction_id", "not a webhook"}},
		{"no zone", hmacHeader(right, `{"id":"p1","timestamp":"2026-11-25T12:00:00.123456"}`), `{"id":"p1","timestamp":"2026-11-25T12:00:00.123456"}`, []string{"timestamp_zone", "has no time zone", "isoformat()"}},
		{"seconds", hmacHeader(right, `{"id":"p1","timestamp":1764072000}`), `{"id":"p1","timestamp":1764072000}`, []string{"timestamp_number", "is a number", "RFC 3339"}},
		{"milliseconds", hmacHeader(right, `{"id":"p1","timestamp":1764072000000}`), `{"id":"p1","timestamp":1764072000000}`, []string{"timestamp_milliseconds"}},
		{"lower case", hmacHeader(right, `{"id":"p1","timestamp":"2026-11-25t12:00:00z"}`), `{"id":"p1","timestamp":"2026-11-25t12:00:00z"}`, []string{"timestamp_case", "lower-case"}},
		{"no time at all", hmacHeader(right, `{"id":"p1","timestamp":null}`), `{"id":"p1","timestamp":null}`, []string{"timestamp_type", "is not a string"}},
		{"digits", "X-Replicate-Signature: XYZ", "", []string{"headers_malformed", "64 lower-case"}},
		{"nothing", "Content-Type: application/json", "", []string{"headers_missing", "A proxy on the way"}},
		{"upper case", strings.ToUpper(hmacHeader(right, body)), "", []string{"headers_malformed"}},
	} {
		sent := c.sent
		if sent == "" {
			sent = body
		}
		r := sh.pipe(sent, "verify", "--header", c.header)
		if r.code != 4 || r.err != "" {
			t.Errorf("%s: exit code %d: %s%s", c.name, r.code, r.out, r.err)
		}
		r.says(r.out, append(c.want, "not valid", "advice")...)
	}
	for _, c := range []struct{ at, reason string }{
		{"1764072000000", "headers_milliseconds"}, {"2026-11-25T12:00:00Z", "headers_timestamp"},
	} {
		r := sh.pipe(body, "verify", "--header", "webhook-id: m", "--header", "webhook-timestamp: "+c.at, "--header", "webhook-signature: v1,x")
		r.says(r.out, c.reason, "in seconds")
	}
	at2020 := regexp.MustCompile(`"timestamp":"[^"]*"`).ReplaceAllString(body, `"timestamp":"2020-01-01T00:00:00.000Z"`)
	old := sh.file("headers", sh.pipe(at2020, "sign", "--timestamp", "2020-01-01T00:00:00Z").ok().out)
	r := sh.pipe(at2020, "verify", "--headers", old)
	r.says(r.out, "reason     timestamp", "the signature is right, but the signed time is", "clocks")
	sh.pipe(at2020, "verify", "--headers", old, "--tolerance", "off").ok("valid")
	sh.pipe(at2020, "verify", "--headers", old, "--at", "2020-01-01T00:01:00Z").ok("valid")
}

// TestSecretsAreNoArguments, and no error repeats what may be one.
func TestSecretsAreNoArguments(t *testing.T) {
	sh := newShell(t, nil)
	body := guideBody()
	for _, secret := range []string{siterun.EdgeSecret, "whsec_QUJDREVGR0hJSktMTU5PUA", "s3cret-with-a-dash", "NOTSETANYWHERE"} {
		r := sh.pipe(body, "sign", "--secret", secret).fails(1, "--secret")
		if strings.Contains(r.err, secret) {
			t.Errorf("the error repeats it: %s", r.err)
		}
	}
	file := sh.file("secret", siterun.EdgeSecret+"\n")
	want := sh.pipe(body, "sign", "--scheme", "replicate").ok().out
	if got := sh.pipe(body, "sign", "--scheme", "replicate", "--secret", "@"+file).ok().out; got != want {
		t.Errorf("by a file: %s", got)
	}
	if got := sh.pipe(siterun.EdgeSecret+"\n", "sign", "--scheme", "replicate", "--secret", "-", sh.file("body", body)).ok().out; got != want {
		t.Errorf("by standard input: %s", got)
	}
	sh.pipe(body, "sign", "--secret", "-").fails(1, "both the secret and the body")
	sh.pipe(body, "sign", "--secret", "@nowhere").fails(1, "reading the secret")
	sh.pipe("", "sign").fails(1, "is empty")
	sh.run("sign", "nowhere.json").fails(1, "reading the body")
	sh.pipe(body, "sign", "--scheme", "both").fails(1, "use replicate or standard")
	sh.pipe(body, "sign", "--timestamp", "noon").fails(1, "--timestamp")
	sh.pipe(body, "verify").fails(1, "there are no headers")
	sh.pipe(body, "verify", "-H", "nonsense").fails(1, "a header is not valid")
	sh.env = []string{"WEBHOOK_SECRET="}
	sh.pipe(body, "sign").fails(1, "there is no secret: set WEBHOOK_SECRET")
	sh.env = []string{"WEBHOOK_SECRET=short"}
	sh.pipe(body, "sign").fails(1, "the secret can't be used")
}

// TestSendToTheEdge: what is sent passes the edge, once.
func TestSendToTheEdge(t *testing.T) {
	s := siterun.Start(t, siterun.Options{})
	sh := newShell(t, s)
	edge := s.URL("PORT2", "/webhooks/replicate")
	sh.run("send", edge).ok("200 OK", "prediction.completed")
	got := s.App.Last()
	if got.Header.Get("X-Replicate-Verified") != "standard" || got.Header.Get("X-Replicate-Event") != "prediction.completed" {
		t.Errorf("the app got %v", got.Header)
	}
	for _, event := range []string{"started", "completed", "failed"} {
		args := []string{"send", "--event", event, "--prediction", "mine", "--output", "[1, 2]", "--error", "no \"memory\"", edge}
		sh.run(args...).ok("200 OK")
		if r := sh.run(args...).ok("a duplicate"); strings.Contains(r.out, "\x1b") {
			t.Errorf("colors in %q", r.out)
		}
	}
	if n := s.App.Count(); n != 4 {
		t.Errorf("the app got %d webhooks, want 4", n)
	}
	if body := string(s.App.Last().Got); !strings.Contains(body, `"error":"no \"memory\""`) || strings.Contains(body, "output") {
		t.Errorf("failed is sent as %s", body)
	}
	sh.run("send", "--json", edge).ok(`"status": 200`, `"duplicate": false`)
	sh.pipe(guideBody(), "send", "--body", "-", edge).ok("200 OK")

	sh.env = []string{"WEBHOOK_SECRET=whsec_bm90IHRoZSBzZWNyZXQgb2YgdGhlIGVkZ2U="}
	if r := sh.run("send", edge); r.code != 4 || r.err != "" || !strings.Contains(r.out, "401 Unauthorized") {
		t.Errorf("forged: exit code %d, %s%s", r.code, r.out, r.err)
	}
	sh.run("send", "http://127.0.0.1:1/").fails(4, "sending to http://127.0.0.1:1/", "refused")
	sh.run("send", "localhost:8080").fails(1, "must be absolute")
	sh.run("send", "--event", "paused", edge).fails(1, "use started, completed or failed")
	sh.run("send", "--output", "{", edge).fails(1, "--output is not valid JSON")
}

// TestSendShowsHostileAnswers without doing what they say.
func TestSendShowsHostileAnswers(t *testing.T) {
	app := caddyrun.NewApp(t)
	app.Answer(func(w http.ResponseWriter, _ *caddyrun.Request) {
		w.WriteHeader(http.StatusFound)
		_, _ = io.WriteString(w, "\x1b]0;owned\a\u202egnp.exe\xff")
	})
	sh := newShell(t, nil)
	r := sh.run("send", app.URL)
	if r.code != 4 || strings.ContainsAny(r.out, "\x1b\a\u202e") || !strings.Contains(r.out, `\u001b]0;owned\u0007\u202egnp.exe\xff`) {
		t.Errorf("exit code %d, %q", r.code, r.out)
	}
}

// TestDemoOutput: the demo prints its own lines alone, and breaks long ones
// between words, at 80 columns unless the terminal says otherwise.
func TestDemoOutput(t *testing.T) {
	for columns, width := range map[string]int{"": 80, "60": 60} {
		sh := newShell(t, nil)
		sh.env = append(sh.env, "COLUMNS="+columns)
		r := sh.run("demo", "--once").ok("Everything below runs in this process", "6. The dashboard has all of it")
		for line := range strings.Lines(r.out) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > width {
				t.Errorf("a line of %d characters, want %d at most: %q", n, width, line)
			}
		}
		for _, word := range []string{
			`"webhook_url":\s+"http://127.0.0.1:\d+/webhooks/replicate"}`, `"webhook_status":\s+"pending",`, `\bprediction\.completed\b`,
		} {
			if !regexp.MustCompile(word).MatchString(r.out) {
				t.Errorf("%s is broken or missing in\n%s", word, r.out)
			}
		}
	}
}
