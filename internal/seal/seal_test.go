package seal

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func key(t *testing.T, fill byte) Key {
	t.Helper()
	k, err := KeyFromBytes(bytes.Repeat([]byte{fill}, KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func ring(t *testing.T, k Key, older ...Key) *Ring {
	t.Helper()
	r, err := NewRing(k, older...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestSealAndOpen(t *testing.T) {
	r := ring(t, key(t, 1))
	for _, plain := range []string{"", "Bearer r8_x", strings.Repeat("x", 1<<16)} {
		sealed := r.Seal([]byte(plain), "c")
		if len(sealed) != len(plain)+37 {
			t.Errorf("%d bytes became %d", len(plain), len(sealed))
		}
		if plain != "" && bytes.Contains(sealed, []byte(plain)) {
			t.Error("the value shows")
		}
		if got, err := r.Open(sealed, "c"); err != nil || string(got) != plain {
			t.Errorf("Open gives %.20q, %v", got, err)
		}
	}
	if a, b := r.Seal([]byte("x"), "c"), r.Seal([]byte("x"), "c"); bytes.Equal(a, b) {
		t.Error("equal values are sealed alike")
	}
}

func TestUnreadable(t *testing.T) {
	r := ring(t, key(t, 1))
	sealed := r.Seal([]byte("secret"), "c")
	open := func(name string, r *Ring, sealed []byte, context string) {
		t.Helper()
		if got, err := r.Open(sealed, context); !errors.Is(err, ErrUnreadable) || got != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	open("another context", r, sealed, "d")
	open("another key", ring(t, key(t, 2)), sealed, "c")
	open("no keys", new(Ring), sealed, "c")
	for i := range sealed {
		damaged := bytes.Clone(sealed)
		damaged[i] ^= 1
		open("a flipped bit", r, damaged, "c")
		open("cut short", r, sealed[:i], "c")
	}
}

func TestRotation(t *testing.T) {
	before := ring(t, key(t, 1)).Seal([]byte("x"), "c")
	r := ring(t, key(t, 2), key(t, 1))
	if got, err := r.Open(before, "c"); err != nil || string(got) != "x" {
		t.Errorf("an older key opens nothing: %v", err)
	}
	if _, err := ring(t, key(t, 2)).Open(r.Seal([]byte("y"), "c"), "c"); err != nil {
		t.Errorf("the first key does not seal: %v", err)
	}
	if _, err := NewRing(Key{}); err == nil {
		t.Error("a ring without a key")
	}
}

func TestFromSecret(t *testing.T) {
	if _, err := FromSecret("fifteen bytes.."); !errors.Is(err, ErrShort) {
		t.Errorf("got %v", err)
	}
	a, err := FromSecret("sixteen bytes...")
	if err != nil {
		t.Fatal(err)
	}
	b, _ := FromSecret("sixteen bytes...")
	c, _ := FromSecret("sixteen bytes..,")
	sealed := ring(t, a).Seal([]byte("x"), "")
	if _, err := ring(t, b).Open(sealed, ""); err != nil {
		t.Error("one secret, two keys")
	}
	if _, err := ring(t, c).Open(sealed, ""); err == nil {
		t.Error("two secrets, one key")
	}
}

func TestKeysDoNotPrint(t *testing.T) {
	k := key(t, 'K')
	j, err := json.Marshal(struct{ Key Key }{k})
	if err != nil {
		t.Fatal(err)
	}
	text := string(j)
	for _, v := range []any{k, &k, struct{ k Key }{k}, ring(t, k), struct{ R *Ring }{ring(t, k)}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
			text += fmt.Sprintf(verb, v)
		}
	}
	if strings.Contains(text, "KKK") || strings.Contains(text, "4b4b4b") || strings.Contains(text, "75 75 75") {
		t.Errorf("a key shows: %s", text)
	}
}

func TestKeyInASecret(t *testing.T) {
	raw := []byte("0123456789abcdef0123456789abcde\n") // as random bytes may end
	key, err := KeyFromBytes(raw)
	if err != nil {
		t.Fatal(err)
	}
	ring, err := NewRing(key)
	if err != nil {
		t.Fatal(err)
	}
	configured, err := FromSecret(KeyPrefix + base64.StdEncoding.EncodeToString(raw))
	if err != nil {
		t.Fatal(err)
	}
	other, err := NewRing(configured)
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := other.Open(ring.Seal([]byte("token"), "x"), "x"); err != nil || string(plain) != "token" {
		t.Errorf("got %q, %v", plain, err)
	}
	for _, bad := range []string{KeyPrefix, KeyPrefix + "AAAA", KeyPrefix + "SECRET!", KeyPrefix + strings.Repeat("SECR", 12)} {
		if _, err := FromSecret(bad); err == nil || strings.Contains(err.Error(), "SECR") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// TestMissingKeyIsToldFromDamage: only a value whose key is not there may become
// readable again.
func TestMissingKeyIsToldFromDamage(t *testing.T) {
	sealed := ring(t, key(t, 1)).Seal([]byte("secret"), "c")
	missing := func(r *Ring, sealed []byte, context string) bool {
		_, err := r.Open(sealed, context)
		if !errors.Is(err, ErrUnreadable) {
			t.Fatalf("got %v", err)
		}
		return errors.Is(err, ErrMissingKey)
	}
	if !missing(ring(t, key(t, 2), key(t, 3)), sealed, "c") {
		t.Error("a missing key is not told")
	}
	r := ring(t, key(t, 2), key(t, 1))
	if missing(r, sealed, "another context") || missing(r, sealed[:len(sealed)-1], "c") {
		t.Error("damage counts as a missing key")
	}
	if id, ok := SealedWith(sealed[:PrefixSize]); !ok || id != key(t, 1).ID() || !r.Has(id) || id == key(t, 2).ID() {
		t.Errorf("the value names the key %v, %v", id, ok)
	}
	if !bytes.HasPrefix(r.Seal(nil, "x"), r.Prefix()) || bytes.HasPrefix(sealed, r.Prefix()) {
		t.Error("a value does not begin with its ring's prefix")
	}
}

// TestUnnamedValuesOpen: those that were sealed before values named their keys.
func TestUnnamedValuesOpen(t *testing.T) {
	block, err := aes.NewCipher(bytes.Repeat([]byte{1}, KeySize))
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		t.Fatal(err)
	}
	sealed := aead.Seal([]byte{1}, nil, []byte("secret"), []byte("c"))
	if _, ok := SealedWith(sealed); ok || !IsUnnamed(sealed) {
		t.Error("it has a name")
	}
	if got, err := ring(t, key(t, 2), key(t, 1)).Open(sealed, "c"); err != nil || string(got) != "secret" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := ring(t, key(t, 2)).Open(sealed, "c"); !errors.Is(err, ErrUnreadable) || errors.Is(err, ErrMissingKey) {
		t.Errorf("got %v", err)
	}
}
