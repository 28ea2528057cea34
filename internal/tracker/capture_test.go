package tracker

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/internal/prediction"
	"github.com/caddy-replicate/replicate-webhook/store"
)

func withCallback(c *options) { c.Callback = "https://hooks.test/callback" }

// reserve gives a capture, its callback token and the create's ending.
func (w *world) reserve() (*Capture, string) {
	w.t.Helper()
	c := &Capture{API: up, Caller: client, URL: hook, Traceparent: "tp"}
	url, err := w.Reserve(w.t.Context(), c)
	if err != nil {
		w.t.Fatal(err)
	}
	token, ok := strings.CutPrefix(url, "https://hooks.test/callback/")
	if !ok || len(token) != 43 || strings.ContainsAny(token, "/+=?") {
		w.t.Fatalf("callback URL %q", url)
	}
	return c, token
}

func (w *world) created(c *Capture, id, status string) store.Prediction {
	w.t.Helper()
	p, err := w.Created(w.t.Context(), c, snapshot(w.t, id, status))
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

func TestReserveNeedsACallback(t *testing.T) {
	w := newWorld(t, nil)
	c := &Capture{API: up, Caller: client, URL: hook}
	if url, err := w.Reserve(t.Context(), c); url != "" || err != nil || w.st.writeCount() != 0 {
		t.Errorf("%q, %v, %d writes", url, err, w.st.writeCount())
	}
	w.Abandon(t.Context(), c)
	if w.st.writeCount() != 0 {
		t.Error("there was nothing to abandon")
	}
}

func TestReservedTokenIsNotStored(t *testing.T) {
	w := newWorld(t, withCallback)
	_, token := w.reserve()
	_, other := w.reserve()
	if token == other {
		t.Error("two captures, one token")
	}
	for _, r := range w.st.rows {
		if len(r.Token) != 32 || strings.Contains(string(r.Token), token) {
			t.Errorf("stored %q", r.Token)
		}
	}
}

func TestAbandon(t *testing.T) {
	w := newWorld(t, withCallback)
	c, token := w.reserve()
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // the client has left too
	w.Abandon(ctx, c)
	if len(w.st.rows) != 0 {
		t.Error("it is still there")
	}
	if err := w.Callback(t.Context(), token, []byte(body("p", "succeeded"))); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("got %v", err)
	}
}

func TestCallbackBeforeTheAnswer(t *testing.T) {
	w := newWorld(t, withCallback)
	c, token := w.reserve()
	for _, status := range []string{"starting", "processing", "succeeded"} {
		if err := w.Callback(t.Context(), token, []byte(body("p", status))); err != nil {
			t.Fatal(err)
		}
	}
	w.wantEvents("p", both)
	p := w.created(c, "p", "starting")
	w.wantEvents("p", both)
	if p.Seen != event.Started|event.Completed || p.Client != "me" || p.Traceparent != "tp" || len(w.st.rows) != 1 {
		t.Errorf("got %+v in %d rows", p, len(w.st.rows))
	}
}

func TestCallbacksOutOfOrder(t *testing.T) {
	for _, order := range [][]string{
		{"succeeded", "processing", "starting"},
		{"succeeded", "failed"},
		{"processing", "succeeded", "processing", "canceled", "succeeded"},
		{"starting", "succeeded"},
	} {
		w := newWorld(t, withCallback)
		c, token := w.reserve()
		w.created(c, "p", "starting")
		for _, status := range order {
			if err := w.Callback(t.Context(), token, []byte(body("p", status))); err != nil {
				t.Errorf("%v: %v", order, err)
			}
		}
		w.wantEvents("p", both)
	}
}

func TestCallbackWithoutID(t *testing.T) {
	w := newWorld(t, withCallback)
	c, token := w.reserve()
	w.created(c, "p", "starting")
	if err := w.Callback(t.Context(), token, []byte(`{"id":null,"input":{},"status":"succeeded","output":"x"}`)); err != nil {
		t.Fatal(err)
	}
	w.wantEvents("p", both)
	if got := w.st.payload("p"); !strings.Contains(got, `"prediction":{"id":"p",`) {
		t.Errorf("got %s", got)
	}
}

func TestCallbacksThatAreNone(t *testing.T) {
	w := newWorld(t, withCallback)
	c, token := w.reserve()
	for _, token := range []string{"", "x", token[1:], token + "x", strings.Repeat("A", 43)} {
		if err := w.Callback(t.Context(), token, []byte(body("p", "succeeded"))); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("token %q: %v", token, err)
		}
	}
	if err := w.Callback(t.Context(), token, []byte(`{"status":"succeeded"}`)); !errors.Is(err, prediction.ErrUnexpected) {
		t.Errorf("no id, and none known: %v", err)
	}
	w.created(c, "p", "starting")
	for _, body := range []string{"", "null", "[]", "<html>", body("q", "succeeded"), `{"id":"a/b"}`, body("p", "succeeded") + "x"} {
		if err := w.Callback(t.Context(), token, []byte(body)); !errors.Is(err, prediction.ErrUnexpected) {
			t.Errorf("body %q: %v", body, err)
		}
	}
	w.wantEvents("p", nil)
	w.st.fail(store.ErrUnavailable)
	if err := w.Callback(t.Context(), token, []byte(body("p", "succeeded"))); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	w.wantEvents("p", nil)
}

// An answer that is final already is one commit with both events.
func TestCreatedInSyncMode(t *testing.T) {
	w := newWorld(t, nil)
	p := w.track("p", "succeeded")
	w.wantEvents("p", both)
	if w.st.writeCount() != 1 || p.Credential != nil || p.Seen != event.Started|event.Completed {
		t.Errorf("%d writes, %+v", w.st.writeCount(), p)
	}
	w.track("q", "processing") // with its output, as Prefer: wait may answer
	w.wantEvents("q", both[:1])
	if got := w.st.payload("q"); strings.Contains(got, "output") {
		t.Errorf("got %s", got)
	}
}

// The API has created it, so it is tracked, whether or not the client stays.
func TestCreatedOutlivesTheClient(t *testing.T) {
	w := newWorld(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p, err := w.Created(ctx, &Capture{API: up, Caller: client, URL: hook}, snapshot(t, "p", "starting"))
	if err != nil || p.Ref == 0 {
		t.Fatal(p, err)
	}
	if _, err := w.Observe(ctx, p, snapshot(t, "p", "failed")); err != nil {
		t.Error(err)
	}
	w.wantEvents("p", failed)
}

func TestCreatedRefuses(t *testing.T) {
	w := newWorld(t, nil)
	c := &Capture{API: up, Caller: client, URL: hook}
	for _, id := range []string{"", "a/b", "..", "a b"} {
		if _, err := w.Created(t.Context(), c, &prediction.Snapshot{ID: id, Status: "starting"}); !errors.Is(err, prediction.ErrUnexpected) {
			t.Errorf("id %q: %v", id, err)
		}
	}
	w.st.fail(store.ErrUnavailable)
	if _, err := w.Created(t.Context(), c, snapshot(t, "p", "starting")); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

func TestCreatedWithoutBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.start()
		defer w.end()
		w.api.set("/v1/predictions/p", body("p", "succeeded"))
		if _, err := w.CreatedWithoutBody(t.Context(), &Capture{API: up, Caller: client, URL: hook}, "p", "succeeded"); err != nil {
			t.Fatal(err)
		}
		w.wantEvents("p", nil)
		time.Sleep(time.Second)
		w.wantEvents("p", both)
		if got := w.st.payload("p"); !strings.Contains(got, `"output":["x"]`) {
			t.Errorf("got %s", got)
		}
	})
}

func TestObserve(t *testing.T) {
	w := newWorld(t, nil)
	p := w.track("p", "starting")
	var err error
	for _, s := range []string{"starting", "processing", "processing", "succeeded", "failed"} {
		if p, err = w.Observe(t.Context(), p, snapshot(t, "p", s)); err != nil {
			t.Fatal(err)
		}
	}
	w.wantEvents("p", both)
	if n := w.st.writeCount(); n != 3 {
		t.Errorf("%d writes: only what is new is one", n)
	}
	if p.Seen != event.Started|event.Completed {
		t.Errorf("got %+v", p)
	}
	if _, err := w.Observe(t.Context(), p, snapshot(t, "q", "failed")); !errors.Is(err, prediction.ErrUnexpected) {
		t.Errorf("got %v", err)
	}
	got, err := w.Lookup(t.Context(), apiURL, "p")
	if err != nil || got.Ref != p.Ref {
		t.Error(got, err)
	}
	for _, id := range []string{"q", "", "../p"} {
		if _, err := w.Lookup(t.Context(), apiURL, id); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%q: %v", id, err)
		}
	}
	if _, err := w.Lookup(t.Context(), "https://other.test/v1", "p"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("found at another API: %v", err)
	}
}

func TestTrackExisting(t *testing.T) {
	w := newWorld(t, func(c *options) {
		c.CheckURL = func(u string) error {
			if u != hook {
				return errors.New("bad url")
			}
			return nil
		}
	})
	c := &Capture{API: up, Caller: client, URL: hook}
	for id, want := range map[string][]string{"done": both, "running": both[:1], "waiting": nil} {
		status := map[string]string{"done": "succeeded", "running": "processing", "waiting": "starting"}[id]
		if _, err := w.TrackExisting(t.Context(), c, snapshot(t, id, status)); err != nil {
			t.Fatal(err)
		}
		w.wantEvents(id, want)
	}
	c.URL = "https://10.0.0.1/"
	if _, err := w.TrackExisting(t.Context(), c, snapshot(t, "p", "starting")); err == nil || len(w.st.events("p")) > 0 {
		t.Errorf("got %v", err)
	}
}

// What a client's Authorization was captured for is the only place it goes.
func TestCredentialStaysWithItsAPI(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		p := w.track("p", "starting")
		// Someone who can write to the store moves the token elsewhere.
		w.st.rows[p.Ref].API = "https://evil.test/v1"
		w.start()
		defer w.end()
		w.api.answers(func(rw http.ResponseWriter, r *http.Request) { rw.WriteHeader(404) })
		time.Sleep(time.Hour)
		for _, r := range w.api.requests() {
			t.Errorf("asked %s with %q", r.url, r.authorization)
		}
		if w.poller.Stats().Unreadable == 0 {
			t.Error("nothing is counted")
		}
	})
}
