package delivery

import (
	"container/heap"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// maxURLs bounds the URLs whose failures are counted. Beyond it the deliveries
// to a failing URL are retried on their own schedule alone.
const maxURLs = 10_000

// hookURL is a client's URL that has answered with failures. What a receiver
// answers is about this URL of this client alone, never about others on the
// same endpoint.
type hookURL struct {
	lane     store.Lane // of this URL alone
	endpoint *endpoint
	breaker  breaker
	inFlight int
	// kept: the outage is in the store, or on its way there.
	kept  bool
	used  time.Time
	timer timer
}

// blocked reports whether nothing may be sent to the URL, since its breaker is
// open and the cooldown or the probe is not over.
func (u *hookURL) blocked(now time.Time) bool {
	return u.breaker.cooling(now) || u.breaker.open && u.inFlight > 0
}

// urlLane returns the lane of the one URL that a delivery goes to.
func urlLane(d *store.Delivery) store.Lane {
	return store.Lane{Endpoint: d.Lane.Endpoint, Client: d.Client}.Only(d.URL)
}

// url returns the state of the URL of a delivery, which may be a new one. It is
// nil if there are too many.
func (c *capacity) url(p *endpoint, key store.Lane, now time.Time) *hookURL {
	if u := p.urls[key]; u != nil {
		return u
	}
	if c.urls >= maxURLs {
		return nil
	}
	u := &hookURL{lane: key, endpoint: p, used: now}
	u.timer = timer{at: now.Add(idleAfter), url: u}
	put(&p.urls, key, u)
	c.urls++
	heap.Push(&c.timers, &u.timer)
	return u
}

// forgetURL drops the state of a URL. What waits for it waits for slots like
// any other.
func (c *capacity) forgetURL(u *hookURL, now time.Time) {
	p := u.endpoint
	u.breaker.open = false
	c.keepURL(u)
	heap.Remove(&c.timers, u.timer.pos)
	remove(&p.urls, u.lane)
	c.urls--
	c.releaseURL(p, u.lane, now)
}

// releaseURL puts the lane of a URL that is not held any more in line.
func (c *capacity) releaseURL(p *endpoint, key store.Lane, now time.Time) {
	if l := p.lanes[key]; l != nil && l.parked {
		p.park(l, now)
	}
}

// urlEnded takes in how an attempt went, as far as that is about its URL.
func (c *capacity) urlEnded(f *flight, a *answer, now time.Time) (*hookURL, transition) {
	p, key := f.endpoint, urlLane(&f.delivery)
	u := p.urls[key]
	if f.ofURL != nil {
		f.ofURL.inFlight--
	}
	t := unchanged
	switch {
	case a.kind.success():
		if u == nil {
			return nil, unchanged
		}
		if t = u.breaker.succeeded(); u.inFlight == 0 {
			c.forgetURL(u, now)
			return u, t
		}
	case a.kind.blames() == ofURL:
		if u == nil {
			if u = c.url(p, key, now); u == nil {
				return nil, unchanged
			}
		}
		t = u.breaker.failed(&c.conf.Endpoint.Breaker, f.urlProbe, a.retryAfter, a.text, now)
	}
	if u == nil {
		return nil, unchanged
	}
	u.used = now
	c.keepURL(u)
	if u.breaker.open && c.held.next.IsZero() {
		c.held.next = now
	}
	c.timers.sooner(&u.timer, u.nextAlarm(now))
	if !u.blocked(now) {
		c.releaseURL(p, key, now)
	}
	return u, t
}

// keepURL has the store keep the outage of a URL, as long as it is one. A wait
// that a receiver has asked for is none.
func (c *capacity) keepURL(u *hookURL) {
	if outage := u.breaker.open && u.breaker.tripped(&c.conf.Endpoint.Breaker); outage != u.kept {
		u.kept = outage
		c.held.changed(u.lane)
	}
}

// nextAlarm is when something changes at a URL by itself.
func (u *hookURL) nextAlarm(now time.Time) time.Time {
	if u.breaker.cooling(now) {
		return u.breaker.until
	}
	return laterThan(now, u.used.Add(idleAfter))
}

// ringURL looks at a URL whose timer has gone off.
func (c *capacity) ringURL(u *hookURL, now time.Time) {
	p := u.endpoint
	idle := u.inFlight == 0 && !u.breaker.cooling(now) && !now.Before(u.used.Add(idleAfter))
	if l := p.lanes[u.lane]; idle && (l == nil || !l.parked) {
		c.forgetURL(u, now)
		return
	}
	c.timers.set(&u.timer, u.nextAlarm(now))
	if !u.blocked(now) {
		c.releaseURL(p, u.lane, now)
		c.reconsider(p, now)
	}
}
