// Package seal keeps secrets unreadable in a store.
//
// A sealed value is AES-256-GCM with a random nonce under the ring's first
// key, bound to a context: it opens only where it was made for, so that nobody
// who can write to the store can have one client's token sent elsewhere.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
)

// KeySize is the length of a key in bytes.
const KeySize = 32

// MinSecretBytes is the least length of a secret that a key is derived from.
const MinSecretBytes = 16

// version is the first byte of every sealed value.
const version = 1

const redacted = "[redacted]"

// Errors of this package. None repeats any part of a key or value.
var (
	// ErrUnreadable: no key of the ring opens the value in that context.
	// The key was replaced without keeping the older one, or the value was
	// damaged or moved.
	ErrUnreadable = errors.New("sealed value can't be read with the configured keys")
	// ErrShort: a secret to derive a key from is too short.
	ErrShort = fmt.Errorf("seal key is shorter than %d bytes", MinSecretBytes)
)

// Key is a sealing key. It prints as "[redacted]". The zero Key is none.
type Key struct {
	// Two pointers, because fmt does not call the methods of what an
	// unexported field holds, and follows one pointer for some verbs. What
	// it prints then is an address.
	k *struct{ bytes *[KeySize]byte }
}

// KeyFromBytes makes a key of 32 bytes.
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

// Format writes "[redacted]" for every verb and flag.
func (Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalText gives "[redacted]", which covers JSON too.
func (Key) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Ring seals with its first key and opens with any. It is safe for concurrent
// use and prints as "[redacted]".
type Ring struct {
	aeads []cipher.AEAD
	// load fills a lazy ring, once it succeeds.
	load   func() (Key, error)
	loaded atomic.Bool
	mu     sync.Mutex
}

// NewLazyRing makes a ring whose one key is loaded when Load is first called.
// Before that it can neither seal nor open.
func NewLazyRing(load func() (Key, error)) *Ring { return &Ring{load: load} }

// Load makes sure that the key is at hand. A failure is tried again with the
// next call.
func (r *Ring) Load() error {
	if r.load == nil || r.loaded.Load() {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.loaded.Load() {
		return nil
	}
	key, err := r.load()
	if err != nil {
		return err
	}
	full, err := NewRing(key)
	if err != nil {
		return err
	}
	r.aeads = full.aeads
	r.loaded.Store(true)
	return nil
}

// NewRing makes a ring of the key in use and the older ones.
func NewRing(key Key, older ...Key) (*Ring, error) {
	r := new(Ring)
	for _, k := range append([]Key{key}, older...) {
		if k.k == nil {
			return nil, errors.New("making key ring: a key is missing")
		}
		block, err := aes.NewCipher(k.k.bytes[:])
		if err != nil {
			return nil, fmt.Errorf("making key ring: %w", err)
		}
		aead, err := cipher.NewGCMWithRandomNonce(block)
		if err != nil {
			return nil, fmt.Errorf("making key ring: %w", err)
		}
		r.aeads = append(r.aeads, aead)
	}
	return r, nil
}

// Seal makes plain unreadable and binds it to context. The result is 29 bytes
// longer. A lazy ring must have been loaded.
func (r *Ring) Seal(plain []byte, context string) []byte {
	out := make([]byte, 1, 1+len(plain)+r.aeads[0].Overhead())
	out[0] = version
	return r.aeads[0].Seal(out, nil, plain, []byte(context))
}

// Open gives back what was sealed for the same context. The error is
// ErrUnreadable.
func (r *Ring) Open(sealed []byte, context string) ([]byte, error) {
	if len(sealed) == 0 || sealed[0] != version {
		return nil, ErrUnreadable
	}
	for _, a := range r.aeads {
		if plain, err := a.Open(nil, nil, sealed[1:], []byte(context)); err == nil {
			return plain, nil
		}
	}
	return nil, ErrUnreadable
}

// Format writes "[redacted]" for every verb and flag.
func (*Ring) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }
