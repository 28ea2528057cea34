package webhook

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-replicate/replicate-webhook/internal/signature"
)

// Scrub removes what only the edge may say, and spellings that a server behind
// it could take for a protected header.
func Scrub(h http.Header) {
	for name := range h {
		switch name {
		case signature.HeaderReplicateSignature, signature.HeaderID, signature.HeaderTimestamp, signature.HeaderSignature,
			"Content-Type", "Content-Length", "Content-Encoding":
		default:
			if signature.IsProtected(name) {
				delete(h, name)
			}
		}
	}
}

// Scheme is the name of what verified; the standard one says more.
func (h *Webhook) Scheme() string {
	if h.Schemes.Has(signature.Standard) {
		return signature.Standard.String()
	}
	return signature.Replicate.String()
}

// Publish sets the placeholders and the access log's fields.
func (h *Webhook) Publish(r *http.Request) {
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Map(h.placeholder)
	}
	if extra, ok := r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
		extra.Set(zap.Object("replicate_webhook", h))
	}
}

func (h *Webhook) placeholder(name string) (any, bool) {
	switch name {
	case "http.replicate_webhook.event":
		return h.Name, true
	case "http.replicate_webhook.prediction_id":
		return h.Event.ID, true
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

// MarshalLogObject writes the access log's fields.
func (h *Webhook) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	enc.AddString("event", h.Name)
	enc.AddString("prediction_id", h.Event.ID)
	enc.AddString("status", h.Status)
	enc.AddString("scheme", h.Scheme())
	enc.AddString("message_id", h.Result.ID)
	enc.AddBool("duplicate", h.Duplicate)
	return nil
}

// Prepare makes the request the one to pass on.
func (h *Webhook) Prepare(r *http.Request) {
	r.Body = io.NopCloser(bytes.NewReader(h.Body))
	r.ContentLength = int64(len(h.Body))
	r.TransferEncoding = nil
	r.Trailer = nil
	r.Header.Set("Content-Length", strconv.Itoa(len(h.Body)))
	// The body is here in full: there is nothing to wait for, and what came
	// after it was not signed.
	r.Header.Del("Expect")
	r.Header.Del("Trailer")
	if h.Canonicalised {
		for _, name := range []string{"Content-Digest", "Repr-Digest", "Digest", "Content-MD5"} {
			r.Header.Del(name)
		}
	}
	r.Header.Set("X-Replicate-Verified", h.Scheme())
	r.Header.Set("X-Replicate-Prediction-Id", headerValue(h.Event.ID))
	if h.Name != "" {
		r.Header.Set("X-Replicate-Event", headerValue(h.Name))
	}
}

// headerValue is signed text as a header can carry it.
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
