package sealing

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/internal/metrics"
	"github.com/caddy-replicate/replicate-webhook/internal/seal"
	"github.com/caddy-replicate/replicate-webhook/store"
)

const (
	// checkInterval is the time between two checks that the key is there. The first
	// one, after which values are sealed again, is so long after the start: a
	// configuration that is not kept by then has changed nothing.
	checkInterval = 5 * time.Second
	// retryInterval is the time between two checks while the key is not there.
	retryInterval = time.Second
	// countInterval is the time between two searches for values that other nodes,
	// with an older key in use, have sealed since.
	countInterval = time.Minute
	// logInterval is the time between two log lines about the same trouble.
	logInterval = time.Minute

	// batch is the number of values that one transaction seals again, and pause
	// the time until the next one, in which others can use the store.
	batch = 100
	pause = 20 * time.Millisecond
)

// loop is the part of a keeper that runs.
type loop struct {
	every   time.Duration // checkInterval
	mu      sync.Mutex
	started bool
	ctx     context.Context
	stop    context.CancelFunc
	done    chan struct{}
}

func (l *loop) init() {
	l.ctx, l.stop = context.WithCancel(context.Background())
	l.done = make(chan struct{})
	l.every = checkInterval
}

// Start begins to watch the key and to seal again. The store must have been
// unlocked.
func (k *Keeper) Start() {
	l := &k.loop
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.started || l.ctx.Err() != nil {
		return
	}
	l.started = true
	go k.run(l.ctx)
}

// Stop ends that without waiting, see Done. It is idempotent.
func (k *Keeper) Stop() {
	l := &k.loop
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx.Err() == nil && !l.started {
		close(l.done)
	}
	l.stop()
}

// Done is closed when nothing runs any more after Stop.
func (k *Keeper) Done() <-chan struct{} { return k.loop.done }

func (k *Keeper) run(ctx context.Context) {
	defer close(k.loop.done)
	timer := time.NewTimer(0)
	defer timer.Stop()
	var troubleLog, resealLog logTimer
	due := time.Now().Add(k.loop.every) // to seal again
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if trouble, known := k.probe(ctx); known {
			k.note(trouble, &troubleLog)
		}
		if k.Ready() != nil {
			timer.Reset(retryInterval)
			continue
		}
		if !due.IsZero() && !time.Now().Before(due) {
			if err := k.use(func(s store.Secrets) error { return k.reseal(ctx, s) }); err != nil {
				if ctx.Err() == nil && resealLog.allowed() {
					k.conf.Logger.Warn("sealing values again is put off", zap.Error(err))
				}
			} else if due = (time.Time{}); len(k.conf.Ring.IDs()) > 1 {
				due = time.Now().Add(countInterval)
			}
		}
		timer.Reset(k.loop.every)
	}
}

// logTimer remembers when something was last logged. The zero value is ready.
type logTimer struct{ last time.Time }

func (t *logTimer) allowed() bool {
	if !t.last.IsZero() && time.Since(t.last) < logInterval {
		return false
	}
	t.last = time.Now()
	return true
}

// use runs f with a reference to the store.
func (k *Keeper) use(f func(store.Secrets) error) error {
	ref, err := k.conf.Acquire()
	if err != nil {
		return err
	}
	defer func() { _ = ref.Release() }()
	return f(ref.Store)
}

var errAbsent = errors.New("it was not made yet")

// probe checks that the key is where it was and opens the secret that signs. known
// is false where the store can't be asked.
func (k *Keeper) probe(ctx context.Context) (trouble error, known bool) {
	if path := k.conf.File; path != "" {
		key, err := seal.LoadFile(path)
		if err != nil {
			return fmt.Errorf("sealing key %s can't be used (%w): restore it from its backup, with mode 0600", path, err), true
		}
		if !k.conf.Ring.Has(key.ID()) {
			return fmt.Errorf("sealing key %s was replaced by another: restore it from its backup", path), true
		}
	}
	err := k.use(func(s store.Secrets) error {
		if !k.marked {
			k.mark(ctx, s)
		}
		if k.conf.Secret == "" {
			return nil
		}
		sealed, err := s.Secret(ctx, k.conf.Secret, func() ([]byte, error) { return nil, errAbsent })
		if err == nil {
			_, err = k.conf.Ring.Open(sealed, k.conf.Secret)
		}
		return err
	})
	switch {
	case errors.Is(err, seal.ErrMissingKey):
		return fmt.Errorf("%s was sealed with a key that seal_key lacks: give all nodes the same keys", k.conf.Secret), true
	case errors.Is(err, seal.ErrUnreadable):
		return fmt.Errorf(`%s is damaged in the store: restore a backup of the store, or see "Lost sealing keys" in docs/operations.md`, k.conf.Secret), true
	case err != nil && !errors.Is(err, errAbsent):
		return nil, false
	}
	return nil, true
}

// note stores what a check found, and logs it.
func (k *Keeper) note(trouble error, t *logTimer) {
	if trouble == nil {
		if k.trouble.Swap(nil) != nil {
			k.conf.Logger.Info("sealed values can be read again: creates are taken, and deliveries go on")
		}
		metrics.SetSealingReady(true)
		*t = logTimer{}
		return
	}
	err := fmt.Errorf("%w: %w", store.ErrUnavailable, trouble)
	k.trouble.Store(&err)
	metrics.SetSealingReady(false)
	if t.allowed() {
		k.conf.Logger.Error("sealed values can't be relied on: creates with a webhook are refused, and deliveries wait", zap.Error(trouble))
	}
}

// reseal seals with the key in use what was sealed with another. What no key
// opens stays as it is.
func (k *Keeper) reseal(ctx context.Context, s store.Secrets) error {
	ring := k.conf.Ring
	prefix := ring.Prefix()
	done, unreadable := 0, 0
	for after := int64(0); ; {
		values, next, err := s.ListSealed(ctx, prefix, after, batch)
		if err != nil {
			return err
		}
		var again []store.Resealed
		for i := range values {
			v := &values[i]
			plain, err := ring.Open(v.Sealed, contextOf(v))
			if err != nil {
				unreadable++
				continue
			}
			again = append(again, store.Resealed{SealedValue: *v, New: ring.Seal(plain, contextOf(v))})
		}
		if len(again) > 0 {
			if err := s.Reseal(ctx, again); err != nil {
				return err
			}
			done += len(again)
		}
		if after = next; next == 0 {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
	if done > 0 {
		k.conf.Logger.Info("sealed values are sealed with the newest key now", zap.Int("values", done), zap.Stringer("key", ring.IDs()[0]))
	}
	if unreadable > 0 {
		k.conf.Logger.Error("sealed values of the store can't be read with any key", zap.Int("values", unreadable))
	}
	return nil
}
