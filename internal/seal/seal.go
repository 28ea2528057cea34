// Package seal keeps secrets unreadable in a store.
//
// A sealed value is AES-256-GCM with a random nonce under the ring's first
// key, bound to a context: it opens only where it was made for, so that nobody
// who can write to the store can have one client's token sent elsewhere. It
// begins with the id of its key, by which a key that is missing is told from a
// value that is damaged, and values are counted by key.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
)

// KeySize is the length of a key in bytes.
const KeySize = 32

// MinSecretBytes is the least length of a secret that a key is derived from.
const MinSecretBytes = 16

// The first byte of every sealed value.
const (
	unnamed = 1 // nonce and ciphertext follow; no longer written
	named   = 2 // the key's id follows, then nonce and ciphertext
)

const redacted = "[redacted]"

// Errors of this package. None repeats any part of a key or value.
var (
	// ErrUnreadable says that no key of the ring opens the value in that
	// context.
	ErrUnreadable = errors.New("sealed value can't be read with the configured keys")
	// ErrMissingKey is the ErrUnreadable of a value that was sealed with a key
	// which is not in the ring. Any other is damaged or was moved.
	ErrMissingKey = fmt.Errorf("%w: it was sealed with another key", ErrUnreadable)
	// ErrShort says that a secret to derive a key from is too short.
	ErrShort = fmt.Errorf("seal key is shorter than %d bytes", MinSecretBytes)
)

// KeyID names a key and reveals nothing of it.
type KeyID [8]byte

// String returns the id in hexadecimal digits.
func (id KeyID) String() string { return hex.EncodeToString(id[:]) }

// PrefixSize is the length of the prefix that all values sealed with one key share,
// in bytes.
const PrefixSize = 1 + len(KeyID{})

// SealedWith reads the id of the key that a value was sealed with from the value
// or from its first PrefixSize bytes. It reports false for a value without one.
func SealedWith(sealed []byte) (id KeyID, ok bool) {
	if len(sealed) < PrefixSize || sealed[0] != named {
		return id, false
	}
	return KeyID(sealed[1:PrefixSize]), true
}

// IsUnnamed reports whether a value, of which the first bytes are enough, was
// sealed before values began with the id of their key.
func IsUnnamed(sealed []byte) bool { return len(sealed) > 0 && sealed[0] == unnamed }

// Key is a sealing key. It prints as "[redacted]". The zero Key is none.
type Key struct {
	// Two pointers, because fmt does not call the methods of what an
	// unexported field holds, and follows one pointer for some verbs. What
	// it prints then is an address.
	k *struct{ bytes *[KeySize]byte }
}

// KeyFromBytes returns a key of 32 bytes.
func KeyFromBytes(b []byte) (Key, error) {
	if len(b) != KeySize {
		return Key{}, fmt.Errorf("reading seal key: it has %d bytes, not %d", len(b), KeySize)
	}
	own := [KeySize]byte(b)
	return Key{k: &struct{ bytes *[KeySize]byte }{&own}}, nil
}

// KeyPrefix begins a configured secret that holds a key itself, such as that of
// a key file: its 32 bytes follow in base64.
const KeyPrefix = "sealkey_"

// FromSecret derives a key from a configured secret of at least 16 bytes, by
// HKDF-SHA256 (RFC 5869), or reads the key that follows KeyPrefix. The error is
// ErrShort, or says that the key can't be read.
func FromSecret(secret string) (Key, error) {
	if encoded, ok := strings.CutPrefix(secret, KeyPrefix); ok {
		b, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil {
			// The decoder's own error would tell something of the key.
			return Key{}, errors.New("reading seal key: what follows " + KeyPrefix + " is not base64")
		}
		return KeyFromBytes(b)
	}
	if len(secret) < MinSecretBytes {
		return Key{}, ErrShort
	}
	b, err := hkdf.Key(sha256.New, []byte(secret), nil, "caddy-replicate-webhook sealing key v1", KeySize)
	if err != nil {
		return Key{}, fmt.Errorf("deriving seal key: %w", err)
	}
	return KeyFromBytes(b)
}

// ID returns the key's id.
func (k Key) ID() KeyID {
	b, err := hkdf.Key(sha256.New, k.k.bytes[:], nil, "caddy-replicate-webhook sealing key id v1", len(KeyID{}))
	if err != nil {
		panic(err) // the length is within bounds
	}
	return KeyID(b)
}

// Format writes "[redacted]" for every verb and flag.
func (Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalText returns "[redacted]", which covers JSON too.
func (Key) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Ring seals with its first key and opens with any. It is safe for concurrent
// use and prints as "[redacted]". The zero Ring has no keys yet.
type Ring struct{ keys atomic.Pointer[[]ringKey] }

type ringKey struct {
	id   KeyID
	aead cipher.AEAD
}

// NewRing returns a ring of the key in use and the older ones.
func NewRing(key Key, older ...Key) (*Ring, error) {
	r := new(Ring)
	return r, r.Set(key, older...)
}

// Set sets the key in use and the older ones.
func (r *Ring) Set(key Key, older ...Key) error {
	var keys []ringKey
	for _, k := range append([]Key{key}, older...) {
		if k.k == nil {
			return errors.New("making key ring: a key is missing")
		}
		block, err := aes.NewCipher(k.k.bytes[:])
		if err != nil {
			return fmt.Errorf("making key ring: %w", err)
		}
		aead, err := cipher.NewGCMWithRandomNonce(block)
		if err != nil {
			return fmt.Errorf("making key ring: %w", err)
		}
		keys = append(keys, ringKey{k.ID(), aead})
	}
	r.keys.Store(&keys)
	return nil
}

func (r *Ring) all() []ringKey {
	if keys := r.keys.Load(); keys != nil {
		return *keys
	}
	return nil
}

// IDs returns the ids of the keys, that of the key in use first.
func (r *Ring) IDs() []KeyID {
	var ids []KeyID
	for _, k := range r.all() {
		ids = append(ids, k.id)
	}
	return ids
}

// Has reports whether the ring has the key.
func (r *Ring) Has(id KeyID) bool { return slices.Contains(r.IDs(), id) }

// Prefix returns how the values begin that the ring seals. The ring must have
// keys.
func (r *Ring) Prefix() []byte {
	id := r.all()[0].id
	return append([]byte{named}, id[:]...)
}

// Seal encrypts plain and binds it to context. The result is 37 bytes
// longer. The ring must have keys.
func (r *Ring) Seal(plain []byte, context string) []byte {
	k := r.all()[0]
	out := make([]byte, 0, PrefixSize+len(plain)+k.aead.Overhead())
	out = append(append(out, named), k.id[:]...)
	return k.aead.Seal(out, nil, plain, []byte(context))
}

// Open returns what was sealed for the same context. The error is ErrMissingKey
// or another ErrUnreadable.
func (r *Ring) Open(sealed []byte, context string) ([]byte, error) {
	id, isNamed := SealedWith(sealed)
	switch {
	case isNamed:
		sealed = sealed[PrefixSize:]
	case IsUnnamed(sealed):
		sealed = sealed[1:]
	default:
		return nil, ErrUnreadable
	}
	missing := true
	for _, k := range r.all() {
		if isNamed && k.id != id {
			continue
		}
		missing = false
		if plain, err := k.aead.Open(nil, nil, sealed, []byte(context)); err == nil {
			return plain, nil
		}
	}
	if missing {
		return nil, ErrMissingKey
	}
	return nil, ErrUnreadable
}

// Format writes "[redacted]" for every verb and flag.
func (*Ring) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }
