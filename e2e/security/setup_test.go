// Package security_test attacks a real Caddy. SECURITY.md says what each test
// proves.
package security_test

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	_ "github.com/caddy-replicate/replicate-webhook"
	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
)

// The counts of tests that repeat. CI takes the defaults; SECURITY.md has the
// commands for the large ones.
var (
	forgeries = flag.Int("forgeries", 10_000, "mutated requests to send")
	replays   = flag.Int("replays", 2_000, "replays to send")
	ids       = flag.Int("ids", 8_000, "distinct predictions to post, signed and not")
	queued    = flag.Int("queued", 5_000, "deliveries to queue")
	seed      = flag.Uint64("seed", 1, "of the mutations")
)

// The secrets of the edge, and one that it does not know.
const (
	whsec   = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
	unknown = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
)

const route = "/webhooks/replicate"

// edgeSite is the documented way to put the edge before an app.
func edgeSite(port, route, options, app string) string {
	return fmt.Sprintf(`http://127.0.0.1:{$%s} {
	log
	handle %s {
		replicate_webhook {
			secret {env.EDGE_TEST_SECRET}
			%s
		}
		reverse_proxy %s
	}
	handle {
		respond 404
	}
}
`, port, route, options, app)
}

// edge is a running Caddy with the edge handler in front of an app.
type edge struct {
	*caddyrun.Server
	t    testing.TB
	app  *caddyrun.App
	text string
}

func newEdge(t testing.TB, options string, globals ...string) *edge {
	t.Helper()
	t.(interface{ Setenv(string, string) }).Setenv("EDGE_TEST_SECRET", whsec)
	app := caddyrun.NewApp(t)
	text := "{\n{$GLOBALS}\n}\n" + edgeSite("PORT1", route, options, app.Addr())
	return &edge{caddyrun.Start(t, text, globals...), t, app, text}
}

// quiet keeps the log, which is kept in memory, to errors.
func (e *edge) quiet() {
	e.t.Helper()
	config, _, err := e.Adapt(e.text)
	if err == nil {
		err = e.LoadJSON(bytes.ReplaceAll(config, []byte(`"level":"DEBUG"`), []byte(`"level":"ERROR"`)))
	}
	if err != nil {
		e.t.Fatal(err)
	}
}

// hook is a webhook as it is sent.
type hook struct {
	body   string
	header http.Header
}

// with replaces a header; without a value it takes it away.
func (w hook) with(name string, values ...string) hook {
	h := w.header.Clone()
	delete(h, name)
	if len(values) > 0 {
		h[name] = values
	}
	return hook{w.body, h}
}

func (w hook) withBody(body string) hook { return hook{body, w.header} }

// payload is the guide's body, in ECMAScript form.
func payload(id string, at time.Time) string {
	return fmt.Sprintf(`{"event":"prediction.completed","prediction":{"id":%q,"version":"v1","input":{"prompt":"a cat","seed":7},"output":["x"],"status":"succeeded","created_at":"2026-11-24T12:00:00.000Z"},"timestamp":%q}`,
		id, at.UTC().Format("2006-01-02T15:04:05.000Z"))
}

func key(t testing.TB, secret string) signature.Secret {
	t.Helper()
	s, err := signature.ParseSecret(secret)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// replicate is a webhook signed the guide's way.
func replicate(t testing.TB, secret, body string) hook {
	return hook{body, http.Header{
		"Content-Type":          {"application/json"},
		"X-Replicate-Signature": {key(t, secret).SignReplicate([]byte(body))},
	}}
}

// standard is a webhook signed as Standard Webhooks has it.
func standard(t testing.TB, secret, id, body string, at time.Time) hook {
	timestamp := strconv.FormatInt(at.Unix(), 10)
	return hook{body, http.Header{
		"Content-Type":      {"application/json"},
		"Webhook-Id":        {id},
		"Webhook-Timestamp": {timestamp},
		"Webhook-Signature": {key(t, secret).SignStandard(id, timestamp, []byte(body))},
	}}
}

// both is signed in both ways.
func both(t testing.TB, secret, id, body string, at time.Time) hook {
	return standard(t, secret, id, body, at).with("X-Replicate-Signature", key(t, secret).SignReplicate([]byte(body)))
}

// onlyReplicate takes the standard signature off.
func (w hook) onlyReplicate() hook {
	return w.with("Webhook-Id").with("Webhook-Timestamp").with("Webhook-Signature")
}

// onlyStandard takes the other one off.
func (w hook) onlyStandard() hook { return w.with("X-Replicate-Signature") }

// answer is what a sender gets.
type answer struct {
	status int
	header http.Header
	body   string
}

func (a answer) String() string { return fmt.Sprintf("%d %v %q", a.status, a.header, a.body) }

// passed: the edge took it for a webhook that is to be passed on.
func (a answer) passed() bool {
	return a.status == http.StatusOK && a.header.Get("X-Replicate-Duplicate") == ""
}

// post sends a webhook to a URL.
func post(client *http.Client, url string, w hook) (answer, error) {
	r, err := http.NewRequest(http.MethodPost, url, strings.NewReader(w.body))
	if err != nil {
		return answer{}, err
	}
	r.Header = w.header.Clone()
	return do(client, r)
}

func do(client *http.Client, r *http.Request) (answer, error) {
	resp, err := client.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(body)}, err
}

func (e *edge) send(w hook) answer {
	e.t.Helper()
	a, err := post(e.Client, e.URL("PORT1", route), w)
	if err != nil {
		e.t.Fatal(err)
	}
	return a
}

// accepted sends and wants the app's 200.
func (e *edge) accepted(w hook) {
	e.t.Helper()
	before := e.app.Count()
	if a := e.send(w); !a.passed() || e.app.Count() != before+1 {
		e.t.Fatalf("got %v and %d requests at the app, want the app's 200", a, e.app.Count()-before)
	}
}

// refused sends and wants a status of the edge's own.
func (e *edge) refused(w hook, status int) answer {
	e.t.Helper()
	before := e.app.Count()
	a := e.send(w)
	if a.status != status || e.app.Count() != before {
		e.t.Fatalf("got %v and %d requests at the app, want %d and none", a, e.app.Count()-before, status)
	}
	return a
}
