package signature

import (
	"crypto/hmac"
	"crypto/sha256"
	"hash"
	"net/http"
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

// finish hashes the body, takes the sum and hands the hash back to the pool.
func (k *keyed) finish(m *mac, body []byte) digest {
	m.hash.Write(body)
	m.hash.Sum(m.out[:0])
	sum := m.out
	m.hash.Reset()
	k.pool.Put(m)
	return sum
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
	all.Sign(h, secrets, id, at, body)
}

// Sign is [Sign] with the schemes of the set alone.
func (s Scheme) Sign(h http.Header, secrets []Secret, id string, at time.Time, body []byte) {
	for t, row := range all.each {
		for _, name := range row.headers {
			h.Del(name)
		}
		if s.Has(t) {
			row.sign(h, secrets, id, at, body)
		}
	}
}
