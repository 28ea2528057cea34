package poller

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/internal/ecmajson"
	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/internal/lifecycle"
	"github.com/caddy-replicate/replicate-webhook/internal/loglimit"
	"github.com/caddy-replicate/replicate-webhook/internal/metrics"
	"github.com/caddy-replicate/replicate-webhook/internal/prediction"
	"github.com/caddy-replicate/replicate-webhook/internal/seal"
	"github.com/caddy-replicate/replicate-webhook/store"
)

const (
	// maxNotFound is the number of 404s in a row that are attributed to an API
	// whose reads lag behind its creates. After that polls slow down; only
	// GiveUp ends them, because an event can't be withdrawn.
	maxNotFound = 10
	// maxRefusedInterval is the longest time between polls that the API
	// refuses.
	maxRefusedInterval = 15 * time.Minute
	// failuresToGiveUp is the number of failed polls in a row after which an
	// overdue prediction is given up: after a long downtime of this process, the
	// API is still asked how the prediction ended.
	failuresToGiveUp = 5
)

// poll polls a claimed prediction and ends the claim.
func (p *Poller) poll(ctx context.Context, st store.Store, pred store.Prediction, who allowance) {
	r := p.ask(ctx, &pred)
	if r.large {
		defer func() { <-p.large }()
	}
	now := p.conf.Now()
	if r.finding == stopped {
		p.release(st, pred, now)
		return
	}
	p.note(&pred, &r, who, now)
	final, err := p.commit(st, &pred, &r, now)
	switch {
	case errors.Is(err, store.ErrNotFound):
		// It was deleted meanwhile; so is the claim.
	case err != nil:
		if p.logs.allow("committing observations", now) {
			p.conf.Logger.Error("committing an observation", zap.String("prediction", pred.ID), zap.Error(err))
		}
		p.release(st, pred, now.Add(storeRetryInterval))
	case !final:
		p.release(st, pred, p.nextPoll(&pred, &r, now))
	}
	// A terminal event has ended the claim, whoever committed it.
}

// commit commits the events that follow from a poll, and reports whether the
// prediction has ended.
func (p *Poller) commit(st store.Store, pred *store.Prediction, r *result, now time.Time) (final bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), store.CommitTimeout)
	defer cancel()
	// Without its key a credential says nothing of the prediction: it is polled
	// when the key is back.
	overdue := p.untilGiveUp(pred) <= 0 && !errors.Is(r.err, seal.ErrMissingKey)
	final = r.finding == found && event.IsTerminal(r.s.Status)
	switch {
	case final || r.finding == found && !overdue:
		if events := lifecycle.Events(pred, r.s, now, p.conf.Callback); len(events) > 0 {
			err = st.Observe(ctx, pred.Ref, pred.ID, events)
		}
	case overdue && (pred.PollFailures == 0 || pred.PollFailures >= failuresToGiveUp):
		final = true
		s := p.givenUp(pred, r)
		err = st.Observe(ctx, pred.Ref, pred.ID, lifecycle.Events(pred, s, now, p.conf.Callback))
		p.conf.Logger.Warn("giving up a prediction", zap.String("prediction", pred.ID), zap.String("api", pred.API),
			zap.Duration("after", time.Duration(p.conf.Schedule.GiveUp)), zap.String("reason", r.reason()))
	}
	return final, err
}

// givenUp returns a prediction as failed for want of a final status.
func (p *Poller) givenUp(pred *store.Prediction, last *result) *prediction.Snapshot {
	s := prediction.Snapshot{ID: pred.ID}
	if last.s != nil {
		s = *last.s
	}
	s.Status, s.Output = "failed", nil
	s.Error = ecmajson.AppendString(nil, fmt.Sprintf("tracking was given up: no final status within %s of creation (%s)", p.conf.Schedule.GiveUp, last.reason()))
	s.CompletedAt = ""
	s.Source = nil // which says otherwise
	return &s
}

// nextPoll returns when a prediction is due again.
func (p *Poller) nextPoll(pred *store.Prediction, r *result, now time.Time) time.Time {
	d := p.interval(pred, now)
	n := min(pred.PollFailures, 16)
	switch r.finding {
	case unavailable, unexpectedResponse, rateLimited:
		d = max(d, time.Duration(min(p.conf.Schedule.Initial<<n, p.conf.Schedule.Max)), r.wait)
	case missing:
		if pred.PollFailures > maxNotFound {
			d = max(d, p.slowInterval)
		}
	case unreadable:
		// Soon after the key is back; a damaged credential costs little.
		d = max(d, p.slowInterval)
	case refused:
		d = max(d, min(p.slowInterval<<(n-1), max(p.slowInterval, maxRefusedInterval)))
	}
	return p.dueBefore(pred, now, d)
}

// note counts and logs what a poll found, and pauses the API or the credential
// where that is called for.
func (p *Poller) note(pred *store.Prediction, r *result, who allowance, now time.Time) {
	pred.PollFailures++
	log := func(level func(string, ...zap.Field), key, message string, fields ...zap.Field) {
		if p.logs.allow(key+" "+pred.API, now) {
			level(message, append([]zap.Field{
				zap.String("api", pred.API), zap.String("client", pred.Client), zap.String("prediction", pred.ID),
				zap.Int("status", r.status), zap.Error(r.err),
			}, fields...)...)
		}
	}
	warn := p.conf.Logger.Warn
	switch r.finding {
	case noAPI:
		pred.PollFailures = 0
	case found:
		pred.PollFailures = 0
		p.health.responded(who, now)
	case missing:
		p.health.responded(who, now)
		if pred.PollFailures == maxNotFound+1 {
			log(warn, "missing", "the prediction API does not know a prediction: asking seldom from now on")
		}
	case refused:
		p.health.responded(who, now)
		if pred.PollFailures == 1 {
			log(warn, "refused", "the prediction API refuses the token that polls are made with: asking seldom from now on")
		}
	case unexpectedResponse:
		p.health.responded(who, now)
		log(warn, "unexpected", "the prediction API gave a response to a poll that is not the prediction")
	case rateLimited:
		p.health.limited(who, now, r.wait)
		log(warn, "limited", "the prediction API limits polls: pausing them", zap.String("paused", who.String()), zap.Duration("pause", r.wait))
	case unavailable:
		pause := p.health.failed(who, now)
		if r.wait > 0 {
			p.health.limited(who, now, r.wait)
		}
		if pause > 0 {
			log(warn, "unavailable", "the prediction API does not respond to polls: pausing them", zap.String("paused", who.String()), zap.Duration("pause", pause))
		}
	case unreadable:
		p.unreadable.Add(1)
		metrics.CountUnreadable()
		log(p.conf.Logger.Error, "unreadable", "the stored token to poll with can't be read: was the sealing key replaced?")
	}
}

// logLimiter allows each key a line in the log once a minute. The zero value is
// ready.
type logLimiter struct{ loglimit.Limiter }

func (l *logLimiter) allow(key string, now time.Time) bool {
	_, ok := l.Allow(key, now)
	return ok
}
