package security_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/e2e/rig/siterun"
	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/internal/fakeapi"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/sqlite"
)

// The budget of memory that SECURITY.md documents. Tests print what
// they measure.
const (
	perSender   = 64 << 10  // bytes for one connection that sends nothing, or little
	perEvent    = 512       // bytes for one accepted event, while it is remembered
	perDelivery = 512       // bytes for one delivery that waits
	aside       = 192 << 20 // bytes for everything else
)

// memory is what the process has in use, once what is not used is collected.
func memory() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

// reachable is what the process needs: unlike memory, it does not count the
// unused parts of the heap's pages.
func reachable() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// TestSlowSenders: a thousand connections that promise a body and send nothing,
// or a byte now and then, to the edge and to the prediction API. Each costs
// little, nobody else is kept out, and those of the edge are turned away in
// time.
func TestSlowSenders(t *testing.T) {
	t.Setenv("EDGE_TEST_SECRET", whsec)
	app := caddyrun.NewApp(t)
	s := caddyrun.New(t)
	text := "{\n{$GLOBALS}\n}\n" + edgeSite("PORT1", route, "read_timeout 5m", app.Addr()) +
		edgeSite("PORT3", route, "scope short\nread_timeout 1s", app.Addr()) + fmt.Sprintf(`http://127.0.0.1:{$PORT2} {
	replicate_predictions {
		api %s/v1
	}
	reverse_proxy %s
}
`, app.URL, app.URL)
	s.Reload(text)
	e := &edge{s, t, app, text}
	e.quiet()
	e.accepted(replicate(t, whsec, payload("p0", time.Now())))

	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	open := func(port string, n int) (opened []net.Conn) {
		path, header := route, "X-Replicate-Signature: "+strings.Repeat("0", 64)
		if port == "PORT2" {
			path, header = "/v1/predictions", "Content-Type: application/json"
		}
		for i := range n {
			conn, err := net.Dial("tcp", e.Addr(port))
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, conn)
			framing := "Content-Length: 8000000"
			if i%2 == 0 {
				framing = "Transfer-Encoding: chunked"
			}
			_, err = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\n%s\r\n%s\r\n\r\n", path, e.Addr(port), header, framing)
			if err == nil && i%4 == 1 {
				_, err = io.WriteString(conn, `{"webhook_url":"`)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		return conns[len(conns)-n:]
	}
	const each = 500
	before := memory()
	open("PORT1", each)
	open("PORT2", each)
	caddyrun.Until(t, "the senders to be served", func() bool { return goroutines("(*Limits).read") >= 2*each })
	cost := (memory() - before) / (2 * each)
	t.Logf("%d slow senders cost %d bytes each", 2*each, cost)
	if cost > perSender {
		t.Errorf("a slow sender costs %d bytes, more than %d", cost, perSender)
	}
	e.accepted(replicate(t, whsec, payload("p1", time.Now())))
	if a, err := do(e.Client, must(http.NewRequest(http.MethodPost, e.URL("PORT2", "/v1/predictions"), strings.NewReader(`{"input":{}}`)))); err != nil || a.status != http.StatusOK {
		t.Errorf("another create got %v, %v", a, err)
	}
	for i, conn := range open("PORT3", 50) {
		_ = conn.SetReadDeadline(time.Now().Add(4 * caddyrun.Patience))
		got, err := io.ReadAll(conn)
		if !strings.HasPrefix(string(got), "HTTP/1.1 408 ") {
			t.Fatalf("sender %d got %q, %v; want 408 and the end", i, got, err)
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// goroutines counts those that are in one of the functions.
func goroutines(functions ...string) (n int) {
	buf := make([]byte, 64<<20)
	buf = buf[:runtime.Stack(buf, true)]
	for g := range strings.SplitSeq(string(buf), "\n\n") {
		for _, f := range functions {
			if strings.Contains(g, "."+f+"(") {
				n++
				break
			}
		}
	}
	return n
}

// TestHostileBodies: bodies that are as large as they may be and made to be
// costly, from many at once. Each is refused, none with a 5xx but those that
// the budget of bytes has no room for, and the memory they took is free again.
func TestHostileBodies(t *testing.T) {
	e := newEdge(t, "max_body 1MiB", "replicate_webhook {\nbody_budget 16MiB\n}")
	e.quiet()
	const size = 1 << 20
	fill := func(head, unit, tail string) string {
		return head + strings.Repeat(unit, (size-len(head)-len(tail))/len(unit)) + tail
	}
	bodies := map[string]string{
		"deep arrays":       strings.Repeat("[", size),
		"deep objects":      fill("", `{"":`, ""),
		"one key repeated":  fill("{", `"":0,`, `"":0}`),
		"many small":        fill("[", "{},", "{}]"),
		"long numbers":      fill("[", strings.Repeat("9", 300)+".5,", "0]"),
		"escapes":           fill(`["`, `\u00e9`, `"]`),
		"reordered members": fill("[", `{"b":0,"1":0},`, "0]"),
		"too large":         strings.Repeat(" ", size+1),
	}
	before := memory()
	var most atomic.Int64
	var busy, refused atomic.Int64
	var wg sync.WaitGroup
	for name, body := range bodies {
		for _, genuine := range []bool{false, true} {
			for range 4 {
				wg.Go(func() {
					w := standard(t, map[bool]string{true: whsec, false: unknown}[genuine], "m", body, time.Now())
					a, err := post(e.Client, e.URL("PORT1", route), w)
					switch {
					case err != nil && strings.Contains(err.Error(), "reset"), err != nil && strings.Contains(err.Error(), "broken pipe"):
						refused.Add(1) // the answer came before the body was sent
					case err != nil:
						t.Errorf("%s: %v", name, err)
					case a.status == http.StatusServiceUnavailable && a.header.Get("Retry-After") != "":
						busy.Add(1)
					case a.status >= 400 && a.status < 500:
						refused.Add(1)
					default:
						t.Errorf("%s: got %d", name, a.status)
					}
					var m runtime.MemStats
					runtime.ReadMemStats(&m)
					most.Store(max(most.Load(), int64(m.HeapInuse)))
				})
			}
		}
	}
	wg.Wait()
	e.Client.CloseIdleConnections()
	after := memory()
	t.Logf("%d refused, %d found no room; the heap went from %d to %d MiB, and is at %d MiB", refused.Load(), busy.Load(), before>>20, most.Load()>>20, after>>20)
	if peak := most.Load() - before; peak > 8*16<<20+aside {
		t.Errorf("the heap grew by %d MiB: more than eight times the body_budget", peak>>20)
	}
	if after > before+aside/4 {
		t.Errorf("%d MiB are still in use", (after-before)>>20)
	}
	e.accepted(replicate(t, whsec, payload("p1", time.Now())))
	if n := e.app.Count(); n != 1 {
		t.Errorf("the app got %d requests", n)
	}
}

// TestManyPredictions posts distinct predictions, forged and genuine. Forged
// ones leave nothing behind, genuine ones what is documented.
func TestManyPredictions(t *testing.T) {
	e := newEdge(t, "tolerance 1h")
	e.quiet()
	server := httpServer(t)
	e.app.Answer(func(http.ResponseWriter, *caddyrun.Request) {})
	secret := key(t, whsec)
	post := func(id string, s signature.Secret) int {
		body := payload(id, time.Now())
		r := httptest.NewRequestWithContext(context.WithValue(t.Context(), http.ServerContextKey, new(http.Server)), http.MethodPost, route, strings.NewReader(body))
		r.Host = "127.0.0.1"
		r.Header.Set("X-Replicate-Signature", s.SignReplicate([]byte(body)))
		rec := httptest.NewRecorder()
		server.ServeHTTP(rec, r)
		return rec.Code
	}
	post("warm", secret)
	before := memory()
	start := time.Now()
	forger := key(t, unknown)
	for i := range *ids {
		if code := post(fmt.Sprint("f", i), forger); code != http.StatusUnauthorized {
			t.Fatalf("a forged one got %d", code)
		}
	}
	rate := float64(*ids) / time.Since(start).Seconds()
	left := memory() - before
	t.Logf("%d forged predictions, %.0f a second, left %d KiB", *ids, rate, left>>10)
	if left > 8<<20 {
		t.Errorf("forged predictions left %d bytes", left)
	}

	burst := func(name string, n int) float64 {
		start := time.Now()
		e.app.Forget()
		var wg sync.WaitGroup
		var next atomic.Int64
		for range 64 {
			wg.Go(func() {
				for i := next.Add(1); i <= int64(n); i = next.Add(1) {
					if code := post(fmt.Sprint(name, i), secret); code != http.StatusOK {
						t.Errorf("a genuine one got %d", code)
						return
					}
				}
			})
		}
		wg.Wait()
		if got := e.app.Count(); got != n {
			t.Errorf("the app got %d of %d", got, n)
		}
		e.app.Forget()
		return float64(n) / time.Since(start).Seconds()
	}
	genuine := *ids / 4
	burst("warm", 640)
	before = memory()
	rate = burst("g", genuine)
	each := (memory() - before) / int64(genuine)
	t.Logf("%d genuine predictions, %.0f a second, %d bytes of memory each", genuine, rate, each)
	if each > perEvent && each*int64(genuine) > 8<<20 {
		t.Errorf("an accepted event costs %d bytes, more than %d", each, perEvent)
	}
}

// TestQueuedDeliveries starts Caddy with a short and with a long queue whose
// receivers don't respond. What waits is on disk: memory holds little of each,
// nothing of the queue is lost, and new creates are still taken. Only the
// difference is judged, so that nothing else that Caddy needs hides what a
// delivery costs.
func TestQueuedDeliveries(t *testing.T) {
	const few = 100       // more than may be attempted at once
	memoryOfQueue(t, few) // what is allocated once a process
	little, much := memoryOfQueue(t, few), memoryOfQueue(t, few+*queued)
	each := (much - little) / int64(*queued)
	t.Logf("a queued delivery takes %d bytes: %d more take %d KiB more", each, *queued, (much-little)>>10)
	if each > perDelivery {
		t.Errorf("a queued delivery takes %d bytes, more than %d", each, perDelivery)
	}
	if much > aside+perDelivery*int64(*queued) {
		t.Errorf("the queue takes %d MiB", much>>20)
	}
}

// memoryOfQueue returns what a Caddy needs that has n deliveries in its queue.
func memoryOfQueue(t *testing.T, n int) int64 {
	t.Helper()
	release := make(chan struct{})
	receiver := caddyrun.NewApp(t)
	receiver.Answer(func(_ http.ResponseWriter, r *caddyrun.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	api := caddyrun.NewApp(t)
	mock := fakeapi.New(fakeapi.Options{})
	api.Answer(func(w http.ResponseWriter, r *caddyrun.Request) {
		r.Body = io.NopCloser(strings.NewReader(string(r.Got)))
		mock.ServeHTTP(w, r.Request)
	})
	s := caddyrun.New(t)
	path := s.Path("webhook.db")
	queue(t, path, n, receiver.URL)
	before := reachable()
	text := fmt.Sprintf(`{
	{$GLOBALS}
	replicate_webhook {
		store sqlite %s
		timeout 1m
		egress {
			allow_http
			ports %s
			allow 127.0.0.0/8
		}
	}
}
http://127.0.0.1:{$PORT1} {
	replicate_predictions {
		api %s/v1
	}
	reverse_proxy %s
}
`, path, receiver.Addr()[strings.LastIndexByte(receiver.Addr(), ':')+1:], api.URL, api.URL)
	e := &edge{s, t, api, text}
	e.quiet()
	const concurrency = 16 // of an endpoint, by default
	receiver.Wait(1)       // it hangs, so that there may be no second
	r := must(http.NewRequest(http.MethodPost, e.URL("PORT1", "/v1/predictions"), strings.NewReader(fmt.Sprintf(`{"version":"v","input":{},"webhook_url":%q}`, receiver.URL))))
	r.Header.Set("Authorization", "Bearer x")
	r.Header.Set("Content-Type", "application/json")
	if a, err := do(e.Client, r); err != nil || a.status != http.StatusCreated {
		t.Errorf("a create beside the queue got %v, %v", a, err)
	}
	used := reachable() - before
	if n := receiver.Count(); n > concurrency {
		t.Errorf("%d attempts at an endpoint with a concurrency of %d", n, concurrency)
	}
	// What is under way ends, and then the store is closed.
	s.Reload("{\n{$GLOBALS}\n}\n")
	close(release)
	if left := deliveries(t, path); left < n {
		t.Errorf("%d of %d deliveries are left", left, n)
	}
	return used
}

// queue fills a store with deliveries that are due, of as many predictions.
func queue(t *testing.T, path string, n int, url string) {
	t.Helper()
	s, err := sqlite.Open(sqlite.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	body := make([]byte, 600)
	var wg sync.WaitGroup
	var next atomic.Int64
	for range 256 {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				p := store.Prediction{
					API: "https://api.example.com/v1", ID: fmt.Sprint("p", i), Client: "c", URL: url, Events: event.All, CreatedAt: time.Now(),
				}
				if err := s.Track(context.Background(), &p, []store.Event{{Kind: event.Completed, Payload: body}}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// deliveries counts those that wait or were made, in a store that is about to
// be closed.
func deliveries(t *testing.T, path string) int {
	t.Helper()
	var s *sqlite.Store
	caddyrun.Until(t, "the store to be closed", func() bool {
		var err error
		s, err = sqlite.Open(sqlite.Options{Path: path})
		return err == nil
	})
	defer func() { _ = s.Close() }()
	counts, err := s.Counts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return counts.Deliveries[store.DeliveryPending] + counts.Deliveries[store.DeliveryDelivered]
}

// TestEndlessReceiver: of an answer without end no more than 64 KiB is read, and
// then the connection is closed.
func TestEndlessReceiver(t *testing.T) {
	sent := make(chan int64, 1)
	s := siterun.Start(t, siterun.Options{})
	s.Hook.Answer(func(w http.ResponseWriter, _ *caddyrun.Request) {
		var n int64
		for block := make([]byte, 4<<10); ; {
			m, err := w.Write(block)
			n += int64(m)
			if err != nil {
				select {
				case sent <- n:
				default:
				}
				return
			}
		}
	})
	before := memory()
	s.Create("/hook")
	// The status has said it all: both events are delivered.
	if st := s.Settled(2); st.Deliveries.Delivered != 2 {
		t.Errorf("the deliveries are %+v", st.Deliveries)
	}
	t.Logf("the connection was closed after %d KiB had been sent, kernel buffers included", <-sent>>10)
	if used := memory() - before; used > 32<<20 {
		t.Errorf("%d MiB are in use", used>>20)
	}
}
