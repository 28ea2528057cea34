package sealing

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/internal/seal"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/shared"
	"github.com/caddy-replicate/replicate-webhook/store/sqlite"
)

const (
	api    = "https://api.example.com/v1"
	master = "signing_master"
)

// opener opens one SQLite file.
type opener struct{ path string }

func (o opener) Resource() string            { return "sqlite " + o.path }
func (o opener) Open() (store.Closer, error) { return sqlite.Open(sqlite.Options{Path: o.path}) }

// rig is a store with keepers on it, one after the other.
type rig struct {
	t    *testing.T
	o    opener
	ref  *shared.Ref
	logs *observer.ObservedLogs
	ring *seal.Ring
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, o: opener{filepath.Join(t.TempDir(), "webhook.db")}}
	var err error
	if r.ref, err = shared.Acquire(r.o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.ref.Release() })
	return r
}

func (r *rig) file() string { return filepath.Join(filepath.Dir(r.o.path), "seal.key") }

func key(t *testing.T, fill byte) seal.Key {
	t.Helper()
	k, err := seal.KeyFromBytes(bytes.Repeat([]byte{fill}, seal.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// keeper is a keeper as after a start, of the configured keys or, without any,
// of the key file.
func (r *rig) keeper(keys ...byte) *Keeper {
	r.t.Helper()
	core, logs := observer.New(zapcore.InfoLevel)
	r.logs, r.ring = logs, new(seal.Ring)
	conf := Config{
		Ring: r.ring, Secret: master, Logger: zap.New(core),
		Acquire: func() (*shared.Ref, error) { return shared.Acquire(r.o) },
	}
	if len(keys) == 0 {
		conf.File = r.file()
	} else {
		var older []seal.Key
		for _, k := range keys[1:] {
			older = append(older, key(r.t, k))
		}
		if err := r.ring.Set(key(r.t, keys[0]), older...); err != nil {
			r.t.Fatal(err)
		}
	}
	return New(conf)
}

// unlocked is a keeper that has begun.
func (r *rig) unlocked(keys ...byte) *Keeper {
	r.t.Helper()
	k := r.keeper(keys...)
	if err := k.Unlock(r.t.Context(), r.ref); err != nil {
		r.t.Fatal(err)
	}
	return k
}

// fill stores the signing secret and n credentials, sealed with the ring.
func (r *rig) fill(n int) {
	r.t.Helper()
	_, err := r.ref.Secret(r.t.Context(), master, func() ([]byte, error) { return r.ring.Seal([]byte("master"), master), nil })
	if err != nil {
		r.t.Fatal(err)
	}
	for i := range n {
		id := fmt.Sprint("p", i)
		p := store.Prediction{
			API: api, ID: id, URL: "https://a.example.com", Events: event.All, PollPath: "/predictions/" + id,
			Credential: r.ring.Seal([]byte("Bearer "+id), CredentialContext(api, id)),
		}
		if err := r.ref.Track(r.t.Context(), &p, nil); err != nil {
			r.t.Fatal(err)
		}
	}
}

// look has the keeper look as its loop does.
func (r *rig) look(k *Keeper) error {
	r.t.Helper()
	trouble, known := k.probe(r.t.Context())
	if !known {
		r.t.Fatal("the store can't be asked")
	}
	k.note(trouble, new(logTimer))
	return k.Ready()
}

func (r *rig) logged(level zapcore.Level, text string) bool {
	return r.logs.FilterLevelExact(level).FilterMessageSnippet(text).Len() > 0
}

// TestWithoutTheKeyNothingBegins: the error names what is missing and what to
// do, and no key is made in its place.
func TestWithoutTheKeyNothingBegins(t *testing.T) {
	r := newRig(t)
	r.unlocked()
	r.fill(3)
	saved, err := os.ReadFile(r.file())
	if err != nil {
		t.Fatal(err)
	}
	refused := func(k *Keeper, want ...string) {
		t.Helper()
		err := k.Unlock(t.Context(), r.ref)
		if err == nil {
			t.Fatal("it began")
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("the error %q does not say %q", err, w)
			}
		}
	}
	if err := os.Remove(r.file()); err != nil {
		t.Fatal(err)
	}
	refused(r.keeper(), r.file(), "missing", "4 sealed values", "restore it")
	if _, err := os.Stat(r.file()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file is there: %v", err)
	}
	if err := os.WriteFile(r.file(), bytes.Repeat([]byte{7}, seal.KeySize), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(r.keeper(), r.file(), "not the one", "restore it")
	refused(r.keeper(8), "seal_key lacks", "add the key that was configured before")
	refused(r.keeper(8, 9), "seal_key lacks")
	if err := os.WriteFile(r.file(), saved, 0o600); err != nil {
		t.Fatal(err)
	}
	k := r.unlocked()
	if err := r.look(k); err != nil {
		t.Error(err)
	}
}

// TestOneValueOfAMissingKeyIsEnough, however many others are readable.
func TestOneValueOfAMissingKeyIsEnough(t *testing.T) {
	r := newRig(t)
	r.unlocked(1)
	r.fill(0)
	r.unlocked(2, 1)
	p := store.Prediction{API: api, ID: "x", PollPath: "/x", Credential: r.ring.Seal([]byte("x"), CredentialContext(api, "x"))}
	if err := r.ref.Track(t.Context(), &p, nil); err != nil {
		t.Fatal(err)
	}
	for _, keys := range [][]byte{{1}, {2}, {3}} {
		if err := r.keeper(keys...).Unlock(t.Context(), r.ref); err == nil {
			t.Errorf("it began with keys %v", keys)
		}
	}
	r.unlocked(1, 2)
}

// TestNewKeyWhereNothingIsSealed: an operator hears of it where there was a key
// before.
func TestNewKeyWhereNothingIsSealed(t *testing.T) {
	r := newRig(t)
	r.unlocked()
	if r.logs.FilterLevelExact(zapcore.WarnLevel).Len() > 0 || !r.logged(zapcore.InfoLevel, "made a sealing key") {
		t.Errorf("at first: %v", r.logs.All())
	}
	if err := os.Remove(r.file()); err != nil {
		t.Fatal(err)
	}
	k := r.unlocked()
	if !r.logged(zapcore.WarnLevel, "made a new one") {
		t.Errorf("the second time: %v", r.logs.All())
	}
	r.fill(1)
	if err := r.look(k); err != nil {
		t.Error(err)
	}
}

// damaged replaces a stored value.
func (r *rig) damaged(v store.SealedValue, at int) {
	r.t.Helper()
	damaged := bytes.Clone(v.Sealed)
	damaged[at] ^= 0x10
	if err := r.ref.Reseal(r.t.Context(), []store.Resealed{{SealedValue: v, New: damaged}}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) values(prefix string) []store.SealedValue {
	r.t.Helper()
	values, _, err := r.ref.ListSealed(r.t.Context(), []byte(prefix), 0, 1000)
	if err != nil {
		r.t.Fatal(err)
	}
	return values
}

// TestDamagedCredentialTakesNothingDown, whichever of its bytes is hit.
func TestDamagedCredentialTakesNothingDown(t *testing.T) {
	for at := range seal.PrefixSize + 3 {
		r := newRig(t)
		r.unlocked(1)
		r.fill(2)
		r.damaged(r.values("none")[1], at)
		k := r.unlocked(2, 1)
		if err := r.look(k); err != nil {
			t.Errorf("byte %d: %v", at, err)
		}
		if err := k.reseal(t.Context(), r.ref); err != nil {
			t.Fatal(err)
		}
		if !r.logged(zapcore.ErrorLevel, "can't be read with any key") {
			t.Errorf("byte %d: logged %v", at, r.logs.All())
		}
		if left := r.values(string(r.ring.Prefix())); len(left) != 1 {
			t.Errorf("byte %d: %d values are left", at, len(left))
		}
	}
}

// TestDamagedSigningSecretIsTrouble: nothing could be signed, so nothing is
// taken, but the rest of the server begins.
func TestDamagedSigningSecretIsTrouble(t *testing.T) {
	for at := range seal.PrefixSize + 3 {
		r := newRig(t)
		r.unlocked(1)
		r.fill(1)
		whole := r.values("none")[0]
		r.damaged(whole, at)
		k := r.unlocked(1)
		if err := r.look(k); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("byte %d: %v", at, err)
		}
		spoilt := r.values("none")[0]
		if err := r.ref.Reseal(t.Context(), []store.Resealed{{SealedValue: spoilt, New: whole.Sealed}}); err != nil {
			t.Fatal(err)
		}
		if err := r.look(k); err != nil || !r.logged(zapcore.InfoLevel, "go on") {
			t.Errorf("byte %d: after the restore: %v, %v", at, err, r.logs.All())
		}
	}
}

// TestKeyFileOfARunningProcess: without it nothing is taken that could not be
// opened after a restart.
func TestKeyFileOfARunningProcess(t *testing.T) {
	r := newRig(t)
	k := r.unlocked()
	r.fill(1)
	saved, err := os.ReadFile(r.file())
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func() error{
		"removed":  func() error { return os.Remove(r.file()) },
		"another":  func() error { return os.WriteFile(r.file(), bytes.Repeat([]byte{7}, seal.KeySize), 0o600) },
		"short":    func() error { return os.WriteFile(r.file(), saved[:31], 0o600) },
		"readable": func() error { return os.Chmod(r.file(), 0o644) },
	} {
		t.Run(name, func(t *testing.T) {
			if err := spoil(); err != nil {
				t.Fatal(err)
			}
			err := r.look(k)
			if !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), r.file()) || !strings.Contains(err.Error(), "restore it") {
				t.Errorf("got %v", err)
			}
			if s, err := k.Status(t.Context(), r.ref); err != nil || s.Ready || s.Error == "" {
				t.Errorf("status %+v, %v", s, err)
			}
			if err := errors.Join(os.RemoveAll(r.file()), os.WriteFile(r.file(), saved, 0o600)); err != nil {
				t.Fatal(err)
			}
			if err := r.look(k); err != nil {
				t.Errorf("after the restore: %v", err)
			}
		})
	}
}

// TestAnotherNodesKeyIsTrouble: the other nodes have gone on to a key that this
// one lacks.
func TestAnotherNodesKeyIsTrouble(t *testing.T) {
	r := newRig(t)
	k := r.unlocked(1)
	r.fill(2)
	if err := r.look(k); err != nil {
		t.Fatal(err)
	}
	if err := r.unlocked(2, 1).reseal(t.Context(), r.ref); err != nil {
		t.Fatal(err)
	}
	if err := r.look(k); !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "same keys") {
		t.Errorf("got %v", err)
	}
}

// TestStatusOfANewKey: the key that a rotation adds behind the old one is told from
// one that has served.
func TestStatusOfANewKey(t *testing.T) {
	r := newRig(t)
	r.unlocked(1)
	r.fill(3)
	used := func(k *Keeper, want ...bool) {
		t.Helper()
		s, err := k.Status(t.Context(), r.ref)
		if err != nil || len(s.Keys) != len(want) {
			t.Fatalf("status %+v, %v", s, err)
		}
		for i, key := range s.Keys {
			if key.Used != want[i] {
				t.Errorf("keys %+v, want used %v", s.Keys, want)
			}
		}
	}
	used(r.unlocked(1, 2), true, false)
	k := r.unlocked(2, 1)
	used(k, true, true)
	if err := k.reseal(t.Context(), r.ref); err != nil {
		t.Fatal(err)
	}
	used(k, true, true)
	used(r.unlocked(2, 1, 3), true, true, false)
}

// TestEverythingIsSealedAgain with the first key, in small transactions, and the
// status says when the older keys can go. A crash in between loses nothing.
func TestEverythingIsSealedAgain(t *testing.T) {
	r := newRig(t)
	r.unlocked(1)
	r.fill(2*batch + 7)
	k := r.unlocked(2, 1)
	counts := func(want ...int) {
		t.Helper()
		s, err := k.Status(t.Context(), r.ref)
		if err != nil || len(s.Keys) != len(want) {
			t.Fatalf("status %+v, %v", s, err)
		}
		for i, key := range s.Keys {
			if key.Number != i+1 || key.Values != want[i] {
				t.Errorf("keys %+v, want %v values", s.Keys, want)
			}
		}
	}
	all := 2*batch + 8
	counts(0, all)
	// Cut off after the first transaction.
	ctx, cancel := context.WithCancel(t.Context())
	if err := k.reseal(ctx, &cutting{r.ref, cancel}); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	counts(batch+1, batch+7)
	if err := r.keeper(2).Unlock(t.Context(), r.ref); err == nil {
		t.Error("it began without the key that is still needed")
	}
	k = r.unlocked(2, 1)
	if err := k.reseal(t.Context(), r.ref); err != nil {
		t.Fatal(err)
	}
	counts(all, 0)
	k = r.unlocked(2)
	if s, err := k.Status(t.Context(), r.ref); err != nil || len(s.Keys) != 0 {
		t.Errorf("status of one key: %+v, %v", s, err)
	}
	for _, v := range r.values("none") {
		plain, err := r.ring.Open(v.Sealed, contextOf(&v))
		if want := "Bearer " + v.ID; err != nil || v.Ref != 0 && string(plain) != want || v.Ref == 0 && string(plain) != "master" {
			t.Fatalf("%s%s is %q, %v", v.Name, v.ID, plain, err)
		}
	}
}

// cutting ends the context with the first transaction.
type cutting struct {
	store.Secrets
	cut func()
}

func (c *cutting) Reseal(ctx context.Context, values []store.Resealed) error {
	err := c.Secrets.Reseal(ctx, values)
	c.cut()
	return err
}

// TestLoopSealsAgainAndStops: what runs does what the parts do, and ends.
func TestLoopSealsAgainAndStops(t *testing.T) {
	r := newRig(t)
	r.unlocked(1)
	r.fill(3)
	k := r.unlocked(2, 1)
	k.loop.every = time.Millisecond
	k.Start()
	k.Start()
	deadline := time.Now().Add(time.Minute)
	for len(r.values(string(r.ring.Prefix()))) > 0 {
		if time.Now().After(deadline) {
			t.Fatal("nothing is sealed again")
		}
	}
	k.Stop()
	k.Stop()
	<-k.Done()
	never := r.keeper(2, 1)
	never.Stop()
	<-never.Done()
	never.Start()
}
