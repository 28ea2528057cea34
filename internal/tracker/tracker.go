// Package tracker follows predictions from their creation to their end and
// commits what their clients are owed.
//
// It learns of a prediction's state from whoever speaks first: the API's
// answers on their way to a client, the polls it makes itself, or the API's
// own webhook. Each is an observation; package lifecycle says which events
// follow, and one commit of the store makes them durable. Sending them is the
// business of package delivery.
package tracker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/internal/clock"
	"github.com/caddy-replicate/replicate-webhook/internal/metrics"
	"github.com/caddy-replicate/replicate-webhook/internal/seal"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/shared"
)

// Defaults of Config.
const (
	DefaultPollInitial         = 500 * time.Millisecond
	DefaultPollMax             = 10 * time.Second
	DefaultPollGiveUp          = 24 * time.Hour
	DefaultRetainedDeliveries  = 72 * time.Hour
	DefaultRetainedPredictions = 720 * time.Hour
)

// Poll says how often to ask for a prediction.
type Poll struct {
	// Initial is the time from the creation to the first poll. Default:
	// 500 ms.
	Initial time.Duration
	// Max is the longest time between polls, to which they back off by a
	// factor of 2. Default: 10 s.
	Max time.Duration
	// GiveUp is the age at which a prediction without a final status is
	// declared failed, see untilGiveUp. Default: 24 h.
	GiveUp time.Duration
}

// Retention says how long finished things are kept.
type Retention struct {
	Deliveries  time.Duration // default 72 h
	Predictions time.Duration // default 720 h
}

// Config is what New makes a Tracker of. Acquire and Seal are required.
type Config struct {
	// Acquire takes a reference to the store. Each operation takes one of
	// its own, so that it may outlive a reload.
	Acquire func() (*shared.Ref, error)
	Poll    Poll
	// Callback is the public base URL of replicate_callback, empty for
	// none: predictions are polled.
	Callback string
	// PerClient gives every client a signing secret of its own. Otherwise
	// all share SigningSecrets, or one that is generated.
	PerClient bool
	// SigningSecrets are the shared ones, newest first.
	SigningSecrets []string
	// Seal seals the clients' tokens and the generated secrets.
	Seal *seal.Ring
	// SealReady reports, as store.ErrUnavailable, that what is sealed can't
	// be relied on. Default: it always can.
	SealReady func() error
	// CheckURL judges a webhook_url. Default: everything is accepted.
	CheckURL func(string) error
	// HTTP makes the requests to the operator's APIs. Redirects are never
	// followed, whatever it says, and every request ends after a minute.
	// Default: http.DefaultTransport.
	HTTP      *http.Client
	Retention Retention
	// Traced hears of the context of each create, for its trace. Default:
	// nobody does.
	Traced func(context.Context)
	// UserAgent is that of polls.
	UserAgent string
	Logger    *zap.Logger // default: none
	// Now is the wall clock. What passes is counted by time.Now, whatever it
	// says. Default: time.Now.
	Now  func() time.Time
	Rand io.Reader // default: crypto/rand.Reader
}

// Errors on which callers decide, beside those of package store.
var (
	// ErrUpstream: the API could not be asked, or gave no usable answer.
	ErrUpstream = errors.New("asking the prediction API")
	// ErrNoUpstream: the configuration says that there is no API to ask.
	ErrNoUpstream = errors.New("there is no prediction API to ask")
	// ErrNonsense: what should be a prediction is none, or another one.
	ErrNonsense = errors.New("it is not the prediction")
)

// Tracker tracks predictions. It is safe for concurrent use.
type Tracker struct {
	acquire   func() (*shared.Ref, error)
	polling   Poll
	net       time.Duration // between polls where there is a callback too
	callback  string
	seal      *seal.Ring
	sealReady func() error
	checkURL  func(string) error
	http      *http.Client
	retention Retention
	traced    func(context.Context)
	userAgent string
	logger    *zap.Logger
	now       func() time.Time
	clock     *clock.Clock // by now
	rand      io.Reader

	callers callerCache
	keys    keys
	apis    apis
	quiet   quiet
	big     chan struct{} // held while a big answer is read

	unreadable atomic.Uint64
	polls      atomic.Uint64

	mu      sync.Mutex
	tokens  map[string]string // api_token by API
	started bool
	stopped bool
	stop    context.CancelFunc
	ctx     context.Context
	done    chan struct{}
}

// New makes a tracker. It opens nothing and starts nothing.
func New(c Config) (*Tracker, error) {
	if c.Acquire == nil || c.Seal == nil {
		return nil, errors.New("making tracker: a store and a sealing key are required")
	}
	orDefault := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	orDefault(&c.Poll.Initial, DefaultPollInitial)
	orDefault(&c.Poll.Max, max(DefaultPollMax, c.Poll.Initial))
	orDefault(&c.Poll.GiveUp, DefaultPollGiveUp)
	orDefault(&c.Retention.Deliveries, DefaultRetainedDeliveries)
	orDefault(&c.Retention.Predictions, DefaultRetainedPredictions)
	if c.Poll.Initial > c.Poll.Max {
		return nil, fmt.Errorf("making tracker: polls begin at intervals of %s, longer than the longest, %s", c.Poll.Initial, c.Poll.Max)
	}
	if err := checkCallback(c.Callback); err != nil {
		return nil, err
	}
	if c.CheckURL == nil {
		c.CheckURL = func(string) error { return nil }
	}
	if c.SealReady == nil {
		c.SealReady = func() error { return nil }
	}
	if c.Traced == nil {
		c.Traced = func(context.Context) {}
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	passing := clock.New(nil)
	if c.Now == nil {
		c.Now = time.Now
	} else {
		passing = clock.NewMonotonic(c.Now)
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	t := &Tracker{
		acquire:   c.Acquire,
		polling:   c.Poll,
		net:       max(c.Poll.Max, safetyNet),
		callback:  strings.TrimRight(c.Callback, "/"),
		seal:      c.Seal,
		sealReady: c.SealReady,
		checkURL:  c.CheckURL,
		http:      upstreamClient(c.HTTP),
		retention: c.Retention,
		traced:    c.Traced,
		userAgent: c.UserAgent,
		logger:    c.Logger,
		now:       c.Now,
		clock:     passing,
		rand:      c.Rand,
		big:       make(chan struct{}, bigAnswers),
		tokens:    make(map[string]string),
		done:      make(chan struct{}),
	}
	t.keys.perClient = c.PerClient
	if !c.PerClient && len(c.SigningSecrets) > 0 {
		if err := t.SetSigningSecrets(c.SigningSecrets); err != nil {
			return nil, err
		}
	}
	t.ctx, t.stop = context.WithCancel(context.Background())
	return t, nil
}

func checkCallback(base string) error {
	if base == "" {
		return nil
	}
	u, err := url.Parse(base)
	switch {
	case err != nil:
		return fmt.Errorf("reading callback URL: %w", err)
	case u.Scheme != "https" && u.Scheme != "http", u.Host == "":
		return fmt.Errorf("reading callback URL %q: it is not an absolute http or https URL", base)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.User != nil:
		return errors.New("reading callback URL: it must not have a query, a fragment or a user")
	}
	return nil
}

// Join makes an API and its operator's token known, before Start. Polls find
// the token of a prediction's API here: it is not kept in the store.
//
// Two different tokens for one API are an error. A token that is replaced while
// the tracker runs is set by Renew.
func (t *Tracker) Join(up Upstream) error {
	if up.Token == "" {
		return nil
	}
	if up.API == "" {
		return errors.New("api_token is set, but api is off")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if known, ok := t.tokens[up.API]; ok && known != up.Token {
		return fmt.Errorf("api %s is configured with two different api_token", up.API)
	}
	t.tokens[up.API] = up.Token
	return nil
}

// Renew replaces the token of an API that has joined, because the operator has
// replaced it.
func (t *Tracker) Renew(up Upstream) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.tokens[up.API] != "" {
		t.tokens[up.API] = up.Token
	}
}

// Start begins to poll and to forget what is old. It fails when the store
// can't be opened.
func (t *Tracker) Start() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.started || t.stopped {
		return errors.New("starting tracker: it was started or stopped before")
	}
	ref, err := t.acquire()
	if err != nil {
		return fmt.Errorf("starting tracker: %w", err)
	}
	t.started = true
	var loops sync.WaitGroup
	loops.Go(func() { t.pollLoop(t.ctx, ref) })
	loops.Go(func() { t.forgetLoop(t.ctx, ref) })
	go func() {
		defer close(t.done)
		loops.Wait()
		_ = ref.Release()
	}()
	return nil
}

// Stop ends polling without waiting, see Done. Polls that are under way are cut
// off and due again at once, for the next configuration. Everything else goes
// on working. Stop is idempotent.
func (t *Tracker) Stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopped {
		return
	}
	t.stopped = true
	t.stop()
	if !t.started {
		close(t.done)
	}
}

// Done is closed when nothing runs any more after Stop, and the reference to
// the store is given back.
func (t *Tracker) Done() <-chan struct{} { return t.done }

// Ready reports, as store.ErrUnavailable, that nothing could be committed or
// kept sealed now. It is asked before the API is charged.
func (t *Tracker) Ready(context.Context) error {
	if err := t.sealReady(); err != nil {
		return err
	}
	return t.use(func(s store.Store) error { return s.Ready() })
}

// CallbackBase returns the URL that callback URLs are made from, without a slash
// at its end. It is empty where none are.
func (t *Tracker) CallbackBase() string { return t.callback }

// CheckURL judges a webhook_url, with the error of Config.CheckURL.
func (t *Tracker) CheckURL(raw string) error { return t.checkURL(raw) }

// Stats counts what an operator may want to know.
type Stats struct {
	// Polls made.
	Polls uint64
	// Unreadable counts polls that could not be made, and secrets that
	// could not be used, because the sealing key does not open them.
	Unreadable uint64
}

// Stats gives the counts since New.
func (t *Tracker) Stats() Stats {
	return Stats{Polls: t.polls.Load(), Unreadable: t.unreadable.Load()}
}

func (t *Tracker) countUnreadable() {
	t.unreadable.Add(1)
	metrics.CountUnreadable()
}

// use runs f with a reference to the store.
func (t *Tracker) use(f func(store.Store) error) error {
	ref, err := t.acquire()
	if err != nil {
		return err
	}
	defer func() { _ = ref.Release() }()
	return f(ref.Store)
}

// commitTimeout bounds the wait for a commit that has to be made whether or
// not anyone waits for it.
const commitTimeout = 10 * time.Second

// commit is use for what must not be lost because a client went away.
func (t *Tracker) commit(ctx context.Context, f func(context.Context, store.Store) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
	defer cancel()
	return t.use(func(s store.Store) error { return f(ctx, s) })
}
