// Package signature signs and verifies the two ways a webhook request can be
// signed.
//
// The replicate scheme carries the HMAC-SHA256 of the body in one header:
//
//	X-Replicate-Signature: 5d41…c592   (64 lower-case hexadecimal digits;
//	                                    a "sha256=" prefix is accepted)
//
// Its key is the secret exactly as written, the "whsec_" prefix included,
// because that is what createHmac("sha256", secret) does with it. Senders of
// this scheme often sign JSON.stringify(payload) rather than the bytes they
// put on the wire, so two forms of the body are tried: the bytes as received,
// then their ECMAScript form. Whatever form matched is the form to pass on.
//
// The standard scheme is that of the Standard Webhooks specification, version
// 1.0.0 (https://github.com/standard-webhooks/standard-webhooks, file
// spec/standard-webhooks.md):
//
//	webhook-id: msg_p5jXN8AQM9LWM0D4loKWxJek
//	webhook-timestamp: 1614265330
//	webhook-signature: v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=
//
// Its key is the base64 after "whsec_", and it signs id.timestamp.body.
//
// The two schemes never share a key, not even for one whsec_ secret, so a
// signature made for one of them is of no use in the other.
//
// A receiver works in three steps: [ParseHeaders] before the body is read,
// [Claim.Verify] once it is, and [Fresh] on the time that was signed. A sender
// calls [Sign].
package signature

import "slices"

// Scheme is a set of signature schemes. The zero value is the empty set.
type Scheme uint8

// The schemes, each one bit of a [Scheme].
const (
	// Replicate is HMAC-SHA256 of the body in X-Replicate-Signature.
	Replicate Scheme = 1 << iota
	// Standard is the Standard Webhooks scheme: webhook-id,
	// webhook-timestamp and webhook-signature.
	Standard
)

// The header names of both schemes, in the form [net/http.Header] stores them.
const (
	HeaderReplicateSignature = "X-Replicate-Signature"
	HeaderID                 = "Webhook-Id"
	HeaderTimestamp          = "Webhook-Timestamp"
	HeaderSignature          = "Webhook-Signature"
)

// Has reports whether every scheme of t is in s. It is false for an empty t,
// so that a forgotten argument never reads as "verified".
func (s Scheme) Has(t Scheme) bool { return t != 0 && s&t == t }

// names are the names of the schemes, in the order of their bits.
var names = [...]string{"replicate", "standard"}

// SchemeNamed returns the scheme of a name, the empty set for any other text.
func SchemeNamed(name string) Scheme {
	if i := slices.Index(names[:], name); i >= 0 {
		return 1 << i
	}
	return 0
}

// String returns the names of the schemes, such as "replicate", "standard" or
// "replicate+standard", or "none" for the empty set. The values are fit for metric
// labels: bits that name no scheme are left out.
func (s Scheme) String() string {
	text := ""
	for i, name := range names {
		switch {
		case !s.Has(1 << i):
		case text == "":
			text = name
		default:
			text += "+" + name
		}
	}
	if text == "" {
		return "none"
	}
	return text
}
