package siterun

import (
	"crypto/tls"
	"net/http"
	"path/filepath"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-replicate/replicate-webhook/internal/inbox"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/shared"
	"github.com/caddy-replicate/replicate-webhook/store/sqlite"
)

// Store returns the site's store. It is open until the test ends.
func (s *Site) Store() store.Store {
	s.t.Helper()
	module := &sqlite.Module{Path: filepath.Join(s.Dir(), "webhook.db")}
	if err := module.Provision(caddy.Context{}); err != nil {
		s.t.Fatal(err)
	}
	ref, err := shared.Acquire(module)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if err := ref.Release(); err != nil {
			s.t.Error(err)
		}
	})
	return ref.Store
}

// Signature is the X-Replicate-Signature of what Accept stores.
const Signature = "sha256=of-an-event-of-siterun"

// Accept stores an event in an inbox, as the edge does, and returns its ID. Its body
// is ev's, or that of a prediction.
func Accept(t testing.TB, s store.Store, ev store.Inbound) string {
	t.Helper()
	head := inbox.Head{
		Method: http.MethodPost, OriginalURI: "/webhooks/replicate?token=in-the-query", URI: "/webhooks/replicate?token=in-the-query",
		Host: "hooks.example.com", TLS: tls.VersionTLS13, ProtoMajor: 1, ProtoMinor: 1,
		Origin:   inbox.Origin{RemoteAddr: "192.0.2.7:50123", ClientIP: "192.0.2.8"},
		Header:   http.Header{"Content-Type": {"application/json"}, "User-Agent": {"sender/1"}, signature.HeaderReplicateSignature: {Signature}},
		Verified: inbox.Verified{Schemes: signature.Replicate, Name: ev.Name, PredictionID: ev.PredictionID},
	}
	ev.Head = head.Encode()
	if ev.Body == nil {
		ev.Body = []byte(`{ "id": "` + ev.PredictionID + `", "status": "succeeded" }`)
	}
	claim, err := s.Claim(t.Context(), store.Entry{Scope: ev.Scope}, 0)
	if err == nil {
		err = claim.CommitEvent(t.Context(), &ev)
	}
	if err != nil {
		t.Fatal(err)
	}
	return ev.ID
}
