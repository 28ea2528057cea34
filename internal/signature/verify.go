package signature

import (
	"bytes"
	"errors"
	"math"
	"time"
)

// ErrSignature says that a claimed signature matches no secret. It does not
// say which: a sender without the secret has no use for knowing.
var ErrSignature = errors.New("verifying signature: no secret matches")

// Result is the result of [Claim.Verify].
type Result struct {
	// Schemes are the schemes that verified: all that were claimed.
	Schemes Scheme
	// ID is the webhook-id when the standard scheme verified, else "".
	ID string
	// SignedAt is the webhook-timestamp in UTC when the standard scheme
	// verified, else the zero time. It is authentic, not recent: see [Fresh].
	SignedAt time.Time
	// Body is the bytes that were signed, the only ones to pass on. It is
	// the raw body or what the canonical function gave, not a copy.
	Body []byte
	// ReplicateBody is the bytes that X-Replicate-Signature signed, nil if
	// that scheme did not verify.
	ReplicateBody []byte
	// Canonicalised says that Body is the ECMAScript form and differs from
	// the raw body, so that Content-Length has to follow.
	Canonicalised bool

	// secrets are those that were tried, and signers has the bits of those that
	// made a standard signature: see signerBit.
	secrets []Secret
	signers uint64
}

// signerBit returns the bit of the secret with an index. All from the 64th on, of
// which a configuration has none in practice, share one.
func signerBit(index int) uint { return uint(min(index, 63)) }

// Signers returns the fingerprints of the secrets that made the standard
// signatures, in the order of the secrets. During a rotation a sender signs with
// several. There are none if that scheme did not verify.
func (r *Result) Signers() []Fingerprint {
	if r.signers == 0 {
		return nil
	}
	var all []Fingerprint
	for i, s := range r.secrets {
		if s.Standard() && r.signers>>signerBit(i)&1 == 1 {
			all = append(all, s.Fingerprint())
		}
	}
	return all
}

// Verify checks every claimed signature against the secrets.
//
// The raw body is tried first. If X-Replicate-Signature does not cover it,
// canonical is asked for the body's ECMAScript form,
// JSON.stringify(JSON.parse(raw)); it is called at most once, not at all when
// the outcome is settled without it, and gives nil when there is no such form.
// A nil function stands for one that gives nil.
//
// When both schemes are claimed both must verify, each with any secret. The
// standard signature covers the raw body, so Body is then the raw body even if
// X-Replicate-Signature covers the ECMAScript form: both are signed, and only
// the raw one lets an application verify either header again.
//
// All secrets are tried against all signatures, and digests are compared in
// constant time, so the time taken does not tell how much of a signature was
// right nor which secret made it.
//
// A full stop separates the parts that the standard scheme signs and may occur
// in a webhook-id. The signed text can be divided in a second way only if one
// of the two bodies starts with digits and a full stop, which no JSON object
// does: where senders sign and receivers accept only these, there is no such
// second way.
//
// The only error is [ErrSignature]; the Result is then the zero value.
func (c *Claim) Verify(secrets []Secret, raw []byte, canonical func() []byte) (Result, error) {
	if c == nil || c.schemes == 0 {
		return Result{}, ErrSignature
	}
	if raw == nil {
		// Result tells "did not verify" from "signed an empty body".
		raw = []byte{}
	}
	r := Result{Schemes: c.schemes}
	for s, row := range c.schemes.each {
		signed, signers := raw, row.signers(c, secrets, raw)
		if signers == 0 && row.stringified && canonical != nil {
			if signed = canonical(); len(signed) > 0 && !bytes.Equal(signed, raw) {
				signers = row.signers(c, secrets, signed)
				r.Canonicalised = r.Body == nil
			}
		}
		if signers == 0 {
			return Result{}, ErrSignature
		}
		if r.Body == nil {
			r.Body = signed
		}
		switch s {
		case Replicate:
			r.ReplicateBody = signed
		case Standard:
			r.ID, r.SignedAt = c.id, c.signedAt
			r.secrets, r.signers = secrets, signers
		}
	}
	return r, nil
}

// Fresh reports whether signedAt is at most tolerance away from now, in either
// direction: senders' clocks run ahead as well as behind. The published
// libraries use a tolerance of 5 minutes. A zero signedAt is never fresh, and
// neither is anything under a negative tolerance or more than 292 years away,
// which is as far as a [time.Duration] reaches.
func Fresh(signedAt, now time.Time, tolerance time.Duration) bool {
	if signedAt.IsZero() {
		return false
	}
	// Round drops monotonic readings. Sub saturates instead of wrapping.
	age := now.Round(0).Sub(signedAt.Round(0))
	if age == math.MinInt64 || age == math.MaxInt64 {
		return false
	}
	return max(age, -age) <= tolerance
}
