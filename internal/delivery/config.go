package delivery

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/internal/egress"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// Store is what the engine needs of a store.
type Store interface {
	// Ready returns store.ErrUnavailable when nothing could be committed now.
	Ready() error
	store.Queue
	store.Outages
}

// Metrics is told what an engine does. Its methods are called on the path of
// deliveries and must not block.
type Metrics interface {
	// CountAttempt counts an attempt.
	CountAttempt(Outcome)
	// ObserveAttempt records how long an attempt took that was made.
	ObserveAttempt(took time.Duration)
	// CountDelivery counts a delivery that has ended, by its event's name.
	CountDelivery(event string, f Final)
	// ObserveLag records the time from an event's commit to its receipt.
	ObserveLag(time.Duration)
	// AddOpenEndpoints changes the number of endpoints whose breaker is open.
	AddOpenEndpoints(n int)
}

// noMetrics is Metrics for nobody.
type noMetrics struct{}

func (noMetrics) CountAttempt(Outcome)         {}
func (noMetrics) ObserveAttempt(time.Duration) {}
func (noMetrics) CountDelivery(string, Final)  {}
func (noMetrics) ObserveLag(time.Duration)     {}
func (noMetrics) AddOpenEndpoints(int)         {}

// Config is what an Engine works with. Numbers and durations left 0 take their
// defaults; where -1 has a meaning it is said.
type Config struct {
	// Store holds the deliveries. Required.
	Store Store
	// Secrets gives the secrets that sign for a client, newest first. It is
	// called for each attempt. An error or an empty list makes the attempt
	// fail: nothing is ever sent unsigned. Required.
	Secrets func(ctx context.Context, client string) ([]signature.Secret, error)

	// Guard says where a delivery may go. Without a Client, the engine makes
	// one from it that keeps as many connections as Endpoint.Concurrency
	// needs. One of Guard and Client is required.
	Guard *egress.Guard
	// Client's transport makes the requests, in place of the engine's own.
	// Whatever else the client is set to do, redirects are not followed.
	Client *http.Client

	Retry    Retry
	Endpoint Endpoint
	// Timeout bounds one attempt, from connecting to the last byte of the
	// answer. Default 15s.
	Timeout time.Duration
	// Workers is how many attempts may be in flight, those left aside that
	// have been waiting for their receiver for a while: see the package
	// documentation. Default 256.
	Workers int
	// UserAgent is the header's value. Default caddy-replicate-webhook.
	UserAgent string

	// Metrics is told what the engine does. Default: none.
	Metrics Metrics
	// Logger logs failures in words meant for operators. Default: none.
	Logger *zap.Logger
	// Now is the clock. Default time.Now.
	Now func() time.Time

	// Trace starts a span for an attempt and puts its context into the
	// request's headers. end hears how the attempt went: the HTTP status, 0
	// without an answer, and an error unless it succeeded. Without Trace,
	// the traceparent stored with the delivery is sent as it is.
	Trace func(ctx context.Context, d *store.Delivery, attempt int, h http.Header) (_ context.Context, end func(status int, err error))

	// The hooks are called one at a time by a goroutine of their own, behind
	// a queue. While the queue is full, what happens is dropped and counted
	// in the log: a slow hook never holds up a delivery.
	OnDelivered      func(Report)
	OnFailed         func(Report)
	OnEndpointOpen   func(EndpointReport)
	OnEndpointClosed func(EndpointReport)
}

// Retry is the schedule of attempts. The wait after failure n, counted from 1,
// is InitialDelay × BackoffFactor^(n-1), at most MaxDelay.
type Retry struct {
	// MaxAttempts is how many retries may follow the first try. Default 5,
	// -1 for none.
	MaxAttempts int
	// InitialDelay. Default 1s.
	InitialDelay time.Duration
	// MaxDelay. Default 60s.
	MaxDelay time.Duration
	// BackoffFactor, at least 1. Default 2.
	BackoffFactor float64
	// Jitter spreads each wait evenly over ± this part of it, 0 to 1.
	// Default 0.
	Jitter float64
}

// Endpoint is what one endpoint (scheme://host:port) may be given.
type Endpoint struct {
	// Concurrency is how many attempts may be in flight. Default 16.
	Concurrency int
	// Rate bounds how often attempts begin. Default: it doesn't.
	Rate Rate
	// Breaker stops deliveries to an endpoint that is down, and to a URL
	// whose receiver refuses them.
	Breaker Breaker
}

// Rate is Count attempts per Per: a bucket that holds Count and fills up again
// in Per. After a pause Count attempts may begin at once.
type Rate struct {
	Count int
	Per   time.Duration
}

// Breaker opens after so many consecutive failures. Attempts without a complete
// response count against their endpoint, and responses other than 2xx against
// the client's URL alone.
type Breaker struct {
	// Failures in a row. Default 10, -1 for never.
	Failures int
	// Cooldown is how long nothing is sent before a probe. Default 30s.
	Cooldown time.Duration
	// Hold is the longest that a delivery waits behind an open breaker for
	// one try, which has failed then. Default 1h.
	Hold time.Duration
}

// defaulted gives *p a default, and checks it against the least it may be.
func defaulted[T int | float64 | time.Duration](p *T, def, least T, name string) error {
	if *p == 0 {
		*p = def
	}
	if *p < least {
		return fmt.Errorf("configuring delivery: %s is less than %v", name, least)
	}
	return nil
}

// setDefaults checks the configuration and sets its defaults.
func (c *Config) setDefaults() error {
	switch {
	case c.Store == nil:
		return errors.New("configuring delivery: there is no store")
	case c.Secrets == nil:
		return errors.New("configuring delivery: there are no secrets")
	case c.Guard == nil && c.Client == nil:
		return errors.New("configuring delivery: there is neither a guard nor a client")
	case c.Retry.Jitter < 0 || c.Retry.Jitter > 1 || math.IsNaN(c.Retry.Jitter):
		return errors.New("configuring delivery: jitter is not between 0 and 1")
	case math.IsNaN(c.Retry.BackoffFactor) || math.IsInf(c.Retry.BackoffFactor, 0):
		return errors.New("configuring delivery: backoff factor is not a number")
	case c.Endpoint.Rate.Count < 0 || c.Endpoint.Rate.Per < 0 || (c.Endpoint.Rate.Count == 0) != (c.Endpoint.Rate.Per == 0):
		return errors.New("configuring delivery: rate takes a count and a duration above 0")
	}
	for _, err := range []error{
		defaulted(&c.Retry.MaxAttempts, 5, -1, "max attempts"),
		defaulted(&c.Retry.InitialDelay, time.Second, 0, "initial delay"),
		defaulted(&c.Retry.MaxDelay, time.Minute, 0, "max delay"),
		defaulted(&c.Retry.BackoffFactor, 2, 1, "backoff factor"),
		defaulted(&c.Endpoint.Concurrency, 16, 1, "endpoint concurrency"),
		defaulted(&c.Endpoint.Breaker.Failures, 10, -1, "breaker failures"),
		defaulted(&c.Endpoint.Breaker.Cooldown, 30*time.Second, 0, "breaker cooldown"),
		defaulted(&c.Endpoint.Breaker.Hold, time.Hour, 0, "breaker hold"),
		defaulted(&c.Timeout, 15*time.Second, 0, "timeout"),
		defaulted(&c.Workers, 256, 1, "workers"),
	} {
		if err != nil {
			return err
		}
	}
	if c.UserAgent == "" {
		c.UserAgent = "caddy-replicate-webhook"
	}
	if c.Metrics == nil {
		c.Metrics = noMetrics{}
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return nil
}
