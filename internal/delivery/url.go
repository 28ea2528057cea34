package delivery

import (
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// maxURLs bounds the URLs whose failures are counted. Beyond it, deliveries to a
// failing URL are retried on their own schedule alone.
const maxURLs = 10_000

// hookURL is a client's URL whose receiver has refused deliveries. A refusal is
// about this URL of this client alone, never about others on the same endpoint.
type hookURL struct {
	lane     store.Lane // of this URL alone
	endpoint *endpoint
	breaker  breaker
	inFlight int
	// stored reports that the outage is in the store, or will be soon.
	stored bool
	used   time.Time
	timer  timer
}

// blocked reports whether nothing may be sent to the URL: its breaker is open,
// and the cooldown or the probe is not over.
func (u *hookURL) blocked(now time.Time) bool {
	return u.breaker.cooling(now) || u.breaker.open && u.inFlight > 0
}

// nextChange returns when time alone changes something at the URL.
func (u *hookURL) nextChange(now time.Time) time.Time {
	if u.breaker.cooling(now) {
		return u.breaker.until
	}
	return laterThan(now, u.used.Add(idleAfter))
}

// urlLane returns the lane of the one URL that a delivery goes to.
func urlLane(d *store.Delivery) store.Lane {
	return store.Lane{Endpoint: d.Lane.Endpoint, Client: d.Client}.Only(d.URL)
}

// url returns the state of a URL, which may be a new one. It returns nil if
// there are too many.
func (a *admission) url(p *endpoint, key store.Lane, now time.Time) *hookURL {
	if u := p.urls[key]; u != nil {
		return u
	}
	if a.urls >= maxURLs {
		return nil
	}
	u := &hookURL{lane: key, endpoint: p, used: now}
	u.timer = timer{at: now.Add(idleAfter), url: u}
	put(&p.urls, key, u)
	a.urls++
	a.timers.Push(&u.timer)
	return u
}

// forgetURL drops the state of a URL. What waits for it now waits for slots.
func (a *admission) forgetURL(u *hookURL, now time.Time) {
	p := u.endpoint
	u.breaker.open = false
	a.storeURL(u)
	a.timers.Remove(&u.timer)
	remove(&p.urls, u.lane)
	a.urls--
	a.unblockURL(p, u.lane, now)
}

// unblockURL puts the lane of a URL that is not blocked any more in line.
func (a *admission) unblockURL(p *endpoint, key store.Lane, now time.Time) {
	if l := p.lanes[key]; l != nil && l.parked {
		p.park(l, now)
	}
}

// recordURL records the result of an attempt as far as it is about the URL. It
// returns the URL, nil if there is nothing to remember, and the transition of its
// breaker.
func (a *admission) recordURL(f *attemptInFlight, r *result, now time.Time) (*hookURL, transition) {
	p, key := f.endpoint, urlLane(&f.delivery)
	if p.inbox != nil {
		return nil, unchanged // its app has no URL
	}
	u := p.urls[key]
	if f.url != nil {
		f.url.inFlight--
	}
	t := unchanged
	switch {
	case r.outcome.success():
		if u == nil {
			return nil, unchanged
		}
		if t = u.breaker.succeeded(); u.inFlight == 0 {
			a.forgetURL(u, now)
			return u, t
		}
	case r.outcome.blames() == blameURL:
		if u == nil {
			if u = a.url(p, key, now); u == nil {
				return nil, unchanged
			}
		}
		t = u.breaker.failed(&a.conf.Endpoint.Breaker, f.urlProbe, r.retryAfter, r.text, now)
	}
	if u == nil {
		return nil, unchanged
	}
	u.used = now
	a.storeURL(u)
	if u.breaker.open && a.outages.next.IsZero() {
		a.outages.next = now
	}
	a.sooner(&u.timer, u.nextChange(now))
	if !u.blocked(now) {
		a.unblockURL(p, key, now)
	}
	return u, t
}

// storeURL has the outage of a URL committed, or its end. A wait that a receiver
// has asked for is no outage.
func (a *admission) storeURL(u *hookURL) {
	if outage := u.breaker.open && u.breaker.tripped(&a.conf.Endpoint.Breaker); outage != u.stored {
		u.stored = outage
		a.outages.changed(u.lane)
	}
}

// fireURL looks at a URL whose timer is due.
func (a *admission) fireURL(u *hookURL, now time.Time) {
	p := u.endpoint
	idle := u.inFlight == 0 && !u.breaker.cooling(now) && !now.Before(u.used.Add(idleAfter))
	if l := p.lanes[u.lane]; idle && (l == nil || !l.parked) {
		a.forgetURL(u, now)
		return
	}
	a.set(&u.timer, u.nextChange(now))
	if !u.blocked(now) {
		a.unblockURL(p, u.lane, now)
		a.reconsider(p, now)
	}
}
