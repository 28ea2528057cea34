// Package sealing keeps the sealed values of a store readable.
//
// A Keeper refuses to begin without the key that the values were sealed with,
// watches that the key stays where it is, and seals again with the newest key
// what was sealed with an older one.
//
// For each key that seals, the store holds a marker. So a value whose key is
// missing is told from one that is damaged: the key of the one may come back, and
// everything waits for it; the other is lost by itself.
package sealing

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/internal/metrics"
	"github.com/caddy-replicate/replicate-webhook/internal/seal"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/shared"
)

// Config configures a Keeper.
type Config struct {
	// Ring seals and opens. It has its keys, unless File is set.
	Ring *seal.Ring
	// File is the key file that holds the ring's one key.
	File string
	// Secret names the generated secret that nothing can be signed without.
	// Default: there is none.
	Secret string
	// Acquire takes a reference to the store. Required.
	Acquire func() (*shared.Ref, error)
	// Logger must not be nil.
	Logger *zap.Logger
}

// Keeper keeps sealed values readable. It is safe for concurrent use.
type Keeper struct {
	conf Config

	mu       sync.Mutex // held while the store is unlocked
	unlocked atomic.Bool
	marked   bool

	// trouble holds why sealed values can't be relied on, nil when they can.
	trouble atomic.Pointer[error]
	loop    loop
}

// New returns a keeper. It opens nothing.
func New(conf Config) *Keeper {
	k := &Keeper{conf: conf}
	k.loop.init()
	return k
}

// CredentialContext binds a sealed credential to the one prediction it may be
// sent for, and to its API.
func CredentialContext(api, id string) string { return "authorization\n" + api + "\n" + id }

// AnswerContext binds a sealed response to the create that it was a response to.
func AnswerContext(key store.Key) string { return "response\n" + hex.EncodeToString(key[:]) }

// contextOf returns what a value is bound to. A secret is bound to its name.
func contextOf(v *store.SealedValue) string {
	switch {
	case v.Ref != 0:
		return CredentialContext(v.API, v.ID)
	case v.Create != store.Key{}:
		return AnswerContext(v.Create)
	}
	return v.Name
}

// Unlock makes sure that the ring opens what is stored. It must have succeeded
// before anything is sealed; after that it costs nothing. The key file is read,
// or made where nothing is sealed yet.
//
// The error says which key is missing and what to do. It is not
// store.ErrUnavailable, unless the store is.
func (k *Keeper) Unlock(ctx context.Context, s store.Secrets) error {
	if k.unlocked.Load() {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.unlocked.Load() {
		return nil
	}
	counts, err := s.CountSealed(ctx, seal.PrefixSize)
	if err != nil {
		return fmt.Errorf("counting sealed values: %w", err)
	}
	if k.conf.File != "" {
		if err := k.load(ctx, s, total(counts)); err != nil {
			return err
		}
	}
	if err := k.check(ctx, s, counts); err != nil {
		return err
	}
	k.mark(ctx, s)
	metrics.SetSealingReady(true)
	k.unlocked.Store(true)
	return nil
}

func total(counts map[string]int) (n int) {
	for _, c := range counts {
		n += c
	}
	return n
}

// restoring describes how to restore a missing key.
const restoring = `restore it from the backup that was made when the store was set up, with mode 0600; without one, see "Lost sealing keys" in docs/operations.md`

// load reads the key file.
func (k *Keeper) load(ctx context.Context, s store.Secrets, sealed int) error {
	path := k.conf.File
	key, err := seal.LoadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if sealed > 0 {
			return fmt.Errorf("sealing key %s is missing, and the store holds %d sealed values (signing secrets, clients' credentials and responses kept for Idempotency-Key): %s", path, sealed, restoring)
		}
		before := hasMarker(ctx, s, "")
		if key, err = seal.LoadOrCreateFile(path); err != nil {
			return err
		}
		if before {
			k.conf.Logger.Warn("the sealing key was missing: made a new one, since nothing was sealed with the old one", zap.String("file", path))
		} else {
			k.conf.Logger.Info("made a sealing key: back it up, apart from the store", zap.String("file", path))
		}
	}
	if err != nil {
		return err
	}
	return k.conf.Ring.Set(key)
}

// check compares the keys that values were sealed with to those of the ring.
func (k *Keeper) check(ctx context.Context, s store.Secrets, counts map[string]int) error {
	missing, unnamed, damaged := 0, 0, 0
	for prefix, n := range counts {
		id, ok := seal.SealedWith([]byte(prefix))
		switch {
		case ok && k.conf.Ring.Has(id):
		case ok && hasMarker(ctx, s, id.String()):
			missing += n
		case seal.IsUnnamed([]byte(prefix)):
			unnamed += n
		default:
			damaged += n
		}
	}
	if unnamed > 0 && missing == 0 {
		opens, err := k.opensUnnamed(ctx, s)
		if err != nil {
			return err
		}
		if !opens {
			missing = unnamed
		}
	}
	switch {
	case missing > 0 && k.conf.File != "":
		return fmt.Errorf("sealing key %s is not the one that %d values of the store were sealed with (signing secrets, clients' credentials and responses kept for Idempotency-Key): %s", k.conf.File, missing, restoring)
	case missing > 0:
		return fmt.Errorf(`seal_key lacks the key that %d values of the store were sealed with (signing secrets, clients' credentials and responses kept for Idempotency-Key): add the key that was configured before as an older one, such as seal_key {env.NEW} {env.OLD}; if it is lost, see "Lost sealing keys" in docs/operations.md`, missing)
	case damaged > 0:
		k.conf.Logger.Error("sealed values of the store are damaged: predictions go on without their clients' credentials", zap.Int("values", damaged))
	}
	return nil
}

// maxTried bounds the values that opensUnnamed tries.
const maxTried = 1000

// opensUnnamed reports whether the ring opens any of the values that do not name
// their key.
func (k *Keeper) opensUnnamed(ctx context.Context, s store.Secrets) (bool, error) {
	for after, tried := int64(0), 0; tried < maxTried; {
		values, next, err := s.ListSealed(ctx, k.conf.Ring.Prefix(), after, batch)
		if err != nil {
			return false, fmt.Errorf("reading sealed values: %w", err)
		}
		for i := range values {
			if !seal.IsUnnamed(values[i].Sealed) {
				continue
			}
			if _, err := k.conf.Ring.Open(values[i].Sealed, contextOf(&values[i])); err == nil {
				return true, nil
			}
		}
		if after, tried = next, tried+len(values); next == 0 {
			break
		}
	}
	return false, nil
}

var errNoMarker = errors.New("there is no marker")

// hasMarker reports whether a key, or with an empty id any key, was used with
// the store. Not to know counts as yes: nothing is to be lost by an error.
func hasMarker(ctx context.Context, s store.Secrets, id string) bool {
	_, err := s.Secret(ctx, store.MarkerPrefix+id, func() ([]byte, error) { return nil, errNoMarker })
	return !errors.Is(err, errNoMarker)
}

// mark stores that the ring's first key is used from now on. A store that takes
// no writes takes no sealed values either; mark is called again then.
func (k *Keeper) mark(ctx context.Context, s store.Secrets) {
	one := func() ([]byte, error) { return []byte{1}, nil }
	_, err := s.Secret(ctx, store.MarkerPrefix, one)
	if err == nil {
		_, err = s.Secret(ctx, store.MarkerPrefix+k.conf.Ring.IDs()[0].String(), one)
	}
	k.marked = err == nil
}

// Ready reports, as store.ErrUnavailable, that what is sealed can't be relied
// on: what is sealed now might never be opened again, and nothing can be signed.
func (k *Keeper) Ready() error {
	if err := k.trouble.Load(); err != nil {
		return *err
	}
	return nil
}

// Key is one of the keys.
type Key struct {
	// Number is its place in seal_key, from 1.
	Number int `json:"number"`
	// ID names it.
	ID string `json:"id"`
	// Used reports whether it is or was the first key of a node, which seals. A
	// new key that is only to open what other nodes will seal with it is not.
	Used bool `json:"used"`
	// Values are those that are sealed with it. While an older key that was used
	// has none on any node, it is no longer needed.
	Values int `json:"values"`
}

// Status is the state of sealed values.
type Status struct {
	// Ready: they can be relied on.
	Ready bool `json:"ready"`
	// Error says why not.
	Error string `json:"error,omitempty"`
	// Keys are those of seal_key, where it has several.
	Keys []Key `json:"keys,omitempty"`
}

// Older returns how many values are sealed with another key than the first.
func (s Status) Older() (n int) {
	for _, k := range s.Keys {
		if k.Number > 1 {
			n += k.Values
		}
	}
	return n
}

// Status returns the state of sealed values. Values are counted where there are
// several keys alone, since there may be many, and not at all without a store.
func (k *Keeper) Status(ctx context.Context, s store.Secrets) (Status, error) {
	out := Status{Ready: true}
	if err := k.Ready(); err != nil {
		out.Ready, out.Error = false, err.Error()
	}
	ids := k.conf.Ring.IDs()
	if len(ids) < 2 || s == nil {
		return out, nil
	}
	counts, err := s.CountSealed(ctx, seal.PrefixSize)
	if err != nil {
		return out, err
	}
	for i, id := range ids {
		key := Key{Number: i + 1, ID: id.String(), Used: i == 0 || hasMarker(ctx, s, id.String())}
		for prefix, n := range counts {
			if with, ok := seal.SealedWith([]byte(prefix)); ok && with == id {
				key.Values += n
			}
		}
		out.Keys = append(out.Keys, key)
	}
	return out, nil
}
