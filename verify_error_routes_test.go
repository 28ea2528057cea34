package replicatewebhook_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
)

func init() {
	caddy.RegisterModule(copying{})
	httpcaddyfile.RegisterHandlerDirective("copying", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		h.Next()
		return new(copying), nil
	})
	httpcaddyfile.RegisterDirectiveOrder("copying", httpcaddyfile.Before, "tracing")
}

// copying is a handler before the edge that passes a copy of the request on, as
// tracing does.
type copying struct{}

func (copying) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.copying", New: func() caddy.Module { return new(copying) }}
}

func (copying) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	type key struct{}
	return next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), key{}, true)))
}

// errorRoute puts an error route that leads to another app into a site, and
// directives before all others.
func errorRoute(text, app string, before ...string) string {
	return strings.Replace(text, "\tlog\n", "\tlog\n\t"+strings.Join(before, "\n")+"\n\thandle_errors {\n\t\treverse_proxy "+app+"\n\t}\n", 1)
}

// marked are headers that an app behind an error route must not get, beside those
// that signatures are in.
var marked = map[string]string{
	"Upgrade": "websocket", "Http2-Settings": "AAMAAABkAAQAoAAAAAIAAAAA", "Te": "trailers", "X-Replicate-Verified": "replicate",
	"X-Replicate-Other": "1", "X_replicate.event": "forged", "Webhook_id": "m", "Content-Digest": "sha-256=:abc:",
}

// TestErrorRoutesGetNothingToPassOn: whatever the edge refuses, and whatever goes
// wrong behind it, an error route that leads to an app has neither body nor
// length, no signature, nothing that the edge says of a verified webhook, and
// nothing that opens a tunnel.
func TestErrorRoutesGetNothingToPassOn(t *testing.T) {
	genuine := func(w webhook) webhook {
		for name, value := range marked {
			w = w.with(name, value)
		}
		return w.with("Connection", "Upgrade, HTTP2-Settings, TE, X-Named")
	}
	for _, before := range []string{"", "copying", "request_body {\nmax_size 2KiB\n}"} {
		t.Run("before the edge: "+strings.TrimSpace(strings.SplitN(before, " ", 2)[0]), func(t *testing.T) {
			e, fallback := newErrorRoutedEdge(t, before)
			good := genuine(completed("p1"))
			late := genuine(replicate(whsec, guideBodyAt("p1", "prediction.completed", time.Now().Add(-time.Hour))))
			big := genuine(replicate(whsec, strings.Repeat(" ", 5000)))
			for name, try := range map[string]func(){
				"no signature":          func() { e.raw(good.without("X-Replicate-Signature"), false) },
				"no signature, chunked": func() { e.raw(good.without("X-Replicate-Signature"), true) },
				"malformed":             func() { e.raw(good.with("X-Replicate-Signature", "x"), false) },
				"protected name":        func() { e.raw(good.with("Connection", "x-replicate-event"), false) },
				"encoding":              func() { e.raw(good.with("Content-Encoding", "gzip"), false) },
				"declared too large":    func() { e.raw(big, false) },
				"too large":             func() { e.raw(big, true) },
				"forged":                func() { e.raw(genuine(replicate(older, completed("p1").body)), false) },
				"forged, chunked":       func() { e.raw(genuine(replicate(older, completed("p1").body)), true) },
				"late":                  func() { e.raw(late, false) },
				"no webhook":            func() { e.raw(genuine(standard(whsec, "m1", "{}")), false) },
				"slow": func() {
					c := dial(t, e.Addr("PORT1"))
					c.head(good, "Content-Length: 1000")
					c.write(good.body[:10])
					c.answer()
				},
				"other method": func() {
					c := dial(t, e.Addr("PORT1"))
					c.write(fmt.Sprintf("PUT %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: %d\r\n\r\n%s",
						route, e.Addr("PORT1"), len(good.body), good.body))
					c.answer()
				},
				"in flight": func() {
					proceed := make(chan struct{})
					e.app.Answer(func(http.ResponseWriter, *caddyrun.Request) { <-proceed })
					n := e.app.Count()
					first := e.start(completed("in flight"))
					e.app.Wait(n + 1)
					e.raw(genuine(completed("in flight")), false)
					close(proceed)
					<-first
				},
				"refused by the app's handler":      func() { e.raw(good.with("X-Test", "error"), false) },
				"app takes too long":                func() { e.app.Answer(untilGone); e.raw(good, false) },
				"app hangs up":                      func() { e.app.Answer(hangUp); e.raw(good, true) },
				"nothing behind":                    func() { e.raw(good.with("X-Test", "nothing"), true) },
				"app switches protocols":            func() { e.app.Answer(switchProtocols("websocket")); e.raw(good, false) },
				"app switches protocols in silence": func() { e.app.Answer(switchProtocols("")); e.raw(good, false) },
			} {
				if name == "declared too large" && strings.HasPrefix(before, "request_body") {
					continue // refused before the edge
				}
				t.Run(name, func(t *testing.T) {
					e.t = t
					e.app.AnswerStatus(http.StatusOK)
					n := fallback.Count()
					try()
					seen := fallback.Seen()[n:]
					if len(seen) == 0 && before != "copying" && name != "slow" {
						t.Fatal("the error route was not used")
					}
					for _, r := range seen {
						holdsNothing(t, r, before == "copying")
					}
				})
			}
			// Nothing of that was accepted.
			e.app.AnswerStatus(http.StatusOK)
			e.t = t
			e.accepted(completed("p1"))
		})
	}
}

// newErrorRoutedEdge starts an edge with an error route to a second app.
func newErrorRoutedEdge(t *testing.T, before string) (e *edge, fallback *caddyrun.App) {
	t.Helper()
	t.Setenv("EDGE_TEST_SECRET", whsec)
	app, fallback := caddyrun.NewApp(t), caddyrun.NewApp(t)
	text := site(withSecret("max_body 4KiB\nread_timeout 300ms\nupstream_timeout 300ms\nin_flight_wait 50ms"), app.Addr(), "misbehave")
	return &edge{Server: caddyrun.Start(t, errorRoute(text, fallback.Addr(), before)), t: t, app: app}, fallback
}

// raw sends a webhook as it is, with headers that a client library would refuse.
func (e *edge) raw(w webhook, chunked bool) answer {
	e.t.Helper()
	for try := 1; ; try++ {
		c := dial(e.t, e.Addr("PORT1"))
		if chunked {
			c.head(w, "Transfer-Encoding: chunked", "Trailer: X-Late")
			c.write(fmt.Sprintf("%x\r\n%s\r\n0\r\nX-Late: 1\r\n\r\n", len(w.body), w.body))
		} else {
			c.head(w, fmt.Sprintf("Content-Length: %d", len(w.body)))
			c.write(w.body)
		}
		// A connection that the listener of the previous configuration still
		// accepted ends without a response.
		if _, err := c.r.Peek(1); err == nil || try == 3 {
			return c.answer()
		}
	}
}

// holdsNothing looks at what an app got by an error route. Of a copy of the
// request, only the length may be left.
func holdsNothing(t *testing.T, r *caddyrun.Request, copied bool) {
	t.Helper()
	if len(r.Got) > 0 || len(r.Trailer) > 0 {
		t.Errorf("the error route passed the body %q on, and trailers %v", r.Got, r.Trailer)
	}
	if !copied && (r.ContentLength != 0 || len(r.TransferEncoding) > 0 || r.ReadErr != nil) {
		t.Errorf("the error route passed on a length of %d and the encoding %v (%v)", r.ContentLength, r.TransferEncoding, r.ReadErr)
	}
	for name := range r.Header {
		folded := strings.Map(func(c rune) rune {
			if c == '_' || c == '.' {
				return '-'
			}
			return c
		}, strings.ToLower(name))
		switch {
		case strings.HasPrefix(folded, "x-replicate-"), strings.HasPrefix(folded, "webhook-"), strings.HasSuffix(folded, "digest"),
			folded == "upgrade", folded == "http2-settings", folded == "te", folded == "connection", folded == "trailer",
			strings.HasPrefix(folded, "content-") && folded != "content-length":
			t.Errorf("the error route passed %s on: %q", name, r.Header[name])
		}
	}
}

// untilGone does not answer.
func untilGone(_ http.ResponseWriter, r *caddyrun.Request) { <-r.Context().Done() }

// hangUp ends the connection.
func hangUp(w http.ResponseWriter, _ *caddyrun.Request) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err == nil {
		_ = conn.Close()
	}
}

// switchProtocols answers 101 and then echoes what comes.
func switchProtocols(protocol string) func(http.ResponseWriter, *caddyrun.Request) {
	return func(w http.ResponseWriter, _ *caddyrun.Request) {
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		upgrade := ""
		if protocol != "" {
			upgrade = "Connection: Upgrade\r\nUpgrade: " + protocol + "\r\n"
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nX-App: of the app\r\n"+upgrade+"\r\n")
		_, _ = io.Copy(conn, buffered)
	}
}

// TestNoTunnelThroughTheEdge: a signed request can't have the edge open a
// connection to the app on which anything passes. The app is not asked to switch
// protocols, and an app that does so all the same is refused.
func TestNoTunnelThroughTheEdge(t *testing.T) {
	e := newEdge(t, "")
	upgrade := func(id, protocol string) webhook {
		return completed(id).with("Connection", "Upgrade, HTTP2-Settings").with("Upgrade", protocol).
			with("Http2-Settings", "AAMAAABkAAQAoAAAAAIAAAAA").with("Te", "trailers").with("Sec-Websocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
	}
	for i, protocol := range []string{"websocket", "h2c", "echo"} {
		w := upgrade(fmt.Sprint("p", i), protocol)
		if a := e.raw(w, false); a.status != http.StatusOK {
			t.Fatalf("%s: got %v", protocol, a)
		}
		for _, name := range []string{"Connection", "Upgrade", "Http2-Settings", "Te"} {
			if got := e.app.Last().Header[name]; len(got) > 0 {
				t.Errorf("%s: the app got %s: %q", protocol, name, got)
			}
		}
		e.isDuplicate(completed(fmt.Sprint("p", i)))
	}
	for i, protocol := range []string{"websocket", ""} {
		e.app.Answer(switchProtocols(protocol))
		id := fmt.Sprint("q", i)
		c := dial(t, e.Addr("PORT1"))
		w := upgrade(id, "websocket")
		c.head(w, fmt.Sprintf("Content-Length: %d", len(w.body)))
		c.write(w.body)
		a := c.answer()
		if a.status != http.StatusBadGateway || a.header.Get("X-App") != "" || a.header.Get("Upgrade") != "" {
			t.Fatalf("an app that answers 101: got %v, want a 502", a)
		}
		e.app.AnswerStatus(http.StatusOK)
		e.accepted(completed(id))
	}
}

// TestWithoutAFinalStatusNothingIsAccepted: a site without an app behind the edge,
// or a handler that gives no status, is a 502, and the event can come again.
func TestWithoutAFinalStatusNothingIsAccepted(t *testing.T) {
	for name, behind := range map[string]string{"no handler": "", "one that ends": "misbehave nothing", "one that takes the connection": "misbehave hijack", "one that sets a header": "header X-App 1",
		"one that holds responses back": "intercept {\n@any status 200\nhandle_response @any {\nrespond 200\n}\n}"} {
		t.Run(name, func(t *testing.T) {
			e := newEdge(t, "", "misbehave")
			text := site(withSecret(""), e.app.Addr(), behind)
			e.Reload(withMetrics(strings.Replace(text, "reverse_proxy", "#", 1)))
			const series = `requests_total{outcome="upstream_no_status"}`
			before := e.metric(series)
			for range 2 {
				if a := e.refused(completed("p1"), http.StatusBadGateway); a.duplicate() {
					t.Fatalf("got %v", a)
				}
			}
			if got := e.metric(series) - before; got != 2 {
				t.Errorf("counted %v times, want 2", got)
			}
			e.Logs.Wait(t, "no final status")
			e.reload("")
			e.accepted(completed("p1"))
		})
	}
}

// hijack is a handler's try to take the connection, which is refused.
func hijack(w http.ResponseWriter) error {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err == nil {
		_ = conn.Close()
		return errors.New("the connection was given away")
	}
	if !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

// TestRefusedConnectionsEndAtOnce: what is refused before its body is read does
// not hold a connection for as long as the body might take, whatever length it
// declares; the response arrives whole, also where the sender writes on.
func TestRefusedConnectionsEndAtOnce(t *testing.T) {
	e := newEdge(t, "max_body 1MiB\nread_timeout 10m")
	good := completed("p1")
	unsigned := good.without("X-Replicate-Signature")
	for _, c := range []struct {
		name   string
		hook   webhook
		more   string
		sent   string
		status int
	}{
		{"a little of a small body", unsigned, "Content-Length: 100000", "abc", 401},
		{"nothing of a small body", unsigned, "Content-Length: 1", "", 401},
		{"most of a small body", unsigned, "Content-Length: 100000", strings.Repeat("x", 99999), 401},
		{"a little of a large body", unsigned, "Content-Length: 100000000", "abc", 401},
		{"a chunk", unsigned, "Transfer-Encoding: chunked", "3\r\nabc\r\n", 401},
		{"encoded", good.with("Content-Encoding", "gzip"), "Content-Length: 100000", "abc", 415},
		{"too large", good, "Content-Length: 1048577", "abc", 413},
		{"too large, chunked", good, "Transfer-Encoding: chunked", "100001\r\n" + strings.Repeat("x", 0x100001), 413},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn := dial(t, e.Addr("PORT1"))
			conn.head(c.hook, c.more)
			conn.write(c.sent)
			began := time.Now()
			a := conn.answer()
			if a.status != c.status || a.header.Get("Connection") != "close" {
				t.Fatalf("got %v, want %d with Connection: close", a, c.status)
			}
			conn.closed()
			// The deadline of the body is ten minutes away.
			if took := time.Since(began); took > caddyrun.Patience {
				t.Errorf("the connection ended after %s", took)
			}
		})
	}
}

// TestRefusedAfterTheBodyKeepsTheConnection: a forgery that was read to its end
// costs its sender no connection, and us none either.
func TestRefusedAfterTheBodyKeepsTheConnection(t *testing.T) {
	e := newEdge(t, "")
	c := dial(t, e.Addr("PORT1"))
	forged := replicate(older, completed("p1").body)
	for i, w := range []webhook{forged, forged, replicate(whsec, bareBody("p1", "succeeded")), standard(whsec, "m", "{"), completed("p1"), completed("p1")} {
		want := []int{401, 401, 401, 400, 200, 200}[i]
		if i%2 == 0 {
			c.head(w, fmt.Sprintf("Content-Length: %d", len(w.body)))
			c.write(w.body)
		} else {
			c.head(w, "Transfer-Encoding: chunked")
			c.write(fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(w.body), w.body))
		}
		if a := c.answer(); a.status != want || a.header.Get("Connection") != "" {
			t.Fatalf("request %d got %v, want %d on a connection that stays", i, a, want)
		}
	}
}

// TestBodiesThatBreakOffHaveTheirReason: the log and the metric say what the
// sender got, also where the limit was another handler's.
func TestBodiesThatBreakOffHaveTheirReason(t *testing.T) {
	e := newEdge(t, "read_timeout 300ms")
	text := strings.Replace(site(withSecret("read_timeout 300ms"), e.app.Addr()), "\tlog\n", "\tlog\n\trequest_body {\n\t\tmax_size 1KiB\n\t}\n", 1)
	e.Reload(withMetrics(text))
	w := completed("p1")
	big := replicate(whsec, strings.Repeat(" ", 2000))
	for _, c := range []struct {
		reason string
		status int // 0: nobody is there to get it
		send   func(*rawConn)
	}{
		{"outer_limit", 413, func(c *rawConn) {
			c.head(big, "Transfer-Encoding: chunked")
			c.write(fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(big.body), big.body))
		}},
		{"read_timeout", 408, func(c *rawConn) {
			c.head(w, fmt.Sprintf("Content-Length: %d", len(w.body)))
			c.write(w.body[:10])
		}},
		{"incomplete", 400, func(c *rawConn) {
			c.head(w, fmt.Sprintf("Content-Length: %d", len(w.body)))
			c.write(w.body[:10])
			_ = c.Conn.(*net.TCPConn).CloseWrite()
		}},
		{"read", 400, func(c *rawConn) {
			c.head(w, "Transfer-Encoding: chunked")
			c.write("no length\r\n")
		}},
		{"client_gone", 0, func(c *rawConn) {
			c.head(w, fmt.Sprintf("Content-Length: %d", len(w.body)))
			c.write(w.body[:10])
			_ = c.Conn.(*net.TCPConn).SetLinger(0) // a reset
			_ = c.Close()
		}},
	} {
		t.Run(c.reason, func(t *testing.T) {
			series := fmt.Sprintf("requests_total{outcome=%q}", c.reason)
			before := e.metric(series)
			conn := dial(t, e.Addr("PORT1"))
			c.send(conn)
			if c.status == 0 {
				e.Logs.Wait(t, "webhook refused", `"reason":"client_gone"`, `"status":499`)
			} else {
				if a := conn.answer(); a.status != c.status {
					t.Fatalf("got %v, want %d", a, c.status)
				}
				e.Logs.Wait(t, "webhook refused", fmt.Sprintf(`"reason":%q`, c.reason), fmt.Sprintf(`"status":%d`, c.status))
			}
			if got := e.metric(series) - before; got != 1 {
				t.Errorf("counted %v times, want once", got)
			}
		})
	}
	if n := e.app.Count(); n != 0 {
		t.Fatalf("the app got %d requests", n)
	}
}

// TestLongValuesAreNoHeaders: an app that refuses long headers gets the event all
// the same, and the log says which headers are missing.
func TestLongValuesAreNoHeaders(t *testing.T) {
	e := newEdge(t, "")
	at := time.Now().UTC().Format(time.RFC3339)
	body := func(id, event string) string {
		return fmt.Sprintf(`{"event":%q,"prediction":{"id":%q,"status":"succeeded"},"timestamp":%q}`, event, id, at)
	}
	long := strings.Repeat("a", 256)
	for _, c := range []struct{ id, event, missing string }{
		{long, long, ""},
		{long + "a", "x", "X-Replicate-Prediction-Id"},
		{"p1", long + "a", "X-Replicate-Event"},
		{"p2", strings.Repeat("é", 43), "X-Replicate-Event"}, // three bytes for each byte
		{strings.Repeat("a", 1<<20), strings.Repeat("b", 1<<20), "X-Replicate-Prediction-Id X-Replicate-Event"},
	} {
		mark := "missing: " + c.missing + "."
		e.accepted(replicate(whsec, body(c.id, c.event)).with("X-Test-Id", mark))
		var missing []string
		for _, name := range []string{"X-Replicate-Prediction-Id", "X-Replicate-Event"} {
			if e.app.Last().Header.Get(name) == "" {
				missing = append(missing, name)
			}
		}
		if got := strings.Join(missing, " "); got != c.missing {
			t.Errorf("an id of %d bytes and an event of %d: %q are missing, want %q", len(c.id), len(c.event), got, c.missing)
		}
		if line := e.Logs.Wait(t, "http.log.access", mark); len(line) > 10_000 {
			t.Errorf("the access log's line has %d bytes", len(line))
		}
		if c.missing != "" {
			e.Logs.Wait(t, `"level":"warn"`, "256 bytes", `"`+strings.ReplaceAll(c.missing, " ", `","`)+`"`)
		}
	}
	if lines := e.Logs.Lines("headers whose values are over 256 bytes"); len(lines) != 4 || bytes.Contains([]byte(lines[3]), []byte(long)) {
		t.Errorf("the log has %d lines of headers left out", len(lines))
	}
}

// TestErrorRoutesOverHTTP2 get nothing to pass on either, from a connection that
// carries other requests.
func TestErrorRoutesOverHTTP2(t *testing.T) {
	for _, before := range []string{"", "copying"} {
		t.Setenv("EDGE_TEST_SECRET", whsec)
		app, fallback := caddyrun.NewApp(t), caddyrun.NewApp(t)
		text := errorRoute(site(withSecret("max_body 4KiB"), app.Addr()), fallback.Addr(), before)
		e := &edge{Server: caddyrun.Start(t, text, "servers {\nprotocols h1 h2c\n}"), t: t, app: app}
		var p http.Protocols
		p.SetUnencryptedHTTP2(true)
		transport := &http.Transport{Protocols: &p}
		client := &http.Client{Transport: transport, Timeout: 2 * caddyrun.Patience}
		big := replicate(whsec, strings.Repeat(" ", 5000))
		for name, w := range map[string]webhook{
			"unsigned": completed("p1").without("X-Replicate-Signature"), "forged": replicate(older, completed("p1").body),
			"encoded": completed("p1").with("Content-Encoding", "gzip"), "too large": big, "no webhook": standard(whsec, "m1", "{}"),
		} {
			body := func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(w.body)), nil }
			first, _ := body()
			r, err := http.NewRequest(http.MethodPost, e.URL("PORT1", route), first)
			if err != nil {
				t.Fatal(err)
			}
			r.GetBody = body // a refusal before it may have ended the connection meanwhile
			r.Header = w.header.Clone()
			if resp, err := client.Do(r); err != nil {
				t.Errorf("%s: %v", name, err)
			} else {
				_ = resp.Body.Close()
			}
		}
		transport.CloseIdleConnections()
		for _, r := range fallback.Seen() {
			holdsNothing(t, r, before == "copying")
		}
		if n := fallback.Count(); n != 5 && before == "" {
			t.Errorf("the error route got %d requests, want 5", n)
		}
		if n := app.Count(); n != 0 {
			t.Errorf("the app got %d requests", n)
		}
		e.Stop()
	}
}
