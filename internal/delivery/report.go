package delivery

import (
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// maxReports bounds the reports that wait for the hooks.
const maxReports = 1024

// Report says how a delivery ended.
type Report struct {
	// Delivery is without its payload.
	Delivery store.Delivery
	// Attempt is the last attempt, without its ID.
	Attempt store.Attempt
	// Disposition is Delivered, Exhausted or Gone.
	Disposition store.Disposition
	// Duplicate reports that the receiver had the event before.
	Duplicate bool
}

// EndpointReport says that a breaker opened or closed. When it closed, only
// Endpoint is set.
type EndpointReport struct {
	Endpoint string
	Failures int       // in a row
	Until    time.Time // when it is probed
	Error    string    // of the last attempt
}

// reports calls the hooks. Its goroutine runs only while there is something to
// report.
type reports struct {
	log *zap.Logger

	mu      sync.Mutex
	queue   []func()
	running bool
	dropped atomic.Int64
}

// reportAttempt counts and logs an attempt, committed or not.
func (c *Config) reportAttempt(o *store.Outcome, r *result) {
	inbound := o.Delivery.Inbound
	level, text := zap.DebugLevel, "delivery attempt succeeded"
	switch {
	case inbound != nil:
		c.Metrics.CountInboxAttempt(r.outcome)
	default:
		c.Metrics.CountAttempt(r.outcome)
		if r.outcome != OutcomeHeld {
			c.Metrics.ObserveAttempt(o.Attempt.Took)
		}
	}
	switch {
	case inbound != nil && r.outcome.success():
		text = "event accepted by the app"
	case inbound != nil:
		level, text = zap.WarnLevel, "event not accepted by the app"
	case r.outcome == OutcomeForbidden, r.outcome == OutcomeBadURL:
		level, text = zap.WarnLevel, "delivery attempt to a forbidden destination"
	case !r.outcome.success():
		level, text = zap.WarnLevel, "delivery attempt failed"
	}
	entry := c.Logger.Check(level, text)
	if entry == nil {
		return
	}
	// The path and query of a webhook URL may be secret.
	receiver := zap.String("endpoint", store.EndpointOf(o.Delivery.URL))
	if inbound != nil {
		receiver = zap.String("scope", inbound.Scope)
	}
	fields := []zap.Field{
		zap.String("delivery", o.Delivery.ID), zap.String("prediction", o.Delivery.PredictionID),
		zap.String("event", eventName(&o.Delivery)), receiver,
		zap.Int("attempt", o.Attempt.Number), zap.Int("status", o.Attempt.Status),
		zap.Duration("took", o.Attempt.Took), zap.Stringer("outcome", r.outcome),
	}
	if err := r.err(); err != nil {
		fields = append(fields, zap.Error(err))
	}
	if o.Disposition == store.Retry {
		fields = append(fields, zap.Time("due", o.Due))
	}
	entry.Write(fields...)
}

// eventName returns the name of a delivery's event.
func eventName(d *store.Delivery) string {
	if d.Inbound != nil {
		return d.Inbound.Name
	}
	return d.Event.Name()
}

// reportFinal reports a committed outcome if it ends the delivery.
func (e *Engine) reportFinal(o *store.Outcome, res *result, end time.Time) {
	event := eventName(&o.Delivery)
	r := Report{Delivery: o.Delivery, Attempt: o.Attempt, Disposition: o.Disposition, Duplicate: res.outcome == OutcomeDuplicate}
	// The queue of reports must not keep payloads in memory.
	r.Delivery.Payload = nil
	if o.Delivery.Inbound != nil {
		e.reportInbound(o, r, end)
		return
	}
	switch o.Disposition {
	case store.Delivered:
		final := FinalDelivered
		if r.Duplicate {
			final = FinalDuplicate
		}
		e.conf.Metrics.CountDelivery(event, final)
		e.conf.Metrics.ObserveLag(end.Sub(o.Delivery.CreatedAt))
		e.reports.delivery(e.conf.OnDelivered, r)
	case store.Exhausted, store.Gone:
		final := FinalFailed
		if o.Disposition == store.Gone {
			final = FinalGone
		}
		e.conf.Metrics.CountDelivery(event, final)
		e.conf.Logger.Error("delivery given up", zap.String("delivery", o.Delivery.ID),
			zap.String("prediction", o.Delivery.PredictionID), zap.String("event", event),
			zap.Int("attempts", o.Attempt.Number), zap.String("error", o.Attempt.Error))
		e.reports.delivery(e.conf.OnFailed, r)
	}
}

// reportInbound reports how an inbound event ended.
func (e *Engine) reportInbound(o *store.Outcome, r Report, end time.Time) {
	inbound := *o.Delivery.Inbound
	inbound.Head, inbound.Body = nil, nil
	r.Delivery.Inbound = &inbound
	switch o.Disposition {
	case store.Delivered:
		e.conf.Metrics.ObserveInboxLag(end.Sub(o.Delivery.WaitingSince))
	case store.Exhausted, store.Gone:
		text := "event failed: the app did not accept it in time, replay it once the app does"
		if o.Disposition == store.Gone {
			text = "event refused for good: the app responded 410"
		}
		e.conf.Logger.Error(text, zap.String("id", o.Delivery.ID), zap.String("scope", inbound.Scope),
			zap.String("prediction", inbound.PredictionID), zap.String("event", inbound.Name),
			zap.Int("attempts", o.Attempt.Number), zap.String("error", o.Attempt.Error))
		if o.Disposition == store.Exhausted {
			e.reports.delivery(e.conf.OnInboxFailed, r)
		}
	}
}

func newReports(conf *Config) *reports { return &reports{log: conf.Logger} }

func (q *reports) delivery(hook func(Report), r Report) {
	if hook != nil {
		q.add(func() { hook(r) })
	}
}

func (q *reports) endpoint(hook func(EndpointReport), r EndpointReport) {
	if hook != nil {
		q.add(func() { hook(r) })
	}
}

func (q *reports) add(call func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.queue) >= maxReports {
		q.dropped.Add(1)
		return
	}
	q.queue = append(q.queue, call)
	if !q.running {
		q.running = true
		go q.run()
	}
}

func (q *reports) run() {
	for {
		q.mu.Lock()
		calls := q.queue
		q.queue = nil
		q.running = len(calls) > 0
		q.mu.Unlock()
		if n := q.dropped.Swap(0); n > 0 {
			q.log.Warn("delivery events dropped: their hook is too slow", zap.Int64("dropped", n))
		}
		if len(calls) == 0 {
			return
		}
		for _, call := range calls {
			q.call(call)
		}
	}
}

// call calls a hook and recovers from its panic.
func (q *reports) call(hook func()) {
	defer func() {
		if v := recover(); v != nil {
			q.log.Error("panic in a delivery hook", zap.Any("panic", v), zap.Stack("stack"))
		}
	}()
	hook()
}
