package edge

import (
	"crypto/tls"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/inbox"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
)

var keptFrom = inbox.Origin{RemoteAddr: "192.0.2.7:1234", LocalAddr: "192.0.2.1:443", ClientIP: "192.0.2.8", Trusted: true}

func keptHook() *Webhook {
	return &Webhook{
		Envelope: Envelope{Name: "prediction.completed", ID: "p1", Status: "succeeded"},
		Result: signature.Result{
			Schemes: signature.Replicate | signature.Standard, ID: "msg_1", SignedAt: time.Unix(1614265330, 0).UTC(),
			Body: []byte(`{"id":"p1"}`), Canonicalised: true,
		},
		JudgedAt:  time.Unix(1614265331, 0).UTC(),
		Duplicate: true,
	}
}

// keptRequest is a request with the headers of an ordinary webhook and those that
// are not kept.
func keptRequest() *http.Request {
	r := httptest.NewRequest(http.MethodPost, "https://hooks.example.com/replicate?q=1", strings.NewReader(`{ "id":"p1" }`))
	r.TLS.Version = tls.VersionTLS12
	r.Header = http.Header{
		"Content-Type": {"application/json"}, "User-Agent": {"u"}, "Webhook-Id": {"msg_1"}, "Traceparent": {"t"}, "Digest": {"d"},
		"X-Two": {"1", "2"},
	}
	for name := range notEndToEnd {
		r.Header[name] = []string{notEndToEnd[name]}
	}
	return r
}

var notEndToEnd = map[string]string{
	"Authorization": "Bearer x", "Proxy-Authorization": "Basic x", "Cookie": "a=b", "Content-Length": "13",
	"Connection": "Keep-Alive, x-private", "Keep-Alive": "timeout=5", "X-Private": "1", "Upgrade": "websocket", "Te": "trailers",
	"Expect": "100-continue", "Http2-Settings": "x", "Transfer-Encoding": "chunked", "Trailer": "X", "Proxy-Connection": "close",
	":protocol": "websocket",
}

func TestWhatAuthenticatesAndWhatBelongsToTheConnectionIsNotKept(t *testing.T) {
	r := keptRequest()
	before := r.Header.Clone()
	head, truncated := keptHook().Head(r, "/webhooks/replicate?q=1", keptFrom)
	if truncated {
		t.Error("a small header is reported as truncated")
	}
	names := slices.Sorted(maps.Keys(head.Header))
	if want := []string{"Content-Type", "Digest", "Traceparent", "User-Agent", "Webhook-Id", "X-Two"}; !slices.Equal(names, want) {
		t.Errorf("kept are %q, want %q", names, want)
	}
	if !reflect.DeepEqual(r.Header, before) {
		t.Error("the request's own headers were changed")
	}
}

// TestARestoredWebhookIsTheOneThatWasKept, as far as an app gets it.
func TestARestoredWebhookIsTheOneThatWasKept(t *testing.T) {
	hook := keptHook()
	head, _ := hook.Head(keptRequest(), "/webhooks/replicate?q=1", keptFrom)
	stored, err := inbox.DecodeHead(head.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if stored.URI != "/replicate?q=1" || stored.OriginalURI != "/webhooks/replicate?q=1" || stored.Host != "hooks.example.com" ||
		stored.TLS != tls.VersionTLS12 || stored.ProtoMajor != 1 || stored.ProtoMinor != 1 || stored.Origin != keptFrom {
		t.Errorf("stored is %+v", stored)
	}
	if got := Restore(&stored, hook.Body); !reflect.DeepEqual(got, hook) {
		t.Errorf("restored is %+v\nwant %+v", got, hook)
	}
}

func TestHeadersOverTheLimitAreLeftOutLargestFirst(t *testing.T) {
	h := http.Header{
		// Over a half of what is kept, and needed to verify.
		"Webhook-Signature": {strings.Repeat("s", 9<<10)},
		"Content-Type":      {"application/json"},
		"X-Large":           {strings.Repeat("l", 8<<10)},
	}
	for i := range 40 {
		h[fmt.Sprintf("X-Small-%02d", i)] = []string{strings.Repeat("x", 200)}
	}
	want, truncated := keep(h)
	if !truncated {
		t.Error("it is not reported that headers were left out")
	}
	if want["Webhook-Signature"] == nil || want["Content-Type"] == nil || want["X-Large"] != nil || want["X-Small-00"] == nil {
		t.Errorf("kept are %q", slices.Sorted(maps.Keys(want)))
	}
	total := 0
	for name, values := range want {
		total += keptSize(name, values)
	}
	if total > MaxKeptHeader || total < MaxKeptHeader-300 {
		t.Errorf("%d bytes are kept of %d", total, MaxKeptHeader)
	}
	for range 20 {
		if again, _ := keep(maps.Clone(h)); !reflect.DeepEqual(again, want) {
			t.Fatalf("the second time other headers are kept: %q", slices.Sorted(maps.Keys(again)))
		}
	}
}

func BenchmarkHead(b *testing.B) {
	r, hook := keptRequest(), keptHook()
	b.ReportAllocs()
	for b.Loop() {
		head, _ := hook.Head(r, "/webhooks/replicate?q=1", keptFrom)
		head.Encode()
	}
}
