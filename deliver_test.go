package replicatewebhook_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
)

func init() {
	caddy.RegisterModule(misbehaving{})
	httpcaddyfile.RegisterHandlerDirective("misbehave", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		m := new(misbehaving)
		h.Next()
		h.Args(&m.How)
		return m, nil
	})
	httpcaddyfile.RegisterDirectiveOrder("misbehave", httpcaddyfile.Before, "reverse_proxy")
}

// misbehaving is a handler behind the edge that does what handlers may do.
type misbehaving struct {
	How string `json:"how,omitempty"`
}

func (misbehaving) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.misbehave", New: func() caddy.Module { return new(misbehaving) }}
}

func (m misbehaving) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	switch r.Header.Get("X-Test") + m.How {
	case "panic":
		panic("a handler's own fault")
	case "abort":
		panic(http.ErrAbortHandler)
	case "error":
		return caddyhttp.Error(http.StatusTeapot, errors.New("refusing"))
	case "nothing":
		return nil
	case "hijack":
		return hijack(w)
	case "write":
		_, err := io.WriteString(w, "no header before")
		return err
	case "flush":
		return http.NewResponseController(w).Flush()
	}
	return next.ServeHTTP(w, r)
}

// TestReleasedUnlessTheAppAccepts: whatever goes wrong, the sender's retry
// reaches the app again.
func TestReleasedUnlessTheAppAccepts(t *testing.T) {
	e := newEdge(t, "upstream_timeout 150ms", "misbehave")
	release := make(chan struct{})
	status := func(code int) func(http.ResponseWriter, *caddyrun.Request) {
		return func(w http.ResponseWriter, _ *caddyrun.Request) { w.WriteHeader(code) }
	}
	ok := status(http.StatusOK)
	for _, c := range []struct {
		name   string
		answer func(http.ResponseWriter, *caddyrun.Request)
		header string
		status int // 0: the connection breaks
	}{
		{"301", status(301), "", 301},
		{"304", status(304), "", 304},
		{"400", status(400), "", 400},
		{"409", status(409), "", 409},
		{"500", status(500), "", 500},
		{"503", status(503), "", 503},
		{"app hangs up", func(w http.ResponseWriter, _ *caddyrun.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_ = conn.Close()
			}
		}, "", 502},
		{"app panics", func(http.ResponseWriter, *caddyrun.Request) { panic(http.ErrAbortHandler) }, "", 502},
		{"app does not answer", func(_ http.ResponseWriter, r *caddyrun.Request) {
			select {
			case <-r.Context().Done():
			case <-release:
			}
		}, "", http.StatusGatewayTimeout},
		{"handler panics", ok, "panic", 0},
		{"handler aborts", ok, "abort", 0},
		{"handler fails", ok, "error", http.StatusTeapot},
	} {
		t.Run(c.name, func(t *testing.T) {
			e.t = t
			e.app.Answer(c.answer)
			w := completed(c.name)
			if c.header != "" {
				w = w.with("X-Test", c.header)
			}
			for range 2 {
				a, err := post(e.Client, e.URL("PORT1", route), w)
				if err != nil && c.status != 0 || a.status != c.status || a.duplicate() {
					t.Fatalf("got %v, %v; want %d", a, err, c.status)
				}
			}
			e.app.WaitIdle()
			e.app.Answer(ok)
			w = w.without("X-Test")
			e.accepted(w)
			e.isDuplicate(w)
		})
	}
	e.t = t
	close(release)
}

// TestSmallAnswerThatStalls: a 2xx whose few bytes do not come is cut short. The
// event is the app's all the same.
func TestSmallAnswerThatStalls(t *testing.T) {
	e := newEdge(t, "upstream_timeout 150ms")
	e.app.Answer(func(w http.ResponseWriter, r *caddyrun.Request) {
		w.Header().Set("Content-Length", "10")
		_, _ = io.WriteString(w, "a part")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	if a, err := post(e.Client, e.URL("PORT1", route), completed("p1")); err == nil {
		t.Fatalf("got %v of an answer that stalled", a)
	}
	e.isDuplicate(completed("p1"))
}

// TestReleasedWhenTheAppCannotBeReached: a dial error is no answer.
func TestReleasedWhenTheAppCannotBeReached(t *testing.T) {
	e := newEdge(t, "")
	w := completed("p1")
	e.Reload(site(withSecret(""), "unix/"+e.Path("nobody.sock")))
	for range 2 {
		if a := e.refused(w, http.StatusBadGateway); a.duplicate() {
			t.Fatalf("got %v", a)
		}
	}
	e.reload("")
	e.accepted(w)
}

// TestHandlersThatWriteNoHeader respond with 200 by what they write, and it is
// committed.
func TestHandlersThatWriteNoHeader(t *testing.T) {
	for _, how := range []string{"write", "flush"} {
		t.Run(how, func(t *testing.T) {
			e := newEdge(t, "", "misbehave "+how)
			w := completed("p1")
			if a := e.send(w); a.status != http.StatusOK || a.duplicate() {
				t.Fatalf("got %v", a)
			}
			e.isDuplicate(w)
		})
	}
}

// TestCommitBeforeTheAnswerLeaves: when the sender sees the answer's header,
// while its body is still to come, the event is already a duplicate.
func TestCommitBeforeTheAnswerLeaves(t *testing.T) {
	e := newEdge(t, "")
	proceed := make(chan struct{})
	e.app.Answer(func(w http.ResponseWriter, _ *caddyrun.Request) {
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-proceed
		_, _ = io.WriteString(w, "the rest")
	})
	w := completed("p1")
	c := dial(t, e.Addr("PORT1"))
	c.head(w, fmt.Sprintf("Content-Length: %d", len(w.body)))
	c.write(w.body)
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("got %v, %v", resp, err)
	}
	e.isDuplicate(w)
	close(proceed)
	rest, err := io.ReadAll(resp.Body)
	if err != nil || string(rest) != "the rest" {
		t.Fatalf("the body is %q, %v", rest, err)
	}
}

// TestStreamedAnswersArrivePiecewise: nothing is buffered.
func TestStreamedAnswersArrivePiecewise(t *testing.T) {
	e := newEdge(t, "")
	next := make(chan string)
	e.app.Answer(func(w http.ResponseWriter, _ *caddyrun.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for piece := range next {
			_, _ = io.WriteString(w, piece)
			_ = http.NewResponseController(w).Flush()
		}
	})
	c, w := dial(t, e.Addr("PORT1")), completed("p1")
	c.head(w, fmt.Sprintf("Content-Length: %d", len(w.body)))
	c.write(w.body)
	next <- "piece 1\n"
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	body := bufio.NewReader(resp.Body)
	for i := 1; i <= 3; i++ {
		if line, err := body.ReadString('\n'); err != nil || line != fmt.Sprintf("piece %d\n", i) {
			t.Fatalf("piece %d is %q, %v", i, line, err)
		}
		if i < 3 {
			next <- fmt.Sprintf("piece %d\n", i+1)
		}
	}
	close(next)
}

// TestInformationalAnswersPass: a 103 is on its way before the app is done, and
// commits nothing.
func TestInformationalAnswersPass(t *testing.T) {
	e := newEdge(t, "")
	seen := make(chan struct{})
	e.app.Answer(func(w http.ResponseWriter, _ *caddyrun.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		<-seen
		w.WriteHeader(http.StatusInternalServerError)
	})
	w := completed("p1")
	r, _ := http.NewRequest(http.MethodPost, e.URL("PORT1", route), strings.NewReader(w.body))
	r.Header = w.header
	var hints atomic.Int32
	r = r.WithContext(httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			if code == http.StatusEarlyHints && h.Get("Link") != "" && hints.Add(1) == 1 {
				close(seen)
			}
			return nil
		},
	}))
	resp, err := e.Client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusInternalServerError || hints.Load() != 1 {
		t.Fatalf("got %d after %d hints", resp.StatusCode, hints.Load())
	}
	e.app.AnswerStatus(http.StatusOK)
	e.accepted(w)
}

// TestDuplicateOfAnEventInFlight waits for its outcome.
func TestDuplicateOfAnEventInFlight(t *testing.T) {
	e := newEdge(t, "in_flight_wait 10s")
	proceed := make(chan int)
	e.app.Answer(func(w http.ResponseWriter, _ *caddyrun.Request) { w.WriteHeader(<-proceed) })
	t.Run("success makes a duplicate", func(t *testing.T) {
		w := completed("p1")
		first := e.start(w)
		e.app.Wait(1)
		second := e.start(w)
		proceed <- http.StatusOK
		if a := <-first; a.status != http.StatusOK || a.duplicate() {
			t.Fatalf("the first got %v", a)
		}
		if a := <-second; a.status != http.StatusOK || !a.duplicate() {
			t.Fatalf("the second got %v", a)
		}
	})
	t.Run("failure is taken over", func(t *testing.T) {
		w := completed("p2")
		before := e.app.Count()
		first := e.start(w)
		e.app.Wait(before + 1)
		second := e.start(w)
		proceed <- http.StatusInternalServerError
		if a := <-first; a.status != http.StatusInternalServerError {
			t.Fatalf("the first got %v", a)
		}
		e.app.Wait(before + 2)
		proceed <- http.StatusOK
		if a := <-second; a.status != http.StatusOK || a.duplicate() {
			t.Fatalf("the second got %v", a)
		}
	})
}

// TestWaitingTooLongIs503 with a Retry-After, and the first goes on.
func TestWaitingTooLongIs503(t *testing.T) {
	e := newEdge(t, "in_flight_wait 50ms")
	proceed := make(chan struct{})
	e.app.Answer(func(http.ResponseWriter, *caddyrun.Request) { <-proceed })
	w := completed("p1")
	first := e.start(w)
	e.app.Wait(1)
	if a := e.refused(w, http.StatusServiceUnavailable); a.header.Get("Retry-After") != "1" {
		t.Fatalf("got %v, want Retry-After: 1", a)
	}
	close(proceed)
	if a := <-first; a.status != http.StatusOK {
		t.Fatalf("the first got %v", a)
	}
	e.isDuplicate(w)
}

// TestManyPostsOfOneEvent reach the app once.
func TestManyPostsOfOneEvent(t *testing.T) {
	e := newEdge(t, "")
	w := completed("p1")
	var wg sync.WaitGroup
	var own, duplicates atomic.Int32
	for range 100 {
		wg.Go(func() {
			a, err := post(e.Client, e.URL("PORT1", route), w)
			switch {
			case err != nil || a.status != http.StatusOK:
				t.Errorf("got %v, %v", a, err)
			case a.duplicate():
				duplicates.Add(1)
			default:
				own.Add(1)
			}
		})
	}
	wg.Wait()
	if e.app.Count() != 1 || own.Load() != 1 || duplicates.Load() != 99 {
		t.Fatalf("the app got %d requests; %d answers of its own and %d duplicates", e.app.Count(), own.Load(), duplicates.Load())
	}
}

// TestSenderThatLeavesDoesNotCancelTheApp: the exchange runs on, and commits.
func TestSenderThatLeavesDoesNotCancelTheApp(t *testing.T) {
	for _, status := range []int{http.StatusOK, http.StatusInternalServerError} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			e := newEdge(t, "")
			proceed := make(chan struct{})
			e.app.Answer(func(w http.ResponseWriter, r *caddyrun.Request) {
				<-proceed
				if r.Context().Err() != nil {
					t.Error("the app's request was cancelled")
				}
				w.WriteHeader(status)
			})
			w := completed("p1")
			c := dial(t, e.Addr("PORT1"))
			c.head(w, fmt.Sprintf("Content-Length: %d", len(w.body)))
			c.write(w.body)
			e.app.Wait(1)
			_ = c.Close()
			second := e.start(w)
			close(proceed)
			a := <-second
			if want := status == http.StatusOK; a.status != status || a.duplicate() != want {
				t.Fatalf("the retry got %v", a)
			}
			if n := e.app.Count(); n != 1 && status == http.StatusOK {
				t.Fatalf("the app got %d requests", n)
			}
		})
	}
}

// TestDedupOff passes everything on.
func TestDedupOff(t *testing.T) {
	e := newEdge(t, "dedup off")
	e.accepted(completed("p1"))
	e.accepted(completed("p1"))
}
