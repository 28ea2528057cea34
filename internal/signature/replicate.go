package signature

import (
	"crypto/subtle"
	"encoding/hex"
	"net/http"
	"strings"
	"time"
)

// HeaderReplicateSignature is the header of the replicate scheme.
const HeaderReplicateSignature = "X-Replicate-Signature"

// hashPrefix may stand before the digits of X-Replicate-Signature.
const hashPrefix = "sha256="

// replicateScheme is HMAC-SHA256 of the body, keyed with the secret as written.
var replicateScheme = scheme{
	name:        "replicate",
	headers:     []string{HeaderReplicateSignature},
	form:        "X-Replicate-Signature is 64 lower-case hexadecimal digits.",
	secrets:     "any secret",
	usable:      func(s Secret) bool { return s.k != nil },
	stringified: true,
	read:        (*Claim).readReplicate,
	signers:     (*Claim).matchReplicate,
	sign: func(h http.Header, secrets []Secret, _ string, _ time.Time, body []byte) {
		if len(secrets) > 0 && secrets[0].k != nil {
			h.Set(HeaderReplicateSignature, secrets[0].SignReplicate(body))
		}
	},
}

// readReplicate reads X-Replicate-Signature. Its result is a plain error: a
// nil *HeaderError in an error would not be nil.
func (c *Claim) readReplicate(h http.Header) error {
	text, herr := single(h, HeaderReplicateSignature, MaxReplicateSignatureBytes)
	if herr != nil {
		return herr
	}
	text = strings.TrimPrefix(text, hashPrefix)
	if !decodeHex(&c.replicate, text) {
		return &HeaderError{Header: HeaderReplicateSignature, reason: ReasonMalformed}
	}
	return nil
}

// decodeHex decodes 64 lower-case digits. Upper case is refused because the
// reference verifier compares texts: a request it would turn away must not
// come through here.
func decodeHex(dst *digest, text string) bool {
	if len(text) != hex.EncodedLen(len(dst)) {
		return false
	}
	var src [2 * len(dst)]byte
	copy(src[:], text)
	for _, b := range src {
		if 'A' <= b && b <= 'F' {
			return false
		}
	}
	_, err := hex.Decode(dst[:], src[:])
	return err == nil
}

// matchReplicate returns the bits of the secrets that made X-Replicate-Signature over
// body. It never stops early.
func (c *Claim) matchReplicate(secrets []Secret, body []byte) (signers uint64) {
	for i, s := range secrets {
		if s.k == nil {
			continue
		}
		sum := s.k.replicate.body(body)
		signers |= uint64(subtle.ConstantTimeCompare(sum[:], c.replicate[:])) << signerBit(i)
	}
	return signers
}

// body signs what the replicate scheme signs.
func (k *keyed) body(body []byte) digest {
	m := k.pool.Get().(*mac)
	return k.finish(m, body)
}

// SignReplicate returns the value of X-Replicate-Signature for body: 64
// lower-case hexadecimal digits of HMAC-SHA256, keyed with the secret as
// written. It is empty for the zero Secret.
func (s Secret) SignReplicate(body []byte) string {
	if s.k == nil {
		return ""
	}
	sum := s.k.replicate.body(body)
	return hex.EncodeToString(sum[:])
}
