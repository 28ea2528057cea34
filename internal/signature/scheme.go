// Package signature signs and verifies webhook requests by two schemes.
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

import (
	"net/http"
	"slices"
	"strings"
	"time"
)

// Scheme is a set of signature schemes. The zero value is the empty set.
type Scheme uint8

// The schemes, each one bit of a [Scheme], in the order of the table schemes.
const (
	// Replicate is HMAC-SHA256 of the body in X-Replicate-Signature.
	Replicate Scheme = 1 << iota
	// Standard is the Standard Webhooks scheme: webhook-id,
	// webhook-timestamp and webhook-signature.
	Standard

	all Scheme = 1<<len(schemes) - 1
)

// scheme describes one signature scheme.
type scheme struct {
	name string
	// headers carry the signature, the signature itself last. Any of them
	// claims the scheme. They are in the form [net/http.Header] stores them.
	headers []string
	// form says in a sentence what is in the headers.
	form string
	// secrets says which secrets the scheme takes, and usable whether one is.
	secrets string
	usable  func(Secret) bool
	// stringified says that senders may sign the ECMAScript form of the body
	// in place of the bytes they send.
	stringified bool
	// read reads the headers into a claim.
	read func(*Claim, http.Header) error
	// signers returns the bits of the secrets that made the claimed signature
	// over a body: see signerBit. It tries them all and compares in constant
	// time.
	signers func(c *Claim, secrets []Secret, body []byte) uint64
	// sign puts the headers into h if a secret can make them.
	sign func(h http.Header, secrets []Secret, id string, at time.Time, body []byte)
}

// schemes are all schemes in the order of their bits, from the one that signs the
// least to the one that signs the most.
var schemes = [...]scheme{replicateScheme, standardScheme}

// each yields the schemes of the set with their rows, the one that signs the most
// first.
func (s Scheme) each(yield func(Scheme, *scheme) bool) {
	for i := len(schemes) - 1; i >= 0; i-- {
		if bit := Scheme(1) << i; s.Has(bit) && !yield(bit, &schemes[i]) {
			return
		}
	}
}

// Has reports whether every scheme of t is in s. It is false for an empty t,
// so that a forgotten argument never reads as "verified".
func (s Scheme) Has(t Scheme) bool { return t != 0 && s&t == t }

// Strongest returns the scheme of the set that signs the most.
func (s Scheme) Strongest() Scheme {
	for t := range s.each {
		return t
	}
	return 0
}

// Secrets says which secrets the strongest scheme of the set takes, such as
// "secrets that begin with whsec_".
func (s Scheme) Secrets() string {
	for _, row := range s.each {
		return row.secrets
	}
	return "no secrets"
}

// Names returns the names of all schemes.
func Names() []string {
	names := make([]string, len(schemes))
	for i := range schemes {
		names[i] = schemes[i].name
	}
	return names
}

// Forms says in sentences what the headers of the schemes hold.
func Forms() string {
	forms := make([]string, len(schemes))
	for i := range schemes {
		forms[i] = schemes[i].form
	}
	return strings.Join(forms, " ")
}

// CarriesSignature reports whether name, as [net/http.Header] stores it, is a header
// of one of the schemes.
func CarriesSignature(name string) bool {
	for i := range schemes {
		if slices.Contains(schemes[i].headers, name) {
			return true
		}
	}
	return false
}

// SchemeNamed returns the scheme of a name, the empty set for any other text.
func SchemeNamed(name string) Scheme {
	if i := slices.Index(Names(), name); i >= 0 {
		return 1 << i
	}
	return 0
}

// String returns the names of the schemes, such as "replicate", "standard" or
// "replicate+standard", or "none" for the empty set. The values are fit for metric
// labels: bits that name no scheme are left out.
func (s Scheme) String() string {
	text := ""
	for i := range schemes {
		switch {
		case !s.Has(1 << i):
		case text == "":
			text = schemes[i].name
		default:
			text += "+" + schemes[i].name
		}
	}
	if text == "" {
		return "none"
	}
	return text
}
