package edge

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"go.uber.org/zap/zapcore"

	"github.com/caddy-replicate/replicate-webhook/internal/signature"
)

// digestHeaders are digests of the bytes of a body.
var digestHeaders = [...]string{"Content-Digest", "Repr-Digest", "Digest", "Content-Md5"}

// scrub removes headers that only the edge may set, and other spellings of
// protected headers, which a server behind it could take for them.
func scrub(h http.Header) {
	for name := range h {
		switch name {
		case "Content-Type", "Content-Length", "Content-Encoding":
		default:
			if signature.IsProtected(name) && !signature.CarriesSignature(name) {
				delete(h, name)
			}
		}
	}
}

// Scheme returns the name of the scheme that verified, of several the one that signs
// the most.
func (h *Webhook) Scheme() string { return h.Schemes.Strongest().String() }

// Placeholder returns the value of a placeholder, and whether it is one of the
// edge's.
func (h *Webhook) Placeholder(name string) (any, bool) {
	switch name {
	case "http.replicate_webhook.event":
		return h.Name, true
	case "http.replicate_webhook.prediction_id":
		return h.Envelope.ID, true
	case "http.replicate_webhook.status":
		return h.Status, true
	case "http.replicate_webhook.scheme":
		return h.Scheme(), true
	case "http.replicate_webhook.message_id":
		return h.Result.ID, true
	case "http.replicate_webhook.duplicate":
		return h.Duplicate, true
	}
	return nil, false
}

// loggable returns signed text, shortened to MaxHeaderValue bytes.
func loggable(s string) string {
	if len(s) <= MaxHeaderValue {
		return s
	}
	return strings.ToValidUTF8(s[:MaxHeaderValue], "") + "…"
}

// MarshalLogObject writes the access log's fields, each at most MaxHeaderValue
// bytes of what was signed.
func (h *Webhook) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	enc.AddString("event", loggable(h.Name))
	enc.AddString("prediction_id", loggable(h.Envelope.ID))
	enc.AddString("status", loggable(h.Status))
	enc.AddString("scheme", h.Scheme())
	enc.AddString("message_id", h.Result.ID)
	enc.AddBool("duplicate", h.Duplicate)
	return nil
}

// MaxHeaderValue is the longest value, in bytes, of a header that the edge sets.
// Servers refuse requests with long headers, and would refuse the retries of such
// an event, too.
const MaxHeaderValue = 256

// Prepare makes r the request to forward: its body is what was signed, and its
// headers say what was verified. It returns the names of the headers that it left
// out because their values are over MaxHeaderValue.
func (h *Webhook) Prepare(r *http.Request) (omitted []string) {
	r.Body = io.NopCloser(bytes.NewReader(h.Body))
	r.ContentLength = int64(len(h.Body))
	r.TransferEncoding = nil
	r.Trailer = nil
	r.Header.Set("Content-Length", strconv.Itoa(len(h.Body)))
	stripConnection(r.Header)
	if h.Canonicalised {
		for _, name := range digestHeaders {
			delete(r.Header, name)
		}
	}
	r.Header.Set("X-Replicate-Verified", h.Scheme())
	for _, set := range [...]struct{ name, value string }{
		{"X-Replicate-Prediction-Id", h.Envelope.ID},
		{"X-Replicate-Event", h.Name},
	} {
		value := headerValue(set.value)
		switch {
		case value == "":
		case len(value) > MaxHeaderValue:
			omitted = append(omitted, set.name)
		default:
			r.Header.Set(set.name, value)
		}
	}
	return omitted
}

// headerValue returns signed text for a header: bytes that are not visible ASCII
// are percent-encoded.
func headerValue(s string) string {
	plain := func(c byte) bool { return c > ' ' && c < 0x7f && c != '%' }
	for i := range len(s) {
		if !plain(s[i]) {
			var b strings.Builder
			for i := range len(s) {
				if plain(s[i]) {
					b.WriteByte(s[i])
				} else {
					fmt.Fprintf(&b, "%%%02X", s[i])
				}
			}
			return b.String()
		}
	}
	return s
}

// Interface guards.
var _ zapcore.ObjectMarshaler = (*Webhook)(nil)
