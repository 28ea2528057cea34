package caddyrun

import (
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// App is the app behind Caddy: a real server that records what reaches it.
type App struct {
	*httptest.Server
	t       testing.TB
	answer  func(http.ResponseWriter, *Request)
	mu      sync.Mutex
	seen    []*Request
	active  int
	changed chan struct{}
}

// Request is a request as the app saw it.
type Request struct {
	*http.Request
	// Got is the whole body.
	Got []byte
	// ReadErr is the error that ended the body early.
	ReadErr error
	// N counts requests, from 1.
	N int
}

// NewApp starts an app that responds with 200. Its connections are closed when the
// test ends, after those of a Server that was started later.
func NewApp(t testing.TB) *App {
	a := &App{t: t, changed: make(chan struct{})}
	a.Answer(func(w http.ResponseWriter, _ *Request) { _, _ = io.WriteString(w, "OK") })
	a.Server = httptest.NewServer(http.HandlerFunc(a.serve))
	appsMu.Lock()
	defer appsMu.Unlock()
	apps[t] = append(apps[t], a)
	t.Cleanup(func() {
		a.Close()
		appsMu.Lock()
		defer appsMu.Unlock()
		if apps[t] = slices.DeleteFunc(apps[t], func(o *App) bool { return o == a }); len(apps[t]) == 0 {
			delete(apps, t)
		}
	})
	return a
}

var (
	appsMu sync.Mutex
	apps   = make(map[testing.TB][]*App)
)

// closeIdle ends the connections that a stopped Caddy has left to a test's apps
// for two minutes: reverse_proxy does not clean its default transport up.
func closeIdle(t testing.TB) {
	appsMu.Lock()
	defer appsMu.Unlock()
	for _, a := range apps[t] {
		a.Config.SetKeepAlivesEnabled(false)
	}
}

// Addr returns the app's host and port.
func (a *App) Addr() string { return strings.TrimPrefix(a.URL, "http://") }

// Answer sets the handler of requests from now on, which runs after they were recorded.
func (a *App) Answer(f func(http.ResponseWriter, *Request)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answer = f
}

// AnswerStatus has the app respond with a status and an empty body from now on.
func (a *App) AnswerStatus(status int) {
	a.Answer(func(w http.ResponseWriter, _ *Request) { w.WriteHeader(status) })
}

func (a *App) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	a.mu.Lock()
	seen := &Request{Request: r, Got: body, ReadErr: err, N: len(a.seen) + 1}
	a.seen = append(a.seen, seen)
	a.active++
	answer := a.answer
	a.signal()
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.active--
		a.signal()
	}()
	answer(w, seen)
}

// signal wakes who waits. The caller holds the lock.
func (a *App) signal() {
	close(a.changed)
	a.changed = make(chan struct{})
}

// Seen returns the requests so far.
func (a *App) Seen() []*Request {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]*Request(nil), a.seen...)
}

// Count returns the number of requests so far.
func (a *App) Count() int { return len(a.Seen()) }

// Forget drops the requests so far. Counting starts again at 0.
func (a *App) Forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen = nil
}

// Last returns the newest request.
func (a *App) Last() *Request {
	a.t.Helper()
	seen := a.Seen()
	if len(seen) == 0 {
		a.t.Fatal("no request has reached the app")
	}
	return seen[len(seen)-1]
}

// Wait waits until n requests have reached the app, whether or not they are
// handled, and returns the nth.
func (a *App) Wait(n int) *Request {
	a.t.Helper()
	a.until("requests to reach the app", func() bool { return len(a.seen) >= n })
	return a.Seen()[n-1]
}

// WaitIdle waits until every request is handled.
func (a *App) WaitIdle() {
	a.t.Helper()
	a.until("the app to be idle", func() bool { return a.active == 0 })
}

func (a *App) until(what string, ok func() bool) {
	a.t.Helper()
	deadline := time.NewTimer(Patience)
	defer deadline.Stop()
	for {
		a.mu.Lock()
		done, changed := ok(), a.changed
		a.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-deadline.C:
			a.t.Fatalf("waited in vain for %s", what)
		}
	}
}
