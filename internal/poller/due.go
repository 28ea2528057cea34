package poller

import (
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// Settling is the time after the start of a process in which nothing is given up or
// deleted by its stamp alone: the clock may have to be set right first.
const Settling = 5 * time.Minute

// FirstPoll returns when a prediction that is created now is due for the first
// time.
func (p *Poller) FirstPoll(pred *store.Prediction) time.Time {
	return p.dueBefore(pred, pred.CreatedAt, p.interval(pred, pred.CreatedAt))
}

// interval returns how long after now a prediction is due again if the last poll
// went well.
//
// The wait is as long as the prediction is old, which doubles it with each poll
// and needs no memory: polls go on at their pace after a restart. An age below
// zero means that the clock was set back.
func (p *Poller) interval(pred *store.Prediction, now time.Time) time.Duration {
	s := &p.conf.Schedule
	d := time.Duration(s.Max)
	if age := now.Sub(pred.CreatedAt); age >= 0 {
		d = min(max(age, time.Duration(s.Initial)), d)
	}
	if pred.Token != nil {
		d = max(d, p.slowInterval)
	}
	return d
}

// untilGiveUp returns the time until a prediction is given up. What counts is the
// time in which somebody asked for it: a step of the clock ends no prediction and
// keeps none from its end. Its age when this process began is told by its stamp
// alone, which is not believed before Settling has passed.
func (p *Poller) untilGiveUp(pred *store.Prediction) time.Duration {
	giveUp, passing := time.Duration(p.conf.Schedule.GiveUp), p.conf.Clock
	byStamp := pred.CreatedAt.Sub(passing.Before(giveUp))
	byStamp = max(byStamp, min(Settling, giveUp)-passing.Passed())
	return min(byStamp, giveUp-pred.Watched)
}

// dueBefore returns when a prediction is due after a wait of d from now. A long
// wait does not put off giving up.
func (p *Poller) dueBefore(pred *store.Prediction, now time.Time, d time.Duration) time.Time {
	if left := p.untilGiveUp(pred); left > 0 {
		d = min(d, left)
	}
	return now.Add(d)
}
