package signature

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

const (
	// secretPrefix marks a secret of the Standard Webhooks specification.
	secretPrefix = "whsec_"

	// MinSecretBytes is the least number of key bytes a secret must have: the
	// decoded bytes of a whsec_ secret, the characters of any other.
	MinSecretBytes = 16

	// newSecretBytes is the key length of NewSecret. The specification asks
	// for 24 to 64; 32 is the output size of the hash, past which an HMAC
	// gains nothing.
	newSecretBytes = 32

	redacted = "[redacted]"
)

// Errors of [ParseSecret]. None of them repeats any part of the secret.
var (
	// ErrShort says that the key has fewer than [MinSecretBytes] bytes.
	ErrShort = fmt.Errorf("parsing secret: key is shorter than %d bytes", MinSecretBytes)
	// ErrBase64 says that the text after "whsec_" is not standard base64.
	ErrBase64 = errors.New(`parsing secret: text after "whsec_" is not base64`)
)

// Secret is a parsed signing secret. It is safe for concurrent use, cheap to
// copy, and never shows its contents: every fmt verb and every encoder gives
// "[redacted]". The zero value signs nothing and verifies nothing.
type Secret struct {
	// A pointer, because fmt cannot call methods on a Secret held in an
	// unexported field of another struct: there it prints an address.
	k *keys
}

// keys holds what a secret signs with.
type keys struct {
	replicate *keyed // keyed with the secret as written
	standard  *keyed // keyed with the decoded base64; nil unless whsec_

	fingerprint Fingerprint
}

// Fingerprint tells secrets apart, and reveals no more of them than a signature
// does. The zero value is that of no secret.
type Fingerprint [8]byte

// fingerprinted is the text that a fingerprint signs. It is not JSON, so that no body
// of a webhook has a signature that begins with the fingerprint.
const fingerprinted = "fingerprint of a signing secret"

func newKeys(replicate, standard *keyed) *keys {
	sum := replicate.body([]byte(fingerprinted))
	return &keys{replicate: replicate, standard: standard, fingerprint: Fingerprint(sum[:len(Fingerprint{})])}
}

// ParseSecret reads a secret as an operator writes it.
//
// With the prefix "whsec_" the rest must be standard base64 (RFC 4648 section
// 4; the padding may be missing, as every published library tolerates), and
// the secret works for both schemes. Any other string works for [Replicate]
// alone. Nothing is trimmed: a newline at the end of a secret is a part of it.
//
// The errors are [ErrBase64] and [ErrShort].
func ParseSecret(s string) (Secret, error) {
	rest, marked := strings.CutPrefix(s, secretPrefix)
	if !marked {
		if len(s) < MinSecretBytes {
			return Secret{}, ErrShort
		}
		return Secret{k: newKeys(newKeyed([]byte(s)), nil)}, nil
	}
	key, err := decodeKey(rest)
	if err != nil {
		return Secret{}, err
	}
	if len(key) < MinSecretBytes {
		return Secret{}, ErrShort
	}
	return Secret{k: newKeys(newKeyed([]byte(s)), newKeyed(key))}, nil
}

// decodeKey decodes the text after "whsec_". The decoder's own error is
// dropped: it names an offset and so tells something about the secret.
func decodeKey(text string) ([]byte, error) {
	// The decoder skips line ends, other implementations do not.
	if strings.ContainsAny(text, "\r\n") {
		return nil, ErrBase64
	}
	enc := base64.StdEncoding
	if !strings.HasSuffix(text, "=") {
		enc = base64.RawStdEncoding
	}
	key, err := enc.DecodeString(text)
	if err != nil {
		return nil, ErrBase64
	}
	return key, nil
}

// NewSecret makes a secret for both schemes: "whsec_" and the base64 of 32
// bytes read from random, which is crypto/rand.Reader outside of tests. Its
// only error is one of that reader.
func NewSecret(random io.Reader) (string, error) {
	var key [newSecretBytes]byte
	if _, err := io.ReadFull(random, key[:]); err != nil {
		return "", fmt.Errorf("reading random bytes for a secret: %w", err)
	}
	return secretPrefix + base64.StdEncoding.EncodeToString(key[:]), nil
}

// Schemes returns the schemes that the secret can sign and verify.
func (s Secret) Schemes() Scheme {
	var set Scheme
	for t, row := range all.each {
		if row.usable(s) {
			set |= t
		}
	}
	return set
}

// Fingerprint returns the fingerprint of the secret as it was written. It is the
// same in each process.
func (s Secret) Fingerprint() Fingerprint {
	if s.k == nil {
		return Fingerprint{}
	}
	return s.k.fingerprint
}

// Verifiable returns the schemes that at least one of the secrets can verify.
func Verifiable(secrets []Secret) Scheme {
	var set Scheme
	for _, s := range secrets {
		set |= s.Schemes()
	}
	return set
}

// Equal reports whether both secrets were written alike, in a time that tells
// nothing of where they differ nor of their lengths.
func (s Secret) Equal(o Secret) bool {
	if s.k == nil || o.k == nil {
		return s.k == o.k
	}
	a, b := sha256.Sum256(s.k.replicate.key), sha256.Sum256(o.k.replicate.key)
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1
}

// String returns "[redacted]".
func (Secret) String() string { return redacted }

// GoString returns "[redacted]".
func (Secret) GoString() string { return redacted }

// Format writes "[redacted]" for every verb and flag.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalText returns "[redacted]", which covers JSON and XML too.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue returns "[redacted]" to log/slog.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }
