package delivery

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/internal/metrics"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// A delivery waits behind an open breaker for Breaker.Hold at most. Then that is
// a failed try, and the next wait of its schedule begins, so that every delivery
// comes to an end however long its receiver is down.
//
// The wait is counted from when the delivery was due or the breaker opened,
// whichever is later, and only as far as a process was there to see it. Both
// outlive the process: outages are in the store, and so are the times in which
// one was there.

const (
	// maxOverdue is how many deliveries of a lane may end at once because
	// they have waited for too long.
	maxOverdue = 1 << 20
	// maxSweep and minSweep bound how often it is looked which have, and
	// holdSweeps is how often in the time of a hold.
	maxSweep   = 10 * time.Second
	minSweep   = 50 * time.Millisecond
	holdSweeps = 20
)

// held knows which outages there are and since when. It is guarded by the
// engine's mutex.
type held struct {
	conf *Config
	// began is when the engine was made, the least that a process was there.
	began time.Time
	// spans are the times in which a process was there, and witnessed when
	// the store said so.
	spans     []store.Span
	witnessed time.Time
	// next is when to look which deliveries have waited for too long, zero
	// if no breaker is open.
	next time.Time
	// beat: the store is to be told that a process is there.
	beat bool
	// dirty are lanes whose outage began or ended and is to be committed.
	dirty map[store.Lane]bool
	// keeping: a goroutine does both. failed: it could not, until retry.
	keeping, failed bool
	retry           time.Time
}

func newHeld(conf *Config) held {
	return held{conf: conf, began: conf.Now(), dirty: make(map[store.Lane]bool)}
}

// every is how often it is looked which deliveries have waited for too long.
func (h *held) every() time.Duration {
	return min(max(h.conf.Endpoint.Breaker.Hold/holdSweeps, minSweep), maxSweep)
}

// grace is how far apart the times may be in which a process was seen to be
// there all along.
func (h *held) grace() time.Duration { return 3 * h.every() }

// changed notes that the breaker of a lane opened or closed.
func (h *held) changed(lane store.Lane) {
	h.dirty[lane] = true
	if h.next.IsZero() {
		h.next = h.conf.Now()
	}
}

// threshold returns the time since when a process was there for a whole hold:
// what has waited since then has waited for too long. It is zero if no process
// was there for so long.
func (h *held) threshold(now time.Time) time.Time {
	left := h.conf.Endpoint.Breaker.Hold
	if h.witnessed.IsZero() {
		if t := now.Add(-left); t.After(h.began) {
			return t
		}
		return time.Time{}
	}
	// A clock that was set, or a process that stood still, is no time that was
	// waited: the next look at the store makes a gap of it.
	passed := now.Sub(h.witnessed)
	if jump := now.Round(0).Sub(h.witnessed.Round(0)) - passed; max(passed, jump.Abs()) > h.grace() {
		return time.Time{}
	}
	// The spans are by the store's clock, which may not be this node's.
	last := len(h.spans) - 1
	ended := h.spans[last].Ended.Add(passed)
	ahead := now.Round(0).Sub(ended)
	for i := last; i >= 0; i-- {
		s := h.spans[i]
		if i < last {
			ended = s.Ended
		}
		switch was := ended.Sub(s.Began); {
		case was >= left && i == last:
			return now.Add(-left)
		case was >= left:
			return ended.Add(ahead - left)
		case was > 0:
			left -= was
		}
	}
	return time.Time{}
}

// expired reports whether a breaker has been open for a whole hold, and since
// when a delivery must be due to have waited for as long.
func (h *held) expired(b *breaker, now time.Time) (since time.Time, ok bool) {
	if !b.cooling(now) {
		return time.Time{}, false
	}
	t := h.threshold(now)
	return t, !t.IsZero() && !b.since.After(t)
}

// dueBy returns by when the deliveries of a lane must be due to have waited for
// too long, zero if none has.
func (h *held) dueBy(p *endpoint, u *hookURL, now time.Time) time.Time {
	if t, ok := h.expired(&p.breaker, now); ok {
		return t
	}
	if u != nil {
		if t, ok := h.expired(&u.breaker, now); ok {
			return t
		}
	}
	return time.Time{}
}

// outage returns what the try of a delivery has come to that has waited for too
// long, nil if it has not.
func (h *held) outage(p *endpoint, u *hookURL, due, now time.Time) *answer {
	if t, ok := h.expired(&p.breaker, now); ok && !due.After(t) {
		return &answer{kind: kindHeld, text: "endpoint down since " + p.breaker.since.UTC().Format(time.RFC3339) + ": " + p.breaker.reason}
	}
	if u == nil {
		return nil
	}
	if t, ok := h.expired(&u.breaker, now); ok && !due.After(t) {
		return &answer{kind: kindHeld, text: "webhook_url failing since " + u.breaker.since.UTC().Format(time.RFC3339) + ": " + u.breaker.reason}
	}
	return nil
}

// sweep has the store asked for the lanes whose deliveries may have waited for
// too long.
func (c *capacity) sweep(now time.Time) {
	h := &c.held
	if h.next.IsZero() || now.Before(h.next) {
		return
	}
	h.next = time.Time{}
	for _, p := range c.endpoints {
		open := p.breaker.open
		if _, ok := h.expired(&p.breaker, now); ok {
			for _, l := range p.lanes {
				c.lookAt(l)
			}
		}
		for key, u := range p.urls {
			open = open || u.breaker.open
			if _, ok := h.expired(&u.breaker, now); ok && p.lanes[key] != nil {
				c.lookAt(p.lanes[key])
			}
		}
		if open {
			h.next, h.beat = now.Add(h.every()), true
		}
	}
	if len(h.dirty) > 0 {
		h.next = now.Add(h.every())
	}
}

// lookAt has the store asked for a lane that keeps its place in line.
func (c *capacity) lookAt(l *lane) {
	if l.parked {
		c.resume = append(c.resume, l.key)
	}
}

// breakerOf returns the breaker of a lane, nil if nothing is known of it.
func (c *capacity) breakerOf(lane store.Lane) *breaker {
	p := c.endpoints[lane.Endpoint]
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

// restore takes up the outages that were known to the process before. A probe
// goes first.
func (c *capacity) restore(outages []store.Outage, now time.Time) {
	limit := &c.conf.Endpoint.Breaker
	for _, o := range outages {
		if limit.Failures < 1 {
			c.held.changed(o.Lane) // ends it
			continue
		}
		p := c.endpoint(o.Lane.Endpoint, now)
		b := &p.breaker
		if o.Lane.URL != 0 {
			u := c.url(p, o.Lane, now)
			if u == nil {
				continue
			}
			b, u.kept = &u.breaker, true
		} else if !b.open {
			metrics.AddEndpointsOpen(1)
		}
		*b = breaker{failures: limit.Failures, open: true, since: o.Since, until: now, reason: o.Reason}
		c.held.next = now
	}
}

// restore does so once, when the store can be asked.
func (e *Engine) restore() error {
	outages, err := e.conf.Store.Outages(e.life)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.capacity.restore(outages, e.conf.Now())
	e.keep()
	return nil
}

// keep commits which outages there are, and that the engine is there while
// there are any. It is called with the mutex held.
func (e *Engine) keep() {
	h := &e.capacity.held
	if h.keeping || !h.beat && len(h.dirty) == 0 || e.conf.Now().Before(h.retry) {
		return
	}
	h.keeping, h.beat = true, false
	e.pending++
	go func() {
		err := e.keepOutages()
		e.mu.Lock()
		defer e.mu.Unlock()
		h.keeping = false
		if err != nil {
			h.beat, h.retry = true, e.conf.Now().Add(storeRetry)
		}
		if err != nil && !h.failed && e.life.Err() == nil {
			e.conf.Logger.Error("outages of receivers can't be committed: what waits for them may wait for longer after a restart", zap.Error(err))
		}
		h.failed = err != nil
		e.leave()
	}()
}

func (e *Engine) keepOutages() error {
	for {
		lane, o, begin, ok := e.dirtyOutage()
		if !ok {
			break
		}
		var err error
		if begin {
			err = e.conf.Store.BeginOutage(e.life, o)
		} else {
			err = e.conf.Store.EndOutage(e.life, lane)
		}
		if err != nil {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.capacity.held.changed(lane)
			return err
		}
	}
	return e.witness(e.life)
}

// dirtyOutage takes a lane whose outage is to be committed.
func (e *Engine) dirtyOutage() (lane store.Lane, o store.Outage, begin, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for lane = range e.capacity.held.dirty {
		delete(e.capacity.held.dirty, lane)
		b := e.capacity.breakerOf(lane)
		if b != nil && b.open {
			return lane, store.Outage{Lane: lane, Since: b.since, Reason: b.reason}, true, true
		}
		return lane, store.Outage{}, false, true
	}
	return store.Lane{}, store.Outage{}, false, false
}

func (e *Engine) witness(ctx context.Context) error {
	h := &e.capacity.held
	at := e.conf.Now()
	spans, err := e.conf.Store.Witness(ctx, h.grace())
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	h.spans, h.witnessed = spans, at
	return nil
}
