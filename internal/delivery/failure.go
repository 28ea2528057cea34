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

// phase is how far an attempt got.
type phase uint8

const (
	connecting phase = iota
	awaiting
	reading
)

func (p phase) String() string {
	return [...]string{"connecting", "awaiting response", "reading body"}[p]
}

// explain returns the outcome of an attempt that failed with an error, and the
// text that the client who owns the webhook is shown. The text is one of a few
// stable ones: the errors of package net hold local addresses and the names of
// the operator's resolvers, so none of their text is passed on. timeout is the
// attempt's, 0 if it was not what ended it.
func explain(err error, at phase, timeout time.Duration) (Outcome, string) {
	var (
		badURL *egress.URLError
		dns    *net.DNSError
	)
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		if timeout == 0 {
			return OutcomeTimeout, "timeout " + at.String()
		}
		return OutcomeTimeout, "timeout after " + seconds(timeout) + " " + at.String()
	case errors.As(err, &badURL):
		return OutcomeBadURL, badURL.Error()
	case errors.Is(err, egress.ErrForbidden):
		return OutcomeForbidden, unreachable(err)
	case errors.As(err, &dns):
		return OutcomeResolving, unreachable(err)
	}
	if text := explainTLS(err); text != "" {
		return OutcomeTLS, text
	}
	if text := explainProtocol(err); text != "" {
		return OutcomeProtocol, text
	}
	o, text := explainConnection(err)
	if at == reading {
		text += " " + at.String()
	}
	return o, text
}

// unreachable returns one text for names that do not resolve and for addresses
// that are forbidden. Two texts would tell a client which names exist in a zone
// that only the operator's network can see.
func unreachable(err error) string {
	return egress.ClientText(err) + ": no such host, or not a public address"
}

// seconds formats a duration as "15s", without the zero minutes that
// time.Duration adds to a longer one.
func seconds(d time.Duration) string {
	return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) + "s"
}

// explainTLS returns the text for an error of TLS, or "".
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
		return "tls: the response is not TLS"
	// The form in which crypto/tls reports alerts. Their texts are from a table.
	case errors.As(err, &alert) && (alert.Op == "remote error" || alert.Op == "local error"):
		return alert.Err.Error()
	case strings.HasPrefix(err.Error(), "tls: "):
		return "tls: handshake failed"
	}
	return ""
}

// explainProtocol returns the text for a response that is not HTTP, or "".
// net/http has no types for these errors, and quotes the receiver in some.
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

// explainConnection returns the outcome and the text for any other error.
func explainConnection(err error) (Outcome, string) {
	var timeout interface{ Timeout() bool }
	text := err.Error()
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return OutcomeConnection, "connection refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return OutcomeConnection, "connection reset"
	case errors.Is(err, syscall.EHOSTUNREACH):
		return OutcomeConnection, "host unreachable"
	case errors.Is(err, syscall.ENETUNREACH):
		return OutcomeConnection, "network unreachable"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), strings.Contains(text, "server closed idle connection"),
		strings.HasPrefix(text, "http2: "), strings.HasPrefix(text, "stream error: "):
		return OutcomeConnection, "connection closed"
	// A handshake or a dial has a timeout of its own, before the attempt's.
	case errors.As(err, &timeout) && timeout.Timeout():
		return OutcomeTimeout, "timeout connecting"
	}
	return OutcomeConnection, "connection failed"
}
