// Package signingkey holds the secrets that sign deliveries: those that the
// operator has configured, or generated ones, which the store keeps sealed.
package signingkey

import (
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/internal/loglimit"
	"github.com/caddy-replicate/replicate-webhook/internal/lru"
	"github.com/caddy-replicate/replicate-webhook/internal/metrics"
	"github.com/caddy-replicate/replicate-webhook/internal/seal"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
	"github.com/caddy-replicate/replicate-webhook/store/shared"
)

// The names of generated secrets in the store, which are also their sealing
// contexts.
const (
	sharedName = "signing_secret"
	masterName = "signing_master"
)

const (
	masterBytes = 32
	// maxClients is the number of secrets of clients that are kept in memory. A
	// client has several while its key is rotated.
	maxClients = 10_000
)

// Config configures Keys. Acquire and Seal are required.
type Config struct {
	// PerClient gives every client a signing secret of its own, which is
	// derived (HKDF-SHA256) from a generated master secret that itself signs
	// nothing, and rotated as the store says. Otherwise all clients share Secrets or, where there are none, one
	// that is generated.
	PerClient bool
	// Secrets are the shared ones, newest first.
	Secrets []string
	// Acquire takes a reference to the store.
	Acquire func() (*shared.Ref, error)
	// Seal seals what is generated.
	Seal *seal.Ring
	// Logger is the log. Default: none.
	Logger *zap.Logger
}

// Keys are the secrets that sign deliveries. They are safe for concurrent use.
type Keys struct {
	conf       Config
	logs       loglimit.Limiter
	unreadable atomic.Uint64

	configured atomic.Pointer[configured] // nil: secrets are generated
	stored     atomic.Pointer[[]byte]     // the generated secret, nil before it is read
	clients    *lru.Cache[keyOf, secret]  // those that were derived from it
}

// keyOf names the client and the generation that a secret is derived for.
type keyOf struct {
	client     string
	generation int64
}

// configured are signing secrets of the configuration.
type configured struct {
	parsed []signature.Secret
	newest string // as written
}

// secret is a generated secret.
type secret struct {
	parsed []signature.Secret // one
	text   string
}

// New returns the keys of a configuration. It opens nothing.
func New(conf Config) (*Keys, error) {
	if conf.Acquire == nil || conf.Seal == nil {
		return nil, errors.New("making signing keys: a store and a sealing key are required")
	}
	if conf.Logger == nil {
		conf.Logger = zap.NewNop()
	}
	k := &Keys{conf: conf, clients: lru.New[keyOf, secret](maxClients, 0)}
	if !conf.PerClient && len(conf.Secrets) > 0 {
		return k, k.Set(conf.Secrets)
	}
	return k, nil
}

// Set replaces the configured secrets, newest first. It must not be called where
// there were none, nor with none. With an error nothing is replaced.
func (k *Keys) Set(secrets []string) error {
	c := &configured{newest: secrets[0]}
	for i, s := range secrets {
		parsed, err := signature.ParseSecret(s)
		if err != nil {
			return fmt.Errorf("reading signing secret %d: %w", i+1, err)
		}
		c.parsed = append(c.parsed, parsed)
	}
	k.configured.Store(c)
	return nil
}

// PerClient reports whether every client has a signing secret of its own.
func (k *Keys) PerClient() bool { return k.conf.PerClient }

// Standard reports whether there is a secret that signs as Standard Webhooks demand.
// Those that are generated do.
func (k *Keys) Standard() bool {
	c := k.configured.Load()
	return c == nil || slices.ContainsFunc(c.parsed, signature.Secret.Standard)
}

// StoredName returns the name of the stored secret that nothing can be signed
// without, empty where the secrets are configured.
func (k *Keys) StoredName() string {
	switch {
	case k.configured.Load() != nil:
		return ""
	case k.conf.PerClient:
		return masterName
	}
	return sharedName
}

// Unreadable returns how often the stored secret could not be read, because no
// sealing key opened it.
func (k *Keys) Unreadable() uint64 { return k.unreadable.Load() }

// Secrets returns the secrets that sign deliveries to a client, newest first.
//
// Errors: seal.ErrUnreadable, store.ErrUnavailable.
func (k *Keys) Secrets(ctx context.Context, client string) ([]signature.Secret, error) {
	if c := k.configured.Load(); c != nil {
		return c.parsed, nil
	}
	generations, err := k.generations(client)
	if err != nil {
		return nil, err
	}
	newest, err := k.generated(ctx, keyOf{client, generations[0]})
	if err != nil || len(generations) == 1 {
		return newest.parsed, err
	}
	secrets := slices.Clone(newest.parsed)
	for _, g := range generations[1:] {
		s, err := k.generated(ctx, keyOf{client, g})
		if err != nil {
			return nil, err
		}
		secrets = append(secrets, s.parsed...)
	}
	return secrets, nil
}

// SigningSecret returns the newest of Secrets as text. It is for the client itself
// and for operators, and for nothing that is logged.
func (k *Keys) SigningSecret(ctx context.Context, client string) (string, error) {
	if c := k.configured.Load(); c != nil {
		return c.newest, nil
	}
	generations, err := k.generations(client)
	if err != nil {
		return "", err
	}
	s, err := k.generated(ctx, keyOf{client, generations[0]})
	return s.text, err
}

// generations returns the generations of a client's key that sign now, newest first.
// The store is asked each time, and knows them from memory: a key that is rotated, on
// whatever node, is in use at once, and one whose overlap has ended is not used again.
func (k *Keys) generations(client string) ([]int64, error) {
	if !k.conf.PerClient {
		return onlyGeneration, nil
	}
	ref, err := k.conf.Acquire()
	if err != nil {
		return nil, fmt.Errorf("reading the rotations of signing keys: %w", err)
	}
	defer func() { _ = ref.Release() }()
	return ref.KeyGenerations(client), nil
}

// onlyGeneration is that of a secret that all clients share.
var onlyGeneration = []int64{0}

// generated returns a generated secret.
func (k *Keys) generated(ctx context.Context, of keyOf) (secret, error) {
	if !k.conf.PerClient {
		of.client = "" // all clients are one
	}
	if s, ok := k.clients.Get(of); ok {
		return s, nil
	}
	stored, err := k.load(ctx)
	if err != nil {
		return secret{}, err
	}
	s := secret{text: string(stored)}
	if k.conf.PerClient {
		if s.text, err = derive(stored, of); err != nil {
			return secret{}, err
		}
	}
	parsed, err := signature.ParseSecret(s.text)
	if err != nil {
		return secret{}, err
	}
	s.parsed = []signature.Secret{parsed}
	k.clients.Add(of, s)
	return s, nil
}

// load returns the stored secret, which it makes at its first use. The store is
// asked once; callers that come together may each ask it, and get the same.
func (k *Keys) load(ctx context.Context) (plain []byte, err error) {
	if p := k.stored.Load(); p != nil {
		return *p, nil
	}
	name := k.StoredName()
	ref, err := k.conf.Acquire()
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	defer func() { _ = ref.Release() }()
	sealed, err := ref.Secret(ctx, name, func() ([]byte, error) {
		b, err := k.generate()
		if err != nil {
			return nil, err
		}
		return k.conf.Seal.Seal(b, name), nil
	})
	if err == nil {
		plain, err = k.conf.Seal.Open(sealed, name)
	}
	if errors.Is(err, seal.ErrUnreadable) {
		k.unreadable.Add(1)
		metrics.CountUnreadable()
		if _, ok := k.logs.Allow(name, time.Now()); ok {
			k.conf.Logger.Error("a generated secret can't be read: deliveries wait until the key it was sealed with is configured again",
				zap.String("secret", name), zap.Error(err))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	k.stored.Store(&plain)
	return plain, nil
}

// generate returns a new secret to be stored.
func (k *Keys) generate() ([]byte, error) {
	if !k.conf.PerClient {
		s, err := signature.NewSecret(rand.Reader)
		return []byte(s), err
	}
	master := make([]byte, masterBytes)
	_, err := rand.Read(master)
	return master, err
}

// derive returns a client's secret. Identities are used as they are: they are the
// same as long as the client's account is. They contain no line break, so that what
// is derived for one client's generation is for no other client.
func derive(master []byte, of keyOf) (string, error) {
	info := "caddy-replicate-webhook signing secret v1\n" + of.client
	if of.generation != 0 {
		info += "\n" + strconv.FormatInt(of.generation, 10)
	}
	b, err := hkdf.Key(sha256.New, master, nil, info, 32)
	if err != nil {
		return "", fmt.Errorf("deriving signing secret: %w", err)
	}
	return "whsec_" + base64.StdEncoding.EncodeToString(b), nil
}
