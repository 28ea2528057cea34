package delivery

import (
	"container/heap"
	"time"

	"golang.org/x/time/rate"
)

const (
	// minTrust is the least time for which an answer vouches for its
	// endpoint.
	minTrust = time.Second
	// idleAfter is how long nothing must have happened at an endpoint before
	// its state is dropped.
	idleAfter = 5 * time.Minute
)

// endpoint is what the engine knows of one endpoint. It is guarded by the
// engine's mutex.
type endpoint struct {
	name     string
	inFlight int
	// left is how many of those that it was last said it may have have not
	// been claimed.
	left int
	// parked: the store does not ask for it any more, see Store.Resume.
	parked bool
	// starving: parked, with nothing in flight, for want of room.
	starving bool
	// trusted is until when it may have more than one attempt in flight.
	trusted time.Time
	// used is when it last had something to do.
	used    time.Time
	breaker breaker
	limiter *rate.Limiter // nil without a rate
	// reason is what the failure was that opened the breaker.
	reason string

	// alarm is when to look at it again; at its place in the heap.
	alarm time.Time
	at    int
}

// answered takes in how an attempt went: an answer buys the endpoint trust, in
// proportion to how long its answers take. That nothing came ends it.
func (p *endpoint) answered(k kind, took time.Duration, now time.Time) {
	switch {
	case k.answered():
		p.trusted = now.Add(max(minTrust, 2*took))
	case k.health() == down:
		p.trusted = time.Time{}
	}
}

// tokens is how many attempts the rate admits now.
func (p *endpoint) tokens(now time.Time) int { return int(p.limiter.TokensAt(now)) }

// nextToken is when the rate admits one more.
func (p *endpoint) nextToken(now time.Time) time.Time {
	missing := 1 - p.limiter.TokensAt(now)
	// A microsecond more than enough, since the bucket's level is a float.
	return now.Add(time.Duration(missing/float64(p.limiter.Limit())*float64(time.Second)) + time.Microsecond)
}

// idle reports whether there is nothing to remember.
func (p *endpoint) idle(now time.Time) bool {
	return p.inFlight == 0 && !p.starving && !p.breaker.cooling(now) && !now.Before(p.used.Add(idleAfter)) &&
		(p.limiter == nil || p.tokens(now) >= p.limiter.Burst())
}

// nextAlarm is when something changes at an endpoint by itself.
func (p *endpoint) nextAlarm(now time.Time) time.Time {
	t := p.used.Add(idleAfter)
	if !t.After(now) {
		t = now.Add(idleAfter)
	}
	if p.breaker.cooling(now) && p.breaker.until.Before(t) {
		t = p.breaker.until
	}
	if p.limiter != nil && p.parked && p.tokens(now) < 1 {
		if next := p.nextToken(now); next.Before(t) {
			t = next
		}
	}
	return t
}

// alarms orders endpoints by their alarms. Each endpoint is in it once: being
// used only moves its end away, which is found out when the alarm goes off.
type alarms []*endpoint

// set arms an endpoint's alarm.
func (h *alarms) set(p *endpoint, t time.Time) {
	p.alarm = t
	heap.Fix(h, p.at)
}

// sooner arms an endpoint's alarm unless it goes off earlier anyway.
func (h *alarms) sooner(p *endpoint, t time.Time) {
	if t.Before(p.alarm) {
		h.set(p, t)
	}
}

func (h alarms) Len() int           { return len(h) }
func (h alarms) Less(a, b int) bool { return h[a].alarm.Before(h[b].alarm) }
func (h alarms) Swap(a, b int) {
	h[a], h[b] = h[b], h[a]
	h[a].at, h[b].at = a, b
}
func (h *alarms) Push(x any) {
	p := x.(*endpoint)
	p.at = len(*h)
	*h = append(*h, p)
}
func (h *alarms) Pop() any {
	old := *h
	p := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return p
}
