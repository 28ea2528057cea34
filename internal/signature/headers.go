package signature

import (
	"net/http"
	"time"
)

// Limits of the signature headers, in bytes unless said otherwise. They are
// far above what any sender uses, and keep what an unauthenticated request
// can make the verifier do small.
const (
	MaxIDBytes                 = 256
	MaxTimestampDigits         = 12
	MaxTimestampBytes          = 64 // of a webhook-timestamp that is refused with its own reason
	MaxSignatureBytes          = 4096
	MaxSignatureEntries        = 32 // entries in one webhook-signature
	MaxReplicateSignatureBytes = 128
)

// The labels that [HeaderError.Reason] gives.
const (
	ReasonMissing      = "missing"      // no signature header
	ReasonScheme       = "scheme"       // signature headers of a scheme that is not accepted, and no others
	ReasonMalformed    = "malformed"    // a header, or one of the standard three, is not as specified
	ReasonDuplicated   = "duplicated"   // a header is there more than once
	ReasonOversized    = "oversized"    // a header is over its limit
	ReasonConnection   = "connection"   // Connection names a protected header
	ReasonTimestamp    = "timestamp"    // webhook-timestamp is not decimal digits
	ReasonMilliseconds = "milliseconds" // webhook-timestamp has more digits than Unix seconds have
)

// Reasons lists every label that [HeaderError.Reason] can give, so that a
// metric can be set up with all its series.
func Reasons() []string {
	return []string{
		ReasonMissing, ReasonScheme, ReasonMalformed, ReasonDuplicated, ReasonOversized, ReasonConnection,
		ReasonTimestamp, ReasonMilliseconds,
	}
}

// HeaderError says why the signature headers of a request were refused. It
// holds nothing that the sender wrote, so it may be logged and sent back.
type HeaderError struct {
	// Header is the canonical name of the header at fault, "" when the
	// reason is [ReasonMissing]. When it is [ReasonScheme], it is a header of
	// the scheme that the request is signed by.
	Header string
	// Scheme is that scheme, 0 for all other reasons.
	Scheme Scheme
	reason string
}

// Reason returns a short stable label, one of [Reasons].
func (e *HeaderError) Reason() string { return e.reason }

// Error returns the reason in words.
func (e *HeaderError) Error() string {
	switch e.reason {
	case ReasonMissing:
		return "reading signature headers: no accepted signature is present"
	case ReasonScheme:
		return "reading signature headers: " + e.Header + " is present, but its scheme is not accepted"
	case ReasonTimestamp:
		return "reading signature headers: " + e.Header + " is not Unix time in decimal digits"
	case ReasonMilliseconds:
		return "reading signature headers: " + e.Header + " is in milliseconds or finer, where Unix seconds are due"
	case ReasonConnection:
		return "reading signature headers: Connection names " + e.Header
	default:
		return "reading signature headers: " + e.Header + " is " + e.reason
	}
}

// Claim holds the signatures of a request as its headers state them. Nothing in
// it is to be trusted before [Claim.Verify] has succeeded. The zero value
// claims nothing and never verifies. It is read only once made.
type Claim struct {
	schemes   Scheme
	id        string
	timestamp string
	signedAt  time.Time
	replicate digest
	standard  []digest
	// first is the room for the entries of an ordinary request: one, or two
	// while a secret is being rotated.
	first [2]digest
}

// Schemes returns the accepted schemes that the request claims to be signed by.
// All of them must verify.
func (c *Claim) Schemes() Scheme { return c.schemes }

// ID returns the unverified webhook-id, "" unless the standard scheme is claimed.
func (c *Claim) ID() string { return c.id }

// SignedAt returns the unverified webhook-timestamp in UTC, the zero time unless
// the standard scheme is claimed. Its year can have five digits.
func (c *Claim) SignedAt() time.Time { return c.signedAt }

// ParseHeaders reads the signature headers of the accepted schemes, without
// need of the body. Accept only schemes for which there is a secret: a claim
// that no secret can check does not verify.
//
// Headers of a scheme that is not accepted are ignored; a request that has no
// others is refused with [ReasonScheme]. Each other header must be there at most
// once. Any one of webhook-id, webhook-timestamp and
// webhook-signature claims the standard scheme, which takes all three:
// otherwise a signature could be taken off a request to have it judged by the
// other scheme alone. The forms are
//
//	X-Replicate-Signature  64 lower-case hexadecimal digits, "sha256=" before
//	                       them or not; at most 128 bytes
//	webhook-id             1 to 256 bytes of printable ASCII, no space
//	webhook-timestamp      1 to 12 decimal digits, Unix seconds; others, up to
//	                       64 bytes, are refused with reasons of their own
//	webhook-signature      entries "v1,<base64 of 32 bytes>" separated by
//	                       spaces, at most 32 and 4096 bytes; entries of other
//	                       versions or forms are skipped, one must remain
//
// A Connection header that names one of [ProtectedHeaders], in any spelling of
// [IsProtected], is refused whatever else the request has.
//
// Every error is a [*HeaderError].
func ParseHeaders(h http.Header, accept Scheme) (*Claim, error) {
	if name := namedByConnection(h); name != "" {
		return nil, &HeaderError{Header: name, reason: ReasonConnection}
	}
	c := new(Claim)
	for s, row := range accept.each {
		if row.claimed(h) {
			c.schemes |= s
		}
	}
	if c.schemes == 0 {
		return nil, unaccepted(h)
	}
	for i := range schemes {
		if c.schemes.Has(1 << i) {
			if err := schemes[i].read(c, h); err != nil {
				return nil, err
			}
		}
	}
	return c, nil
}

// claimed reports whether a request has a header of the scheme.
func (s *scheme) claimed(h http.Header) bool {
	for _, name := range s.headers {
		if len(h[name]) > 0 {
			return true
		}
	}
	return false
}

// unaccepted returns the error for a request without an accepted signature.
func unaccepted(h http.Header) *HeaderError {
	for i := range schemes {
		if name := schemes[i].headers[len(schemes[i].headers)-1]; len(h[name]) > 0 {
			return &HeaderError{Header: name, Scheme: 1 << i, reason: ReasonScheme}
		}
	}
	return &HeaderError{reason: ReasonMissing}
}

// single returns the one value of a header that a claimed scheme needs.
func single(h http.Header, name string, limit int) (string, *HeaderError) {
	switch values := h[name]; {
	case len(values) > 1:
		return "", &HeaderError{Header: name, reason: ReasonDuplicated}
	case len(values) == 0 || values[0] == "":
		return "", &HeaderError{Header: name, reason: ReasonMalformed}
	case len(values[0]) > limit:
		return "", &HeaderError{Header: name, reason: ReasonOversized}
	default:
		return values[0], nil
	}
}
