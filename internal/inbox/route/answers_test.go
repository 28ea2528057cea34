package route_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-replicate/replicate-webhook/internal/delivery"
	"github.com/caddy-replicate/replicate-webhook/internal/inbox"
	"github.com/caddy-replicate/replicate-webhook/internal/inbox/route"
)

// rawApp is an app on a socket. It reads a request, and says what it was told to.
type rawApp struct {
	net.Listener
	say  func(net.Conn)
	open sync.WaitGroup
}

// newRawApp starts an app that responds with the given function.
func newRawApp(t testing.TB, say func(net.Conn)) *rawApp {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := &rawApp{Listener: l, say: say}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			a.open.Go(func() { a.serve(conn) })
		}
	}()
	t.Cleanup(func() {
		l.Close()
		a.open.Wait()
	})
	return a
}

func (a *rawApp) serve(conn net.Conn) {
	defer conn.Close()
	r, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, r.Body)
	a.say(conn)
}

// says returns what says text and closes the connection.
func says(text string) func(net.Conn) {
	return func(c net.Conn) { _, _ = io.WriteString(c, strings.ReplaceAll(text, "\n", "\r\n")) }
}

// hangs returns what says text and waits for the other end to close the
// connection.
func hangs(text string) func(net.Conn) {
	return func(c net.Conn) {
		says(text)(c)
		_, _ = io.Copy(io.Discard, c)
	}
}

// reset ends the connection by a reset.
func reset(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0) }

// answer is what an app does with an event, and what Pass makes of it.
type answer struct {
	name     string
	say      func(net.Conn) // of the app behind a proxy, or
	handlers string         // in its place

	status  int
	err     string // part of the error, empty for the app's own response
	body    string
	retry   time.Duration
	unsent  bool
	timeout bool
}

func gzipped(text string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = io.WriteString(z, text)
	_ = z.Close()
	return b.String()
}

// hasEnded are the ways of an app that come to an end without a timeout.
var hasEnded = []answer{
	{name: "200", say: says("HTTP/1.1 200 OK\nContent-Length: 2\n\nok"), status: 200, body: "ok"},
	{name: "200 without a body", say: says("HTTP/1.1 200 OK\nContent-Length: 0\n\n"), status: 200},
	{name: "200 to the end of the connection", say: says("HTTP/1.1 200 OK\nConnection: close\n\nok"), status: 200, body: "ok"},
	{name: "200 in chunks", say: says("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nok\n0\n\n"), status: 200, body: "ok"},
	{name: "200 with trailers", say: says("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nTrailer: X-T\n\n2\nok\n0\nX-T: 1\n\n"), status: 200, body: "ok"},
	{name: "200 of HTTP/1.0", say: says("HTTP/1.0 200 OK\n\nok"), status: 200, body: "ok"},
	{name: "204", say: says("HTTP/1.1 204 No Content\n\n"), status: 204},
	{name: "299", say: says("HTTP/1.1 299 So\nContent-Length: 0\n\n"), status: 299},
	{name: "301", say: says("HTTP/1.1 301 Moved\nLocation: https://x/\nContent-Length: 0\n\n"), status: 301},
	{name: "304", say: says("HTTP/1.1 304 Not Modified\n\n"), status: 304},
	{name: "400", say: says("HTTP/1.1 400 Bad\nContent-Length: 3\n\nno!"), status: 400, body: "no!"},
	{name: "410", say: says("HTTP/1.1 410 Gone\nContent-Length: 0\n\n"), status: 410},
	{name: "429", say: says("HTTP/1.1 429 Slow\nRetry-After: 120\nContent-Length: 0\n\n"), status: 429, retry: 2 * time.Minute},
	{name: "499 of the app's own", say: says("HTTP/1.1 499 Mine\nContent-Length: 0\n\n"), status: 499},
	{name: "500", say: says("HTTP/1.1 500 Oh\nContent-Length: 4\n\noops"), status: 500, body: "oops"},
	{name: "502 of the app's own", say: says("HTTP/1.1 502 Oh\nContent-Length: 0\n\n"), status: 502},
	{name: "503 for an hour", say: says("HTTP/1.1 503 Busy\nRetry-After: 99999\nContent-Length: 0\n\n"), status: 503, retry: time.Hour},
	{name: "999", say: says("HTTP/1.1 999 So\nContent-Length: 0\n\n"), status: 999},
	{name: "hints before 200", say: says("HTTP/1.1 103 Early Hints\nLink: </a>\nRetry-After: 7\n\nHTTP/1.1 200 OK\nContent-Length: 2\n\nok"), status: 200, body: "ok"},
	{name: "100 before 200", say: says("HTTP/1.1 100 Continue\n\nHTTP/1.1 200 OK\nContent-Length: 0\n\n"), status: 200},
	{name: "102 before 500", say: says("HTTP/1.1 102 Processing\n\nHTTP/1.1 500 Oh\nContent-Length: 0\n\n"), status: 500},
	{name: "hints alone", say: says("HTTP/1.1 103 Early Hints\n\n"), status: 502, err: "EOF"},
	{name: "101 that nobody asked for", say: says("HTTP/1.1 101 Switching Protocols\nUpgrade: websocket\nConnection: Upgrade\n\n"), status: 0, err: "no final status"},
	{name: "101 without a protocol", say: says("HTTP/1.1 101 Switching Protocols\n\n"), status: 0, err: "no final status"},
	{name: "200 whose body breaks", say: says("HTTP/1.1 200 OK\nContent-Length: 9\n\nok"), status: 200, body: "ok"},
	{name: "200 whose chunks break", say: says("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nok\nzz\n"), status: 200, body: "ok"},
	{name: "500 whose body breaks", say: says("HTTP/1.1 500 Oh\nContent-Length: 9\n\nno"), status: 500, body: "no"},
	{name: "200 with a long body", say: says("HTTP/1.1 200 OK\nContent-Length: 300000\n\n" + strings.Repeat("x", 300000)), status: 200, body: strings.Repeat("x", 4<<10)},
	{name: "200 with a body without end", say: func(c net.Conn) {
		says("HTTP/1.1 200 OK\n\n")(c)
		for {
			if _, err := c.Write(make([]byte, 1<<16)); err != nil {
				return
			}
		}
	}, status: 200, body: strings.Repeat("�", (4<<10)/3)},
	{name: "a compressed body", say: says("HTTP/1.1 400 Bad\nContent-Encoding: gzip\nConnection: close\n\n") /* completed below */, status: 400, body: "no such model"},
	{name: "a body in another encoding", say: says("HTTP/1.1 400 Bad\nContent-Encoding: br\nContent-Length: 3\n\nabc"), status: 400, body: "(3 bytes with the encoding br)"},
	{name: "a closed connection", say: says(""), status: 502, err: "EOF"},
	{name: "a reset connection", say: reset, status: 502, err: "reset"},
	{name: "half a header", say: says("HTTP/1.1 200 OK\nConte"), status: 502, err: "malformed MIME header"},
	{name: "another protocol", say: says("SSH-2.0-OpenSSH_9\n"), status: 502, err: "malformed HTTP"},
	{name: "a status that is not valid", say: says("HTTP/1.1 20x OK\n\n"), status: 502, err: "malformed HTTP"},
	{name: "an endless header", say: func(c net.Conn) {
		says("HTTP/1.1 200 OK\nX-A: ")(c)
		for {
			if _, err := c.Write(bytes.Repeat([]byte("a"), 1<<16)); err != nil {
				return
			}
		}
	}, status: 502, err: "exceeded"},

	{name: "no app", handlers: "reverse_proxy {$NONE}", status: 502, err: "refused", unsent: true},
	{name: "no app at a socket", handlers: "reverse_proxy unix//nowhere/app.sock", status: 502, err: "no such file", unsent: true},
	{name: "an app without a name", handlers: "reverse_proxy app.invalid:80", status: 502, err: "app.invalid", unsent: true},
	{name: "no upstream", handlers: "reverse_proxy {\ndynamic a {\nname app.invalid\nport 80\n}\n}", status: 503, err: "no upstreams", unsent: true},
	{name: "an app without TLS", handlers: "reverse_proxy https://{$APP}", status: 502, err: "EOF", unsent: true},

	{name: "respond", handlers: "respond 204", status: 204, unsent: true},
	{name: "respond with text", handlers: `respond "no such" 404`, status: 404, body: "no such", unsent: true},
	{name: "error", handlers: `error "down for now" 503`, status: 503, err: "down for now", unsent: true},
	{name: "error 410", handlers: `error 410`, status: 410, err: "410", unsent: true},
	{name: "error 200", handlers: `error 200`, status: 500, err: "200", unsent: true},
	{name: "abort", handlers: `abort`, status: 500, err: "gave up", unsent: true},
	{name: "respond and close", handlers: "respond 200 {\nclose\n}", status: 200, unsent: true},
	{name: "no handler for it", handlers: "@other path /other\nrespond @other 200", status: 0, err: "no final status", unsent: true},
	{name: "no handler behind a handle", handlers: "handle {\nheader X-A 1\n}", status: 0, err: "no final status", unsent: true},
	{name: "nothing written", handlers: "inbox_answer nothing", status: 0, err: "no final status", unsent: true},
	{name: "a plain error", handlers: "inbox_answer error", status: 500, err: "a plain error", unsent: true},
	{name: "a panic", handlers: "inbox_answer panic", status: 500, err: "panic: at the disco", unsent: true},
	{name: "a panic after 200", handlers: "inbox_answer panic-after", status: 200, unsent: true},
	{name: "an error after 200", handlers: "inbox_answer error-after", status: 200, unsent: true},
	{name: "status 0", handlers: "inbox_answer zero", status: 0, err: "no final status", unsent: true},
	{name: "status 0, then 200", handlers: "inbox_answer zero-200", status: 0, err: "no final status", unsent: true},
	{name: "status 101", handlers: "inbox_answer 101", status: 0, err: "no final status", unsent: true},
	{name: "status 500, then 200", handlers: "inbox_answer 500-200", status: 500, body: "oops", unsent: true},
	{name: "a hijack", handlers: "inbox_answer hijack", status: 200, body: "no hijack", unsent: true},
	{name: "a flush", handlers: "inbox_answer flush", status: 200, body: "ab", unsent: true},
	{name: "a body alone", handlers: "inbox_answer body", status: 200, body: "ok", unsent: true},
}

func init() {
	for i := range hasEnded {
		if hasEnded[i].name == "a compressed body" {
			header := hasEnded[i].say
			hasEnded[i].say = func(c net.Conn) {
				header(c)
				_, _ = io.WriteString(c, gzipped("no such model"))
			}
		}
	}
	caddy.RegisterModule(new(answering))
	httpcaddyfile.RegisterHandlerDirective("inbox_answer", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		a := new(answering)
		return a, a.UnmarshalCaddyfile(h.Dispenser)
	})
	httpcaddyfile.RegisterDirectiveOrder("inbox_answer", httpcaddyfile.Before, "respond")
}

// answering is a handler with a way of its own.
type answering struct {
	Way string `json:"way"`
}

func (*answering) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.inbox_answer", New: func() caddy.Module { return new(answering) }}
}

func (a *answering) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.AllArgs(&a.Way) {
		return d.ArgErr()
	}
	return nil
}

func (a *answering) ServeHTTP(w http.ResponseWriter, _ *http.Request, _ caddyhttp.Handler) error {
	switch a.Way {
	case "error":
		return errors.New("a plain error")
	case "panic":
		panic("at the disco")
	case "panic-after":
		w.WriteHeader(200)
		panic("at the disco")
	case "error-after":
		w.WriteHeader(200)
		return caddyhttp.Error(500, errors.New("too late"))
	case "zero":
		w.WriteHeader(0)
	case "zero-200":
		w.WriteHeader(0)
		w.WriteHeader(200)
	case "101":
		w.WriteHeader(101)
		w.WriteHeader(200)
	case "500-200":
		w.WriteHeader(500)
		w.WriteHeader(200)
		_, _ = io.WriteString(w, "oops")
	case "hijack":
		if _, _, err := http.NewResponseController(w).Hijack(); err != nil {
			_, _ = io.WriteString(w, "no hijack")
		}
	case "flush":
		_, _ = io.WriteString(w, "a")
		if err := http.NewResponseController(w).Flush(); err != nil {
			return err
		}
		_, _ = io.WriteString(w, "b")
	case "body":
		_, _ = io.WriteString(w, "ok")
	}
	return nil
}

// startAnswers starts an inbox for each of the ways.
func startAnswers(t *testing.T, ways []answer, o route.Options) []*route.Route {
	t.Helper()
	none, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	none.Close()
	t.Setenv("NONE", none.Addr().String())
	t.Setenv("APP", newRawApp(t, says("HTTP/1.1 200 OK\nContent-Length: 0\n\n")).Addr().String())
	var handlers []string
	for _, way := range ways {
		if way.say != nil {
			way.handlers = "reverse_proxy " + newRawApp(t, way.say).Addr().String()
		}
		handlers = append(handlers, way.handlers)
	}
	_, routes := start(t, o, handlers...)
	return routes
}

func (a *answer) check(t *testing.T, got delivery.AppResponse) {
	t.Helper()
	if got.Status != a.status || got.RetryAfter != a.retry || got.Body != a.body || got.Sent == a.unsent || got.TimedOut != a.timeout {
		t.Errorf("status %d, retry after %s, sent %t, timed out %t, body %.80q, error %v\nwant %+v",
			got.Status, got.RetryAfter, got.Sent, got.TimedOut, got.Body, got.Err, *a)
	}
	if (got.Err == nil) != (a.err == "") || got.Err != nil && !strings.Contains(got.Err.Error(), a.err) {
		t.Errorf("the error is %v, want one with %q", got.Err, a.err)
	}
}

// TestTheFirstFinalStatusDecides, in each way an app or a handler can respond.
func TestTheFirstFinalStatusDecides(t *testing.T) {
	routes := startAnswers(t, hasEnded, route.Options{Timeout: time.Minute})
	for i, way := range hasEnded {
		t.Run(way.name, func(t *testing.T) { way.check(t, routes[i].Pass(t.Context(), event(), 1)) })
	}
}

// hasNoEnd are the ways of an app that last.
var hasNoEnd = []answer{
	{name: "no response", say: hangs(""), err: "did not respond in time", timeout: true},
	{name: "half a header", say: hangs("HTTP/1.1 200 OK\nConte"), err: "did not respond in time", timeout: true},
	{name: "hints alone", say: hangs("HTTP/1.1 103 Early Hints\n\n"), err: "did not respond in time", timeout: true},
	{name: "200 whose body hangs", say: hangs("HTTP/1.1 200 OK\nContent-Length: 9\n\nok"), status: 200, body: "ok"},
	{name: "500 whose body hangs", say: hangs("HTTP/1.1 500 Oh\nContent-Length: 9\n\nno"), status: 500, body: "no"},
	{name: "a FastCGI app that hangs", handlers: "reverse_proxy {$HUNG} {\ntransport fastcgi\n}", err: "did not respond in time", timeout: true},
	{name: "retries without end", handlers: "reverse_proxy {$NONE} {\nlb_try_duration 1h\nlb_try_interval 10ms\n}", err: "did not respond in time", timeout: true, unsent: true},
	{name: "a handler that hangs", handlers: "inbox_hang", err: "did not respond in time", timeout: true, unsent: true},
}

func init() {
	caddy.RegisterModule(new(hanging))
	httpcaddyfile.RegisterHandlerDirective("inbox_hang", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		h.Next()
		return new(hanging), nil
	})
	httpcaddyfile.RegisterDirectiveOrder("inbox_hang", httpcaddyfile.Before, "respond")
}

// hanging is a handler that waits for the end of the test whatever its request's
// context says.
type hanging struct{}

var hangEnds atomic.Pointer[chan struct{}]

func (*hanging) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.inbox_hang", New: func() caddy.Module { return new(hanging) }}
}

func (*hanging) ServeHTTP(w http.ResponseWriter, _ *http.Request, _ caddyhttp.Handler) error {
	<-*hangEnds.Load()
	w.WriteHeader(200)
	_, err := io.WriteString(w, "too late")
	return err
}

// TestAnAttemptEndsInTime whatever the app does. What it said by then counts.
func TestAnAttemptEndsInTime(t *testing.T) {
	ends := make(chan struct{})
	hangEnds.Store(&ends)
	hung, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("HUNG", hung.Addr().String())
	// Long enough for a response that comes at once.
	routes := startAnswers(t, hasNoEnd, route.Options{Timeout: 5 * time.Second})
	t.Cleanup(func() { close(ends); hung.Close() })
	t.Run("all", func(t *testing.T) {
		for i, way := range hasNoEnd {
			t.Run(way.name, func(t *testing.T) {
				t.Parallel()
				way.check(t, routes[i].Pass(t.Context(), event(), 1))
			})
		}
	})
}

// TestAnAttemptThatIsCanceledHasNoResponse, unless it has one already.
func TestAnAttemptThatIsCanceledHasNoResponse(t *testing.T) {
	came := make(chan struct{}, 1)
	ways := []answer{{say: func(c net.Conn) {
		came <- struct{}{}
		hangs("")(c)
	}}}
	routes := startAnswers(t, ways, route.Options{Timeout: time.Hour})
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the process ends")
	go func() {
		<-came
		cancel(why)
	}()
	got := routes[0].Pass(ctx, event(), 1)
	if got.Status != 0 || got.TimedOut || !got.Sent || !errors.Is(got.Err, why) {
		t.Errorf("%+v", got)
	}
}

// TestHandlersThatHangAreBounded: they hold the bodies of their events.
func TestHandlersThatHangAreBounded(t *testing.T) {
	ends := make(chan struct{})
	hangEnds.Store(&ends)
	_, routes := start(t, route.Options{}, "inbox_hang", "respond 200")
	t.Cleanup(func() { close(ends) })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() { routes[0].Pass(ctx, event(), 1) })
	}
	wg.Wait()
	got := routes[0].Pass(t.Context(), event(), 1)
	if got.Err == nil || !strings.Contains(got.Err.Error(), "64 attempts") || !got.TimedOut || got.Sent {
		t.Errorf("with 64 handlers that hang: %+v", got)
	}
	if got := routes[1].Pass(t.Context(), event(), 1); got.Status != 200 {
		t.Errorf("the other inbox: %+v", got)
	}
}

func TestAnEventThatCannotBeReadIsNoSuccess(t *testing.T) {
	_, routes := start(t, route.Options{Timeout: time.Minute}, "respond 200")
	d := event()
	d.Inbound.Head = []byte{99}
	if got := routes[0].Pass(t.Context(), d, 1); got.Status != 0 || got.Err == nil || got.TimedOut {
		t.Errorf("%+v", got)
	}
	d = changed(t, event(), func(h *inbox.Head) { h.OriginalURI = "%zz" })
	if got := routes[0].Pass(t.Context(), d, 1); got.Status != 0 || got.Err == nil {
		t.Errorf("%+v", got)
	}
}
