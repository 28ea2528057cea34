package signature

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"hash"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// digest is an HMAC-SHA256 value.
type digest = [sha256.Size]byte

// keyed makes HMAC-SHA256 values under one key. The hashes are pooled with
// the key already absorbed, which saves two of the four blocks a small message
// would otherwise cost, and all allocations.
type keyed struct {
	key  []byte
	pool sync.Pool // of *mac
}

// mac is one pooled hash with the room for its output and for the text before
// the body, so that neither escapes to the heap per call.
type mac struct {
	hash hash.Hash
	head []byte
	out  digest
}

func newKeyed(key []byte) *keyed {
	k := &keyed{key: key}
	k.pool.New = func() any {
		m := &mac{hash: hmac.New(sha256.New, key)}
		// The first Reset makes the hash keep its keyed state; every later
		// one restores it instead of hashing the key again.
		m.hash.Reset()
		return m
	}
	return k
}

// body signs what the replicate scheme signs.
func (k *keyed) body(body []byte) digest {
	m := k.pool.Get().(*mac)
	return k.finish(m, body)
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

// finish hashes the body, takes the sum and hands the hash back to the pool.
func (k *keyed) finish(m *mac, body []byte) digest {
	m.hash.Write(body)
	m.hash.Sum(m.out[:0])
	sum := m.out
	m.hash.Reset()
	k.pool.Put(m)
	return sum
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

// Sign puts the signature headers of an outgoing request into h, in place of
// any that are there.
//
// The secrets are ordered newest first. X-Replicate-Signature has room for one
// signature and takes the newest secret's. The three standard headers are set
// when at least one secret is a whsec_ secret; webhook-signature then has one
// entry for each of these, separated by spaces, so that a receiver can be
// moved to a new secret without losing a request. With no secrets, h is left
// without any signature header.
//
// The id is the webhook-id: it stays the same over all attempts to deliver one
// event, while at is the time of this attempt, sent in Unix seconds. The id
// must not contain a full stop, which separates the signed parts.
func Sign(h http.Header, secrets []Secret, id string, at time.Time, body []byte) {
	for _, name := range [...]string{HeaderReplicateSignature, HeaderID, HeaderTimestamp, HeaderSignature} {
		h.Del(name)
	}
	timestamp := strconv.FormatInt(at.Unix(), 10)
	var entries []string
	for _, s := range secrets {
		if s.Standard() {
			entries = append(entries, s.SignStandard(id, timestamp, body))
		}
	}
	if len(secrets) > 0 && secrets[0].k != nil {
		h.Set(HeaderReplicateSignature, secrets[0].SignReplicate(body))
	}
	if len(entries) > 0 {
		h.Set(HeaderID, id)
		h.Set(HeaderTimestamp, timestamp)
		h.Set(HeaderSignature, strings.Join(entries, " "))
	}
}
