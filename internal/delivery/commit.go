package delivery

import (
	"errors"
	"time"

	"github.com/cenkalti/backoff/v4"
	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/internal/metrics"
	"github.com/caddy-replicate/replicate-webhook/store"
)

const (
	// commitInitial and commitMax are the waits between tries to commit.
	commitInitial = 100 * time.Millisecond
	commitMax     = 10 * time.Second
	// commitTries is how often an outcome is handed to a store that takes
	// others. It must be this one that it can't take.
	commitTries = 10
)

// commit hands an outcome to the store until it is durable, without another
// attempt. A store that is unavailable is waited for: how many outcomes wait is
// bounded, and while they do nothing is claimed. It reports whether the outcome
// is committed.
func (e *Engine) commit(o *store.Outcome) bool {
	err := e.conf.Store.Complete(e.life, *o)
	if err == nil {
		return true
	}
	log := e.conf.Logger.With(zap.String("delivery", o.Delivery.ID), zap.Int("attempt", o.Attempt.Number))
	log.Error("outcome of a delivery attempt is not committed yet", zap.Error(err))
	wait := backoff.NewExponentialBackOff(backoff.WithInitialInterval(commitInitial),
		backoff.WithMaxInterval(commitMax), backoff.WithMultiplier(2), backoff.WithMaxElapsedTime(0))
	for tries := 1; ; {
		if errors.Is(err, store.ErrUnavailable) {
			tries = 1
		} else if tries++; tries > commitTries {
			log.Error("outcome of a delivery attempt is lost, the attempt will be repeated", zap.Error(err))
			e.giveBack(o, log)
			return false
		}
		timer := time.NewTimer(wait.NextBackOff())
		select {
		case <-timer.C:
		case <-e.exit:
			timer.Stop()
			log.Error("outcome of a delivery attempt is lost by the exit, the attempt will be repeated", zap.Error(err))
			return false
		}
		if err = e.conf.Store.Complete(e.life, *o); err == nil {
			log.Info("outcome of a delivery attempt is committed")
			return true
		}
	}
}

// giveBack lets go of a claim whose outcome the store does not take, after as
// long as it takes to be sure that it was not committed after all.
func (e *Engine) giveBack(o *store.Outcome, log *zap.Logger) {
	due := e.conf.Now().Add(e.conf.Retry.MaxDelay)
	if err := e.conf.Store.Postpone(e.life, o.Delivery, due); err != nil {
		log.Error("claim of a delivery could not be given back", zap.Error(err))
	}
}

// note records an attempt, committed or not.
func (e *Engine) note(o *store.Outcome, a *answer) {
	if a.kind == kindHeld {
		metrics.CountHeldAttempt(string(a.kind))
	} else {
		metrics.ObserveAttempt(string(a.kind), o.Attempt.Took)
	}
	level, text := zap.DebugLevel, "delivery attempt succeeded"
	switch {
	case a.kind == kindForbidden, a.kind == kindBadURL:
		level, text = zap.WarnLevel, "delivery attempt to a forbidden destination"
	case !a.kind.success():
		level, text = zap.WarnLevel, "delivery attempt failed"
	}
	entry := e.conf.Logger.Check(level, text)
	if entry == nil {
		return
	}
	// A webhook's path and query are a secret of its owner's at times.
	fields := []zap.Field{
		zap.String("delivery", o.Delivery.ID), zap.String("prediction", o.Delivery.PredictionID),
		zap.String("event", o.Delivery.Event.Name()), zap.String("endpoint", store.EndpointOf(o.Delivery.URL)),
		zap.Int("attempt", o.Attempt.Number), zap.Int("status", o.Attempt.Status),
		zap.Duration("took", o.Attempt.Took), zap.String("outcome", string(a.kind)),
	}
	if err := a.err(); err != nil {
		fields = append(fields, zap.Error(err))
	}
	if o.Verdict == store.Retry {
		fields = append(fields, zap.Time("due", o.Due))
	}
	entry.Write(fields...)
}

// conclude makes known what was committed, if it is the delivery's end.
func (e *Engine) conclude(o *store.Outcome, a *answer, end time.Time) {
	event := o.Delivery.Event.Name()
	r := Report{Delivery: o.Delivery, Attempt: o.Attempt, Verdict: o.Verdict, Duplicate: a.kind == kindDuplicate}
	// The queue of reports must not keep payloads in memory.
	r.Delivery.Payload = nil
	switch o.Verdict {
	case store.Delivered:
		outcome := "delivered"
		if r.Duplicate {
			outcome = "duplicate"
		}
		metrics.CountDelivery(event, outcome)
		metrics.ObserveDeliveryLag(end.Sub(o.Delivery.CreatedAt))
		e.reports.delivery(e.conf.OnDelivered, r)
	case store.Exhausted, store.Gone:
		outcome := "failed"
		if o.Verdict == store.Gone {
			outcome = "gone"
		}
		metrics.CountDelivery(event, outcome)
		e.conf.Logger.Error("delivery given up", zap.String("delivery", o.Delivery.ID),
			zap.String("prediction", o.Delivery.PredictionID), zap.String("event", event),
			zap.Int("attempts", o.Attempt.Number), zap.String("error", o.Attempt.Error))
		e.reports.delivery(e.conf.OnFailed, r)
	}
}
