package docs_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/internal/fakeapi"
)

const receiversPage = "docs/receivers.md"

// programs are a page's blocks that a comment of a kind gives a file name,
// with the name.
func programs(t *testing.T, page, kind string) map[string]block {
	t.Helper()
	found := make(map[string]block)
	for _, b := range parseBlocks(page, read(t, page)) {
		if name := b.noted(kind); name != "" {
			found[name] = b
		}
	}
	return found
}

// TestReceiversSayWhatIsExecuted: the languages that the page's table calls
// executed are those with a program of each kind.
func TestReceiversSayWhatIsExecuted(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(root, receiversPage))
	if err != nil {
		t.Fatal(err)
	}
	languages, section := make(map[string]string), ""
	for _, line := range strings.Split(string(data), "\n") {
		if c := cells(line); strings.HasPrefix(line, "| [") && len(c) == 3 {
			name, _, _ := strings.Cut(strings.TrimPrefix(c[0], "["), "]")
			languages[name], _, _ = strings.Cut(c[2], ":")
		}
	}
	kinds := make(map[string]int)
	for _, line := range strings.Split(string(data), "\n") {
		if name, ok := strings.CutPrefix(line, "## "); ok {
			section = name
		}
		if strings.HasPrefix(line, "<!-- edge: ") || strings.HasPrefix(line, "<!-- direct: ") {
			kinds[section]++
		}
	}
	if len(languages) < 8 {
		t.Errorf("the table has %d languages", len(languages))
	}
	for name, executed := range languages {
		if want := map[bool]string{true: "yes", false: "no"}[kinds[name] == 2]; executed != want {
			t.Errorf("%s has %d programs that are executed, and the table says %q", name, kinds[name], executed)
		}
	}
}

// post sends a webhook and gives the answer.
func post(t *testing.T, c *http.Client, url string, header http.Header, body string) *http.Response {
	t.Helper()
	req, err := http.NewRequest("POST", url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header.Clone()
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	return resp
}

// payload is the webhook guide's, with an output of so many bytes.
func payload(id string, size int) string {
	return fmt.Sprintf(`{"event":"prediction.completed","prediction":{"id":%q,"version":"v1","input":{},"output":"data:;base64,%s","status":"succeeded","created_at":"2026-01-01T00:00:00.000Z"},"timestamp":%q}`,
		id, strings.Repeat("A", size), time.Now().UTC().Format("2006-01-02T15:04:05.000Z"))
}

// hexSignature is the guide's.
func hexSignature(body string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(body))
	return hex.EncodeToString(mac.Sum(nil))
}

// standard are the headers of Standard Webhooks.
func standard(id, stamp, body string) http.Header {
	key, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	mac := hmac.New(sha256.New, key)
	_, _ = fmt.Fprintf(mac, "%s.%s.%s", id, stamp, body)
	return http.Header{
		"Webhook-Id": {id}, "Webhook-Timestamp": {stamp},
		"Webhook-Signature": {"v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))},
	}
}

// large is more than the 100 kB that some frameworks take by themselves.
const large = 600_000

// TestReceiversBehindTheEdge runs each with the page's own configuration before
// it: an event arrives once, however large, and a forgery not at all.
func TestReceiversBehindTheEdge(t *testing.T) {
	front := fronts(t)[0]
	for file, b := range programs(t, receiversPage, "edge") {
		t.Run(file, func(t *testing.T) {
			t.Setenv("WEBHOOK_SECRET", secret)
			s := caddyrun.New(t)
			p := run(t, s.Env, b, file, "PORT2")
			s.Reload("{\n{$GLOBALS}\n}\n" + front)
			url := s.URL("PORT1", "/webhooks/replicate")
			for i, size := range []int{10, large} {
				id := fmt.Sprintf("pred_%d", i)
				body := payload(id, size)
				signed := http.Header{"X-Replicate-Signature": {hexSignature(body)}}
				if resp := post(t, s.Client, url, signed, body); resp.StatusCode != 200 || resp.Header.Get("X-Replicate-Duplicate") != "" {
					t.Fatalf("a webhook of %d bytes got %s", len(body), resp.Status)
				}
				p.output.Wait(t, "prediction.completed of "+id)
				if resp := post(t, s.Client, url, signed, body); resp.Header.Get("X-Replicate-Duplicate") != "true" {
					t.Errorf("a duplicate got %s", resp.Status)
				}
			}
			if resp := post(t, s.Client, url, http.Header{"X-Replicate-Signature": {hexSignature("x")}}, payload("forged", 1)); resp.StatusCode != 401 {
				t.Errorf("a forgery got %s", resp.Status)
			}
			if lines := p.output.Lines(" of "); len(lines) != 2 {
				t.Errorf("the program got %d events, want 2: %q", len(lines), lines)
			}
		})
	}
}

// fronts are the page's configurations before the programs: without an inbox and with
// one.
func fronts(t *testing.T) (texts []string) {
	t.Helper()
	for _, b := range blocksIn(t, "caddyfile") {
		if b.file == receiversPage {
			texts = append(texts, strings.NewReplacer("hooks.example.com", "http://127.0.0.1:{$PORT1}", "localhost:3000", "127.0.0.1:{$PORT2}").Replace(b.text))
		}
	}
	if len(texts) != 2 {
		t.Fatalf("the page has %d configurations, want 2", len(texts))
	}
	return texts
}

// TestReceiversBehindAnInbox sends the events of a prediction and their duplicates while
// the program does not run: each arrives once when it does, in order. Events of several
// predictions may arrive at the same time, and so may the lines that a program prints.
func TestReceiversBehindAnInbox(t *testing.T) {
	front := fronts(t)[1]
	tried := 0
	for file, b := range programs(t, receiversPage, "edge") {
		if !slices.Contains([]string{".mjs", ".py", ".php"}, filepath.Ext(file)) {
			continue
		}
		tried++
		t.Run(file, func(t *testing.T) {
			t.Setenv("WEBHOOK_SECRET", secret)
			s := caddyrun.New(t)
			s.Reload("{\n{$GLOBALS}\n}\n" + front)
			url := s.URL("PORT1", "/webhooks/replicate")
			completed := payload("pred_0", large)
			started := strings.NewReplacer("prediction.completed", "prediction.started", "succeeded", "processing").Replace(payload("pred_0", 10))
			for i, body := range []string{started, completed, started, completed} {
				resp := post(t, s.Client, url, http.Header{"X-Replicate-Signature": {hexSignature(body)}}, body)
				duplicate := resp.Header.Get("X-Replicate-Duplicate") == "true"
				if stored := strings.HasPrefix(resp.Header.Get("X-Replicate-Inbox"), "evt_"); resp.StatusCode != 200 || duplicate != (i > 1) || stored == duplicate {
					t.Fatalf("webhook %d of %d bytes got %s %v", i, len(body), resp.Status, resp.Header)
				}
			}
			p := run(t, s.Env, b, file, "PORT2")
			p.output.Wait(t, "prediction.completed of pred_0")
			lines := p.output.Lines(" of ")
			if len(lines) != 2 || !strings.Contains(lines[0], "prediction.started of pred_0") || !strings.Contains(lines[1], "prediction.completed of pred_0") {
				t.Errorf("the program got %q, want the started event and then the completed one", lines)
			}
		})
	}
	if tried != 3 {
		t.Errorf("tried %d programs, want 3", tried)
	}
}

// TestReceiversOnTheirOwn has real deliveries made to each, and then sends what
// must not get in.
func TestReceiversOnTheirOwn(t *testing.T) {
	for file, b := range programs(t, receiversPage, "direct") {
		t.Run(file, func(t *testing.T) {
			t.Setenv("WEBHOOK_SECRET", secret)
			api := fakeapi.New(fakeapi.Options{})
			upstream := caddyrun.NewApp(t)
			upstream.Answer(func(w http.ResponseWriter, r *caddyrun.Request) {
				r.Body = io.NopCloser(bytes.NewReader(r.Got))
				api.ServeHTTP(w, r.Request)
			})
			s := caddyrun.New(t)
			p := run(t, s.Env, b, file, "PORT2")
			s.Reload(`{
	{$GLOBALS}
	replicate_webhook {
		store sqlite {$DIR}/webhook.db
		signing shared
		signing_secret {env.WEBHOOK_SECRET}
		timeout 1m
		egress {
			allow_http
			ports {$PORT2}
			allow 127.0.0.0/8
		}
	}
}
http://127.0.0.1:{$PORT1} {
	replicate_predictions /v1/* {
		api ` + upstream.URL + `/v1
	}
	reverse_proxy ` + upstream.Addr() + `
}
`)
			hook := s.URL("PORT2", "/webhooks/replicate")
			id := createTest(t, s, hook)
			p.output.Wait(t, "prediction.started of "+id)
			p.output.Wait(t, "prediction.completed of "+id)

			now := fmt.Sprint(time.Now().Unix())
			body := payload("pred_large", large)
			genuine := standard("msg_1", now, body)
			genuine.Set("X-Replicate-Signature", hexSignature(body))
			if resp := post(t, s.Client, hook, genuine, body); resp.StatusCode != 200 {
				t.Errorf("a webhook of %d bytes got %s", len(body), resp.Status)
			}
			for name, h := range forgeries(now, payload("forged", 1)) {
				if resp := post(t, s.Client, hook, h, payload("forged", 1)); resp.StatusCode != 401 {
					t.Errorf("%s: got %s", name, resp.Status)
				}
			}
			if resp := post(t, s.Client, hook, http.Header{}, ""); resp.StatusCode != 401 {
				t.Errorf("nothing at all: got %s", resp.Status)
			}
			if lines := p.output.Lines(" of forged"); len(lines) > 0 {
				t.Errorf("the program took a forgery: %q", lines)
			}
		})
	}
}

// forgeries are headers that none should take for a signature of the body.
func forgeries(now, body string) map[string]http.Header {
	with := func(name, value string) http.Header {
		h := standard("msg_1", now, body)
		h.Set(name, value)
		return h
	}
	all := map[string]http.Header{
		"no signature":              {},
		"a signature of other text": standard("msg_1", now, body+" "),
		"another id":                with("Webhook-Id", "msg_2"),
		"another time":              with("Webhook-Timestamp", now[:len(now)-1]+string('0'+(now[len(now)-1]-'0'+1)%10)),
		"a version of the future":   with("Webhook-Signature", "v2,"+strings.TrimPrefix(standard("msg_1", now, body).Get("Webhook-Signature"), "v1,")+"x"),
		"no base64":                 with("Webhook-Signature", "v1,@@@"),
		"an empty signature":        with("Webhook-Signature", "v1,"),
		"a hex signature":           {"X-Replicate-Signature": {hexSignature(body + " ")}},
		"half a hex signature":      {"X-Replicate-Signature": {hexSignature(body)[:32]}},
	}
	for name, stamp := range map[string]string{
		"an hour ago": fmt.Sprint(time.Now().Unix() - 3600), "in an hour": fmt.Sprint(time.Now().Unix() + 3600),
		"no time": "", "not a number": "soon", "infinite": "Infinity", "negative": "-1", "huge": strings.Repeat("9", 40),
	} {
		all["signed "+name] = standard("msg_1", stamp, body)
	}
	return all
}

// createTest creates a prediction in test mode and gives its id.
func createTest(t *testing.T, s *caddyrun.Server, hook string) string {
	t.Helper()
	req, err := http.NewRequest("POST", s.URL("PORT1", "/v1/predictions"),
		strings.NewReader(fmt.Sprintf(`{"version":"v1","input":{"prompt":"a <cat> é"},"webhook_url":%q,"test_mode":true}`, hook)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer r8_a_token_of_a_client")
	req.Header.Set("Content-Type", "application/json")
	resp, err := s.Client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var created struct{ ID string }
	if err := json.NewDecoder(resp.Body).Decode(&created); err != nil || resp.StatusCode != 201 {
		t.Fatalf("the create got %s: %v", resp.Status, err)
	}
	return created.ID
}
