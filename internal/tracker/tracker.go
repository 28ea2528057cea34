// Package tracker follows predictions from their creation to their end and
// commits what their clients are owed.
//
// It learns of a prediction's state from whichever comes first: a response of the
// API on its way to a client, a poll (package poller), or the API's own webhook.
// Each is an observation; package lifecycle says which events follow, and one
// commit of the store makes them durable. Package delivery sends them.
package tracker

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"net/url"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/internal/clock"
	"github.com/caddy-replicate/replicate-webhook/internal/duration"
	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/internal/lru"
	"github.com/caddy-replicate/replicate-webhook/internal/poller"
	"github.com/caddy-replicate/replicate-webhook/internal/seal"
	"github.com/caddy-replicate/replicate-webhook/internal/upstream"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/shared"
)

// DefaultDeliveries is the default of Retention.Deliveries.
const DefaultDeliveries = 72 * time.Hour

// Retention is the time for which finished things are kept. It is an option of the
// configuration, and fields that are 0 take their defaults.
type Retention struct {
	// Deliveries is for deliveries and their log. Default: 72h.
	Deliveries duration.Duration `json:"deliveries,omitempty"`
	// Predictions is for predictions, which status and redelivery need.
	// Default: 720h.
	Predictions duration.Duration `json:"predictions,omitempty"`
	// Events is for the events of an inbox, from when they ended. Default:
	// 72h.
	Events duration.Duration `json:"events,omitempty"`
}

// Config configures a Tracker. Acquire, Client, Poller and Seal are required.
type Config struct {
	// Acquire takes a reference to the store. Each operation takes one of
	// its own, so that it may outlive a reload.
	Acquire func() (*shared.Ref, error)
	// Client asks the APIs what a caller may see.
	Client *upstream.Client
	// Poller polls predictions from Start to Stop.
	Poller *poller.Poller
	// Callback is the public base URL of replicate_callback, empty for
	// none: predictions are polled.
	Callback string
	// Seal seals the clients' tokens.
	Seal *seal.Ring
	// SealReady reports, as store.ErrUnavailable, that what is sealed can't
	// be relied on. Default: it always can.
	SealReady func() error
	// CheckURL judges a webhook_url. Default: everything is accepted.
	CheckURL  func(string) error
	Retention Retention
	// Progress has what a prediction has put out so far sent to its client:
	// event.Output or event.Logs. It must not block. Default: nothing is.
	Progress func(p store.Prediction, kind event.Set, payload []byte)
	// Traced is called with the context of each create, for its trace.
	// Default: nothing is.
	Traced func(context.Context)
	// Logger is the log. Default: none.
	Logger *zap.Logger
	// Now is the wall clock. Default: time.Now.
	Now func() time.Time
	// Clock counts the time that passes. Default: one by time.Now.
	Clock *clock.Clock
}

// Tracker tracks predictions. It is safe for concurrent use.
type Tracker struct {
	conf Config
	// put has what predictions had put out when they were last seen, by number.
	put  *lru.Cache[int64, progressSums]
	seed maphash.Seed

	mu      sync.Mutex
	started bool
	ctx     context.Context // ends with Stop
	stop    context.CancelFunc
	done    chan struct{}
}

// New returns a tracker. It opens nothing and starts nothing.
func New(conf Config) (*Tracker, error) {
	if conf.Acquire == nil || conf.Client == nil || conf.Poller == nil || conf.Seal == nil {
		return nil, errors.New("making tracker: a store, a client, a poller and a sealing key are required")
	}
	if err := CheckCallback(conf.Callback); err != nil {
		return nil, err
	}
	conf.setDefaults()
	t := &Tracker{conf: conf, put: lru.New[int64, progressSums](maxProgress, 0), seed: maphash.MakeSeed(), done: make(chan struct{})}
	t.ctx, t.stop = context.WithCancel(context.Background())
	return t, nil
}

func (c *Config) setDefaults() {
	c.Callback = strings.TrimRight(c.Callback, "/")
	if c.SealReady == nil {
		c.SealReady = func() error { return nil }
	}
	if c.CheckURL == nil {
		c.CheckURL = func(string) error { return nil }
	}
	if c.Retention.Deliveries <= 0 {
		c.Retention.Deliveries = duration.Duration(DefaultDeliveries)
	}
	if c.Retention.Events <= 0 {
		c.Retention.Events = duration.Duration(72 * time.Hour)
	}
	if c.Retention.Predictions <= 0 {
		c.Retention.Predictions = duration.Duration(720 * time.Hour)
	}
	if c.Progress == nil {
		c.Progress = func(store.Prediction, event.Set, []byte) {}
	}
	if c.Traced == nil {
		c.Traced = func(context.Context) {}
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Clock == nil {
		c.Clock = clock.New(nil)
	}
}

// CheckCallback returns an error if a base URL for callbacks is not valid. None is
// valid.
func CheckCallback(base string) error {
	if base == "" {
		return nil
	}
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.User != nil {
		return fmt.Errorf("callback is %q: it must be an absolute URL such as https://hooks.example.com/replicate/callback, without query and fragment", base)
	}
	return nil
}

// Start starts polling, and deleting what is past retention. It fails when the
// store can't be opened.
func (t *Tracker) Start() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.started || t.ctx.Err() != nil {
		return errors.New("starting tracker: it was started or stopped before")
	}
	ref, err := t.conf.Acquire()
	if err != nil {
		return fmt.Errorf("starting tracker: %w", err)
	}
	t.started = true
	var loops sync.WaitGroup
	loops.Go(func() { t.conf.Poller.Run(t.ctx, ref) })
	loops.Go(func() { t.forget(t.ctx, ref) })
	go func() {
		defer close(t.done)
		loops.Wait()
		_ = ref.Release()
	}()
	return nil
}

// Stop ends what Start began without waiting, see Done. Everything else goes on
// working. Stop is idempotent.
func (t *Tracker) Stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx.Err() != nil {
		return
	}
	t.stop()
	if !t.started {
		close(t.done)
	}
}

// Done returns a channel that is closed after Stop, when nothing runs any more and
// the reference to the store is given back.
func (t *Tracker) Done() <-chan struct{} { return t.done }

// Ready reports, as store.ErrUnavailable, that nothing could be committed or
// kept sealed now. It is asked before the API is charged.
func (t *Tracker) Ready(context.Context) error {
	if err := t.conf.SealReady(); err != nil {
		return err
	}
	return t.use(func(s store.Store) error { return s.Ready() })
}

// CallbackBase returns the URL that callback URLs are made from, without a slash
// at its end. It is empty where none are.
func (t *Tracker) CallbackBase() string { return t.conf.Callback }

// CheckURL judges a webhook_url, with the error of Config.CheckURL.
func (t *Tracker) CheckURL(raw string) error { return t.conf.CheckURL(raw) }

// use runs f with a reference to the store.
func (t *Tracker) use(f func(store.Store) error) error {
	ref, err := t.conf.Acquire()
	if err != nil {
		return err
	}
	defer func() { _ = ref.Release() }()
	return f(ref.Store)
}

// commit is use for what must not be lost because a client went away.
func (t *Tracker) commit(ctx context.Context, f func(context.Context, store.Store) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), store.CommitTimeout)
	defer cancel()
	return t.use(func(s store.Store) error { return f(ctx, s) })
}

// forgetInterval is the time between two deletions of what is past retention.
const forgetInterval = time.Minute

// forget deletes what is past retention until ctx ends.
func (t *Tracker) forget(ctx context.Context, st store.Store) {
	tick := time.NewTicker(forgetInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		passing, keep := t.conf.Clock, t.conf.Retention
		if passing.Passed() < poller.Settling {
			continue
		}
		err := st.Forget(ctx, store.Before{
			Deliveries:  passing.Before(time.Duration(keep.Deliveries)),
			Predictions: passing.Before(time.Duration(keep.Predictions)),
			Events:      passing.Before(time.Duration(keep.Events)),
		})
		if err != nil && ctx.Err() == nil {
			t.conf.Logger.Error("deleting what is past retention", zap.Error(err))
		}
	}
}
