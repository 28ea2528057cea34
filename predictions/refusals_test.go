package predictions

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-replicate/replicate-webhook/internal/body"
	"github.com/caddy-replicate/replicate-webhook/internal/fakeapi"
	"github.com/caddy-replicate/replicate-webhook/internal/upstream"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// Each refusal is in the log at WARN with its cause: which API, which status,
// which member. A flood of one kind makes one line.
func TestRefusalsAreLoggedWithTheirCause(t *testing.T) {
	down := &upstream.Error{API: apiURL, Path: "/account", Status: 503}
	for _, c := range []struct {
		name, method, path, body string
		set                      func(*fixture)
		status                   int
		member, cause, detail    string
	}{
		{"the API is down", "POST", "/v1/predictions", ourBody, func(f *fixture) { f.fake.caller = down }, 502, "", "GET /account (status 503)", "GET /account (status 503)"},
		{"the API refuses", "POST", "/v1/predictions", ourBody, func(f *fixture) { f.fake.caller = &upstream.Refusal{Status: 401} }, 401, "", "401", ""},
		{"a bad URL", "POST", "/v1/predictions", `{"webhook_url":"http://x"}`, nil, 422, memberURL, "must use https", "must use https"},
		{"a bad event", "POST", "/v1/predictions", `{"webhook_url":"https://x","webhook_events":[1]}`, nil, 422, memberEvents, "must hold strings", ""},
		{"not JSON", "POST", "/v1/predictions", `{"webhook_url":"https://x",}`, nil, 422, memberURL, "comma", ""},
		{"the store is full", "POST", "/v1/predictions", ourBody, func(f *fixture) { f.fake.ready = errFakeStore }, 503, "", "disk full", ""},
		{"no API", "GET", "/v1/predictions/p/webhook_deliveries", "", func(f *fixture) { f.fake.authorise = upstream.ErrNoAPI }, 501, "", upstream.ErrNoAPI.Error(), ""},
		{"a look at the log", "GET", "/v1/predictions/p/webhook_deliveries", "", func(f *fixture) { f.fake.authorise = down }, 502, "", "status 503", ""},
		{"an update", "PATCH", "/v1/predictions/p", `{"webhook_url":null}`, func(f *fixture) { f.fake.authorise = fmt.Errorf("asking: %w", upstream.ErrNoRoom) }, 503, "", "no room", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t, fakeapi.Options{})
			core, logs := observer.New(zapcore.WarnLevel)
			f.h.logger = zap.New(core)
			if c.set != nil {
				c.set(f)
			}
			for range 20 {
				wantStatus(t, f.do(c.method, c.path, c.body), c.status, c.detail)
			}
			if logs.Len() != 1 {
				t.Fatalf("%d lines are logged: %v", logs.Len(), logs.All())
			}
			line := logs.All()[0]
			m := line.ContextMap()
			if line.Level != zapcore.WarnLevel || m["api"] != apiURL || m["status"] != int64(c.status) || m["member"] != c.member || !strings.Contains(fmt.Sprint(m["error"]), c.cause) {
				t.Errorf("logged: %s %v", line.Level, m)
			}
		})
	}
}

// What is held of responses counts against body_budget: whatever does not fit
// passes as it is, and says in its header what its body can't.
func TestHeldResponsesAreBoundedByTheBudget(t *testing.T) {
	const size, share = 1 << 20, 4 << 20
	f := newFixture(t, fakeapi.Options{})
	f.h.budget = body.NewBudget(8 * share)
	f.fake.put(store.Prediction{API: apiURL, ID: "p", URL: "https://r.example/hook"})
	body := `{"id":"p","status":"processing","output":"` + strings.Repeat("x", size) + `"}`
	const all = 48
	var arrived, done sync.WaitGroup
	arrived.Add(all)
	release := make(chan struct{})
	f.answerWith(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, body[:size])
		arrived.Done()
		<-release
		_, _ = io.WriteString(w, body[size:])
	})
	var mu sync.Mutex
	var held, passed int
	for range all {
		done.Go(func() {
			w := &counted{header: make(http.Header)}
			if err := f.h.ServeHTTP(w, newRequest(t.Context(), "GET", "/v1/predictions/p", ""), f.next); err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			switch status := w.header.Get(statusHeader); {
			case status == "" && w.bytes > len(body):
				held++
			case status == "pending" && w.bytes == len(body):
				passed++
			default:
				t.Errorf("a response of %d bytes with %v", w.bytes, w.header)
			}
		})
	}
	arrived.Wait()
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	close(release)
	done.Wait()
	if held == 0 || held > share/size || held+passed != all {
		t.Errorf("%d were held and %d passed", held, passed)
	}
	if m.HeapAlloc > 8*share {
		t.Errorf("%d MiB are in use while %d responses are under way", m.HeapAlloc>>20, all)
	}
	if c := f.h.budget.For("192.0.2.1:1234"); !c.Take(share) {
		t.Error("not all of the budget was given back")
	}
}

// counted is a client that keeps nothing.
type counted struct {
	header http.Header
	bytes  int
}

func (c *counted) Header() http.Header         { return c.header }
func (c *counted) WriteHeader(int)             {}
func (c *counted) Write(p []byte) (int, error) { c.bytes += len(p); return len(p), nil }

// A create whose response does not fit is tracked by its id, decoded size counts,
// and the signing secret of the API never passes for want of room.
func TestResponsesBeyondTheBudget(t *testing.T) {
	large := `{"id":"p","output":"` + strings.Repeat("x", 100_000) + `"}`
	for coding, text := range encodings(t, large) {
		t.Run(coding, func(t *testing.T) {
			f := newFixture(t, fakeapi.Options{})
			f.h.budget = body.NewBudget(8 * 20_000)
			f.answerWith(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Encoding", coding)
				w.WriteHeader(201)
				_, _ = io.WriteString(w, text)
			})
			w := f.do("POST", "/v1/predictions", ourBody)
			status := w.Header().Get(statusHeader)
			if status == "" {
				status = w.Result().Trailer.Get(statusHeader)
			}
			if w.Body.String() != large || status != "pending" {
				t.Fatalf("%d bytes with %v and %v", w.Body.Len(), w.Header(), w.Result().Trailer)
			}
			wantCalls(t, f.fake.Calls("created", "bodyless"), "bodyless p ")
		})
	}
	f := newFixture(t, fakeapi.Options{})
	f.h.ServeSigningSecret = true
	f.h.budget = body.NewBudget(8 * 10)
	w := httptest.NewRecorder()
	if err := f.h.ServeHTTP(w, newRequest(t.Context(), "GET", "/v1/webhooks/default/secret", ""), f.next); err != nil {
		t.Fatal(err)
	}
	wantProblem(t, w, 503, "can't be looked up")
	if strings.Contains(w.Body.String(), "VXBzdHJl") || w.Header().Get("Etag") != "" {
		t.Fatalf("the API's own secret left: %v %s", w.Header(), w.Body)
	}
}
