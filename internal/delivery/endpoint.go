package delivery

import (
	"container/heap"
	"container/list"
	"time"

	"golang.org/x/time/rate"

	"github.com/caddy-replicate/replicate-webhook/store"
)

const (
	// minTrust is the least time for which a response vouches for its
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
	// granted and given are the slots that lanes have which wait to be asked
	// about, and those that were given away in the claim under way.
	granted, given int
	// starving: with nothing in flight, for want of room.
	starving bool
	// trusted is until when it may have more than one attempt in flight.
	trusted time.Time
	// used is when it last had something to do.
	used    time.Time
	breaker breaker
	limiter *rate.Limiter // nil without a rate
	// probed is the client whose attempt was the last probe.
	probed string

	lanes   map[store.Lane]*lane
	tenants map[string]*tenant
	line    list.List // of *tenant, those that wait for slots
	urls    map[store.Lane]*hookURL

	timer timer
}

// responded takes in how an attempt went: a response buys the endpoint trust, in
// proportion to how long its responses take. That nothing came ends it.
func (p *endpoint) responded(k kind, took time.Duration, now time.Time) {
	switch {
	case k.responded():
		p.trusted = now.Add(max(minTrust, 2*took))
	case k.blames() == ofEndpoint:
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
	return p.inFlight == 0 && !p.starving && len(p.urls) == 0 && !p.breaker.cooling(now) && !now.Before(p.used.Add(idleAfter)) &&
		(p.limiter == nil || p.tokens(now) >= p.limiter.Burst())
}

// nextAlarm is when something changes at an endpoint by itself.
func (p *endpoint) nextAlarm(now time.Time) time.Time {
	t := laterThan(now, p.used.Add(idleAfter))
	if p.breaker.cooling(now) && p.breaker.until.Before(t) {
		t = p.breaker.until
	}
	if p.limiter != nil && p.line.Len() > 0 && p.tokens(now) < 1 {
		if next := p.nextToken(now); next.Before(t) {
			t = next
		}
	}
	return t
}

// laterThan returns t, or if it is not after now a time at which to look again.
func laterThan(now, t time.Time) time.Time {
	if t.After(now) {
		return t
	}
	return now.Add(idleAfter)
}

// timer is when to look again at an endpoint, or at a URL.
type timer struct {
	at       time.Time
	pos      int
	endpoint *endpoint
	url      *hookURL
}

// timers orders endpoints and URLs by when to look at them. Each is in it once:
// being used only moves its end away, which is found out when the timer goes
// off.
type timers []*timer

// set arms a timer.
func (h *timers) set(t *timer, at time.Time) {
	t.at = at
	heap.Fix(h, t.pos)
}

// sooner arms a timer unless it goes off earlier anyway.
func (h *timers) sooner(t *timer, at time.Time) {
	if at.Before(t.at) {
		h.set(t, at)
	}
}

func (h timers) Len() int           { return len(h) }
func (h timers) Less(a, b int) bool { return h[a].at.Before(h[b].at) }
func (h timers) Swap(a, b int) {
	h[a], h[b] = h[b], h[a]
	h[a].pos, h[b].pos = a, b
}
func (h *timers) Push(x any) {
	t := x.(*timer)
	t.pos = len(*h)
	*h = append(*h, t)
}
func (h *timers) Pop() any {
	old := *h
	t := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return t
}
