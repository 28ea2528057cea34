package edge

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/body"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// idleStore grants every claim.
type idleStore struct{}

func (idleStore) Claim(context.Context, store.Entry, time.Duration) (store.Claim, error) {
	return idleClaim{}, nil
}
func (idleStore) Release() error { return nil }

type idleClaim struct{}

func (idleClaim) Forwarded() bool                                   { return false }
func (idleClaim) Commit(context.Context) error                      { return nil }
func (idleClaim) CommitEvent(context.Context, *store.Inbound) error { return nil }
func (idleClaim) Release()                                          {}

// okApp responds 200.
type okApp struct{}

func (okApp) ServeHTTP(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Length", "2")
	w.WriteHeader(http.StatusOK)
	_, err := w.Write([]byte("ok"))
	return err
}

// BenchmarkServe measures the edge alone: without a store, a server and a proxy.
func BenchmarkServe(b *testing.B) {
	const text = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
	secret, err := signature.ParseSecret(text)
	if err != nil {
		b.Fatal(err)
	}
	secrets := []signature.Secret{secret}
	e := New(Config{
		Secrets: func() []signature.Secret { return secrets }, Tolerance: 5 * time.Minute, Dedup: time.Hour, DedupKey: "event", Scope: "default",
		MaxBody: 8 << 20, ReadTimeout: 10 * time.Second, UpstreamTimeout: time.Minute,
		Acquire: func() (Store, error) { return idleStore{}, nil }, Budget: body.NewBudget(256 << 20),
	})
	raw := fmt.Sprintf(`{"event":"prediction.completed","prediction":{"id":"p1","status":"succeeded","output":%q},"timestamp":%q}`,
		strings.Repeat("x", 1000), time.Now().UTC().Format(time.RFC3339))
	signed := secret.SignReplicate([]byte(raw))
	b.ReportAllocs()
	for b.Loop() {
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(raw))
		r.Header.Set(signature.HeaderReplicateSignature, signed)
		if err := e.Serve(httptest.NewRecorder(), r, "192.0.2.1", okApp{}); err != nil {
			b.Fatal(err)
		}
	}
}
