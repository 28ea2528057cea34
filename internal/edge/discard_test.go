package edge

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-replicate/replicate-webhook/internal/signature"
)

// requestOf returns a request with everything that may make it a webhook, or more.
func requestOf(major int) *http.Request {
	h := make(http.Header)
	for _, name := range signature.ProtectedHeaders() {
		h[name] = []string{"forged"}
		h[strings.ReplaceAll(name, "-", "_")] = []string{"forged"}
	}
	for _, name := range []string{
		"Connection", "Keep-Alive", "Te", "Upgrade", "Http2-Settings", "Trailer", "Expect", ":protocol",
		"X-Replicate-Delivery", "X_Replicate.Anything", "Content-Digest", "Content-Md5", "X-Named", "X-Other",
	} {
		h[name] = []string{"forged"}
	}
	h["Connection"] = []string{"Upgrade, x-named", "close"}
	return &http.Request{
		Method: http.MethodConnect, Proto: "websocket", ProtoMajor: major, Header: h, ContentLength: 6,
		Body: io.NopCloser(strings.NewReader("forged")), TransferEncoding: []string{"chunked"}, Trailer: http.Header{"X-Late": {"forged"}},
	}
}

// TestDiscardLeavesNothing of a webhook, and nothing that opens a tunnel: by
// HTTP/1's Upgrade or by the extended CONNECT of HTTP/2 and HTTP/3.
func TestDiscardLeavesNothing(t *testing.T) {
	for _, major := range []int{1, 2, 3} {
		r := requestOf(major)
		trailer := r.Trailer // as a copy of the request has it
		Discard(r)
		if body, err := io.ReadAll(r.Body); len(body) > 0 || err != nil || r.ContentLength != 0 || len(r.TransferEncoding) > 0 {
			t.Errorf("HTTP/%d: left are %q, %v, a length of %d and the encoding %v", major, body, err, r.ContentLength, r.TransferEncoding)
		}
		if len(r.Trailer) > 0 || len(trailer) > 0 {
			t.Errorf("HTTP/%d: left are the trailers %v", major, trailer)
		}
		if len(r.Header) != 1 || r.Header["X-Other"] == nil {
			t.Errorf("HTTP/%d: left are %v", major, r.Header)
		}
		if major == 3 && r.Proto == "websocket" {
			t.Error("HTTP/3: the protocol is left")
		}
	}
}

// TestPrepareForwardsNoConnection: what belongs to the connection stays with it,
// also where no proxy would take it off.
func TestPrepareForwardsNoConnection(t *testing.T) {
	for _, major := range []int{1, 2, 3} {
		r := requestOf(major)
		scrub(r.Header)
		hook := new(Webhook)
		hook.Body = []byte("signed")
		hook.Envelope.ID = "p1"
		hook.Prepare(r)
		for _, name := range []string{"Connection", "Keep-Alive", "Te", "Upgrade", "Http2-Settings", "Trailer", "Expect", ":protocol", "X-Named"} {
			if got := r.Header[name]; got != nil {
				t.Errorf("HTTP/%d: %s is passed on: %q", major, name, got)
			}
		}
		if r.Header["X-Other"] == nil || r.Header["Content-Type"] == nil {
			t.Errorf("HTTP/%d: passed on is %v", major, r.Header)
		}
		if body, _ := io.ReadAll(r.Body); string(body) != "signed" || r.ContentLength != 6 || len(r.Trailer) > 0 {
			t.Errorf("HTTP/%d: passed on is %q with length %d", major, body, r.ContentLength)
		}
	}
}

// TestReservedNames are all that begin with X-Replicate-, in any spelling.
func TestReservedNames(t *testing.T) {
	for _, name := range []string{"X-Replicate-", "x-replicate-new", "X_Replicate_New", "X.Replicate!new", "X~REPLICATE~A"} {
		if !signature.IsReserved(name) {
			t.Errorf("%q is not reserved", name)
		}
	}
	if slices.ContainsFunc([]string{"", "X-Replicate", "X-Replicated-A", "Y-X-Replicate-A", "Webhook-Id"}, signature.IsReserved) {
		t.Error("another name is reserved")
	}
}
