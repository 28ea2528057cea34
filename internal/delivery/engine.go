package delivery

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// storeRetryInterval is the delay before an unavailable store is tried again.
const storeRetryInterval = time.Second

// Engine delivers what is due in a store. Several engines may work on one store,
// which gives no delivery to two of them. All methods are safe for concurrent use.
type Engine struct {
	conf      Config
	client    client
	committer committer
	outages   outageWriter
	reports   *reports

	mu sync.Mutex
	// admission is guarded by mu. mu is never held while the store is called,
	// because the store asks for slots under locks of its own.
	admission admission
	// pending counts the dispatcher, all attempts in flight, the writer of
	// outages, and the senders of progress.
	pending int
	started bool
	stopped bool
	// progress has what is to be sent of predictions that run: see Progress.
	progress map[int64]*progressLine

	wake chan struct{} // has one place
	quit chan struct{} // closed by Stop
	done chan struct{}

	// exit is closed by Wait. What the store refuses is then left to the next
	// process.
	exit     chan struct{}
	exitOnce sync.Once
	// life ends when the context of Wait does.
	life context.Context
	kill context.CancelFunc

	// unsigned is when it was last logged that something can't be signed.
	unsigned atomic.Pointer[time.Time]

	// Only the dispatcher uses these.
	restored    bool
	storeFailed bool
	retryStore  time.Time
}

// New returns an engine. It fails if the configuration is not valid.
func New(conf Config) (*Engine, error) {
	if err := conf.setDefaults(); err != nil {
		return nil, err
	}
	e := &Engine{
		conf: conf,
		wake: make(chan struct{}, 1),
		quit: make(chan struct{}),
		done: make(chan struct{}),
		exit: make(chan struct{}),
	}
	e.life, e.kill = context.WithCancel(context.Background())
	e.admission = newAdmission(&e.conf)
	e.client = client{conf: &e.conf, life: e.life, transport: newTransport(&e.conf)}
	e.committer = committer{conf: &e.conf, life: e.life, exit: e.exit}
	e.outages = outageWriter{conf: &e.conf, mu: &e.mu, admission: &e.admission}
	e.reports = newReports(&e.conf)
	return e, nil
}

// Start starts the engine. Only the first call does anything.
func (e *Engine) Start() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.started || e.stopped {
		return
	}
	e.started = true
	e.conf.Apps.run(e)
	e.pending++
	go e.dispatch()
}

// Stop ends claiming and returns at once. Attempts in flight go on, and their
// outcomes are committed. Done tells when. Only the first call does anything.
func (e *Engine) Stop() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stopped {
		return
	}
	e.stopped = true
	close(e.quit)
	if e.pending == 0 {
		e.finish()
	}
}

// Done returns a channel that is closed once the engine is stopped and the
// outcome of the last attempt is committed.
func (e *Engine) Done() <-chan struct{} { return e.done }

// Wait stops the engine and waits until it is done. It is for the end of the
// process: outcomes that the store refuses to commit are not tried again, and
// when ctx ends, attempts in flight are cut off. Both are delivered again after a
// restart. The error is that of ctx.
func (e *Engine) Wait(ctx context.Context) error {
	e.Stop()
	e.exitOnce.Do(func() { close(e.exit) })
	select {
	case <-e.done:
		return nil
	case <-ctx.Done():
		e.kill()
		return ctx.Err()
	}
}

// finish must be called with the mutex held, when nothing is pending.
func (e *Engine) finish() {
	for _, p := range e.admission.endpoints {
		if p.breaker.open {
			e.admission.countOpen(p, -1)
		}
		if p.inbox != nil {
			e.conf.Apps.give(p.inbox.Scope, p.inFlight) // of attempts that were cut off
		}
	}
	e.conf.Apps.ended(e)
	e.admission.endpoints, e.admission.timers = nil, nil
	e.kill()
	e.client.closeIdle()
	close(e.done)
}

// leave takes one from pending. It must be called with the mutex held.
func (e *Engine) leave() {
	e.pending--
	if e.stopped && e.pending == 0 {
		e.finish()
	}
}

// wakeUp makes the dispatcher look again.
func (e *Engine) wakeUp() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// dispatch claims what is due and begins its attempts. It sleeps until the
// next delivery, timer or signal.
func (e *Engine) dispatch() {
	changed, unsubscribe := e.conf.Store.Changed()
	defer func() {
		unsubscribe()
		e.mu.Lock()
		parked := e.admission.parked()
		e.mu.Unlock()
		// Another engine may have room for them.
		e.conf.Store.Resume(parked...)
		e.mu.Lock()
		defer e.mu.Unlock()
		e.leave()
	}()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		var due <-chan time.Time
		if next := e.claim(); !next.IsZero() {
			// At least a millisecond, so that deliveries which are due but
			// were not claimed are not asked for in a busy loop.
			timer.Reset(max(next.Sub(e.conf.Now()), time.Millisecond))
			due = timer.C
		}
		select {
		case <-e.quit:
			return
		case <-e.wake:
		case <-changed:
		case <-due:
		}
	}
}

// claim begins as many attempts as may begin now. It returns the time to look
// again at the latest, zero to wait for a signal.
func (e *Engine) claim() (next time.Time) {
	for {
		now := e.conf.Now()
		e.mu.Lock()
		resume, limit := e.admission.prepare(now)
		wake, stopped := e.admission.nextWake(now), e.stopped
		if !stopped {
			e.writeOutages()
		}
		e.mu.Unlock()
		if len(resume) > 0 {
			e.conf.Store.Resume(resume...)
		}
		if stopped || limit == 0 {
			return wake
		}
		if now.Before(e.retryStore) {
			return earlier(wake, e.retryStore)
		}
		// Without this check an attempt whose outcome can't be committed
		// would be made twice.
		err := e.conf.Store.Ready()
		if err == nil {
			err = e.restore()
		}
		if err != nil {
			e.storeDown(err)
			return earlier(wake, e.retryStore)
		}
		// Not before the time at which outages were restored, whose breakers are to
		// be half-open.
		now = e.conf.Now()
		claimed, due, err := e.conf.Store.ClaimDeliveries(e.life, limit, func(lane store.Lane) store.Slots {
			e.mu.Lock()
			defer e.mu.Unlock()
			return e.admission.slots(lane, now)
		})
		e.launch(claimed, err != nil, len(claimed) == limit, now)
		if err != nil {
			e.storeDown(err)
			return earlier(wake, e.retryStore)
		}
		e.storeUp()
		if len(claimed) < limit {
			e.mu.Lock()
			wake = e.admission.nextWake(now)
			e.mu.Unlock()
			return earlier(wake, due)
		}
	}
}

// restore restores the outages that are in the store, once.
func (e *Engine) restore() error {
	if e.restored {
		return nil
	}
	if err := e.outages.restore(e.life); err != nil {
		return err
	}
	e.restored = true
	e.mu.Lock()
	defer e.mu.Unlock()
	e.writeOutages()
	return nil
}

// writeOutages begins to commit what has changed of outages. It must be called
// with the mutex held.
func (e *Engine) writeOutages() {
	if !e.outages.begin() {
		return
	}
	e.pending++
	go func() {
		e.outages.write(e.life)
		e.mu.Lock()
		defer e.mu.Unlock()
		e.leave()
	}()
}

func (e *Engine) storeDown(err error) {
	e.retryStore = e.conf.Now().Add(storeRetryInterval)
	if !e.storeFailed {
		e.storeFailed = true
		e.conf.Logger.Error("delivery waits for the store", zap.Error(err))
	}
}

func (e *Engine) storeUp() {
	if e.storeFailed {
		e.storeFailed = false
		e.conf.Logger.Info("delivery goes on")
	}
}

// launch begins the attempts of the claimed deliveries, and releases the claims
// of which no attempt is made.
func (e *Engine) launch(claimed []store.Delivery, failed, limited bool, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range claimed {
		e.pending++
		switch f := e.admission.begin(claimed[i], now); {
		case f.expired != nil:
			go e.expire(f)
		case f.skipped:
			go e.releaseClaim(f, f.delivery.DueAt)
		default:
			go e.run(f)
		}
	}
	e.admission.endClaim(failed, limited, now)
	if len(e.admission.claim.resume) > 0 {
		e.wakeUp()
	}
}

// run takes a delivery through one attempt to its commit.
func (e *Engine) run(f *attemptInFlight) {
	d := &f.delivery
	o := store.Outcome{Delivery: *d, Attempt: store.Attempt{
		Delivery: d.ID, Event: d.Event, URL: d.URL, Number: d.Attempts + 1, At: e.conf.Now(),
	}}
	inbox := f.endpoint.inbox
	var r result
	if inbox != nil {
		r = e.pass(inbox, d, o.Attempt.Number)
	} else {
		r = e.client.attempt(d, o.Attempt.Number, o.Attempt.At, func() bool { return e.conf.Store.Holds(*d) })
	}
	if e.life.Err() != nil {
		// The attempt was cut off. It is not known whether the receiver has
		// the event.
		e.forget(f)
		return
	}
	end := e.conf.Now()
	switch {
	case r.abandoned:
		e.release(f, &r, end)
		e.releaseClaim(f, end)
		return
	case r.unsigned:
		e.logUnsigned(d, &r, end)
		e.release(f, &r, end)
		e.releaseClaim(f, end.Add(signRetryInterval))
		return
	case errors.Is(r.cause, errClaimLost):
		e.conf.Logger.Warn("delivery attempt not made", zap.String("delivery", d.ID), zap.Error(errClaimLost))
		e.release(f, &r, end)
		// The process that holds the claim knows when it is due.
		e.releaseClaim(f, end.Add(storeRetryInterval))
		return
	}
	o.Attempt.Took = end.Sub(o.Attempt.At)
	o.Attempt.Status, o.Attempt.Response, o.Attempt.Error, o.Attempt.Exception = r.status, r.response, r.text, r.exception
	o.Refused = r.refused
	o.Apart = e.release(f, &r, end)
	o.Disposition, o.Due = e.disposition(f, &r, o.Attempt.Number, end)
	e.commit(f, &o, &r, end)
}

// disposition returns what follows from an attempt that ended at the given time.
func (e *Engine) disposition(f *attemptInFlight, r *result, attempt int, end time.Time) (store.Disposition, time.Time) {
	inbox := f.endpoint.inbox
	if inbox == nil || r.final() {
		return e.conf.Retry.disposition(r, attempt, end)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	since := e.admission.outages.since(f.endpoint, inbox.RetryFor, end)
	last := !since.IsZero() && !f.delivery.WaitingSince.After(since)
	d, due := inbox.follow(r, &f.delivery, attempt, last, end)
	if d == store.Retry && r.outcome.blames() == blameEndpoint && f.endpoint.breaker.open {
		// The breaker alone decides when the app is tried again.
		due = end
	}
	return d, due
}

// expire ends the attempt of a delivery that has waited for too long behind an
// open breaker.
func (e *Engine) expire(f *attemptInFlight) {
	d, r, now := &f.delivery, f.expired, e.conf.Now()
	o := store.Outcome{Delivery: *d, Attempt: store.Attempt{
		Delivery: d.ID, Event: d.Event, URL: d.URL, Number: d.Attempts + 1, At: now, Error: r.text,
	}}
	o.Disposition, o.Due = e.disposition(f, r, o.Attempt.Number, now)
	e.commit(f, &o, r, now)
}

// commit reports an attempt, commits its outcome and forgets it.
func (e *Engine) commit(f *attemptInFlight, o *store.Outcome, r *result, end time.Time) {
	e.conf.reportAttempt(o, r)
	if e.committer.commit(o) {
		e.reportFinal(o, r, end)
	}
	e.forget(f)
}

// releaseClaim releases the claim of a delivery of which no attempt was made.
func (e *Engine) releaseClaim(f *attemptInFlight, due time.Time) {
	e.committer.releaseClaim(f.delivery, f.apart, due)
	e.forget(f)
}

// signRetryInterval is the delay before a delivery that could not be signed is
// tried again.
const signRetryInterval = 5 * time.Second

// logUnsigned logs, once a minute at most, that a delivery could not be signed.
// That is not an attempt: the receiver is not at fault, and the secrets will be
// available again.
func (e *Engine) logUnsigned(d *store.Delivery, r *result, now time.Time) {
	if last := e.unsigned.Load(); last == nil || now.Sub(*last) >= time.Minute {
		if e.unsigned.CompareAndSwap(last, &now) {
			e.conf.Logger.Error("deliveries can't be signed: they wait", zap.String("delivery", d.ID), zap.Error(r.cause))
		}
	}
}

// release records the result of an attempt and returns what the attempt held
// while it was in flight. It reports whether nothing more may be sent to the
// delivery's URL for now.
func (e *Engine) release(f *attemptInFlight, r *result, now time.Time) (apart bool) {
	e.mu.Lock()
	p := f.endpoint
	u, ofURL, ofEndpoint := e.admission.release(f, r, now)
	report := EndpointReport{Endpoint: p.name, Failures: p.breaker.failures, Until: p.breaker.until, Error: p.breaker.reason}
	var b breaker // of the URL
	if u != nil {
		b, apart = u.breaker, u.blocked(now)
	}
	e.writeOutages()
	if e.admission.hasWaiters() {
		e.wakeUp()
	}
	e.mu.Unlock()
	if p.inbox != nil {
		for _, other := range e.conf.Apps.others(e) {
			other.appFreed(p.inbox.Scope)
		}
	}
	switch client := zap.String("client", f.delivery.Client); ofURL {
	case opened:
		e.conf.Logger.Warn("the breaker of a client's webhook_url is open: its deliveries wait", zap.String("endpoint", p.name), client,
			zap.Int("failures", b.failures), zap.Time("until", b.until), zap.String("error", b.reason))
	case closed:
		e.conf.Logger.Info("the breaker of a client's webhook_url is closed: its deliveries go on", zap.String("endpoint", p.name), client)
	}
	switch {
	case p.inbox != nil && ofEndpoint == opened:
		e.conf.Logger.Warn("the app behind an inbox is down: its events wait", zap.String("scope", p.inbox.Scope),
			zap.Int("failures", report.Failures), zap.Time("until", report.Until), zap.String("error", report.Error))
	case p.inbox != nil && ofEndpoint == closed:
		e.conf.Logger.Info("the app behind an inbox is back: its events go on", zap.String("scope", p.inbox.Scope))
	case p.inbox != nil:
	case ofEndpoint == opened:
		e.conf.Logger.Warn("endpoint is open: its deliveries wait", zap.String("endpoint", p.name),
			zap.Int("failures", report.Failures), zap.Time("until", report.Until), zap.String("error", report.Error))
		e.reports.endpoint(e.conf.OnEndpointOpen, report)
	case ofEndpoint == closed:
		e.conf.Logger.Info("endpoint is closed: its deliveries go on", zap.String("endpoint", p.name))
		e.reports.endpoint(e.conf.OnEndpointClosed, EndpointReport{Endpoint: p.name})
	}
	return apart
}

// appFreed notes that another engine's attempt with the app of a scope has ended.
func (e *Engine) appFreed(scope string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stopped {
		return
	}
	e.admission.appFreed(scope, e.conf.Now())
	e.wakeUp()
}

// forget ends an attempt.
func (e *Engine) forget(f *attemptInFlight) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.admission.forget(f)
	if e.admission.claim.full {
		e.wakeUp()
	}
	e.leave()
}
