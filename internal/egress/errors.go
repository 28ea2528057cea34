package egress

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// ErrForbidden is wrapped by every error that reports a destination refused
// by policy: such a request fails the same way however often it is repeated,
// unless the name's addresses change.
var ErrForbidden = errors.New("forbidden destination")

// URLError reports that the text of a webhook URL is not acceptable. Its
// message is meant for the client that supplied the URL and says nothing of
// the operator's network.
type URLError struct {
	// Problem completes a sentence beginning with "webhook_url", for
	// instance "must use https".
	Problem string

	// forbidden is set if the URL is well formed but names a destination
	// that is refused.
	forbidden bool
}

// Error returns a sentence such as "webhook_url must use https".
func (e *URLError) Error() string { return "webhook_url " + e.Problem }

// Unwrap returns [ErrForbidden] if the URL is well formed but names a
// forbidden address, name or port, and nil otherwise.
func (e *URLError) Unwrap() error {
	if e.forbidden {
		return ErrForbidden
	}
	return nil
}

// ForbiddenError reports a destination refused by policy. Its message names
// addresses and rules and is meant for the operator's logs alone; clients are
// shown [ClientText].
type ForbiddenError struct {
	// Host is the host as dialled, a name or an address; empty if only an
	// address was judged.
	Host string

	// Addr is the address that was refused; the zero value if the host was
	// refused before it was resolved.
	Addr netip.Addr

	// Reason says which rule applied.
	Reason string
}

// Error returns the message for operators.
func (e *ForbiddenError) Error() string {
	switch {
	case e.Host == "":
		return fmt.Sprintf("%v: address %s: %s", ErrForbidden, e.Addr, e.Reason)
	case e.Addr.IsValid():
		return fmt.Sprintf("%v: host %q has address %s: %s", ErrForbidden, e.Host, e.Addr, e.Reason)
	default:
		return fmt.Sprintf("%v: host %q: %s", ErrForbidden, e.Host, e.Reason)
	}
}

// Unwrap returns [ErrForbidden].
func (e *ForbiddenError) Unwrap() error { return ErrForbidden }

// Texts of [ClientText].
const (
	textNotPublic = "webhook_url does not lead to a public destination"
	textTLS       = "the TLS handshake with the webhook host failed"
	textTimeout   = "the webhook host did not respond in time"
	textBroken    = "the connection to the webhook host failed"
)

// ClientText returns a description of err, an error returned by this package
// or by a client made by it, that is safe to show to the client that supplied
// the URL. It is empty if err is nil.
//
// The errors of package net carry local addresses, names of resolvers and
// certificates of whatever responded, so none of their text is passed on. A
// forbidden address and a name that does not resolve share one text: telling
// them apart would let a client find out which names exist in a DNS zone that
// only the operator's network can see.
func ClientText(err error) string {
	var (
		badURL  *URLError
		dns     *net.DNSError
		verify  *tls.CertificateVerificationError
		record  tls.RecordHeaderError
		op      *net.OpError
		timeout interface{ Timeout() bool }
	)
	switch {
	case err == nil:
		return ""
	case errors.As(err, &badURL):
		return badURL.Error()
	case errors.Is(err, ErrForbidden), errors.As(err, &dns):
		return textNotPublic
	case errors.As(err, &verify), errors.As(err, &record):
		return textTLS
	case errors.As(err, &op) && (op.Op == "remote error" || op.Op == "local error"):
		// The form in which crypto/tls reports alerts.
		return textTLS
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return textTimeout
	default:
		return textBroken
	}
}
