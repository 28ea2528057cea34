package delivery

import (
	"container/heap"
	"container/list"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/caddy-replicate/replicate-webhook/internal/metrics"
	"github.com/caddy-replicate/replicate-webhook/store"
)

const (
	// patience is how long an attempt holds a worker.
	patience = 100 * time.Millisecond
	// roomPerWorker sizes the waiting room.
	roomPerWorker = 8
	// minCommitting is the least bound on attempts whose outcome is being
	// committed: enough for groups that keep a slow disk busy.
	minCommitting = 1024
	// maxPayloads bounds the bytes of payloads in memory. How large the next
	// ones are is judged by the last, so that it is exceeded once at most
	// when they become larger all of a sudden.
	maxPayloads = 256 << 20
	// firstPayload is the size that payloads are taken to have at first.
	firstPayload = 256 << 10
)

// capacity decides what may be in flight. It is guarded by the engine's mutex.
type capacity struct {
	conf *Config

	endpoints map[string]*endpoint
	urls      int // in all endpoints
	timers    timers
	held      held

	// working are the attempts that hold a worker, oldest first.
	working *list.List
	// room is how many places of the waiting room are taken or reserved.
	room, maxRoom int
	// committing counts attempts that have ended but are not committed.
	committing, maxCommitting int
	// payloads is the size of all payloads in memory, typical that of a
	// large one of late.
	payloads, typical int

	// promised is how many places of the room slots has given away in the
	// claim that is under way.
	promised int
	// starving are the endpoints that wait for room.
	starving []*endpoint
	// resume are lanes of which the store is to be told that they are to be
	// asked for again, granted those among them that have slots kept for
	// them, and asked the lanes that the claim under way is about.
	resume         []store.Lane
	granted, asked []*lane
	// full: the last look found no worker to claim for.
	full bool
}

func newCapacity(conf *Config) capacity {
	return capacity{
		conf:          conf,
		endpoints:     make(map[string]*endpoint),
		working:       list.New(),
		maxRoom:       roomPerWorker * conf.Workers,
		maxCommitting: max(minCommitting, 4*conf.Workers),
		typical:       firstPayload,
		held:          newHeld(conf),
	}
}

// flight is an attempt under way, or a claim that ends without one.
type flight struct {
	delivery store.Delivery
	endpoint *endpoint
	tenant   *tenant
	ofURL    *hookURL // nil if nothing is known of its URL
	begun    time.Time
	worker   *list.Element // nil once it is given back
	inRoom   bool
	probe    bool // of the endpoint
	urlProbe bool
	ended    bool // its outcome is being committed

	// apart: the delivery's URL is held, so it is set apart.
	apart bool
	// outage is what the delivery has waited for too long, nil for an
	// attempt.
	outage *answer
}

// endpoint returns the state of an endpoint, which may be a new one.
func (c *capacity) endpoint(name string, now time.Time) *endpoint {
	if p := c.endpoints[name]; p != nil {
		return p
	}
	p := &endpoint{name: name, used: now}
	p.timer = timer{at: now.Add(idleAfter), endpoint: p}
	if r := c.conf.Endpoint.Rate; r.Count > 0 {
		p.limiter = rate.NewLimiter(rate.Limit(float64(r.Count)/r.Per.Seconds()), r.Count)
	}
	c.endpoints[name] = p
	heap.Push(&c.timers, &p.timer)
	return p
}

// free is how many workers are.
func (c *capacity) free() int { return c.conf.Workers - c.working.Len() }

// allow says how many more attempts an endpoint may have, all its lanes
// together. That the store takes no more than there are workers is the claim's
// limit.
func (c *capacity) allow(p *endpoint, now time.Time) int {
	if p.breaker.cooling(now) {
		return 0
	}
	under := p.inFlight + p.given
	n := c.conf.Endpoint.Concurrency - under
	if p.limiter != nil {
		n = min(n, p.tokens(now)-p.given)
	}
	if now.Before(p.trusted) && !p.breaker.open {
		// Half of what is free: whoever comes next finds something left.
		n = min(n, max((c.free()-under)/2, 1-under))
	} else {
		n = min(n, 1-under)
		if n > 0 && c.room+c.promised >= c.maxRoom {
			c.starve(p)
			return 0
		}
	}
	return max(n, 0)
}

// starve makes an endpoint wait for room.
func (c *capacity) starve(p *endpoint) {
	if !p.starving {
		p.starving = true
		c.starving = append(c.starving, p)
	}
}

// slots answers the store's question during a claim.
func (c *capacity) slots(key store.Lane, now time.Time) store.Slots {
	p := c.endpoint(key.Endpoint, now)
	l := p.lane(key)
	if !l.asked {
		l.asked = true
		c.asked = append(c.asked, l)
	}
	n := c.share(p, l, now)
	p.granted -= l.granted
	l.tenant.granted -= l.granted
	l.granted = 0
	if n == 0 {
		if by := c.held.dueBy(p, p.urls[key], now); !by.IsZero() {
			// They end without an attempt, and need no slot.
			l.overdue = true
			return store.Slots{N: maxOverdue, DueBy: by}
		}
		if p.limiter != nil {
			c.timers.sooner(&p.timer, p.nextToken(now))
		}
		return store.Slots{}
	}
	if !now.Before(p.trusted) {
		c.promised++
	}
	l.given = n
	p.given += n
	return store.Slots{N: n}
}

// share is how many slots a lane gets.
func (c *capacity) share(p *endpoint, l *lane, now time.Time) int {
	u := p.urls[l.key]
	if u != nil && u.blocked(now) {
		return 0
	}
	n := c.allow(p, now) - (p.granted - l.granted)
	if p.othersWait(l.tenant) {
		n = min(n, l.granted)
	}
	if u != nil && u.breaker.open {
		n = min(n, 1)
	}
	return max(n, 0)
}

// begin takes in what was claimed.
func (c *capacity) begin(d store.Delivery, now time.Time) *flight {
	p := c.endpoint(d.Lane.Endpoint, now)
	f := &flight{delivery: d, endpoint: p, tenant: p.tenant(d.Lane.Client), begun: now}
	overdue := false
	if l := p.lanes[d.Lane]; l != nil {
		l.taken++
		overdue = l.overdue
	}
	p.used = now
	c.payloads += len(d.Payload)
	c.typical = max(len(d.Payload), c.typical-c.typical/8, 1)
	u := p.urls[urlLane(&d)]
	if overdue || u != nil && u.blocked(now) {
		if f.outage = c.held.outage(p, u, d.DueAt, now); f.outage == nil {
			f.apart = true
		}
		f.ended = true
		c.committing++
		return f
	}
	f.probe = p.breaker.probing(now)
	if f.probe {
		p.probed = d.Lane.Client
	}
	p.inFlight++
	f.tenant.inFlight++
	if u != nil {
		f.ofURL, f.urlProbe = u, u.breaker.probing(now)
		u.inFlight++
	}
	if p.limiter != nil {
		p.limiter.AllowN(now, 1)
	}
	if f.probe || !now.Before(p.trusted) {
		f.inRoom = true
		c.room++
	}
	f.worker = c.working.PushBack(f)
	return f
}

// settle ends a claim. limited: there was more than it could take.
func (c *capacity) settle(failed, limited bool, now time.Time) {
	var again []*lane // those that got more slots meanwhile, and are asked about again
	for _, l := range c.asked {
		p := c.endpoints[l.key.Endpoint]
		p.given -= l.given
		switch {
		case failed:
			c.resume = append(c.resume, l.key)
		case l.granted > 0 && l.taken >= l.given:
			l.again = true
			again = append(again, l)
		case l.given == 0 || l.taken >= l.given:
			// It took all it could have. There may be more.
			p.park(l, now)
			if l.overdue && l.taken > 0 && limited {
				c.lookAt(l)
			}
		default:
			p.unpark(l)
		}
		l.given, l.taken, l.overdue, l.asked = 0, 0, false, false
		c.reconsider(p, now)
		p.tidy(l)
	}
	c.asked = c.asked[:0]
	granted := c.granted
	if limited {
		granted = nil // the others have their turn in the next one
	} else {
		c.granted = again
	}
	for _, l := range granted {
		if l.granted == 0 || l.parked || l.again {
			continue
		}
		// There was nothing in it any more.
		p := c.endpoints[l.key.Endpoint]
		p.granted -= l.granted
		l.tenant.granted -= l.granted
		l.granted = 0
		p.tidy(l)
		c.reconsider(p, now)
	}
	for _, l := range again {
		l.again = false
	}
}

// end takes in how an attempt went. Its payload stays until forget.
func (c *capacity) end(f *flight, a *answer, now time.Time) (of *hookURL, url, t transition) {
	if f.worker != nil {
		c.working.Remove(f.worker)
		f.worker = nil
	}
	if f.inRoom {
		c.room--
		f.inRoom = false
	}
	f.ended = true
	c.committing++
	p := f.endpoint
	p.inFlight--
	f.tenant.inFlight--
	p.used = now
	p.responded(a.kind, now.Sub(f.begun), now)
	switch {
	case a.kind.responded():
		t = p.breaker.succeeded()
	case a.kind.blames() == ofEndpoint:
		t = p.breaker.failed(&c.conf.Endpoint.Breaker, f.probe, 0, a.text, now)
	}
	switch t {
	case opened, reopened:
		c.timers.sooner(&p.timer, p.breaker.until)
		if t == opened {
			metrics.AddEndpointsOpen(1)
		}
	case closed:
		metrics.AddEndpointsOpen(-1)
	}
	if t == opened || t == closed {
		c.held.changed(store.Lane{Endpoint: p.name})
	}
	of, url = c.urlEnded(f, a, now)
	c.reconsider(p, now)
	p.tidyTenant(f.tenant)
	return of, url, t
}

// forget gives back the rest of what a flight holds.
func (c *capacity) forget(f *flight) {
	c.committing--
	c.payloads -= len(f.delivery.Payload)
}

// reconsider gives the slots that an endpoint has free to those in line.
func (c *capacity) reconsider(p *endpoint, now time.Time) {
	if p.line.Len() == 0 || p.starving {
		return
	}
	if len(c.starving) > 0 && p.inFlight == 0 && !now.Before(p.trusted) && !p.breaker.cooling(now) {
		c.starve(p) // behind the others
		return
	}
	for free := c.allow(p, now) - p.granted; free > 0; free-- {
		l := c.next(p)
		if l == nil {
			break
		}
		c.grant(p, l)
	}
	if p.limiter != nil && p.line.Len() > 0 {
		c.timers.sooner(&p.timer, p.nextAlarm(now))
	}
}

// next returns the lane that a free slot of an endpoint goes to. Those that have
// been granted some already, or are being asked about, left the line, but may
// want more: without them, of slots that become free together all but one would
// go to other clients.
func (c *capacity) next(p *endpoint) *lane {
	best := p.next(p.breaker.open)
	if p.breaker.open || p.granted == 0 && p.given == 0 {
		return best
	}
	for _, l := range p.lanes {
		if l.granted+l.given > 0 && (best == nil || l.load() < best.load()) {
			best = l
		}
	}
	return best
}

// grant keeps a slot for a lane, of which the store is to be told.
func (c *capacity) grant(p *endpoint, l *lane) {
	if l.granted == 0 {
		p.unpark(l)
		c.granted = append(c.granted, l)
		c.resume = append(c.resume, l.key)
	}
	l.granted++
	l.tenant.granted++
	p.granted++
}

// hungry reports whether somebody waits for capacity that is given back.
func (c *capacity) hungry() bool { return c.full || len(c.resume) > 0 || len(c.starving) > 0 }

// prepare gets ready for a claim: it says which lanes the store has to ask for
// again and how many deliveries may be claimed.
func (c *capacity) prepare(now time.Time) (resume []store.Lane, limit int) {
	c.dismiss(now)
	c.ring(now)
	c.sweep(now)
	for room := c.maxRoom - c.room; room > 0 && len(c.starving) > 0; room-- {
		p := c.starving[0]
		c.starving[0] = nil
		c.starving = c.starving[1:]
		p.starving = false
		c.takeTurn(p, now)
	}
	c.promised = 0
	resume, c.resume = c.resume, nil
	limit = min(c.free(), c.maxCommitting-c.committing)
	fit := (maxPayloads - c.payloads) / c.typical
	if c.payloads == 0 {
		fit = max(fit, 1) // however large it is
	}
	limit = max(min(limit, fit), 0)
	c.full = limit == 0
	return resume, limit
}

// takeTurn lets the first in line of an endpoint be asked for that has waited
// for room.
func (c *capacity) takeTurn(p *endpoint, now time.Time) {
	if l := p.next(p.breaker.open); l != nil && c.allow(p, now) > p.granted {
		c.grant(p, l)
	}
}

// dismiss takes the worker from attempts that have had it for long enough, as
// far as the waiting room has places.
func (c *capacity) dismiss(now time.Time) {
	for e := c.working.Front(); e != nil; {
		f := e.Value.(*flight)
		if now.Before(f.begun.Add(patience)) {
			return
		}
		next := e.Next()
		if !f.inRoom && c.room < c.maxRoom {
			f.inRoom = true
			c.room++
		}
		if f.inRoom {
			c.working.Remove(e)
			f.worker = nil
		}
		e = next
	}
}

// ring looks at the endpoints and URLs whose timer has gone off.
func (c *capacity) ring(now time.Time) {
	for len(c.timers) > 0 && !now.Before(c.timers[0].at) {
		t := c.timers[0]
		if t.url != nil {
			c.ringURL(t.url, now)
			continue
		}
		p := t.endpoint
		if !p.idle(now) {
			c.reconsider(p, now)
			c.timers.set(t, p.nextAlarm(now))
			continue
		}
		for key, l := range p.lanes {
			if l.parked {
				c.resume = append(c.resume, key)
			}
		}
		c.drop(p)
	}
}

// drop forgets an endpoint.
func (c *capacity) drop(p *endpoint) {
	if p.breaker.close() == closed {
		metrics.AddEndpointsOpen(-1)
		c.held.changed(store.Lane{Endpoint: p.name})
	}
	heap.Remove(&c.timers, p.timer.pos)
	delete(c.endpoints, p.name)
	c.granted = slices.DeleteFunc(c.granted, func(l *lane) bool { return l.key.Endpoint == p.name })
}

// wakeAt is when time alone changes what may be claimed, zero when it doesn't.
func (c *capacity) wakeAt(now time.Time) time.Time {
	t := c.held.next
	if len(c.timers) > 0 {
		t = earlier(t, c.timers[0].at)
	}
	if c.full {
		for e := c.working.Front(); e != nil; e = e.Next() {
			if due := e.Value.(*flight).begun.Add(patience); due.After(now) {
				return earlier(t, due)
			}
		}
	}
	return t
}

// parked lists the lanes that the store does not ask for.
func (c *capacity) parked() []store.Lane {
	lanes := slices.Clone(c.resume)
	for _, p := range c.endpoints {
		for key, l := range p.lanes {
			if l.parked {
				lanes = append(lanes, key)
			}
		}
	}
	return lanes
}

// earlier is the earlier of two times that are not zero.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
