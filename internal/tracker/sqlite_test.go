package tracker

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/duration"
	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/internal/poller"
	"github.com/caddy-replicate/replicate-webhook/internal/signingkey"
	"github.com/caddy-replicate/replicate-webhook/internal/upstream"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/shared"
	"github.com/caddy-replicate/replicate-webhook/store/sqlite"
)

type opener struct{ path string }

func (o opener) Resource() string { return o.path }
func (o opener) Open() (store.Closer, error) {
	return sqlite.Open(sqlite.Options{Path: o.path})
}

// Everything together, with the default store and connections: a prediction
// whose create was answered is followed to its end after a restart.
func TestRestartWithTheDefaultStore(t *testing.T) {
	var final atomic.Bool
	var authorization atomic.Value
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		authorization.Store(r.Header.Get("Authorization"))
		status := "processing"
		if final.Load() {
			status = "succeeded"
		}
		_, _ = io.WriteString(w, body("p", status))
	}))
	defer server.Close()
	api := upstream.API{URL: server.URL + "/v1"}
	db := opener{filepath.Join(t.TempDir(), "webhook.db")}
	acquire, sealing := func() (*shared.Ref, error) { return shared.Acquire(db) }, ring(t, 1)
	open := func() *Tracker {
		asking := upstream.New(nil)
		p, err := poller.New(poller.Config{
			Schedule: poller.Schedule{Initial: duration.Duration(5 * time.Millisecond), Max: duration.Duration(10 * time.Millisecond)}, Client: asking, Seal: sealing,
		})
		if err != nil {
			t.Fatal(err)
		}
		tr, err := New(Config{Acquire: acquire, Client: asking, Poller: p, Seal: sealing, Callback: "https://hooks.test/callback"})
		if err != nil {
			t.Fatal(err)
		}
		if err := tr.Start(); err != nil {
			t.Fatal(err)
		}
		return tr
	}
	until := func(tr *Tracker, id string, want event.Set) store.Prediction {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			p, err := tr.Lookup(t.Context(), api.URL, id)
			if err == nil && p.Seen == want {
				return p
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %+v, %v", id, p, err)
			}
		}
	}
	first := open()
	c := &Capture{API: api, Caller: client, URL: hook}
	p, err := first.Created(t.Context(), c, snapshot(t, "p", "starting"))
	if err != nil || p.Ref == 0 || p.Webhook != store.WebhookPending {
		t.Fatal(p, err)
	}
	if p = until(first, "p", event.Started); p.Credential == nil {
		t.Error("the token is gone")
	}
	early := &Capture{API: api, Caller: client, URL: hook}
	url, err := first.Reserve(t.Context(), early)
	if err != nil {
		t.Fatal(err)
	}
	secretOf := func() (string, error) {
		keys, err := signingkey.New(signingkey.Config{PerClient: true, Acquire: acquire, Seal: sealing})
		if err != nil {
			t.Fatal(err)
		}
		return keys.SigningSecret(t.Context(), "me")
	}
	secret, err := secretOf()
	if err != nil {
		t.Fatal(err)
	}
	first.Stop()
	<-first.Done()
	token := url[len("https://hooks.test/callback/"):]
	holdsNone(t, filepath.Dir(db.path), token, secret, client.Authorization)

	final.Store(true)
	second := open()
	if p = until(second, "p", event.Started|event.Completed); p.Credential != nil {
		t.Error("the token outlives the terminal event")
	}
	if got := authorization.Load(); got != client.Authorization {
		t.Errorf("polled with %q", got)
	}
	if again, err := secretOf(); again != secret || err != nil {
		t.Errorf("another signing secret: %v", err)
	}
	if err := second.Callback(t.Context(), token, []byte(body("q", "canceled"))); err != nil {
		t.Fatal(err)
	}
	if p, err = second.Created(t.Context(), early, snapshot(t, "q", "starting")); err != nil || p.Seen != event.Started|event.Failed {
		t.Errorf("%+v, %v", p, err)
	}
	second.Stop()
	<-second.Done()
}

// holdsNone looks for secrets in the files of a store. Of the callback token
// there is the hash, so that the store's row is known to be among what was read.
func holdsNone(t *testing.T, dir, token string, secrets ...string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	var all []byte
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, data...)
	}
	if sum := sha256.Sum256([]byte(token)); !bytes.Contains(all, sum[:]) {
		t.Error("the store does not have the hash of the callback token")
	}
	decoded, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range append(secrets, token, string(decoded)) {
		// A part would be enough of a leak.
		if part := s[len(s)/4 : len(s)/4+12]; bytes.Contains(all, []byte(part)) {
			t.Errorf("the store holds a secret in the clear, of %d bytes", len(s))
		}
	}
}
