package signature

import (
	"crypto/subtle"
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The headers of the standard scheme.
const (
	HeaderID        = "Webhook-Id"
	HeaderTimestamp = "Webhook-Timestamp"
	HeaderSignature = "Webhook-Signature"
)

const (
	// versionPrefix starts an entry of webhook-signature made with HMAC-SHA256.
	versionPrefix = "v1,"
	// entryChars is the length of the base64 of a digest.
	entryChars = 44
)

// standardScheme is HMAC-SHA256 of id.timestamp.body, keyed with the base64 of a
// whsec_ secret.
var standardScheme = scheme{
	name:    "standard",
	headers: []string{HeaderID, HeaderTimestamp, HeaderSignature},
	form:    "The three webhook- headers come together: webhook-timestamp in Unix seconds, webhook-signature as v1,<base64>.",
	secrets: "secrets that begin with whsec_",
	usable:  Secret.Standard,
	read:    (*Claim).readStandard,
	signers: (*Claim).matchStandard,
	sign: func(h http.Header, secrets []Secret, id string, at time.Time, body []byte) {
		timestamp := strconv.FormatInt(at.Unix(), 10)
		var entries []string
		for _, s := range secrets {
			if s.Standard() {
				entries = append(entries, s.SignStandard(id, timestamp, body))
			}
		}
		if len(entries) == 0 {
			return
		}
		h.Set(HeaderID, id)
		h.Set(HeaderTimestamp, timestamp)
		h.Set(HeaderSignature, strings.Join(entries, " "))
	},
}

// Standard reports whether the secret can sign and verify the standard scheme,
// which takes a whsec_ secret.
func (s Secret) Standard() bool { return s.k != nil && s.k.standard != nil }

// readStandard reads the three standard headers.
func (c *Claim) readStandard(h http.Header) error {
	var herr *HeaderError
	if c.id, herr = single(h, HeaderID, MaxIDBytes); herr != nil {
		return herr
	}
	if c.timestamp, herr = single(h, HeaderTimestamp, MaxTimestampBytes); herr != nil {
		return herr
	}
	list, herr := single(h, HeaderSignature, MaxSignatureBytes)
	if herr != nil {
		return herr
	}
	if !isID(c.id) {
		return &HeaderError{Header: HeaderID, reason: ReasonMalformed}
	}
	seconds, herr := parseSeconds(c.timestamp)
	if herr != nil {
		return herr
	}
	c.signedAt = time.Unix(seconds, 0).UTC()
	if strings.Count(list, " ") >= MaxSignatureEntries {
		return &HeaderError{Header: HeaderSignature, reason: ReasonOversized}
	}
	c.standard = appendEntries(c.first[:0], list)
	if len(c.standard) == 0 {
		return &HeaderError{Header: HeaderSignature, reason: ReasonMalformed}
	}
	return nil
}

// isID reports whether every byte is printable ASCII other than space.
func isID(id string) bool {
	for i := range len(id) {
		if id[i] <= ' ' || id[i] > '~' {
			return false
		}
	}
	return true
}

// parseSeconds reads the digits of webhook-timestamp alone: strconv would let a
// sign through.
func parseSeconds(text string) (int64, *HeaderError) {
	for i := range len(text) {
		if text[i] < '0' || text[i] > '9' {
			return 0, &HeaderError{Header: HeaderTimestamp, reason: ReasonTimestamp}
		}
	}
	if len(text) > MaxTimestampDigits {
		return 0, &HeaderError{Header: HeaderTimestamp, reason: ReasonMilliseconds}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, &HeaderError{Header: HeaderTimestamp, reason: ReasonTimestamp}
	}
	return n, nil
}

// strictBase64 refuses what the published libraries refuse by comparing
// texts: bits set in the last character that belong to no byte.
var strictBase64 = base64.StdEncoding.Strict()

// appendEntries appends the digests of the well-formed v1 entries of a
// webhook-signature value to dst, in the order sent.
func appendEntries(dst []digest, list string) []digest {
	for entry := range strings.SplitSeq(list, " ") {
		text, ok := strings.CutPrefix(entry, versionPrefix)
		if !ok || len(text) != entryChars {
			continue
		}
		var (
			src [entryChars]byte
			out [entryChars / 4 * 3]byte // one more than a digest: the decoder's bound
		)
		copy(src[:], text)
		if n, err := strictBase64.Decode(out[:], src[:]); err == nil && n == len(digest{}) {
			dst = append(dst, digest(out[:n]))
		}
	}
	return dst
}

// matchStandard returns the bits of the secrets that made an entry of
// webhook-signature over body. It never stops early; which secrets take part
// depends on their kind alone.
func (c *Claim) matchStandard(secrets []Secret, body []byte) (signers uint64) {
	for i, s := range secrets {
		if !s.Standard() {
			continue
		}
		sum := s.k.standard.message(c.id, c.timestamp, body)
		for j := range c.standard {
			signers |= uint64(subtle.ConstantTimeCompare(sum[:], c.standard[j][:])) << signerBit(i)
		}
	}
	return signers
}

// message signs what the standard scheme signs: id.timestamp.body.
func (k *keyed) message(id, timestamp string, body []byte) digest {
	m := k.pool.Get().(*mac)
	m.head = append(m.head[:0], id...)
	m.head = append(m.head, '.')
	m.head = append(m.head, timestamp...)
	m.head = append(m.head, '.')
	m.hash.Write(m.head)
	return k.finish(m, body)
}

// SignStandard returns one entry of webhook-signature: "v1," and the base64 of
// HMAC-SHA256 over id.timestamp.body, keyed with the bytes after "whsec_"
// (Standard Webhooks 1.0.0, "Signature scheme"). The timestamp is the text of
// the header: Unix seconds in decimal. It is empty for a secret whose
// [Secret.Standard] is false.
func (s Secret) SignStandard(id, timestamp string, body []byte) string {
	if !s.Standard() {
		return ""
	}
	sum := s.k.standard.message(id, timestamp, body)
	return versionPrefix + base64.StdEncoding.EncodeToString(sum[:])
}
