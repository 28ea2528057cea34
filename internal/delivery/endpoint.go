package delivery

import (
	"container/list"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/caddy-replicate/replicate-webhook/internal/heap"
	"github.com/caddy-replicate/replicate-webhook/store"
)

const (
	// minTrust is the least time for which a response makes its endpoint
	// trusted.
	minTrust = time.Second
	// idleAfter is how long nothing must have happened at an endpoint before
	// its state is dropped.
	idleAfter = 5 * time.Minute
)

// endpoint is what the engine knows of one endpoint. It is guarded by the
// engine's mutex.
type endpoint struct {
	name string
	// limits are those of the configuration, or of the inbox.
	limits *Endpoint
	// inbox is the app that it stands for, nil for an endpoint of URLs.
	inbox *Inbox
	// absent reports that it stands for an app that this configuration does not
	// have: its events wait.
	absent bool
	// blamed are the events that have failed since the last response of an app,
	// up to minBlamed.
	blamed   []int64
	inFlight int
	// reserved are the slots reserved for lanes that are to be asked for,
	// offered those that the claim under way has offered to the store.
	reserved, offered int
	// waiting reports that it waits for a place in the overflow, with
	// nothing in flight.
	waiting bool
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

// trustedAt reports whether the endpoint may have more than one attempt in
// flight.
func (p *endpoint) trustedAt(now time.Time) bool { return now.Before(p.trusted) }

// record records how an attempt went. A response makes the endpoint trusted, in
// proportion to how long its responses take. No response ends the trust.
func (p *endpoint) record(o Outcome, took time.Duration, now time.Time) {
	switch {
	case o.responded():
		p.trusted = now.Add(max(minTrust, 2*took))
	case o.blames() == blameEndpoint:
		p.trusted = time.Time{}
	}
}

// failed counts an attempt that got no complete response against the breaker. That
// of an app opens only when several events have failed, since one alone may be what
// the app can't take. What the app asks for prolongs an open breaker's cooldown.
func (p *endpoint) failed(f *attemptInFlight, r *result, now time.Time) transition {
	limit := p.limits.Breaker
	if p.inbox == nil {
		return p.breaker.failed(&limit, f.probe, 0, r.text, now)
	}
	if len(p.blamed) < minBlamed && !slices.Contains(p.blamed, f.delivery.N) {
		p.blamed = append(p.blamed, f.delivery.N)
	}
	if !p.breaker.open && len(p.blamed) < minBlamed {
		limit.Failures = -1
	}
	limit.Cooldown = max(limit.Cooldown, Duration(min(r.retryAfter, maxProbeDelay)))
	return p.breaker.failed(&limit, f.probe, 0, r.text, now)
}

// tokens returns how many attempts the rate admits now.
func (p *endpoint) tokens(now time.Time) int { return int(p.limiter.TokensAt(now)) }

// nextToken returns when the rate admits one more attempt.
func (p *endpoint) nextToken(now time.Time) time.Time {
	missing := 1 - p.limiter.TokensAt(now)
	// A microsecond more than enough, since the bucket's level is a float.
	return now.Add(time.Duration(missing/float64(p.limiter.Limit())*float64(time.Second)) + time.Microsecond)
}

// idle reports whether there is nothing to remember. A breaker is remembered beyond
// its cooldown, which may be as long as idleAfter, so that its probe goes first.
func (p *endpoint) idle(now time.Time) bool {
	probed := !p.breaker.open || !now.Before(p.breaker.until.Add(idleAfter))
	return p.inFlight == 0 && !p.waiting && len(p.urls) == 0 && probed && !now.Before(p.used.Add(idleAfter)) &&
		(p.limiter == nil || p.tokens(now) >= p.limiter.Burst())
}

// nextChange returns when time alone changes something at the endpoint.
func (p *endpoint) nextChange(now time.Time) time.Time {
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

// laterThan returns t, or a time at which to look again if t is not after now.
func laterThan(now, t time.Time) time.Time {
	if t.After(now) {
		return t
	}
	return now.Add(idleAfter)
}

// timer is when to look again at an endpoint, or at a URL. Each has one timer at
// all times. Use of an endpoint does not move its timer: that the endpoint is
// not idle yet shows when the timer is due.
type timer struct {
	heap.Node
	at       time.Time
	endpoint *endpoint
	url      *hookURL
}

// Before orders timers by their time.
func (t *timer) Before(other *timer) bool { return t.at.Before(other.at) }
