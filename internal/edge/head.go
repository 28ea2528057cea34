package edge

import (
	"cmp"
	"maps"
	"net"
	"net/http"
	"slices"

	"github.com/caddy-replicate/replicate-webhook/internal/inbox"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
)

// Head returns what an inbox keeps of the request that brought the webhook, and
// whether headers were left out because they are over MaxKeptHeader. The request
// must not be prepared yet. originalURI is its URI before any handler changed it. The
// addresses of from are those of the connection where they are empty.
//
// The head shares the values of the request's headers.
func (h *Webhook) Head(r *http.Request, originalURI string, from inbox.Origin) (head inbox.Head, truncated bool) {
	head = inbox.Head{
		Method: r.Method, OriginalURI: originalURI, URI: r.URL.RequestURI(), Host: r.Host,
		ProtoMajor: uint8(r.ProtoMajor), ProtoMinor: uint8(r.ProtoMinor),
		Origin: from,
		Verified: inbox.Verified{
			Schemes: h.Schemes, MessageID: h.Result.ID, SignedAt: h.Result.SignedAt, JudgedAt: h.JudgedAt,
			Signers:       h.Signers(),
			Canonicalised: h.Canonicalised, Duplicate: h.Duplicate,
			Name: h.Name, PredictionID: h.Envelope.ID, Status: h.Status,
		},
	}
	if head.RemoteAddr == "" {
		head.RemoteAddr = r.RemoteAddr
	}
	if addr, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok && head.LocalAddr == "" {
		head.LocalAddr = addr.String()
	}
	if r.TLS != nil {
		head.TLS = r.TLS.Version
	}
	head.Header, truncated = keep(r.Header)
	return head, truncated
}

// Restore returns the webhook that a head and a body were kept of. What only a
// request that has just come needs, such as its keys, it does not have.
func Restore(head *inbox.Head, body []byte) *Webhook {
	return &Webhook{
		Envelope: Envelope{Name: head.Name, ID: head.PredictionID, Status: head.Status},
		Result: signature.Result{
			Schemes: head.Schemes, ID: head.MessageID, SignedAt: head.SignedAt,
			Body: body, Canonicalised: head.Canonicalised,
		},
		JudgedAt:  head.JudgedAt,
		Duplicate: head.Duplicate,
	}
}

// MaxKeptHeader is how many bytes of headers an inbox keeps of a request, names and
// values together.
const MaxKeptHeader = 16 << 10

// notKept are the headers that are not kept besides those of the connection: those
// that authenticate, whose values should not be at rest in a database, and the one
// that follows from the body.
var notKept = [...]string{"Authorization", "Proxy-Authorization", "Cookie", "Content-Length"}

// keptFirst are the headers that are kept before any others: without them an app
// can't verify or read the event, or its trace ends.
var keptFirst = [...]string{
	signature.HeaderID, signature.HeaderTimestamp, signature.HeaderSignature, signature.HeaderReplicateSignature,
	"Svix-Id", "Svix-Timestamp", "Svix-Signature", "Content-Type", "Content-Encoding", "Traceparent",
}

// keep returns the headers that an inbox keeps of h. They share the values of h.
//
// If they are over MaxKeptHeader some are left out, the same ones of equal headers,
// and truncated is true. Small headers are kept before large ones, so that a large
// one does not take the room of many.
func keep(h http.Header) (kept http.Header, truncated bool) {
	kept = maps.Clone(h)
	stripConnection(kept)
	for _, name := range notKept {
		delete(kept, name)
	}
	total := 0
	for name, values := range kept {
		total += keptSize(name, values)
	}
	if total <= MaxKeptHeader {
		return kept, false
	}
	names := slices.SortedFunc(maps.Keys(kept), func(a, b string) int {
		return cmp.Or(cmp.Compare(keptRank(a), keptRank(b)), cmp.Compare(keptSize(a, kept[a]), keptSize(b, kept[b])), cmp.Compare(a, b))
	})
	left := MaxKeptHeader
	for _, name := range names {
		n := keptSize(name, kept[name])
		if n > left {
			delete(kept, name)
			continue
		}
		left -= n
	}
	return kept, true
}

// keptRank returns 0 for the headers that are kept first, and 1 for others.
func keptRank(name string) int {
	if slices.Contains(keptFirst[:], name) || signature.IsSvix(name) {
		return 0
	}
	return 1
}

// keptSize returns the bytes that a header counts for.
func keptSize(name string, values []string) int {
	n := 0
	for _, value := range values {
		n += len(name) + len(value)
	}
	return n
}
