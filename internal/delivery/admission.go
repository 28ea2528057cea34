package delivery

import (
	"container/list"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/caddy-replicate/replicate-webhook/internal/heap"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// # The protocol with the store
//
// The store keeps deliveries in lanes, one for each client of an endpoint, and
// one for each URL that has a breaker of its own. Admission decides how many
// deliveries of a lane may be attempted now. Both sides keep state of a lane, and
// a lane that one of them forgets while the other waits for it would never be
// asked for again. The steps of a claim are these:
//
//  1. prepare returns the lanes that the store is to ask for again, which the
//     engine passes to Resume, and the limit: how many deliveries the workers
//     and the memory have room for.
//  2. ClaimDeliveries calls slots once for each lane whose first delivery is
//     due. The slots that it returns are offered. The store parks a lane that
//     has more due deliveries than slots: it does not ask for it again until
//     Resume. It does not park a lane at which the limit stopped it.
//  3. begin counts each claimed delivery as in flight.
//  4. endClaim looks at the lanes that were asked for. A lane that took all its
//     slots, or got none, is parked here too, and its client stands in the
//     endpoint's line. A lane that took less is empty, and forgotten. After a
//     claim that failed all of them are resumed.
//  5. release returns the slot of an attempt that has ended. reconsider reserves
//     it for a lane in line and has the lane resumed. The next claim asks for the
//     lane, and slots offers what is reserved to it alone.
//
// A slot is therefore reserved, then offered, then in flight, and counts against
// the endpoint's concurrency in each state. Three rules keep that complete:
//
//   - A lane that the store has parked is parked here or is among resume. When
//     the engine stops, all of them are resumed, because another engine may have
//     room for them.
//   - A reservation ends when its lane is asked for, or with the first claim that
//     could have asked for it and did not: the lane was empty then. A claim that
//     was stopped by its limit could not.
//   - A lane that was asked for between the end of an attempt and the end of the
//     claim may hold a newer reservation, which endClaim leaves alone.
//
// Slots that become free together go to the client that had them as long as no
// other is behind it, see nextLane.

const (
	// workerHold is how long an attempt holds a worker.
	workerHold = 100 * time.Millisecond
	// overflowPerWorker is the number of places in the overflow for each
	// worker.
	overflowPerWorker = 8
	// minCommitting is the least bound on attempts whose outcome is being
	// committed: enough for groups that keep a slow disk busy.
	minCommitting = 1024
	// maxPayloads bounds the bytes of payloads in memory. The size of the
	// next ones is estimated from the last, so the bound is exceeded once at
	// most, when they suddenly become larger.
	maxPayloads = 256 << 20
	// firstPayload is the estimate before the first payload.
	firstPayload = 256 << 10
)

// admission decides which deliveries may be attempted. It is guarded by the
// engine's mutex.
type admission struct {
	conf *Config

	endpoints map[string]*endpoint
	urls      int // in all endpoints
	timers    heap.Heap[*timer]
	outages   outages

	workers workers
	backlog backlog
	claim   claim
}

// workers are the attempts in flight: those that hold a worker, and those that
// only wait for their receiver in the overflow.
type workers struct {
	max int
	// busy are the attempts that hold a worker, oldest first.
	busy *list.List // of *attemptInFlight
	// overflow is the number of its places that are taken or reserved.
	overflow, maxOverflow int
	// waiting are the endpoints that wait for a place in the overflow.
	waiting []*endpoint
}

// backlog is what is in memory of deliveries.
type backlog struct {
	// committing counts attempts that have ended but are not committed.
	committing, maxCommitting int
	// payloads is the size of all payloads, typical that of a large one
	// among the last.
	payloads, typical int
}

// claim is the state of the protocol with the store.
type claim struct {
	// asked are the lanes that the claim under way has asked for.
	asked []*lane
	// reserved are the lanes among resume that have slots reserved for them.
	reserved []*lane
	// resume are the lanes that the store is to ask for again.
	resume []store.Lane
	// starved are the lanes that the store has parked because no worker was free.
	starved []store.Lane
	// overflow and workers are the numbers of places in the overflow and of
	// workers that the offers of the claim under way need.
	overflow, workers int
	// full reports that nothing could be claimed for want of room.
	full bool
}

func newAdmission(conf *Config) admission {
	return admission{
		conf:      conf,
		endpoints: make(map[string]*endpoint),
		outages:   newOutages(conf),
		workers:   workers{max: conf.Workers, busy: list.New(), maxOverflow: overflowPerWorker * conf.Workers},
		backlog:   backlog{maxCommitting: max(minCommitting, 4*conf.Workers), typical: firstPayload},
	}
}

// attemptInFlight is an attempt under way, or a claim that ends without one.
type attemptInFlight struct {
	delivery   store.Delivery
	endpoint   *endpoint
	tenant     *tenant
	url        *hookURL // nil if nothing is known of its URL
	began      time.Time
	worker     *list.Element // nil unless it holds a worker
	inOverflow bool
	probe      bool // of the endpoint
	urlProbe   bool
	committing bool // counted in backlog.committing

	// apart reports that the breaker of the delivery's URL is open: the
	// delivery moves to the lane of its URL without an attempt.
	apart bool
	// skipped reports that its claim ends without an attempt.
	skipped bool
	// expired is the result of a delivery that has waited for too long, nil
	// if an attempt is made.
	expired *result
}

// endpoint returns the state of an endpoint, which may be a new one.
func (a *admission) endpoint(name string, now time.Time) *endpoint {
	if p := a.endpoints[name]; p != nil {
		return p
	}
	p := &endpoint{name: name, used: now, limits: &a.conf.Endpoint}
	p.timer = timer{at: now.Add(idleAfter), endpoint: p}
	if scope, inbox := (store.Lane{Endpoint: name}).Inbox(); inbox {
		if p.inbox = a.conf.inboxes[scope]; p.inbox != nil {
			p.limits = &p.inbox.limits
		}
		p.absent = p.inbox == nil
	}
	if r := p.limits.Rate; r.Count > 0 {
		p.limiter = rate.NewLimiter(rate.Limit(float64(r.Count)/time.Duration(r.Per).Seconds()), r.Count)
	}
	a.endpoints[name] = p
	a.timers.Push(&p.timer)
	return p
}

// prepare gets ready for a claim. It returns the lanes that the store has to ask
// for again and how many deliveries may be claimed.
func (a *admission) prepare(now time.Time) (resume []store.Lane, limit int) {
	a.workers.reclaim(now)
	a.fireTimers(now)
	a.sweep(now)
	for n := a.workers.maxOverflow - a.workers.overflow; n > 0 && len(a.workers.waiting) > 0; n-- {
		p := a.workers.dequeue()
		if l := p.next(p.breaker.open); l != nil && a.allowed(p, now) > p.reserved {
			a.reserve(p, l)
		}
	}
	c := &a.claim
	c.overflow = 0
	resume, c.resume = c.resume, nil
	c.workers = 0
	if a.workers.free() > 0 {
		// A lane that found no worker is asked for again.
		resume = append(resume, c.starved...)
		c.starved = c.starved[:0]
	}
	limit = max(min(a.workers.free()+a.freeInboxes(), a.backlog.limit()), 0)
	c.full = limit == 0 || len(c.starved) > 0
	return resume, limit
}

// freeInboxes returns how many more events the apps of inboxes may have. They take
// no workers.
func (a *admission) freeInboxes() (n int) {
	for scope, inbox := range a.conf.inboxes {
		n += max(0, inbox.Concurrency-a.conf.Apps.count(scope))
	}
	return n
}

// slots returns how many deliveries of a lane the store may claim. The store
// calls it during a claim.
func (a *admission) slots(key store.Lane, now time.Time) store.Slots {
	p := a.endpoint(key.Endpoint, now)
	l := p.lane(key)
	if !l.asked {
		l.asked = true
		a.claim.asked = append(a.claim.asked, l)
	}
	n := a.share(p, l, now)
	if len(a.conf.inboxes) > 0 && p.inbox == nil && !p.absent && n > 0 {
		// The claim's limit counts the places of apps as well as workers.
		if n = min(n, a.workers.free()-a.claim.workers); n <= 0 {
			p.unreserve(l)
			l.starved = true
			return store.Slots{}
		}
		a.claim.workers += n
	}
	p.unreserve(l)
	if n == 0 {
		if by := a.outages.dueBy(p, p.urls[key], now); !by.IsZero() {
			// These deliveries end without an attempt and need no slot.
			l.expired = true
			return store.Slots{N: maxExpired, DueBy: by}
		}
		if p.limiter != nil {
			a.sooner(&p.timer, p.nextToken(now))
		}
		return store.Slots{}
	}
	if p.inbox != nil {
		if n = a.conf.Apps.take(p.inbox.Scope, n, p.inbox.Concurrency); n == 0 {
			// Another engine was faster. It says when an attempt has ended.
			return store.Slots{}
		}
	} else if !p.trustedAt(now) {
		a.claim.overflow++
	}
	l.offered = n
	p.offered += n
	return store.Slots{N: n}
}

// share returns how many slots a lane gets.
func (a *admission) share(p *endpoint, l *lane, now time.Time) int {
	u := p.urls[l.key]
	if u != nil && u.blocked(now) {
		return 0
	}
	n := a.allowed(p, now) - (p.reserved - l.reserved)
	if p.othersWait(l.tenant) {
		n = min(n, l.reserved)
	}
	if u != nil && u.breaker.open {
		n = min(n, 1)
	}
	return max(n, 0)
}

// allowed returns how many more attempts an endpoint may have, all its lanes
// together. It does not look at the number of workers, which is the claim's
// limit.
func (a *admission) allowed(p *endpoint, now time.Time) int {
	if p.absent || p.breaker.cooling(now) {
		return 0
	}
	used := p.inFlight + p.offered
	if p.inbox != nil {
		// Those of the configuration that is being replaced count, too.
		n := p.limits.Concurrency - a.conf.Apps.count(p.inbox.Scope)
		if p.breaker.open {
			n = min(n, 1-used)
		}
		return max(n, 0)
	}
	n := p.limits.Concurrency - used
	if p.limiter != nil {
		n = min(n, p.tokens(now)-p.offered)
	}
	if p.trustedAt(now) && !p.breaker.open {
		// Half of what is free: the next endpoint finds something left.
		n = min(n, max((a.workers.free()-used)/2, 1-used))
		return max(n, 0)
	}
	n = min(n, 1-used)
	if n > 0 && a.workers.overflow+a.claim.overflow >= a.workers.maxOverflow {
		a.workers.enqueueForOverflow(p)
		return 0
	}
	return max(n, 0)
}

// begin counts a claimed delivery as in flight.
func (a *admission) begin(d store.Delivery, now time.Time) *attemptInFlight {
	p := a.endpoint(d.Lane.Endpoint, now)
	f := &attemptInFlight{delivery: d, endpoint: p, tenant: p.tenant(d.Lane.Client), began: now}
	expired := false
	if l := p.lanes[d.Lane]; l != nil {
		l.taken++
		expired = l.expired
	}
	p.used = now
	a.backlog.add(len(d.Payload))
	u := p.urls[urlLane(&d)] // none for an inbox
	if expired || u != nil && u.blocked(now) {
		f.expired = a.outages.expiredResult(p, u, d.DueAt, now)
		f.skipped = f.expired == nil
		f.apart = f.skipped && p.inbox == nil
		a.backlog.commit(f)
		return f
	}
	f.probe = p.breaker.probing(now)
	if f.probe {
		p.probed = d.Lane.Client
	}
	p.inFlight++
	f.tenant.inFlight++
	if u != nil {
		f.url, f.urlProbe = u, u.breaker.probing(now)
		u.inFlight++
	}
	if p.limiter != nil {
		p.limiter.AllowN(now, 1)
	}
	if p.inbox == nil {
		a.workers.start(f, f.probe || !p.trustedAt(now))
	}
	return f
}

// endClaim ends a claim. limited reports that the limit may have stopped it.
func (a *admission) endClaim(failed, limited bool, now time.Time) {
	c := &a.claim
	var again []*lane // lanes that got a newer reservation
	for _, l := range c.asked {
		p := a.endpoints[l.key.Endpoint]
		p.offered -= l.offered
		if p.inbox != nil {
			a.conf.Apps.give(p.inbox.Scope, max(0, l.offered-l.taken))
		}
		switch {
		case failed:
			c.resume = append(c.resume, l.key)
		case l.starved:
			c.starved = append(c.starved, l.key)
			p.unpark(l)
		case l.reserved > 0 && l.taken >= l.offered:
			l.again = true
			again = append(again, l)
		case l.offered == 0 || l.taken >= l.offered:
			// It took all it could have. There may be more.
			p.park(l, now)
			if l.expired && l.taken > 0 && limited {
				a.resumeParked(l)
			}
		default:
			p.unpark(l)
		}
		l.offered, l.taken, l.expired, l.asked, l.starved = 0, 0, false, false, false
		a.reconsider(p, now)
		p.tidy(l)
	}
	c.asked = c.asked[:0]
	reserved := c.reserved
	if limited {
		reserved = nil // the next claim asks for the others
	} else {
		c.reserved = again
	}
	for _, l := range reserved {
		if l.reserved == 0 || l.parked || l.again {
			continue
		}
		// The lane has become empty.
		p := a.endpoints[l.key.Endpoint]
		p.unreserve(l)
		p.tidy(l)
		a.reconsider(p, now)
	}
	for _, l := range again {
		l.again = false
	}
}

// appFreed reserves the slots of an app with which another engine's attempt has
// ended.
func (a *admission) appFreed(scope string, now time.Time) {
	if p := a.endpoints[store.InboxLane(scope).Endpoint]; p != nil {
		a.reconsider(p, now)
	}
}

// release records the result of an attempt and returns what the attempt held,
// except its payload, which stays until forget. It returns the URL whose state
// the result has changed, if any, and the transitions of both breakers.
func (a *admission) release(f *attemptInFlight, r *result, now time.Time) (u *hookURL, ofURL, ofEndpoint transition) {
	a.workers.end(f)
	a.backlog.commit(f)
	p := f.endpoint
	p.inFlight--
	f.tenant.inFlight--
	if p.inbox != nil {
		a.conf.Apps.give(p.inbox.Scope, 1)
	}
	p.used = now
	p.record(r.outcome, now.Sub(f.began), now)
	switch {
	case r.outcome.responded():
		p.blamed = nil
		ofEndpoint = p.breaker.succeeded()
	case r.outcome.blames() == blameEndpoint:
		ofEndpoint = p.failed(f, r, now)
	}
	switch ofEndpoint {
	case opened, reopened:
		a.sooner(&p.timer, p.breaker.until)
		if ofEndpoint == opened {
			a.countOpen(p, 1)
		}
	case closed:
		a.countOpen(p, -1)
	}
	if ofEndpoint == opened || ofEndpoint == closed {
		a.outages.changed(store.Lane{Endpoint: p.name})
	}
	u, ofURL = a.recordURL(f, r, now)
	a.reconsider(p, now)
	p.tidyTenant(f.tenant)
	return u, ofURL, ofEndpoint
}

// countOpen counts an endpoint of URLs whose breaker opened or closed.
func (a *admission) countOpen(p *endpoint, n int) {
	if p.inbox == nil {
		a.conf.Metrics.AddOpenEndpoints(n)
	}
}

// forget ends what release and begin have left of an attempt.
func (a *admission) forget(f *attemptInFlight) {
	if f.committing {
		a.backlog.forget(f)
	}
}

// reconsider reserves the free slots of an endpoint for those in line.
func (a *admission) reconsider(p *endpoint, now time.Time) {
	if p.line.Len() == 0 || p.waiting {
		return
	}
	if p.inbox == nil && len(a.workers.waiting) > 0 && p.inFlight == 0 && !p.trustedAt(now) && !p.breaker.cooling(now) {
		a.workers.enqueueForOverflow(p) // behind the others
		return
	}
	for free := a.allowed(p, now) - p.reserved; free > 0; free-- {
		l := p.nextLane()
		if l == nil {
			break
		}
		a.reserve(p, l)
	}
	if p.limiter != nil && p.line.Len() > 0 {
		a.sooner(&p.timer, p.nextChange(now))
	}
}

// reserve reserves a slot for a lane and has the lane resumed.
func (a *admission) reserve(p *endpoint, l *lane) {
	if l.reserved == 0 {
		p.unpark(l)
		a.claim.reserved = append(a.claim.reserved, l)
		a.claim.resume = append(a.claim.resume, l.key)
	}
	l.reserved++
	l.tenant.reserved++
	p.reserved++
}

// resumeParked has a parked lane resumed. It keeps its place in line.
func (a *admission) resumeParked(l *lane) {
	if l.parked {
		a.claim.resume = append(a.claim.resume, l.key)
	}
}

// hasWaiters reports whether somebody waits for capacity that is returned.
func (a *admission) hasWaiters() bool {
	return a.claim.full || len(a.claim.resume) > 0 || len(a.claim.starved) > 0 || len(a.workers.waiting) > 0
}

// fireTimers looks at the endpoints and URLs whose timer is due.
func (a *admission) fireTimers(now time.Time) {
	for len(a.timers) > 0 && !now.Before(a.timers[0].at) {
		t := a.timers[0]
		if t.url != nil {
			a.fireURL(t.url, now)
			continue
		}
		p := t.endpoint
		if !p.idle(now) {
			a.reconsider(p, now)
			a.set(t, p.nextChange(now))
			continue
		}
		for _, l := range p.lanes {
			a.resumeParked(l)
		}
		a.forgetEndpoint(p)
	}
}

// set sets the time of a timer.
func (a *admission) set(t *timer, at time.Time) {
	t.at = at
	a.timers.Fix(t)
}

// sooner sets the time of a timer unless it is due earlier anyway.
func (a *admission) sooner(t *timer, at time.Time) {
	if at.Before(t.at) {
		a.set(t, at)
	}
}

// forgetEndpoint drops the state of an endpoint.
func (a *admission) forgetEndpoint(p *endpoint) {
	if p.breaker.close() == closed {
		a.countOpen(p, -1)
		a.outages.changed(store.Lane{Endpoint: p.name})
	}
	a.timers.Remove(&p.timer)
	delete(a.endpoints, p.name)
	a.claim.reserved = slices.DeleteFunc(a.claim.reserved, func(l *lane) bool { return l.key.Endpoint == p.name })
}

// nextWake returns when time alone changes what may be claimed, zero if it does
// not.
func (a *admission) nextWake(now time.Time) time.Time {
	t := a.outages.next
	if len(a.timers) > 0 {
		t = earlier(t, a.timers[0].at)
	}
	if a.claim.full {
		t = earlier(t, a.workers.nextReclaim(now))
	}
	return t
}

// parked lists the lanes that the store does not ask for.
func (a *admission) parked() []store.Lane {
	lanes := append(slices.Clone(a.claim.resume), a.claim.starved...)
	for _, p := range a.endpoints {
		for key, l := range p.lanes {
			if l.parked {
				lanes = append(lanes, key)
			}
		}
	}
	return lanes
}

// free returns the number of workers that no attempt holds.
func (w *workers) free() int { return w.max - w.busy.Len() }

// start gives an attempt a worker, and a place in the overflow if it needs one.
func (w *workers) start(f *attemptInFlight, overflow bool) {
	f.worker = w.busy.PushBack(f)
	if overflow {
		f.inOverflow = true
		w.overflow++
	}
}

// end takes back what an attempt holds.
func (w *workers) end(f *attemptInFlight) {
	if f.worker != nil {
		w.busy.Remove(f.worker)
		f.worker = nil
	}
	if f.inOverflow {
		f.inOverflow = false
		w.overflow--
	}
}

// reclaim takes the worker from attempts that have held it for workerHold, as
// far as there are places in the overflow.
func (w *workers) reclaim(now time.Time) {
	for e := w.busy.Front(); e != nil; {
		f := e.Value.(*attemptInFlight)
		if now.Before(f.began.Add(workerHold)) {
			return
		}
		next := e.Next()
		if !f.inOverflow && w.overflow < w.maxOverflow {
			f.inOverflow = true
			w.overflow++
		}
		if f.inOverflow {
			w.busy.Remove(e)
			f.worker = nil
		}
		e = next
	}
}

// nextReclaim returns when the next attempt has held its worker for workerHold,
// zero if none will.
func (w *workers) nextReclaim(now time.Time) time.Time {
	for e := w.busy.Front(); e != nil; e = e.Next() {
		if due := e.Value.(*attemptInFlight).began.Add(workerHold); due.After(now) {
			return due
		}
	}
	return time.Time{}
}

// enqueueForOverflow makes an endpoint wait for a place in the overflow.
func (w *workers) enqueueForOverflow(p *endpoint) {
	if !p.waiting {
		p.waiting = true
		w.waiting = append(w.waiting, p)
	}
}

// dequeue returns the endpoint that has waited longest for a place in the
// overflow.
func (w *workers) dequeue() *endpoint {
	p := w.waiting[0]
	w.waiting[0] = nil
	w.waiting = w.waiting[1:]
	p.waiting = false
	return p
}

// add counts a payload of the given size.
func (b *backlog) add(size int) {
	b.payloads += size
	b.typical = max(size, b.typical-b.typical/8, 1)
}

// commit counts an attempt whose outcome is being committed.
func (b *backlog) commit(f *attemptInFlight) {
	f.committing = true
	b.committing++
}

// forget ends what add and commit have counted.
func (b *backlog) forget(f *attemptInFlight) {
	b.committing--
	b.payloads -= len(f.delivery.Payload)
}

// limit returns how many more deliveries may be in memory. It may be negative.
func (b *backlog) limit() int {
	fit := (maxPayloads - b.payloads) / b.typical
	if b.payloads == 0 {
		fit = max(fit, 1) // however large it is
	}
	return min(b.maxCommitting-b.committing, fit)
}

// earlier returns the earlier of two times. The zero time stands for never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
