package delivery

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// A delivery waits behind an open breaker for Breaker.Hold at most. Then that is
// a failed attempt, and the next wait of its schedule begins, so that every
// delivery ends however long its receiver is down.
//
// The wait counts from when the delivery was due or the breaker opened,
// whichever is later, and only while a process is running. Both outlive the
// process: the store keeps outages and the times in which a process was running.

const (
	// maxExpired bounds the deliveries of a lane that end in one claim because
	// they have waited for too long.
	maxExpired = 1 << 20
	// maxSweep and minSweep bound the time between two searches for them,
	// and holdSweeps is the number of searches in the time of a hold.
	maxSweep   = 10 * time.Second
	minSweep   = 50 * time.Millisecond
	holdSweeps = 20
)

// outages knows since when breakers are open and for how long a process was
// there to wait. It is guarded by the engine's mutex.
type outages struct {
	conf *Config
	// began is when the engine was made.
	began time.Time
	// spans are the times in which a process was running, as the store
	// returned them at witnessed.
	spans     []store.Span
	witnessed time.Time
	// next is when to search for deliveries that have waited for too long, or
	// to tell the store that a process is running. It is zero if no breaker is
	// open and there is no inbox.
	next time.Time
	// witness reports that the store is to be told that a process is
	// running.
	witness bool
	// dirty are the lanes whose outage began or ended and is to be committed.
	dirty map[store.Lane]bool
	// storing reports that a goroutine does both, failed that it could not,
	// and retry when it is tried again.
	storing, failed bool
	retry           time.Time
}

func newOutages(conf *Config) outages {
	o := outages{conf: conf, began: conf.Now(), dirty: make(map[store.Lane]bool)}
	if len(conf.inboxes) > 0 {
		o.next = o.began
	}
	return o
}

// interval returns the time between two searches for deliveries that have waited
// for too long.
func (o *outages) interval() time.Duration {
	return min(max(time.Duration(o.conf.Endpoint.Breaker.Hold)/holdSweeps, minSweep), maxSweep)
}

// grace returns how far apart two times may be at which a process was running
// for the time between to count as well.
func (o *outages) grace() time.Duration { return 3 * o.interval() }

// changed notes that the breaker of a lane opened or closed.
func (o *outages) changed(lane store.Lane) {
	o.dirty[lane] = true
	if o.next.IsZero() {
		o.next = o.conf.Now()
	}
}

// threshold returns the time since when a process was running for the given time:
// what has waited since then has waited for so long. It is zero if no process was
// running for so long.
func (o *outages) threshold(left time.Duration, now time.Time) time.Time {
	if o.witnessed.IsZero() {
		if t := now.Add(-left); t.After(o.began) {
			return t
		}
		return time.Time{}
	}
	// The time by which a clock was set, or a process was suspended, does not
	// count as waiting: the next look at the store makes a gap of it.
	passed := now.Sub(o.witnessed)
	if jump := now.Round(0).Sub(o.witnessed.Round(0)) - passed; max(passed, jump.Abs()) > o.grace() {
		return time.Time{}
	}
	// The spans are by the store's clock, which may not be this node's.
	last := len(o.spans) - 1
	ended := o.spans[last].Ended.Add(passed)
	ahead := now.Round(0).Sub(ended)
	for i := last; i >= 0; i-- {
		s := o.spans[i]
		if i < last {
			ended = s.Ended
		}
		switch length := ended.Sub(s.Began); {
		case length >= left && i == last:
			return now.Add(-left)
		case length >= left:
			return ended.Add(ahead - left)
		case length > 0:
			left -= length
		}
	}
	return time.Time{}
}

// since is threshold for what waits at an endpoint: the time in which its inbox
// was paused does not count.
func (o *outages) since(p *endpoint, left time.Duration, now time.Time) time.Time {
	t := o.threshold(left, now)
	if p.inbox == nil {
		return t
	}
	pauses := o.conf.Pauses(p.inbox.Scope)
	for i := len(pauses) - 1; i >= 0 && !t.IsZero(); i-- {
		pause := pauses[i]
		if pause.Ended.IsZero() {
			pause.Ended = now
		}
		if pause.Ended.After(t) {
			left += pause.Ended.Sub(pause.Began)
			t = o.threshold(left, now)
		}
	}
	return t
}

// expired reports whether a breaker has been open for a whole hold, and returns
// the time at which a delivery must have been due to have waited for as long.
func (o *outages) expired(p *endpoint, b *breaker, now time.Time) (since time.Time, ok bool) {
	if !b.cooling(now) {
		return time.Time{}, false
	}
	t := o.since(p, time.Duration(p.limits.Breaker.Hold), now)
	return t, !t.IsZero() && !b.since.After(t)
}

// dueBy returns the time by which the deliveries of a lane must have been due to
// have waited for too long, zero if none has.
func (o *outages) dueBy(p *endpoint, u *hookURL, now time.Time) time.Time {
	if t, ok := o.expired(p, &p.breaker, now); ok {
		return t
	}
	if u != nil {
		if t, ok := o.expired(p, &u.breaker, now); ok {
			return t
		}
	}
	return time.Time{}
}

// expiredResult returns the result for a delivery that has waited for too long,
// nil if it has not.
func (o *outages) expiredResult(p *endpoint, u *hookURL, due, now time.Time) *result {
	held := func(b *breaker, what string) *result {
		if t, ok := o.expired(p, b, now); !ok || due.After(t) {
			return nil
		}
		return &result{outcome: OutcomeHeld, text: what + " since " + b.since.UTC().Format(time.RFC3339) + ": " + b.reason}
	}
	what := "endpoint down"
	if p.inbox != nil {
		what = "app down"
	}
	if r := held(&p.breaker, what); r != nil || u == nil {
		return r
	}
	return held(&u.breaker, "webhook_url failing")
}

// sweep has the store asked for the lanes whose deliveries may have waited for
// too long.
func (a *admission) sweep(now time.Time) {
	o := &a.outages
	if o.next.IsZero() || now.Before(o.next) {
		return
	}
	o.next = time.Time{}
	for _, p := range a.endpoints {
		open := p.breaker.open
		if _, ok := o.expired(p, &p.breaker, now); ok {
			for _, l := range p.lanes {
				a.resumeParked(l)
			}
		}
		for key, u := range p.urls {
			open = open || u.breaker.open
			if _, ok := o.expired(p, &u.breaker, now); ok && p.lanes[key] != nil {
				a.resumeParked(p.lanes[key])
			}
		}
		if open {
			o.next, o.witness = now.Add(o.interval()), true
		}
	}
	if len(o.dirty) > 0 {
		o.next = now.Add(o.interval())
	}
	if len(a.conf.inboxes) > 0 && o.next.IsZero() {
		// The time for which an event is retried is that of a running process,
		// too.
		o.next, o.witness = now.Add(2*o.interval()), true
	}
}

// breakerOf returns the breaker of a lane, nil if nothing is known of it.
func (a *admission) breakerOf(lane store.Lane) *breaker {
	p := a.endpoints[lane.Endpoint]
	switch {
	case p == nil:
		return nil
	case lane.URL == 0:
		return &p.breaker
	}
	if u := p.urls[lane]; u != nil {
		return &u.breaker
	}
	return nil
}

// restore opens the breakers of outages that an earlier process has stored. A
// probe goes first.
func (a *admission) restore(list []store.Outage, now time.Time) {
	for _, o := range list {
		if scope, inbox := o.Lane.Inbox(); inbox && a.conf.inboxes[scope] == nil {
			continue // another configuration's, or another process's
		}
		p := a.endpoint(o.Lane.Endpoint, now)
		limit := &p.limits.Breaker
		if limit.Failures < 1 {
			a.outages.changed(o.Lane) // ends it
			continue
		}
		b := &p.breaker
		if o.Lane.URL != 0 {
			u := a.url(p, o.Lane, now)
			if u == nil {
				continue
			}
			b, u.stored = &u.breaker, true
		} else if !b.open {
			a.countOpen(p, 1)
		}
		*b = breaker{failures: limit.Failures, open: true, since: o.Since, until: now, reason: o.Reason}
		a.outages.next = now
	}
}

// outageWriter commits what outages knows.
type outageWriter struct {
	conf      *Config
	mu        *sync.Mutex // the engine's
	admission *admission
}

// restore restores the outages in the store.
func (w outageWriter) restore(ctx context.Context) error {
	list, err := w.conf.Store.Outages(ctx)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.admission.restore(list, w.conf.Now())
	return nil
}

// begin reports whether there is something to write now. The caller holds the
// mutex and then calls write without it.
func (w outageWriter) begin() bool {
	o := &w.admission.outages
	if o.storing || !o.witness && len(o.dirty) == 0 || w.conf.Now().Before(o.retry) {
		return false
	}
	o.storing, o.witness = true, false
	return true
}

// write commits the outages that have changed, and that a process is running.
func (w outageWriter) write(ctx context.Context) {
	err := w.writeOutages(ctx)
	if err == nil {
		err = w.writeWitness(ctx)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	o := &w.admission.outages
	o.storing = false
	if err != nil {
		o.witness, o.retry = true, w.conf.Now().Add(storeRetryInterval)
	}
	if err != nil && !o.failed && ctx.Err() == nil {
		w.conf.Logger.Error("outages of receivers can't be committed: what waits for them may wait for longer after a restart", zap.Error(err))
	}
	o.failed = err != nil
}

func (w outageWriter) writeOutages(ctx context.Context) error {
	for {
		o, open, ok := w.takeDirty()
		if !ok {
			return nil
		}
		var err error
		if open {
			err = w.conf.Store.BeginOutage(ctx, o)
		} else {
			err = w.conf.Store.EndOutage(ctx, o.Lane)
		}
		if err != nil {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.admission.outages.changed(o.Lane)
			return err
		}
	}
}

// takeDirty returns an outage that began, or the lane of one that ended, and is
// to be committed.
func (w outageWriter) takeDirty() (o store.Outage, open, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	dirty := w.admission.outages.dirty
	for lane := range dirty {
		delete(dirty, lane)
		o.Lane = lane
		if b := w.admission.breakerOf(lane); b != nil && b.open {
			o.Since, o.Reason = b.since, b.reason
			return o, true, true
		}
		return o, false, true
	}
	return o, false, false
}

func (w outageWriter) writeWitness(ctx context.Context) error {
	o := &w.admission.outages
	at := w.conf.Now()
	spans, err := w.conf.Store.Witness(ctx, o.grace())
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	o.spans, o.witnessed = spans, at
	return nil
}
