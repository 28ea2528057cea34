package main

import (
	"bytes"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/ecmajson"
	"github.com/caddy-replicate/replicate-webhook/internal/edge"
	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
)

// split takes a request apart without net/http, which has its own view of
// headers.
func split(t *testing.T, request []byte) (http.Header, []byte) {
	t.Helper()
	head, body, found := strings.Cut(string(request), "\r\n\r\n")
	if !found {
		t.Fatal("request has no end of headers")
	}
	h := make(http.Header)
	for _, line := range strings.Split(head, "\r\n")[1:] {
		name, value, _ := strings.Cut(line, ": ")
		h.Set(name, value)
	}
	return h, []byte(body)
}

func verifies(t *testing.T, s *signer, request []byte) bool {
	t.Helper()
	secret, err := signature.ParseSecret(s.secret)
	if err != nil {
		t.Fatal(err)
	}
	h, body := split(t, request)
	claim, err := signature.ParseHeaders(h, signature.Replicate)
	if err != nil {
		t.Fatal(err)
	}
	_, err = claim.Verify([]signature.Secret{secret}, body, func() []byte { return nil })
	return err == nil
}

func TestWebhooksAreGenuine(t *testing.T) {
	s := newSigner()
	tmpl := s.template()
	for _, n := range []uint64{0, 1, 0xfedcba9876543210} {
		request := tmpl.write(n)
		if !verifies(t, s, request) {
			t.Errorf("event %x does not verify", n)
		}
		_, body := split(t, request)
		if len(body) != bodySize {
			t.Errorf("body is %d bytes, want %d", len(body), bodySize)
		}
		doc, err := ecmajson.Parse(body, ecmajson.Limits{}, edge.NewSelector())
		if err != nil {
			t.Fatalf("event %x: %v in %s", n, err, body)
		}
		if !bytes.Equal(doc.Bytes(), body) {
			t.Errorf("event %x is not in the form of JSON.stringify: %s", n, body)
		}
		e := edge.ReadEnvelope(doc)
		if e.Name != event.Completed.Name() || len(e.ID) != len(idPrefix)+16 || time.Since(e.Timestamp).Abs() > time.Minute {
			t.Errorf("event %x is read as %+v", n, e)
		}
	}
}

func TestForgeriesAreNot(t *testing.T) {
	s := newSigner()
	for _, request := range s.forged(10) {
		if verifies(t, s, request) {
			t.Error("a forgery verifies")
		}
		if len(request) != len(s.template().request) {
			t.Error("a forgery is of another size")
		}
	}
}

func TestTallyTellsOnceFromTwice(t *testing.T) {
	all := expected(0, 1000)
	if got := expected(400, 1000).minus(tally{}); got == all {
		t.Error("missing events go unnoticed")
	}
	// One event twice and its neighbor not at all.
	if doubled := (tally{all.count, all.sum - mix(7) + mix(8)}); doubled == all {
		t.Error("an event that came twice goes unnoticed")
	}
	if got := expected(0, 1000).minus(expected(0, 400)); got != expected(400, 1000) {
		t.Error("tallies do not subtract")
	}
}

func TestOnceDealsOutEachRequestOnce(t *testing.T) {
	batch := newSigner().batch(10)
	seen := make(map[string]int)
	for _, f := range once(batch, 4) {
		for request, ok := f(); ok; request, ok = f() {
			seen[string(request)]++
		}
	}
	if len(seen) != len(batch) {
		t.Errorf("%d of %d requests were dealt out", len(seen), len(batch))
	}
}
