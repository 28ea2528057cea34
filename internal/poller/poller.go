// Package poller asks prediction APIs for the state of tracked predictions and
// commits what it finds.
//
// The store keeps what is due and when, so that one loop serves any number of
// predictions and polling goes on after a restart. An API, or a client's token at
// it, that limits polls or does not respond is paused without holding up the
// others.
package poller

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/internal/clock"
	"github.com/caddy-replicate/replicate-webhook/internal/duration"
	"github.com/caddy-replicate/replicate-webhook/internal/seal"
	"github.com/caddy-replicate/replicate-webhook/internal/sealing"
	"github.com/caddy-replicate/replicate-webhook/internal/upstream"
	"github.com/caddy-replicate/replicate-webhook/store"
)

const (
	// concurrentPolls is the number of polls that run at once.
	concurrentPolls = 32
	// callbackInterval is the least time between polls of a prediction that
	// has a callback too.
	callbackInterval = time.Minute
	// maxSleep bounds the wait for a due time, which a clock that is set may
	// bring nearer.
	maxSleep = time.Minute
	// storeRetryInterval is the wait after an error of the store.
	storeRetryInterval = time.Second
)

// Schedule is the schedule of a prediction's polls. It is an option of the
// configuration, and fields that are 0 take their defaults.
type Schedule struct {
	// Initial is the time from the create to the first poll. Default:
	// 500ms.
	Initial duration.Duration `json:"initial,omitempty"`
	// Max is the longest time between polls, to which they back off by a
	// factor of 2. If it is left out it is never below initial. Default:
	// 10s.
	Max duration.Duration `json:"max,omitempty"`
	// GiveUp is the age at which prediction.failed is sent for a prediction
	// that has not ended. Default: 24h.
	GiveUp duration.Duration `json:"give_up,omitempty"`
}

func (s *Schedule) setDefaults() {
	if s.Initial <= 0 {
		s.Initial = duration.Duration(500 * time.Millisecond)
	}
	if s.Max <= 0 {
		s.Max = max(duration.Duration(10*time.Second), s.Initial)
	}
	if s.GiveUp <= 0 {
		s.GiveUp = duration.Duration(24 * time.Hour)
	}
}

// Config configures a Poller. Client and Seal are required.
type Config struct {
	Schedule Schedule
	// Client asks the APIs.
	Client *upstream.Client
	// Seal opens the clients' credentials.
	Seal *seal.Ring
	// Callback is the base URL of callbacks, which no payload shows, or empty.
	Callback string
	// UserAgent is that of polls.
	UserAgent string
	// Logger is the log. Default: none.
	Logger *zap.Logger
	// Now is the wall clock. Default: time.Now.
	Now func() time.Time
	// Clock counts the time that passes. Default: one by time.Now.
	Clock *clock.Clock
}

// Poller polls predictions.
type Poller struct {
	conf Config
	// slowInterval is the time between polls of a prediction that are worth
	// little: it has a callback, or the API does not know it.
	slowInterval time.Duration
	health       apiHealth
	logs         logLimiter
	large        chan struct{} // holds a place for each large response

	polls      atomic.Uint64
	unreadable atomic.Uint64
}

// New returns a poller that Run starts.
func New(conf Config) (*Poller, error) {
	if conf.Client == nil || conf.Seal == nil {
		return nil, errors.New("making poller: a client and a sealing key are required")
	}
	s := &conf.Schedule
	s.setDefaults()
	if s.Initial > s.Max {
		return nil, fmt.Errorf("making poller: polls begin at intervals of %s, longer than the longest, %s", s.Initial, s.Max)
	}
	if conf.Logger == nil {
		conf.Logger = zap.NewNop()
	}
	if conf.Now == nil {
		conf.Now = time.Now
	}
	if conf.Clock == nil {
		conf.Clock = clock.New(nil)
	}
	return &Poller{
		conf:         conf,
		slowInterval: max(time.Duration(s.Max), callbackInterval),
		large:        make(chan struct{}, maxLarge),
	}, nil
}

// Stats are counts since New.
type Stats struct {
	// Polls is the number of requests made.
	Polls uint64
	// Unreadable is the number of polls that could not be made because the
	// sealing key does not open their credential.
	Unreadable uint64
}

// Stats returns the counts.
func (p *Poller) Stats() Stats {
	return Stats{Polls: p.polls.Load(), Unreadable: p.unreadable.Load()}
}

// Run polls every prediction that is due until ctx ends. Polls that are under way
// are cut off then and due again at once, for the next configuration; Run returns
// when none is left.
//
// A turn of the loop starts what is due and sleeps. It wakes up when the next
// prediction is due, when the store says that one may be due sooner, and when a
// poll has ended, whose place is free then.
func (p *Poller) Run(ctx context.Context, st store.Store) {
	changed, unsubscribe := st.Changed()
	defer unsubscribe()
	b := &batch{Poller: p, st: st, ended: make(chan struct{}, concurrentPolls)}
	defer b.wait()
	timer := time.NewTimer(maxSleep)
	defer timer.Stop()
	for ctx.Err() == nil {
		timer.Reset(b.startDue(ctx))
		select {
		case <-ctx.Done():
		case <-changed:
		case <-timer.C:
		case <-b.ended:
			b.running--
		}
	}
}

// batch is the polls that run at one time. It belongs to the goroutine of Run.
type batch struct {
	*Poller
	st      store.Store
	running int
	// ended receives from each poll that ends. It has room for all of them, so
	// that no poll waits for the loop.
	ended chan struct{}
}

// startDue starts the polls that are due, as far as there are places, and returns
// how long the loop may sleep.
func (b *batch) startDue(ctx context.Context) time.Duration {
	free := concurrentPolls - b.running
	if free == 0 {
		return maxSleep // until a poll has ended
	}
	claimed, next, err := b.st.ClaimPolls(ctx, free)
	now := b.conf.Now()
	for i := range claimed {
		b.start(ctx, claimed[i], now)
	}
	switch {
	case err != nil:
		if ctx.Err() == nil && b.logs.allow("claiming polls", now) {
			b.conf.Logger.Error("claiming polls", zap.Error(err))
		}
		return storeRetryInterval
	case len(claimed) == free && b.running < concurrentPolls:
		return 0 // more may be due, and not all that was claimed could start
	case len(claimed) == free || next.IsZero():
		return maxSleep
	}
	return min(max(next.Sub(now), time.Millisecond), maxSleep)
}

// start starts the poll of a claimed prediction, or gives the claim back until the
// poll is allowed.
func (b *batch) start(ctx context.Context, p store.Prediction, now time.Time) {
	who := b.allowanceOf(&p)
	if due := b.allowed(&p, who, now); due.After(now) {
		b.release(b.st, p, due)
		return
	}
	b.running++
	go func() {
		b.poll(ctx, b.st, p, who)
		b.health.end(who, b.conf.Now())
		b.ended <- struct{}{}
	}()
}

// wait returns when no poll runs any more.
func (b *batch) wait() {
	for ; b.running > 0; b.running-- {
		<-b.ended
	}
}

// allowanceOf returns the allowance that a poll uses up. A credential that can't
// be read counts as its client's own.
func (p *Poller) allowanceOf(pred *store.Prediction) allowance {
	if pred.Credential == nil {
		return allowance{api: pred.API}
	}
	authorization, err := p.authorization(pred)
	if err != nil {
		authorization = "client " + pred.Client
	}
	return newAllowance(pred.API, authorization)
}

// allowed returns now when a prediction may be polled, or else when to try again:
// its API or its credential may be paused, or it has no API. One that is long
// overdue is not kept waiting. With now, health.end has to be called afterwards.
func (p *Poller) allowed(pred *store.Prediction, who allowance, now time.Time) time.Time {
	left := p.untilGiveUp(pred)
	if pred.API == "" && left > 0 {
		return now.Add(left)
	}
	return p.health.begin(who, now, left <= -maxRetryAfter)
}

// release gives up a claim. After an error the store has lost the claim or still
// has it; either way the prediction is due at the next start at the latest.
func (p *Poller) release(st store.Store, pred store.Prediction, due time.Time) {
	ctx, cancel := context.WithTimeout(context.Background(), store.CommitTimeout)
	defer cancel()
	if err := st.PollAgain(ctx, pred, due); err != nil && p.logs.allow("giving a poll back", p.conf.Now()) {
		p.conf.Logger.Error("giving a poll back", zap.String("prediction", pred.ID), zap.Error(err))
	}
}

// authorization returns what a poll is to be authorized with, empty for nothing.
// The error is seal.ErrUnreadable.
func (p *Poller) authorization(pred *store.Prediction) (string, error) {
	if pred.Credential == nil {
		return p.conf.Client.Authorization(pred.API), nil
	}
	plain, err := p.conf.Seal.Open(pred.Credential, sealing.CredentialContext(pred.API, pred.ID))
	return string(plain), err
}
