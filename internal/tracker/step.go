package tracker

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/internal/lifecycle"
	"github.com/caddy-replicate/replicate-webhook/internal/seal"
	"github.com/caddy-replicate/replicate-webhook/store"
)

const (
	// patience is how many 404s in a row may be an API that has not caught
	// up with its own creations. Beyond that polls slow down to the safety
	// net; only GiveUp ends them, for an event can't be taken back.
	patience = 10
	// maxRefused is the longest time between polls that the API refuses.
	maxRefused = 15 * time.Minute
	// tries is how many failed polls in a row it takes to give up a
	// prediction that is overdue: after a long time off, the API gets a
	// chance to tell how it ended.
	tries = 5
)

// poll asks for a claimed prediction and ends the claim.
func (t *Tracker) poll(ctx context.Context, st store.Store, p store.Prediction, who poller) {
	r := t.askAbout(ctx, &p)
	if r.big {
		defer func() { <-t.big }()
	}
	if r.found == stopped {
		t.again(st, p, t.now())
		return
	}
	now := t.now()
	t.note(&p, &r, who, now)
	// Without its key a credential says nothing of the prediction: it is polled
	// when the key is back.
	overdue := t.untilGiveUp(&p) <= 0 && !errors.Is(r.err, seal.ErrMissingKey)
	over := r.found == seen && event.IsTerminal(r.s.Status)

	commit, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	var err error
	switch {
	case over || r.found == seen && !overdue:
		if h := lifecycle.Happenings(&p, r.s, now); len(h) > 0 {
			err = st.Observe(commit, p.Ref, p.ID, h)
		}
	case overdue && (p.PollFailures == 0 || p.PollFailures >= tries):
		over = true
		err = t.giveUp(commit, st, &p, r.s, r.why())
		t.logger.Warn("giving up a prediction", zap.String("prediction", p.ID), zap.String("api", p.API),
			zap.Duration("after", t.polling.GiveUp), zap.String("reason", r.why()))
	}
	switch {
	case errors.Is(err, store.ErrNotFound):
		// It was deleted meanwhile; so is the claim.
	case err != nil:
		if t.quiet.allow("committing observations", now) {
			t.logger.Error("committing an observation", zap.String("prediction", p.ID), zap.Error(err))
		}
		t.again(st, p, now.Add(storeTrouble))
	case !over:
		t.again(st, p, t.nextPoll(&p, &r, now))
	}
	// A terminal event has ended the claim, whoever committed it.
}

// nextPoll is when p is due again.
func (t *Tracker) nextPoll(p *store.Prediction, r *result, now time.Time) time.Time {
	d := t.interval(p, now)
	n := min(p.PollFailures, 16)
	switch r.found {
	case unwell, nonsense, limited:
		d = max(d, min(t.polling.Initial<<n, t.polling.Max), r.wait)
	case missing:
		if p.PollFailures > patience {
			d = max(d, t.net)
		}
	case unreadable:
		// Soon after the key is back; a damaged credential costs little.
		d = max(d, t.net)
	case refused:
		d = max(d, min(t.net<<(n-1), max(t.net, maxRefused)))
	}
	return t.dueBefore(p, now, d)
}

// note counts and logs what a poll found, and pauses its API or its credential
// where that is called for.
func (t *Tracker) note(p *store.Prediction, r *result, who poller, now time.Time) {
	if r.found == seen || r.found == unasked {
		p.PollFailures = 0
	} else {
		p.PollFailures++
	}
	fields := []zap.Field{zap.String("api", p.API), zap.String("client", p.Client), zap.String("prediction", p.ID), zap.Int("status", r.status), zap.Error(r.err)}
	// A client's own token is paused alone.
	whose := "all polls of it"
	if who.token != (key{}) {
		whose = "the polls with this client's token"
	}
	say := func(what string) bool { return t.quiet.allow(what+" "+p.API, now) }
	switch r.found {
	case seen:
		t.apis.answered(who, now)
	case missing:
		t.apis.answered(who, now)
		if p.PollFailures == patience+1 && say("missing") {
			t.logger.Warn("the prediction API does not know a prediction: asking seldom from now on", fields...)
		}
	case refused:
		t.apis.answered(who, now)
		if p.PollFailures == 1 && say("refused") {
			t.logger.Warn("the prediction API refuses the token that polls are made with: asking seldom from now on", fields...)
		}
	case nonsense:
		t.apis.answered(who, now)
		if say("nonsense") {
			t.logger.Warn("the prediction API gave an answer to a poll that is not the prediction", fields...)
		}
	case limited:
		t.apis.limited(who, now, r.wait)
		if say("limited") {
			t.logger.Warn("the prediction API limits polls: pausing them", append(fields, zap.String("paused", whose), zap.Duration("pause", r.wait))...)
		}
	case unwell:
		pause := t.apis.failed(who, now)
		if r.wait > 0 {
			t.apis.limited(who, now, r.wait)
		}
		if pause > 0 && say("unwell") {
			t.logger.Warn("the prediction API does not answer polls: pausing them", append(fields, zap.String("paused", whose), zap.Duration("pause", pause))...)
		}
	case unreadable:
		t.countUnreadable()
		if say("unreadable") {
			t.logger.Error("the stored token to poll with can't be read: was the sealing key replaced?", fields...)
		}
	}
}
