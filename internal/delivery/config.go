package delivery

import (
	"context"
	"errors"
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
	// CountInboxAttempt counts an attempt to hand an event to its app.
	CountInboxAttempt(Outcome)
	// ObserveInboxLag records the time from an event's acceptance to its app's
	// 2xx.
	ObserveInboxLag(time.Duration)
	// AddOpenEndpoints changes the number of endpoints whose breaker is open.
	AddOpenEndpoints(n int)
}

// noMetrics is Metrics for nobody.
type noMetrics struct{}

func (noMetrics) CountAttempt(Outcome)          {}
func (noMetrics) ObserveAttempt(time.Duration)  {}
func (noMetrics) CountDelivery(string, Final)   {}
func (noMetrics) ObserveLag(time.Duration)      {}
func (noMetrics) CountInboxAttempt(Outcome)     {}
func (noMetrics) ObserveInboxLag(time.Duration) {}
func (noMetrics) AddOpenEndpoints(int)          {}

// Config configures an Engine. Numbers and durations that are 0 take their
// defaults.
type Config struct {
	Options

	// Store holds the deliveries. Required.
	Store Store
	// Secrets returns the secrets that sign for a client, newest first. It is
	// called for each attempt. An error or an empty list makes the attempt
	// fail: nothing is ever sent unsigned. Required.
	Secrets func(ctx context.Context, client string) ([]signature.Secret, error)

	// Inboxes are the apps that events are for. The events of other scopes wait.
	Inboxes []Inbox
	// Apps is shared by the engines of a process, so that they keep to the
	// concurrency of an inbox together. Default: one of its own.
	Apps *Apps
	// Pauses is that of store.Inbox. It is called while the store asks for slots,
	// too. Required with Inboxes.
	Pauses func(scope string) []store.Span

	// Guard says where a delivery may go. Without a Client, the engine makes
	// one from it that keeps as many connections as Endpoint.Concurrency
	// needs. One of Guard and Client is required.
	Guard *egress.Guard
	// Client's transport makes the requests in place of the engine's own. The
	// client's other fields are ignored, and redirects are not followed.
	Client *http.Client
	// UserAgent is the header's value. Default: caddy-replicate-webhook.
	UserAgent string

	// Metrics is told what the engine does. Default: none.
	Metrics Metrics
	// Logger logs failures in words meant for operators. Default: none.
	Logger *zap.Logger
	// Now is the clock. Default: time.Now.
	Now func() time.Time

	// Trace starts a span for an attempt and puts its context into the
	// request's headers. end is called after the attempt with the HTTP
	// status, 0 without a response, and an error unless the attempt
	// succeeded. Without Trace, the trace context stored with the delivery is
	// sent, as traceparent of version 00.
	Trace func(ctx context.Context, d *store.Delivery, attempt int, h http.Header) (_ context.Context, end func(status int, err error))

	// The hooks are called one at a time by a goroutine of their own, behind
	// a queue. While the queue is full, reports are dropped, and their number
	// is logged: a slow hook never delays a delivery.
	OnDelivered      func(Report)
	OnFailed         func(Report)
	OnEndpointOpen   func(EndpointReport)
	OnEndpointClosed func(EndpointReport)
	// OnInboxFailed is called for an event that its app did not take in time.
	OnInboxFailed func(Report)

	inboxes map[string]*Inbox // by scope
}

// setDefaults checks the configuration and sets its defaults.
func (c *Config) setDefaults() error {
	switch {
	case c.Store == nil:
		return errors.New("configuring delivery: there is no store")
	case c.Secrets == nil:
		return errors.New("configuring delivery: there are no secrets")
	case len(c.Inboxes) > 0 && c.Pauses == nil:
		return errors.New("configuring delivery: the store has no inboxes")
	case c.Guard == nil && c.Client == nil:
		return errors.New("configuring delivery: there is neither a guard nor a client")
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
	if c.Apps == nil {
		c.Apps = new(Apps)
	}
	if err := c.Options.SetDefaults(); err != nil {
		return err
	}
	c.inboxes = make(map[string]*Inbox, len(c.Inboxes))
	for _, inbox := range c.Inboxes {
		if err := inbox.setDefaults(); err != nil {
			return err
		}
		c.inboxes[inbox.Scope] = &inbox
	}
	return nil
}
