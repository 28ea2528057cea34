package tracker

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/store"
)

const (
	// concurrentPolls is how many answers are waited for at once.
	concurrentPolls = 32
	// safetyNet is the least time between polls of a prediction that has a
	// callback too.
	safetyNet = time.Minute
	// longestSleep bounds the wait for a due time, which a clock that is
	// set may bring nearer.
	longestSleep = time.Minute
	// storeTrouble is the wait after an error of the store.
	storeTrouble = time.Second
)

// pollLoop asks for every prediction that is due, until ctx ends. What is due
// when is kept by the store: one loop serves any number of predictions.
func (t *Tracker) pollLoop(ctx context.Context, st store.Store) {
	changed, unsubscribe := st.Changed()
	defer unsubscribe()
	// Big enough that a poll never waits for the loop.
	finished := make(chan struct{}, concurrentPolls)
	running := 0
	defer func() {
		for ; running > 0; running-- {
			<-finished
		}
	}()
	timer := time.NewTimer(longestSleep)
	defer timer.Stop()
	for ctx.Err() == nil {
		sleep := longestSleep
		if free := concurrentPolls - running; free > 0 {
			claimed, next, err := st.ClaimPolls(ctx, free)
			now := t.now()
			for _, p := range claimed {
				who := t.pollerOf(&p)
				if due := t.begin(&p, who, now); due.After(now) {
					t.again(st, p, due)
					continue
				}
				running++
				go func() {
					defer func() {
						t.apis.end(who, t.now())
						finished <- struct{}{}
					}()
					t.poll(ctx, st, p, who)
				}()
			}
			switch {
			case err != nil && ctx.Err() == nil:
				if t.quiet.allow("claiming polls", now) {
					t.logger.Error("claiming polls", zap.Error(err))
				}
				sleep = storeTrouble
			case len(claimed) == free:
				// There may be more: as soon as there is room.
				sleep = 0
				if running == concurrentPolls {
					sleep = longestSleep
				}
			case !next.IsZero():
				sleep = min(max(next.Sub(now), time.Millisecond), longestSleep)
			}
		}
		timer.Reset(sleep)
		select {
		case <-ctx.Done():
		case <-changed:
		case <-timer.C:
		case <-finished:
			running--
		}
	}
}

// pollerOf returns whose allowance a poll of p uses up. A credential that can't be
// read counts as its client's own.
func (t *Tracker) pollerOf(p *store.Prediction) poller {
	if p.Credential == nil {
		return poller{api: p.API}
	}
	authorization, err := t.authorization(p)
	if err != nil {
		authorization = "client " + p.Client
	}
	return poller{api: p.API, token: callerKey(p.API, authorization)}
}

// begin returns now when p may be asked for, or else when to try again: its API
// or its credential may be paused, or it has no GET. A prediction that is long
// overdue is not kept waiting.
func (t *Tracker) begin(p *store.Prediction, who poller, now time.Time) time.Time {
	left := t.untilGiveUp(p)
	if p.API == "" && left > 0 {
		return now.Add(left)
	}
	return t.apis.begin(who, now, left <= -maxPause)
}

// again gives a claim back. An error is the store's, which then has lost or
// still has the claim; either way it comes up again at the next start at the
// latest.
func (t *Tracker) again(st store.Store, p store.Prediction, due time.Time) {
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	if err := st.PollAgain(ctx, p, due); err != nil && t.quiet.allow("giving a poll back", t.now()) {
		t.logger.Error("giving a poll back", zap.String("prediction", p.ID), zap.Error(err))
	}
}

// interval is how long after now p is to be asked for next, if the last poll
// went well.
//
// The wait is as long as p is old, which doubles it with each poll and needs
// no memory: polls go on at their pace after a restart. An age below zero
// means that the clock was set back.
func (t *Tracker) interval(p *store.Prediction, now time.Time) time.Duration {
	d := t.polling.Max
	if age := now.Sub(p.CreatedAt); age >= 0 {
		d = min(max(age, t.polling.Initial), t.polling.Max)
	}
	if p.Token != nil {
		d = max(d, t.net)
	}
	return d
}

// untilGiveUp returns the time until p is given up. What counts is the time in
// which somebody asked for it: a step of the clock ends no prediction and keeps
// none from its end. Its age when this process began is told by its stamp alone,
// which is not believed before the clock has had time to be set right.
func (t *Tracker) untilGiveUp(p *store.Prediction) time.Duration {
	byStamp := p.CreatedAt.Sub(t.clock.Before(t.polling.GiveUp))
	byStamp = max(byStamp, min(settling, t.polling.GiveUp)-t.clock.Passed())
	return min(byStamp, t.polling.GiveUp-p.Watched)
}

// dueBefore returns when p is due after a wait of d from now. Giving up is not
// put off by a long wait.
func (t *Tracker) dueBefore(p *store.Prediction, now time.Time, d time.Duration) time.Time {
	if left := t.untilGiveUp(p); left > 0 {
		d = min(d, left)
	}
	return now.Add(d)
}

// settling is how long after its start a tracker neither forgets nor gives up
// anything for what its stamp says.
const settling = 5 * time.Minute

// forgetEvery is the time between two looks at what is old enough to go.
const forgetEvery = time.Minute

// forgetLoop deletes what retention no longer covers.
func (t *Tracker) forgetLoop(ctx context.Context, st store.Store) {
	tick := time.NewTicker(forgetEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if t.clock.Passed() < settling {
			continue
		}
		err := st.Forget(ctx, t.clock.Before(t.retention.Deliveries), t.clock.Before(t.retention.Predictions))
		if err != nil && ctx.Err() == nil && t.quiet.allow("forgetting", t.now()) {
			t.logger.Error("deleting what is past retention", zap.Error(err))
		}
	}
}
