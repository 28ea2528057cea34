package route

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/internal/edge"
	"github.com/caddy-replicate/replicate-webhook/internal/inbox"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// newRequest returns the request of an attempt as Caddy's server would have it at
// the edge, which prepares it as it does one that it forwards itself.
func (t *Route) newRequest(ctx context.Context, w http.ResponseWriter, d *store.Delivery, attempt int, head *inbox.Head) (*http.Request, error) {
	original, err := parseURI(head.OriginalURI)
	if err != nil {
		return nil, err
	}
	rewritten, err := parseURI(head.URI)
	if err != nil {
		return nil, err
	}
	ctx = context.WithValue(ctx, insideKey{}, true)
	ctx = context.WithValue(ctx, http.LocalAddrContextKey, address(head.LocalAddr))
	// Not by http.NewRequest: a request with GetBody is repeated by transports.
	r := (&http.Request{
		Method: head.Method, URL: original, RequestURI: head.OriginalURI, Host: head.Host,
		Proto: proto(head), ProtoMajor: int(head.ProtoMajor), ProtoMinor: int(head.ProtoMinor),
		Header: head.Header, RemoteAddr: head.RemoteAddr,
	}).WithContext(ctx)
	if head.TLS != 0 {
		r.TLS = &tls.ConnectionState{HandshakeComplete: true, Version: head.TLS}
	}
	repl := caddy.NewReplacer()
	r = caddyhttp.PrepareRequest(r, repl, w, t.server)
	// The trusted proxies were asked when the request came.
	caddyhttp.SetVar(r.Context(), caddyhttp.TrustedProxyVarKey, head.Trusted)
	if head.ClientIP != "" {
		caddyhttp.SetVar(r.Context(), caddyhttp.ClientIPVarKey, head.ClientIP)
	}
	rewritten.Scheme, rewritten.Host = original.Scheme, original.Host
	r.URL, r.RequestURI = rewritten, head.URI

	hook := edge.Restore(head, d.Payload)
	repl.Map(hook.Placeholder)
	if omitted := hook.Prepare(r); len(omitted) > 0 {
		t.Logger.Warn("passing an event on without headers whose values are over 256 bytes",
			zap.String("event_id", d.ID), zap.Strings("headers", omitted))
	}
	r.Header["X-Replicate-Event-Id"] = []string{d.ID}
	r.Header["X-Replicate-Attempt"] = []string{strconv.Itoa(attempt)}
	if d.Replay {
		r.Header["X-Replicate-Replay"] = []string{"true"}
	}
	if d.Overtaken {
		r.Header["X-Replicate-Overtaken"] = []string{"true"}
	}
	if t.Resign {
		t.resign(r.Header, d, head, t.Now())
	}
	return r, nil
}

// resign replaces the time and signatures of the standard scheme if the event was
// signed too long ago for an app that verifies it. X-Replicate-Signature stays: it
// signs the body alone, whose own time can't be changed.
func (t *Route) resign(h http.Header, d *store.Delivery, head *inbox.Head, now time.Time) {
	if !head.Schemes.Has(signature.Standard) || now.Sub(head.SignedAt) <= t.Tolerance/2 {
		return
	}
	timestamp := strconv.FormatInt(now.Unix(), 10)
	secrets := t.Secrets()
	var entries []string
	for _, signer := range head.Signers {
		for _, s := range secrets {
			if s.Standard() && s.Fingerprint() == signer {
				entries = append(entries, s.SignStandard(head.MessageID, timestamp, d.Payload))
				break
			}
		}
	}
	if len(entries) == 0 {
		t.unsigned.Do(func() {
			t.Logger.Warn("events are passed on with the signatures that they came with, which apps that verify them may refuse as too old: the secret that verified them is not configured any more",
				zap.String("event_id", d.ID))
		})
		return
	}
	h[signature.HeaderTimestamp] = []string{timestamp}
	h[signature.HeaderSignature] = []string{strings.Join(entries, " ")}
	signature.UpdateSvix(h)
}

// parseURI parses a request URI. One that a handler has rewritten need not begin
// with a slash.
func parseURI(uri string) (*url.URL, error) {
	u, err := url.ParseRequestURI(uri)
	if err == nil {
		return u, nil
	}
	path, query, found := strings.Cut(uri, "?")
	unescaped, unescapeErr := url.PathUnescape(path)
	if unescapeErr != nil {
		return nil, err
	}
	u = &url.URL{Path: unescaped, RawQuery: query, ForceQuery: found && query == ""}
	if u.EscapedPath() != path {
		u.RawPath = path
	}
	return u, nil
}

// proto returns the protocol of a request as net/http names it.
func proto(h *inbox.Head) string {
	return "HTTP/" + strconv.Itoa(int(h.ProtoMajor)) + "." + strconv.Itoa(int(h.ProtoMinor))
}

// address is the address of a connection that ended long ago.
type address string

func (address) Network() string  { return "tcp" }
func (a address) String() string { return string(a) }
