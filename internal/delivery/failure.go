package delivery

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/egress"
)

// kind is how an attempt ended, as the metric's label says it.
type kind string

const (
	kindSuccess     kind = "success"
	kindDuplicate   kind = "duplicate"
	kindGone        kind = "gone"
	kindRedirect    kind = "redirect"
	kindClientError kind = "client_error" // 4xx
	kindThrottled   kind = "throttled"    // 429
	kindServerError kind = "server_error" // 5xx and whatever has no meaning
	kindTimeout     kind = "timeout"
	kindConnection  kind = "connection"
	kindTLS         kind = "tls"
	kindResolving   kind = "resolving"
	kindForbidden   kind = "forbidden"
	kindBadURL      kind = "bad_url"
	kindProtocol    kind = "protocol"
	kindInternal    kind = "internal" // nothing was sent
	kindHeld        kind = "held"     // nothing was sent for too long, see Breaker.Hold
)

func (k kind) success() bool { return k == kindSuccess || k == kindDuplicate }

// blame is what a failed attempt counts against.
type blame uint8

const (
	// ofNothing: it succeeded, it ended the delivery and the webhook with
	// it, or nothing was sent.
	ofNothing blame = iota
	// ofURL: the receiver refused it, which is about the client's URL alone.
	ofURL
	// ofEndpoint: no complete response came.
	ofEndpoint
)

func (k kind) blames() blame {
	switch k {
	case kindSuccess, kindDuplicate, kindGone, kindInternal, kindHeld:
		return ofNothing
	case kindRedirect, kindClientError, kindThrottled, kindServerError, kindBadURL:
		return ofURL
	}
	return ofEndpoint
}

// responded reports whether the receiver gave a complete response.
func (k kind) responded() bool {
	switch k {
	case kindSuccess, kindDuplicate, kindGone, kindRedirect, kindClientError, kindThrottled, kindServerError:
		return true
	}
	return false
}

// ofStatus is the kind of a complete answer.
func ofStatus(status int) kind {
	switch {
	case status >= 200 && status <= 299:
		return kindSuccess
	case status == 410:
		return kindGone
	case status == 429:
		return kindThrottled
	case status >= 300 && status <= 399:
		return kindRedirect
	case status >= 400 && status <= 499:
		return kindClientError
	}
	return kindServerError
}

// phase is how far an attempt came.
type phase uint8

const (
	connecting phase = iota
	awaiting
	reading
)

func (p phase) String() string {
	return [...]string{"connecting", "awaiting response", "reading body"}[p]
}

// explain turns the error of an attempt into its kind and into the text that
// the client who owns the webhook is shown. The text is one of a few stable
// ones: what package net says holds local addresses and the names of the
// operator's resolvers, so none of it is passed on. timeout is the attempt's,
// 0 if it was not what ended it.
func explain(err error, at phase, timeout time.Duration) (kind, string) {
	var (
		badURL *egress.URLError
		dns    *net.DNSError
	)
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		if timeout == 0 {
			return kindTimeout, "timeout " + at.String()
		}
		return kindTimeout, "timeout after " + seconds(timeout) + " " + at.String()
	case errors.As(err, &badURL):
		return kindBadURL, badURL.Error()
	case errors.Is(err, egress.ErrForbidden):
		return kindForbidden, unreachable(err)
	case errors.As(err, &dns):
		return kindResolving, unreachable(err)
	}
	if text := explainTLS(err); text != "" {
		return kindTLS, text
	}
	if text := explainProtocol(err); text != "" {
		return kindProtocol, text
	}
	k, text := explainConnection(err)
	if at == reading {
		text += " " + at.String()
	}
	return k, text
}

// unreachable is one text for names that don't resolve and for addresses that
// are forbidden. Two would tell a client which names exist in a zone that only
// the operator's network can see.
func unreachable(err error) string {
	return egress.ClientText(err) + ": no such host, or not a public address"
}

// seconds writes a duration as "15s", without the zero minutes that
// time.Duration would add to a longer one.
func seconds(d time.Duration) string {
	return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) + "s"
}

func explainTLS(err error) string {
	var (
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
		verify    *tls.CertificateVerificationError
		record    tls.RecordHeaderError
		alert     *net.OpError
	)
	switch {
	case errors.As(err, &authority):
		return "tls: certificate signed by unknown authority"
	case errors.As(err, &host):
		return "tls: certificate is not valid for this host"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "tls: certificate has expired or is not yet valid"
	case errors.As(err, &verify), errors.As(err, &invalid):
		return "tls: certificate is not valid"
	case errors.As(err, &record), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return "tls: the answer is not TLS"
	// The form in which crypto/tls reports alerts. Their texts are a table.
	case errors.As(err, &alert) && (alert.Op == "remote error" || alert.Op == "local error"):
		return alert.Err.Error()
	case strings.HasPrefix(err.Error(), "tls: "):
		return "tls: handshake failed"
	}
	return ""
}

// explainProtocol recognises answers that are not HTTP. net/http has no types
// for these errors, and quotes the receiver in some.
func explainProtocol(err error) string {
	text := err.Error()
	switch {
	case strings.Contains(text, "response headers exceeded"), strings.Contains(text, "too many 1xx"),
		strings.Contains(text, "header list larger than"):
		return "response header too large"
	case strings.Contains(text, "malformed"), strings.Contains(text, "invalid header"),
		strings.Contains(text, "bad Content-Length"), strings.Contains(text, "transfer encoding"),
		strings.Contains(text, "chunk"):
		return "malformed response"
	}
	return ""
}

func explainConnection(err error) (kind, string) {
	var timeout interface{ Timeout() bool }
	text := err.Error()
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return kindConnection, "connection refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return kindConnection, "connection reset"
	case errors.Is(err, syscall.EHOSTUNREACH):
		return kindConnection, "host unreachable"
	case errors.Is(err, syscall.ENETUNREACH):
		return kindConnection, "network unreachable"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), strings.Contains(text, "server closed idle connection"),
		strings.HasPrefix(text, "http2: "), strings.HasPrefix(text, "stream error: "):
		return kindConnection, "connection closed"
	// A handshake or a dial with an end of its own, before the attempt's.
	case errors.As(err, &timeout) && timeout.Timeout():
		return kindTimeout, "timeout connecting"
	}
	return kindConnection, "connection failed"
}
