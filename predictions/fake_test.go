package predictions

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/internal/body"
	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/internal/fakeapi"
	"github.com/caddy-replicate/replicate-webhook/internal/prediction"
	"github.com/caddy-replicate/replicate-webhook/internal/tracker"
	"github.com/caddy-replicate/replicate-webhook/internal/upstream"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// fake is a tracker, a client and signing keys in memory that notes what it is asked. Its errors come
// first where they are set.
type fake struct {
	mu    sync.Mutex
	calls []string
	known map[string]store.Prediction
	rows  []store.Attempt

	callback  string // base URL
	perClient bool

	ready, caller, reserve, created, lookup, observe, authorise, callbackErr error
}

const fakeToken = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"

var errFakeStore = fmt.Errorf("%w: disk full", store.ErrUnavailable)

func newFake() *fake { return &fake{known: make(map[string]store.Prediction), perClient: true} }

func (f *fake) note(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, fmt.Sprintf(format, args...))
}

// Calls are the calls so far whose names begin with one of the given ones.
func (f *fake) Calls(names ...string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, c := range f.calls {
		if slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(c, n) }) {
			out = append(out, c)
		}
	}
	return out
}

func (f *fake) put(p store.Prediction) store.Prediction {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.known[p.ID] = p
	return p
}

func (f *fake) Join(upstream.API) error     { return nil }
func (f *fake) Renew(upstream.API)          {}
func (f *fake) Ready(context.Context) error { return f.ready }
func (f *fake) PerClient() bool             { return f.perClient }
func (f *fake) Standard() bool              { return true }

func (f *fake) CheckURL(raw string) error {
	if !strings.HasPrefix(raw, "https://") {
		return errors.New("webhook_url must use https")
	}
	return nil
}

func (f *fake) Identify(_ context.Context, api upstream.API, h http.Header) (upstream.Caller, error) {
	return upstream.Caller{Identity: api.URL + " " + h.Get("Authorization"), Authorization: h.Get("Authorization")}, f.caller
}

func (f *fake) CheckAccess(_ context.Context, _ upstream.API, _ http.Header, id string) error {
	f.note("authorise %s", id)
	return f.authorise
}

func (f *fake) CheckAccount(context.Context, upstream.API, http.Header) error {
	f.note("authorise account")
	return f.authorise
}

func (f *fake) Fetch(_ context.Context, _ upstream.API, _ http.Header, id string, _ func(int) bool) (*prediction.Snapshot, error) {
	f.note("fetch %s", id)
	return &prediction.Snapshot{ID: id, Status: "processing", Input: []byte(`{"a":1}`)}, f.authorise
}

func (f *fake) Reserve(context.Context, *tracker.Capture) (string, error) {
	f.note("reserve")
	if f.callback == "" || f.reserve != nil {
		return "", f.reserve
	}
	return f.callback + "/" + fakeToken, nil
}

func (f *fake) Abandon(context.Context, *tracker.Capture) { f.note("abandon") }

func (f *fake) Created(_ context.Context, c *tracker.Capture, s *prediction.Snapshot) (store.Prediction, error) {
	f.note("created %s %s %s %s %d %s", s.ID, s.Status, c.URL, c.Collection, c.Events, c.Traceparent)
	if f.created != nil {
		return store.Prediction{}, f.created
	}
	p := store.Prediction{API: c.API.URL, ID: s.ID, Client: c.Caller.Identity, URL: c.URL, Events: c.Events}
	if f.callback != "" {
		sum := sha256.Sum256([]byte(fakeToken))
		p.Token = sum[:]
	}
	return f.put(p), nil
}

func (f *fake) CreatedWithoutBody(_ context.Context, c *tracker.Capture, id, status string) (store.Prediction, error) {
	f.note("bodyless %s %s", id, status)
	return f.put(store.Prediction{API: c.API.URL, ID: id, URL: c.URL}), f.created
}

func (f *fake) TrackExisting(_ context.Context, c *tracker.Capture, s *prediction.Snapshot) (store.Prediction, error) {
	f.note("existing %s %s", s.ID, c.URL)
	return f.put(store.Prediction{API: c.API.URL, ID: s.ID, URL: c.URL}), nil
}

func (f *fake) Lookup(_ context.Context, api, id string) (store.Prediction, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lookup != nil {
		return store.Prediction{}, f.lookup
	}
	p, ok := f.known[id]
	if !ok || p.API != api {
		return store.Prediction{}, store.ErrNotFound
	}
	return p, nil
}

func (f *fake) Observe(_ context.Context, p store.Prediction, s *prediction.Snapshot) (store.Prediction, error) {
	f.note("observe %s %s", s.ID, s.Status)
	if f.observe != nil {
		return p, f.observe
	}
	if s.Status == "succeeded" {
		p.Webhook = store.WebhookDelivered
	}
	return f.put(p), nil
}

func (f *fake) SetWebhook(_ context.Context, p store.Prediction, url string, events event.Set) (store.Prediction, error) {
	f.note("set %s %s %d", p.ID, url, events)
	p.URL = url
	if url == "" {
		p.Webhook = store.WebhookDisabled
	}
	return f.put(p), nil
}

func (f *fake) Log(_ context.Context, _ store.Prediction, before int64, limit int) ([]store.Attempt, error) {
	var out []store.Attempt
	for _, row := range slices.Backward(f.rows) {
		if (before == 0 || row.ID < before) && len(out) < limit {
			out = append(out, row)
		}
	}
	return out, nil
}

func (f *fake) Redeliver(_ context.Context, p store.Prediction, attempt int64) (string, error) {
	f.note("redeliver %s %d", p.ID, attempt)
	switch {
	case attempt > 1000:
		return "", store.ErrNotFound
	case p.URL == "":
		return "", store.ErrDisabled
	}
	return "new-delivery", nil
}

func (f *fake) Test(_ context.Context, c *tracker.Capture, fail bool, input []byte, version string) (store.Prediction, error) {
	f.note("test %s fail=%v %s %s", c.URL, fail, input, version)
	p := store.Prediction{API: c.API.URL, ID: "test_1", Client: c.Caller.Identity, URL: c.URL, Test: true, Body: []byte(`{"id":"test_1","status":"succeeded"}`)}
	return f.put(p), nil
}

func (f *fake) TestPrediction(ctx context.Context, api upstream.API, c upstream.Caller, id string) (store.Prediction, error) {
	p, err := f.Lookup(ctx, api.URL, id)
	if err == nil && p.Client != c.Identity {
		err = store.ErrNotFound
	}
	return p, err
}

func (f *fake) Callback(_ context.Context, token string, body []byte) error {
	f.note("callback %s %s", token, body)
	return f.callbackErr
}

func (f *fake) ClaimCreate(context.Context, *tracker.Keyed) (*tracker.Exchange, *tracker.Earlier, error) {
	return nil, nil, errFakeStore
}

func (f *fake) CallbackBase() string { return f.callback }

func (f *fake) SigningSecret(_ context.Context, identity string) (string, error) {
	return "whsec_of " + identity, f.caller
}

// fixture is a handler in front of the imitation API, with a fake tracker.
type fixture struct {
	t       *testing.T
	h       *Handler
	fake    *fake
	api     *fakeapi.API
	next    caddyhttp.Handler
	context context.Context
}

const apiURL = "https://api.example.com/v1"

func newFixture(t *testing.T, o fakeapi.Options) *fixture {
	t.Helper()
	f := &fixture{t: t, fake: newFake(), api: fakeapi.New(o), context: context.Background()}
	f.h = &Handler{API: apiURL, logger: zap.NewNop()}
	f.next = caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		f.api.ServeHTTP(w, r)
		return nil
	})
	f.configure()
	return f
}

// configure makes the handler take up changed options.
func (f *fixture) configure() {
	f.t.Helper()
	if err := f.h.check(); err != nil {
		f.t.Fatal(err)
	}
	api, err := parseAPI(f.h.API)
	if err != nil {
		f.t.Fatal(err)
	}
	f.h.upstream = upstream.API{URL: api}
	if err := f.h.join(f.fake, f.fake, f.fake, body.NewBudget(256<<20)); err != nil {
		f.t.Fatal(err)
	}
}

// answerWith makes the upstream a handler.
func (f *fixture) answerWith(next http.HandlerFunc) {
	f.next = caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		next(w, r)
		return nil
	})
}

func newRequest(ctx context.Context, method, target, body string, header ...string) *http.Request {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	if body == "" {
		r.Body, r.ContentLength = http.NoBody, 0
	}
	r.Header.Set("Authorization", "Bearer one")
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		if r.Header.Set(header[i], header[i+1]); header[i+1] == "" {
			r.Header.Del(header[i])
		}
	}
	ctx = context.WithValue(ctx, caddy.ReplacerCtxKey, caddy.NewReplacer())
	ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, make(map[string]any))
	return r.WithContext(ctx)
}

func (f *fixture) do(method, target, body string, header ...string) *httptest.ResponseRecorder {
	f.t.Helper()
	w := httptest.NewRecorder()
	if err := f.h.ServeHTTP(w, newRequest(f.context, method, target, body, header...), f.next); err != nil {
		f.t.Fatalf("%s %s: %v", method, target, err)
	}
	return w
}

// wantStatus fails unless an answer has the status, and a title, detail and
// status if it is an error of ours.
func wantStatus(t *testing.T, w *httptest.ResponseRecorder, status int, detail string) {
	t.Helper()
	if w.Code != status || !bytes.Contains(w.Body.Bytes(), []byte(detail)) {
		t.Fatalf("the answer is %d %s, want %d with %q", w.Code, w.Body, status, detail)
	}
	if got := w.Header().Get("Content-Length"); got != "" && got != fmt.Sprint(w.Body.Len()) {
		t.Fatalf("Content-Length is %s, the body has %d bytes", got, w.Body.Len())
	}
}

func wantProblem(t *testing.T, w *httptest.ResponseRecorder, status int, detail string) {
	t.Helper()
	wantStatus(t, w, status, detail)
	if ct := w.Header().Get("Content-Type"); ct != "application/problem+json" {
		t.Fatalf("the content type is %q", ct)
	}
	for _, member := range []string{`"title":"`, `"detail":"`, fmt.Sprintf(`"status":%d}`, status)} {
		if !strings.Contains(w.Body.String(), member) {
			t.Fatalf("%s has no %s", w.Body, member)
		}
	}
}

func wantCalls(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("the tracker was asked\n\t%q, want\n\t%q", got, want)
	}
}

// brokenBody gives some bytes and then an error.
type brokenBody struct {
	data string
	err  error
}

func (b *brokenBody) Read(p []byte) (int, error) {
	n := copy(p, b.data)
	b.data = b.data[n:]
	if n == 0 {
		return 0, b.err
	}
	return n, nil
}

func (b *brokenBody) Close() error { return nil }

var _ io.ReadCloser = (*brokenBody)(nil)

const maxWait = 10 * time.Second

func withServer(ctx context.Context, s *caddyhttp.Server) context.Context {
	return context.WithValue(ctx, caddyhttp.ServerCtxKey, s)
}
