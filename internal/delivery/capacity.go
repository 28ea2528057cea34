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
	alarms    alarms

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
	// resume are the parked endpoints of which the store is to be told.
	resume []string
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
	}
}

// flight is an attempt under way.
type flight struct {
	delivery store.Delivery
	endpoint *endpoint
	begun    time.Time
	worker   *list.Element // nil once it is given back
	inRoom   bool
	probe    bool
	ended    bool // its outcome is being committed
}

// endpoint gives the state of an endpoint, which may be a new one.
func (c *capacity) endpoint(name string, now time.Time) *endpoint {
	if p := c.endpoints[name]; p != nil {
		return p
	}
	p := &endpoint{name: name, used: now, alarm: now.Add(idleAfter)}
	if r := c.conf.Endpoint.Rate; r.Count > 0 {
		p.limiter = rate.NewLimiter(rate.Limit(float64(r.Count)/r.Per.Seconds()), r.Count)
	}
	c.endpoints[name] = p
	heap.Push(&c.alarms, p)
	return p
}

// free is how many workers are.
func (c *capacity) free() int { return c.conf.Workers - c.working.Len() }

// allow says how many more attempts an endpoint may have. That the store takes
// no more than there are workers is the claim's limit.
func (c *capacity) allow(p *endpoint, now time.Time) int {
	if p.breaker.cooling(now) {
		return 0
	}
	n := c.conf.Endpoint.Concurrency - p.inFlight
	if p.limiter != nil {
		n = min(n, p.tokens(now))
	}
	if now.Before(p.trusted) && !p.breaker.open {
		// Half of what is free: whoever comes next finds something left.
		n = min(n, max((c.free()-p.inFlight)/2, 1-p.inFlight))
	} else {
		n = min(n, 1-p.inFlight)
		if n > 0 && c.room+c.promised >= c.maxRoom {
			c.starve(p)
			return 0
		}
	}
	return max(n, 0)
}

// starve makes an endpoint wait for room.
func (c *capacity) starve(p *endpoint) {
	p.parked = true
	if !p.starving {
		p.starving = true
		c.starving = append(c.starving, p)
	}
}

// slots answers the store's question during a claim.
func (c *capacity) slots(name string, now time.Time) int {
	p := c.endpoint(name, now)
	n := c.allow(p, now)
	p.left, p.parked = n, n == 0
	if n == 0 && p.limiter != nil {
		c.alarms.sooner(p, p.nextAlarm(now))
	}
	if n > 0 && !now.Before(p.trusted) {
		c.promised++
	}
	return n
}

// begin takes an attempt in.
func (c *capacity) begin(d store.Delivery, now time.Time) *flight {
	p := c.endpoint(store.EndpointOf(d.URL), now)
	f := &flight{delivery: d, endpoint: p, begun: now, probe: p.breaker.probing(now)}
	p.used = now
	p.inFlight++
	p.left--
	if p.left <= 0 {
		// It took all it could have. There may be more.
		p.parked = true
	}
	if p.limiter != nil {
		p.limiter.AllowN(now, 1)
		c.alarms.sooner(p, p.nextAlarm(now))
	}
	if f.probe || !now.Before(p.trusted) {
		f.inRoom = true
		c.room++
	}
	f.worker = c.working.PushBack(f)
	c.payloads += len(d.Payload)
	c.typical = max(len(d.Payload), c.typical-c.typical/8, 1)
	return f
}

// end takes in how an attempt went. Its payload stays until forget.
func (c *capacity) end(f *flight, a *answer, now time.Time) transition {
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
	p.used = now
	p.answered(a.kind, now.Sub(f.begun), now)
	t := p.breaker.record(&c.conf.Endpoint.Breaker, a.kind.health(), f.probe, now)
	switch t {
	case opened, reopened:
		p.reason = a.text
		c.alarms.sooner(p, p.breaker.until)
		if t == opened {
			metrics.AddEndpointsOpen(1)
		}
	case closed:
		metrics.AddEndpointsOpen(-1)
	}
	c.reconsider(p, now)
	return t
}

// forget gives back the rest of what a flight holds.
func (c *capacity) forget(f *flight) {
	c.committing--
	c.payloads -= len(f.delivery.Payload)
}

// reconsider has the store told of a parked endpoint that may have more.
func (c *capacity) reconsider(p *endpoint, now time.Time) {
	if !p.parked || p.starving {
		return
	}
	if len(c.starving) > 0 && p.inFlight == 0 && !now.Before(p.trusted) && !p.breaker.cooling(now) {
		c.starve(p) // behind the others
		return
	}
	if c.allow(p, now) > 0 {
		p.parked = false
		c.resume = append(c.resume, p.name)
	} else if p.limiter != nil {
		c.alarms.sooner(p, p.nextAlarm(now))
	}
}

// hungry reports whether somebody waits for capacity that is given back.
func (c *capacity) hungry() bool { return c.full || len(c.resume) > 0 || len(c.starving) > 0 }

// prepare gets ready for a claim: it says which endpoints the store has to ask
// for again and how many deliveries may be claimed.
func (c *capacity) prepare(now time.Time) (resume []string, limit int) {
	c.dismiss(now)
	c.ring(now)
	for room := c.maxRoom - c.room; room > 0 && len(c.starving) > 0; room-- {
		p := c.starving[0]
		c.starving[0] = nil
		c.starving = c.starving[1:]
		p.starving, p.parked = false, false
		c.resume = append(c.resume, p.name)
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

// ring looks at the endpoints whose alarm has gone off.
func (c *capacity) ring(now time.Time) {
	for len(c.alarms) > 0 && !now.Before(c.alarms[0].alarm) {
		p := c.alarms[0]
		if !p.idle(now) {
			c.reconsider(p, now)
			c.alarms.set(p, p.nextAlarm(now))
			continue
		}
		if p.parked {
			c.resume = append(c.resume, p.name)
		}
		c.drop(p)
	}
}

// drop forgets an endpoint.
func (c *capacity) drop(p *endpoint) {
	if p.breaker.open {
		metrics.AddEndpointsOpen(-1)
	}
	heap.Remove(&c.alarms, p.at)
	delete(c.endpoints, p.name)
}

// wakeAt is when time alone changes what may be claimed, zero when it doesn't.
func (c *capacity) wakeAt(now time.Time) time.Time {
	var t time.Time
	if len(c.alarms) > 0 {
		t = c.alarms[0].alarm
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

// parked lists the endpoints that the store does not ask for.
func (c *capacity) parked() []string {
	names := slices.Clone(c.resume)
	for _, p := range c.endpoints {
		if p.parked {
			names = append(names, p.name)
		}
	}
	return names
}

// earlier is the earlier of two times that are not zero.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
