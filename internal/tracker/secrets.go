package tracker

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/internal/seal"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// The names of generated secrets in the store, which are also their sealing
// contexts.
const (
	sharedName = "signing_secret"
	masterName = "signing_master"
)

const masterBytes = 32

// maxClientKeys is how many clients' keys are kept at hand.
const maxClientKeys = 10_000

// keys are the secrets that sign deliveries. What is generated is read from
// the store once.
type keys struct {
	perClient  bool
	configured atomic.Pointer[configuredKeys] // nil: they are generated

	mu      sync.Mutex
	master  []byte
	shared  clientKey
	clients map[string]clientKey
}

// configuredKeys are signing secrets that the operator has configured.
type configuredKeys struct {
	parsed []signature.Secret
	newest string // the first one as written
}

// SetSigningSecrets replaces the configured signing secrets, newest first. It
// must not be called where there were none, nor with none. With an error nothing
// is replaced.
func (t *Tracker) SetSigningSecrets(secrets []string) error {
	c := &configuredKeys{newest: secrets[0]}
	for i, s := range secrets {
		parsed, err := signature.ParseSecret(s)
		if err != nil {
			return fmt.Errorf("reading signing secret %d: %w", i+1, err)
		}
		c.parsed = append(c.parsed, parsed)
	}
	t.keys.configured.Store(c)
	return nil
}

// clientKey is a secret as text and parsed.
type clientKey struct {
	text   string
	parsed []signature.Secret
}

// GeneratedSecret returns the name of the stored secret that nothing can be
// signed without, empty where the signing secrets are configured.
func (t *Tracker) GeneratedSecret() string {
	switch {
	case t.keys.configured.Load() != nil:
		return ""
	case t.keys.perClient:
		return masterName
	}
	return sharedName
}

// PerClient reports whether every client has a signing secret of its own.
func (t *Tracker) PerClient() bool { return t.keys.perClient }

// Secrets gives the secrets that sign deliveries to a client, newest first:
// the configured ones, or a generated one; with PerClient one of the client's
// own, which is derived (HKDF-SHA256) from a generated master secret that
// itself signs nothing.
//
// Errors: seal.ErrUnreadable, store.ErrUnavailable.
func (t *Tracker) Secrets(ctx context.Context, identity string) ([]signature.Secret, error) {
	if c := t.keys.configured.Load(); c != nil {
		return c.parsed, nil
	}
	k, err := t.clientKey(ctx, identity)
	return k.parsed, err
}

// SigningSecret gives the newest of Secrets as text. It is for the client
// itself and for operators, and for nothing that is logged.
func (t *Tracker) SigningSecret(ctx context.Context, identity string) (string, error) {
	if c := t.keys.configured.Load(); c != nil {
		return c.newest, nil
	}
	k, err := t.clientKey(ctx, identity)
	return k.text, err
}

func (t *Tracker) clientKey(ctx context.Context, identity string) (clientKey, error) {
	ks := &t.keys
	ks.mu.Lock()
	k, ok := ks.clients[identity]
	if !ks.perClient {
		k, ok = ks.shared, ks.shared.text != ""
	}
	master := ks.master
	ks.mu.Unlock()
	if ok {
		return k, nil
	}
	// The store is asked without the lock: those whose key is known must
	// not wait for it. Two who ask at once get the same.
	var err error
	if ks.perClient {
		if master == nil {
			if master, err = t.generated(ctx, masterName, t.newMaster); err != nil {
				return clientKey{}, err
			}
		}
		k.text, err = deriveSecret(master, identity)
	} else {
		var text []byte
		text, err = t.generated(ctx, sharedName, t.newShared)
		k.text = string(text)
	}
	if err != nil {
		return clientKey{}, err
	}
	parsed, err := signature.ParseSecret(k.text)
	if err != nil {
		return clientKey{}, err
	}
	k.parsed = []signature.Secret{parsed}

	ks.mu.Lock()
	defer ks.mu.Unlock()
	if !ks.perClient {
		ks.shared = k
		return k, nil
	}
	ks.master = master
	if ks.clients == nil {
		ks.clients = make(map[string]clientKey)
	}
	for old := range ks.clients {
		if len(ks.clients) < maxClientKeys {
			break
		}
		delete(ks.clients, old)
	}
	ks.clients[identity] = k
	return k, nil
}

func (t *Tracker) newMaster() ([]byte, error) {
	b := make([]byte, masterBytes)
	if _, err := io.ReadFull(t.rand, b); err != nil {
		return nil, fmt.Errorf("making master secret: %w", err)
	}
	return b, nil
}

func (t *Tracker) newShared() ([]byte, error) {
	s, err := signature.NewSecret(t.rand)
	return []byte(s), err
}

// generated gives the stored secret of the name, made at its first use.
func (t *Tracker) generated(ctx context.Context, name string, make func() ([]byte, error)) (plain []byte, err error) {
	err = t.use(func(s store.Store) error {
		sealed, err := s.Secret(ctx, name, func() ([]byte, error) {
			b, err := make()
			if err != nil {
				return nil, err
			}
			return t.seal.Seal(b, name), nil
		})
		if err != nil {
			return err
		}
		plain, err = t.seal.Open(sealed, name)
		return err
	})
	if errors.Is(err, seal.ErrUnreadable) {
		t.countUnreadable()
		if t.quiet.allow("secret "+name, t.now()) {
			t.logger.Error("a generated secret can't be read: deliveries wait until the key it was sealed with is configured again",
				zap.String("secret", name), zap.Error(err))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	return plain, nil
}

// deriveSecret gives a client's secret. Identities are used as they are: they
// are the same as long as the client's account is.
func deriveSecret(master []byte, identity string) (string, error) {
	b, err := hkdf.Key(sha256.New, master, nil, "caddy-replicate-webhook signing secret v1\n"+identity, 32)
	if err != nil {
		return "", fmt.Errorf("deriving signing secret: %w", err)
	}
	return "whsec_" + base64.StdEncoding.EncodeToString(b), nil
}
