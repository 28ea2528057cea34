package tracker

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-replicate/replicate-webhook/internal/clock"
	"github.com/caddy-replicate/replicate-webhook/internal/poller"
	"github.com/caddy-replicate/replicate-webhook/internal/prediction"
	"github.com/caddy-replicate/replicate-webhook/internal/seal"
	"github.com/caddy-replicate/replicate-webhook/internal/upstream"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/shared"
)

const (
	apiURL = "https://api.test/v1"
	hook   = "https://client.test/hook"
)

var (
	up     = upstream.API{URL: apiURL}
	client = upstream.Caller{Identity: "me", Authorization: "Bearer r8_client"}
	both   = []string{"prediction.started", "prediction.completed"}
	failed = []string{"prediction.started", "prediction.failed"}
)

// imitation is a prediction API in memory, without connections, so that a
// synctest bubble can wait for it. All times are of the bubble.
type imitation struct {
	mu     sync.Mutex
	answer func(w http.ResponseWriter, r *http.Request) // default: from bodies
	bodies map[string]string                            // by path
	body   io.Reader                                    // of every response, if it is set
	seen   []request
	open   int
	most   int
}

type request struct {
	at            time.Time
	url           string
	authorization string
	agent         string
}

func newImitation() *imitation { return &imitation{bodies: make(map[string]string)} }

func (a *imitation) set(path, body string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.bodies[path] = body
}

func (a *imitation) answers(f func(w http.ResponseWriter, r *http.Request)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answer = f
}

// replaceBody makes every response a 200 with the given body.
func (a *imitation) replaceBody(r io.Reader) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.body = r
}

// status makes everything be answered so.
func (a *imitation) status(status int, header ...string) {
	a.answers(func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
	})
}

func (a *imitation) requests() []request {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.seen)
}

func (a *imitation) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.seen = append(a.seen, request{time.Now(), r.URL.String(), r.Header.Get("Authorization"), r.Header.Get("User-Agent")})
	a.open++
	a.most = max(a.most, a.open)
	answer, body := a.answer, a.bodies[r.URL.Path]
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		a.open--
		a.mu.Unlock()
	}()
	switch {
	case answer != nil:
		answer(w, r)
	case body == "":
		w.WriteHeader(http.StatusNotFound)
	default:
		_, _ = io.WriteString(w, body)
	}
}

// RoundTrip answers without a connection. A handler that hangs does so until
// the request is cancelled; it is waited for, so that what is counted as open
// is what the tracker waits for.
func (a *imitation) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.ServeHTTP(w, r)
	}()
	select {
	case <-done:
		resp := w.Result()
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.body != nil {
			resp.StatusCode, resp.Body = http.StatusOK, io.NopCloser(a.body)
		}
		return resp, nil
	case <-r.Context().Done():
		<-done
		return nil, r.Context().Err()
	}
}

func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

func ring(t testing.TB, fill byte) *seal.Ring {
	t.Helper()
	k, err := seal.KeyFromBytes(bytes.Repeat([]byte{fill}, seal.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	r, err := seal.NewRing(k)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// world is a tracker with all that it touches.
type world struct {
	*Tracker
	client *upstream.Client
	poller *poller.Poller
	t      *testing.T
	st     *fakeStore
	api    *imitation
	logs   *observer.ObservedLogs
}

// options are what a test may change of a world.
type options struct {
	Config
	Schedule poller.Schedule
}

func newWorld(t *testing.T, change func(*options)) *world {
	t.Helper()
	w := &world{t: t, st: newFakeStore(), api: newImitation()}
	w.renew(change)
	return w
}

// renew makes another tracker on the same store, as a restart does.
func (w *world) renew(change func(*options)) {
	w.t.Helper()
	core, logs := observer.New(zapcore.InfoLevel)
	w.logs = logs
	w.client = upstream.New(&http.Client{Transport: w.api})
	o := options{Config: Config{
		Acquire: func() (*shared.Ref, error) { return &shared.Ref{Store: w.st}, nil },
		Client:  w.client,
		Seal:    ring(w.t, 1),
		Logger:  zap.New(core),
	}}
	if change != nil {
		change(&o)
	}
	if o.Now != nil {
		w.st.now, w.st.clock = o.Now, clock.NewMonotonic(o.Now)
		o.Clock = clock.NewMonotonic(o.Now)
	}
	var err error
	w.poller, err = poller.New(poller.Config{
		Schedule: o.Schedule, Client: o.Client, Seal: o.Seal, UserAgent: "tracker-test", Logger: o.Logger, Now: o.Now, Clock: o.Clock,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	o.Poller = w.poller
	if w.Tracker, err = New(o.Config); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) start() {
	w.t.Helper()
	if err := w.Start(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) end() {
	w.Stop()
	<-w.Done()
}

// track has the client create a prediction of the given status.
func (w *world) track(id, status string) store.Prediction {
	w.t.Helper()
	return w.trackAt(up, id, status)
}

func (w *world) trackAt(api upstream.API, id, status string) store.Prediction {
	w.t.Helper()
	c := &Capture{API: api, Caller: client, URL: hook}
	p, err := w.Created(w.t.Context(), c, snapshot(w.t, id, status))
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (w *world) wantEvents(id string, want []string) {
	w.t.Helper()
	if got := w.st.events(id); !slices.Equal(got, want) {
		w.t.Errorf("events of %s: %v, want %v", id, got, want)
	}
}

func body(id, status string) string {
	return fmt.Sprintf(`{"id":%q,"version":"v","input":{"a":1},"status":%q,"output":["x"],"created_at":"2026-01-01T00:00:00.000Z"}`, id, status)
}

func snapshot(t *testing.T, id, status string) *prediction.Snapshot {
	t.Helper()
	s, err := prediction.Parse([]byte(body(id, status)))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// gaps are the seconds between a start and requests, and among these.
func gaps(start time.Time, rs []request) (out []float64) {
	for _, r := range rs {
		out = append(out, r.at.Sub(start).Round(time.Millisecond).Seconds())
		start = r.at
	}
	return out
}

func headers(pairs ...string) http.Header {
	h := make(http.Header)
	for i := 0; i < len(pairs); i += 2 {
		h.Add(pairs[i], pairs[i+1])
	}
	return h
}

// Captures never print what a client or operator authorizes with.
func TestNothingSecretPrints(t *testing.T) {
	c := Capture{API: upstream.API{URL: apiURL, Token: "SECRET"}, Caller: upstream.Caller{Identity: "me", Authorization: "SECRET"}, URL: hook}
	var b strings.Builder
	for _, v := range []any{c, &c, c.API, &c.API, c.Caller, struct{ C any }{c}, struct{ C upstream.Caller }{c.Caller}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
			fmt.Fprintf(&b, verb, v)
		}
	}
	if strings.Contains(b.String(), "SECRET") || strings.Contains(b.String(), fmt.Sprintf("%x", "SECRET")) {
		t.Errorf("a secret shows: %s", b.String())
	}
}

func TestNewRefuses(t *testing.T) {
	w := newWorld(t, nil)
	for name, change := range map[string]func(*Config){
		"no store":          func(c *Config) { c.Acquire = nil },
		"no seal":           func(c *Config) { c.Seal = nil },
		"no client":         func(c *Config) { c.Client = nil },
		"no poller":         func(c *Config) { c.Poller = nil },
		"relative callback": func(c *Config) { c.Callback = "/callback" },
		"callback query":    func(c *Config) { c.Callback = "https://h.test/c?x=1" },
	} {
		c := w.conf
		change(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func TestReadyTellsTheStoresState(t *testing.T) {
	w := newWorld(t, nil)
	if err := w.Ready(context.Background()); err != nil {
		t.Error(err)
	}
	w.st.fail(store.ErrUnavailable)
	if err := w.Ready(context.Background()); err != store.ErrUnavailable {
		t.Errorf("got %v", err)
	}
}
