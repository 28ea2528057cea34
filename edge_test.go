package replicatewebhook_test

import (
	"bufio"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	_ "github.com/caddy-replicate/replicate-webhook"
	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
)

// The signing secrets of most tests.
const (
	whsec  = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
	older  = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	shared = "a plain secret both sides share"
)

// route is where the edge takes webhooks.
const route = "/webhooks/replicate"

// edge is a running Caddy with the edge handler in front of an app.
type edge struct {
	*caddyrun.Server
	t   *testing.T
	app *caddyrun.App
}

// site is the documented way to put the edge before an app, on PORT1. The
// handlers of behind stand between the edge and the app.
func site(options, app string, behind ...string) string {
	return fmt.Sprintf(`{
	{$GLOBALS}
}
http://127.0.0.1:{$PORT1} {
	log
	handle %s {
		replicate_webhook {
			%s
		}
		%s
		reverse_proxy %s
	}
	handle {
		respond 404
	}
}
`, route, options, strings.Join(behind, "\n"), app)
}

// withSecret adds the usual secret to options that name none.
func withSecret(options string) string {
	for line := range strings.Lines(options) {
		if strings.HasPrefix(strings.TrimSpace(line), "secret ") {
			return options
		}
	}
	return "secret {env.EDGE_TEST_SECRET}\n" + options
}

// newEdge starts Caddy with the handler's options before a new app.
func newEdge(t *testing.T, options string, behind ...string) *edge {
	t.Helper()
	t.Setenv("EDGE_TEST_SECRET", whsec)
	app := caddyrun.NewApp(t)
	return &edge{Server: caddyrun.Start(t, site(withSecret(options), app.Addr(), behind...)), t: t, app: app}
}

// reload gives the running Caddy other options.
func (e *edge) reload(options string) {
	e.t.Helper()
	e.Reload(site(withSecret(options), e.app.Addr()))
}

// webhook is what a sender posts.
type webhook struct {
	body   string
	header http.Header
}

// with adds a header.
func (w webhook) with(name, value string) webhook {
	h := w.header.Clone()
	h[name] = append(h[name], value)
	return webhook{w.body, h}
}

// without removes headers.
func (w webhook) without(names ...string) webhook {
	h := w.header.Clone()
	for _, name := range names {
		delete(h, name)
	}
	return webhook{w.body, h}
}

// guideBody is the guide's payload, in ECMAScript form and signed now.
func guideBody(id, event string) string { return guideBodyAt(id, event, time.Now()) }

func guideBodyAt(id, event string, at time.Time) string {
	status := map[string]string{
		"prediction.started": "processing", "prediction.completed": "succeeded", "prediction.failed": "failed",
	}[event]
	quoted := func(s string) string {
		b, _ := json.Marshal(s)
		return string(b)
	}
	return fmt.Sprintf(`{"event":%s,"prediction":{"id":%s,"version":"v1","input":{"prompt":"a <cat>"},"status":%q,"created_at":"2026-11-24T12:00:00.000Z"},"timestamp":%q}`,
		quoted(event), quoted(id), status, at.UTC().Format("2006-01-02T15:04:05.000Z"))
}

// bareBody is Replicate's own payload: the prediction itself.
func bareBody(id, status string) string {
	return fmt.Sprintf(`{"id":%q,"status":%q,"output":null,"logs":""}`, id, status)
}

// hexHMAC is what the guide's createHmac("sha256", secret) gives.
func hexHMAC(secret, body string) string {
	m := hmac.New(sha256.New, []byte(secret))
	m.Write([]byte(body))
	return hex.EncodeToString(m.Sum(nil))
}

// replicate is a webhook signed the guide's way.
func replicate(secret, body string) webhook {
	return webhook{body, http.Header{
		"Content-Type": {"application/json"}, "X-Replicate-Signature": {hexHMAC(secret, body)},
	}}
}

// standardHeaders are those of Standard Webhooks.
func standardHeaders(secret, id string, at time.Time, body string) http.Header {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil {
		panic(err)
	}
	timestamp := strconv.FormatInt(at.Unix(), 10)
	m := hmac.New(sha256.New, key)
	m.Write([]byte(id + "." + timestamp + "." + body))
	return http.Header{
		"Webhook-Id": {id}, "Webhook-Timestamp": {timestamp},
		"Webhook-Signature": {"v1," + base64.StdEncoding.EncodeToString(m.Sum(nil))},
	}
}

// standard is a webhook signed as Standard Webhooks has it.
func standard(secret, id, body string) webhook { return standardAt(secret, id, body, time.Now()) }

func standardAt(secret, id, body string, at time.Time) webhook {
	h := standardHeaders(secret, id, at, body)
	h.Set("Content-Type", "application/json")
	return webhook{body, h}
}

// both is signed in both ways.
func both(secret, id, body string) webhook {
	return standard(secret, id, body).with("X-Replicate-Signature", hexHMAC(secret, body))
}

// standardOnly are the headers by which the standard scheme is claimed.
var standardOnly = []string{"Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"}

// completed is a valid webhook of the event most tests use.
func completed(id string) webhook { return replicate(whsec, guideBody(id, "prediction.completed")) }

// answer is what a sender gets.
type answer struct {
	status int
	header http.Header
	body   string
}

func (a answer) String() string { return fmt.Sprintf("%d %v %q", a.status, a.header, a.body) }

func (a answer) duplicate() bool { return a.header.Get("X-Replicate-Duplicate") == "true" }

// post sends a webhook to a URL.
func post(client *http.Client, url string, w webhook) (answer, error) {
	r, err := http.NewRequest(http.MethodPost, url, strings.NewReader(w.body))
	if err != nil {
		return answer{}, err
	}
	r.Header = w.header.Clone()
	resp, err := client.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(body)}, err
}

// send posts a webhook to the edge's route.
func (e *edge) send(w webhook) answer {
	e.t.Helper()
	a, err := post(e.Client, e.URL("PORT1", route), w)
	if err != nil {
		e.t.Fatal(err)
	}
	return a
}

// start posts a webhook without waiting for the answer.
func (e *edge) start(w webhook) <-chan answer {
	got := make(chan answer, 1)
	go func() {
		a, err := post(e.Client, e.URL("PORT1", route), w)
		if err != nil {
			a.body = err.Error()
		}
		got <- a
	}()
	return got
}

// accepted sends and wants the app's 200, not as a duplicate.
func (e *edge) accepted(w webhook) {
	e.t.Helper()
	before := e.app.Count()
	if a := e.send(w); a.status != http.StatusOK || a.duplicate() {
		e.t.Fatalf("got %v, want the app's 200", a)
	}
	if n := e.app.Count() - before; n != 1 {
		e.t.Fatalf("the app got %d requests, want 1", n)
	}
}

// isDuplicate sends and wants to hear that the event was accepted before.
func (e *edge) isDuplicate(w webhook) {
	e.t.Helper()
	before := e.app.Count()
	if a := e.send(w); a.status != http.StatusOK || !a.duplicate() || a.body != "" {
		e.t.Fatalf("got %v, want a duplicate", a)
	}
	if n := e.app.Count() - before; n != 0 {
		e.t.Fatalf("the app got %d requests for a duplicate", n)
	}
}

// refused sends and wants an answer of the edge's own.
func (e *edge) refused(w webhook, status int) answer {
	e.t.Helper()
	before := e.app.Count()
	a := e.send(w)
	if a.status != status {
		e.t.Fatalf("got %v, want %d", a, status)
	}
	if n := e.app.Count() - before; n != 0 {
		e.t.Fatalf("the app got %d requests of a refused webhook", n)
	}
	return a
}

// rawConn is a connection on which a test writes HTTP by hand.
type rawConn struct {
	t testing.TB
	net.Conn
	r *bufio.Reader
}

func dial(t testing.TB, addr string) *rawConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	// A reload closes the old listener, and resets what it has not accepted.
	for range 3 {
		if errors.Is(err, syscall.ECONNRESET) {
			c, err = net.Dial("tcp", addr)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(2 * caddyrun.Patience)); err != nil {
		t.Fatal(err)
	}
	return &rawConn{t, c, bufio.NewReader(c)}
}

// head writes a POST to the route up to the end of its headers.
func (c *rawConn) head(w webhook, more ...string) {
	c.t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "POST %s HTTP/1.1\r\nHost: %s\r\n", route, c.RemoteAddr())
	for name, values := range w.header {
		for _, v := range values {
			fmt.Fprintf(&b, "%s: %s\r\n", name, v)
		}
	}
	for _, line := range more {
		b.WriteString(line + "\r\n")
	}
	c.write(b.String() + "\r\n")
}

func (c *rawConn) write(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		c.t.Fatalf("writing: %v", err)
	}
}

// answer reads one response with its body.
func (c *rawConn) answer() answer {
	c.t.Helper()
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		c.t.Fatalf("reading the answer: %v", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatalf("reading the answer's body: %v", err)
	}
	h := resp.Header.Clone()
	if resp.Close {
		h.Set("Connection", "close")
	}
	return answer{resp.StatusCode, h, string(body)}
}

// closed wants the other side to end the connection.
func (c *rawConn) closed() {
	c.t.Helper()
	if _, err := c.r.ReadByte(); err == nil || os.IsTimeout(err) {
		c.t.Fatalf("the connection is still open (%v)", err)
	}
}
