package signingkey

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-replicate/replicate-webhook/internal/seal"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/shared"
)

// fakeStore keeps secrets in memory. Its other methods are those of the nil Store
// inside, which panic.
type fakeStore struct {
	store.Store
	mu      sync.Mutex
	err     error
	secrets map[string][]byte
	writes  int
	// generations are those of clients whose keys were rotated.
	generations map[string][]int64
}

func newFakeStore() *fakeStore { return &fakeStore{secrets: make(map[string][]byte)} }

func (f *fakeStore) acquire() (*shared.Ref, error) { return &shared.Ref{Store: f}, nil }

func (f *fakeStore) Secret(_ context.Context, name string, make func() ([]byte, error)) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s, ok := f.secrets[name]; ok || f.err != nil {
		return s, f.err
	}
	f.writes++
	s, err := make()
	if err == nil {
		f.secrets[name] = s
	}
	return s, err
}

func (f *fakeStore) KeyGenerations(client string) []int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if g := f.generations[client]; g != nil {
		return g
	}
	return []int64{0}
}

// rotate sets the generations of a client's key.
func (f *fakeStore) rotate(client string, generations ...int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.generations == nil {
		f.generations = make(map[string][]int64)
	}
	f.generations[client] = generations
}

func ring(t testing.TB, fill byte) *seal.Ring {
	t.Helper()
	k, err := seal.KeyFromBytes(bytes.Repeat([]byte{fill}, seal.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	r, err := seal.NewRing(k)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func newKeys(t *testing.T, f *fakeStore, conf Config) *Keys {
	t.Helper()
	if conf.Seal == nil {
		conf.Seal = ring(t, 1)
	}
	conf.Acquire = f.acquire
	k, err := New(conf)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func parse(t *testing.T, s string) signature.Secret {
	t.Helper()
	p, err := signature.ParseSecret(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestNewRefuses(t *testing.T) {
	acquire := newFakeStore().acquire
	for name, conf := range map[string]Config{
		"no store":     {Seal: ring(t, 1)},
		"no seal":      {Acquire: acquire},
		"short secret": {Acquire: acquire, Seal: ring(t, 1), Secrets: []string{"SECRET"}},
	} {
		if _, err := New(conf); err == nil || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestConfiguredSecretsAreShared(t *testing.T) {
	f := newFakeStore()
	k := newKeys(t, f, Config{Secrets: []string{"the newest secret", "an older secret!"}})
	got, err := k.Secrets(t.Context(), "anyone")
	if err != nil || len(got) != 2 || !got[0].Equal(parse(t, "the newest secret")) || !got[1].Equal(parse(t, "an older secret!")) {
		t.Errorf("%v, %v", got, err)
	}
	if text, err := k.SigningSecret(t.Context(), "anyone"); text != "the newest secret" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
	if f.writes != 0 || k.StoredName() != "" {
		t.Error("a secret was generated")
	}
}

// Replaced secrets sign from then on, and what can't sign replaces nothing.
func TestReplacedSecretsSignFromThenOn(t *testing.T) {
	k := newKeys(t, newFakeStore(), Config{Secrets: []string{"the first secret"}})
	if err := k.Set([]string{"the newer secret", "the first secret"}); err != nil {
		t.Fatal(err)
	}
	if err := k.Set([]string{"the newest secret", "short"}); err == nil {
		t.Fatal("a short secret was taken")
	}
	got, err := k.Secrets(t.Context(), "anyone")
	if err != nil || len(got) != 2 || !got[0].Equal(parse(t, "the newer secret")) || !got[1].Equal(parse(t, "the first secret")) {
		t.Errorf("secrets are %v, %v", got, err)
	}
	if text, err := k.SigningSecret(t.Context(), "anyone"); text != "the newer secret" || err != nil {
		t.Errorf("the newest is not the newer one: %v", err)
	}
}

func TestGeneratedSecrets(t *testing.T) {
	for _, perClient := range []bool{false, true} {
		f := newFakeStore()
		k := newKeys(t, f, Config{PerClient: perClient})
		a, err := k.SigningSecret(t.Context(), "a")
		if err != nil || !strings.HasPrefix(a, "whsec_") || !parse(t, a).Standard() {
			t.Fatalf("%q, %v", a, err)
		}
		b, _ := k.SigningSecret(t.Context(), "b")
		if (a == b) == perClient {
			t.Errorf("per client %v: equal is %v", perClient, a == b)
		}
		got, err := k.Secrets(t.Context(), "a")
		if err != nil || len(got) != 1 || got[0].SignReplicate([]byte("x")) != parse(t, a).SignReplicate([]byte("x")) {
			t.Errorf("%v, %v", got, err)
		}
		if s := f.secrets[k.StoredName()]; s == nil || bytes.Contains(s, []byte(a)) || len(f.secrets) != 1 {
			t.Errorf("%s is stored as %q", k.StoredName(), s)
		}
		// The same after a restart.
		k = newKeys(t, f, Config{PerClient: perClient})
		if again, err := k.SigningSecret(t.Context(), "a"); again != a || err != nil {
			t.Errorf("another secret after a restart: %v", err)
		}
		if f.writes != 1 {
			t.Errorf("%d writes", f.writes)
		}
		// And not without the key.
		core, logs := observer.New(zap.InfoLevel)
		k = newKeys(t, f, Config{PerClient: perClient, Seal: ring(t, 2), Logger: zap.New(core)})
		if s, err := k.Secrets(t.Context(), "a"); !errors.Is(err, seal.ErrUnreadable) || s != nil {
			t.Errorf("%v, %v", s, err)
		}
		if k.Unreadable() != 1 || logs.Len() != 1 {
			t.Errorf("counted %d, logged %v", k.Unreadable(), logs.All())
		}
	}
}

func TestSecretsWithoutTheStore(t *testing.T) {
	f := newFakeStore()
	k := newKeys(t, f, Config{PerClient: true})
	f.err = store.ErrUnavailable
	if _, err := k.Secrets(t.Context(), "a"); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	f.err = nil
	if _, err := k.Secrets(t.Context(), "a"); err != nil {
		t.Errorf("the error is remembered: %v", err)
	}
	f.err = store.ErrUnavailable
	if _, err := k.Secrets(t.Context(), "b"); err != nil {
		t.Errorf("the master secret is not at hand: %v", err)
	}
	// Without the store it is not known which generation signs.
	k.conf.Acquire = func() (*shared.Ref, error) { return nil, store.ErrUnavailable }
	if _, err := k.Secrets(t.Context(), "b"); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

// TestDerivedSecretsStayTheSame from version to version: receivers have them.
func TestDerivedSecretsStayTheSame(t *testing.T) {
	for generation, want := range map[int64]string{
		0:  "whsec_waOZ7NdCLfGcpD250bAvRFCkd9hOiRwGXVkwSIM+R0g=",
		12: "whsec_g+ujrSh2jHvdUaoHYGnYTjzQEW3Dl//dfrHTK3G75Is=",
	} {
		got, err := derive(bytes.Repeat([]byte{7}, masterBytes), keyOf{"https://api.example.com/v1 user/me", generation})
		if got != want || err != nil {
			t.Errorf("generation %d: %q, %v", generation, got, err)
		}
	}
}

// TestRotatedKeySignsAtOnce: what the store says of the generations holds for the next
// signature, whatever was signed before.
func TestRotatedKeySignsAtOnce(t *testing.T) {
	f := newFakeStore()
	k := newKeys(t, f, Config{PerClient: true})
	secret := func(client string) string {
		t.Helper()
		s, err := k.SigningSecret(t.Context(), client)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	signs := func(client string, want ...string) {
		t.Helper()
		got, err := k.Secrets(t.Context(), client)
		if err != nil || len(got) != len(want) {
			t.Fatalf("%d secrets sign, %v; want %d", len(got), err, len(want))
		}
		for i, s := range got {
			if s.SignReplicate([]byte("x")) != parse(t, want[i]).SignReplicate([]byte("x")) {
				t.Errorf("secret %d is another", i)
			}
		}
	}
	first, other := secret("a"), secret("b")
	signs("a", first)
	f.rotate("a", 3, 0)
	second := secret("a")
	if second == first || second == other {
		t.Error("the secret is not a new one")
	}
	signs("a", second, first)
	signs("a", second, first) // no list that is kept has grown
	f.rotate("a", 4, 3, 0)
	third := secret("a")
	signs("a", third, second, first)
	f.rotate("a", 4)
	signs("a", third)
	if secret("a") != third || secret("b") != other {
		t.Error("a secret has changed without a rotation")
	}
	signs("b", other)
	// Others derive the same.
	k = newKeys(t, f, Config{PerClient: true})
	signs("a", third)
}

// TestSharedSecretHasNoGenerations, whatever the store says of clients.
func TestSharedSecretHasNoGenerations(t *testing.T) {
	f := newFakeStore()
	k := newKeys(t, f, Config{})
	before, err := k.SigningSecret(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	f.rotate("a", 3, 0)
	f.rotate("", 3, 0)
	if got, err := k.Secrets(t.Context(), "a"); len(got) != 1 || err != nil {
		t.Errorf("%d secrets sign, %v", len(got), err)
	}
	if after, err := k.SigningSecret(t.Context(), "a"); after != before || err != nil {
		t.Errorf("the secret is another: %v", err)
	}
}

func TestSecretsAreBoundedAndConcurrent(t *testing.T) {
	k := newKeys(t, newFakeStore(), Config{PerClient: true})
	want, err := k.SigningSecret(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 2000 {
				if _, err := k.Secrets(t.Context(), string(rune('a'+g))+strings.Repeat("i", i)); err != nil {
					t.Error(err)
					return
				}
				if got, _ := k.SigningSecret(t.Context(), "x"); got != want {
					t.Error("two secrets")
					return
				}
			}
		})
	}
	wg.Wait()
	if n := k.clients.Len(); n > maxClients {
		t.Errorf("%d secrets are at hand", n)
	}
}
