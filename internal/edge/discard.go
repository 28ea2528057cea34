package edge

import (
	"net/http"
	"net/textproto"
	"strings"

	"github.com/caddy-replicate/replicate-webhook/internal/signature"
)

// connectionHeaders belong to one connection and not to the request. Those that
// ask for another protocol would have a proxy open a tunnel, and nothing on a
// tunnel is verified. The last one is how an extended CONNECT of HTTP/2 (RFC
// 8441) names its protocol.
var connectionHeaders = [...]string{
	"Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Http2-Settings", "Expect",
	":protocol",
}

// stripConnection removes the headers that belong to the connection, and those
// that Connection names.
func stripConnection(h http.Header) {
	for _, value := range h["Connection"] {
		for token := range strings.SplitSeq(value, ",") {
			delete(h, textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(token)))
		}
	}
	for _, name := range connectionHeaders {
		delete(h, name)
	}
}

// Discard takes from a request that was not accepted everything by which an error
// route could pass it on as a webhook: the body with its length and encoding, the
// signatures, what the edge says of a verified one, and what asks for a tunnel.
//
// A handler before the edge may hold a copy of the request. It has the same
// headers and trailers, and its body is at its end, or is not read on: see
// Refusal.Unread.
func Discard(r *http.Request) {
	clear(r.Trailer)
	r.Body, r.ContentLength, r.TransferEncoding, r.Trailer = http.NoBody, 0, nil, nil
	if r.ProtoMajor == 3 {
		r.Proto = "HTTP/3.0" // an extended CONNECT has its protocol here (RFC 9220)
	}
	stripConnection(r.Header)
	for name := range r.Header {
		if signature.IsProtected(name) || signature.IsReserved(name) || signature.IsSvix(name) {
			delete(r.Header, name)
		}
	}
	for _, name := range digestHeaders {
		delete(r.Header, name)
	}
}
