package delivery

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/internal/metrics"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// storeRetry is how long the engine lets a store be that can't be used.
const storeRetry = time.Second

// Engine delivers what is due in a store. Several may work on one store, since
// it gives no delivery to two of them. All methods are safe for concurrent use.
type Engine struct {
	conf      Config
	transport http.RoundTripper
	reports   *reports
	targets   targets

	mu sync.Mutex
	// capacity is guarded by mu, which is never held while the store is
	// called: the store asks for slots under locks of its own.
	capacity capacity
	// pending counts the dispatcher and all flights.
	pending int
	started bool
	stopped bool

	wake chan struct{} // has one place
	quit chan struct{} // closed by Stop
	done chan struct{}

	// exit is closed by Wait: what the store refuses is left to the next
	// process.
	exit     chan struct{}
	exitOnce sync.Once
	// life ends when Wait's patience does.
	life context.Context
	kill context.CancelFunc

	// unsigned is when it was last logged that something can't be signed.
	unsigned atomic.Pointer[time.Time]

	// Only the dispatcher uses these.
	restored    bool
	storeFailed bool
	retryStore  time.Time
}

// New makes an engine. It fails if the configuration can't work.
func New(conf Config) (*Engine, error) {
	if err := conf.complete(); err != nil {
		return nil, err
	}
	e := &Engine{
		conf:      conf,
		transport: transport(&conf),
		wake:      make(chan struct{}, 1),
		quit:      make(chan struct{}),
		done:      make(chan struct{}),
		exit:      make(chan struct{}),
	}
	e.capacity = newCapacity(&e.conf)
	e.reports = newReports(&e.conf)
	e.life, e.kill = context.WithCancel(context.Background())
	return e, nil
}

// Start begins to deliver. Only the first call does anything.
func (e *Engine) Start() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.started || e.stopped {
		return
	}
	e.started = true
	e.pending++
	go e.dispatch()
}

// Stop ends claiming and returns at once. Attempts in flight go on, and their
// outcomes are committed; Done tells when. Only the first call does anything.
func (e *Engine) Stop() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stopped {
		return
	}
	e.stopped = true
	close(e.quit)
	if e.pending == 0 {
		e.finished()
	}
}

// Done is closed once the engine is stopped and the outcome of the last attempt
// is committed.
func (e *Engine) Done() <-chan struct{} { return e.done }

// Wait stops the engine and waits until it is done. It is for the end of the
// process: outcomes that the store refuses to commit are not kept trying, and
// when ctx ends, what is still in flight is cut off. Both are delivered again
// after a restart. The error is that of ctx.
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

// finished is called with the mutex held, when nothing is pending.
func (e *Engine) finished() {
	for _, p := range e.capacity.endpoints {
		if p.breaker.open {
			metrics.AddEndpointsOpen(-1)
		}
	}
	e.capacity.endpoints, e.capacity.timers = nil, nil
	e.kill()
	if t, ok := e.transport.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
	close(e.done)
}

// leave gives back what Start and launch took in pending.
func (e *Engine) leave() {
	e.pending--
	if e.stopped && e.pending == 0 {
		e.finished()
	}
}

// nudge makes the dispatcher look again.
func (e *Engine) nudge() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// dispatch claims what is due and begins its attempts. It sleeps until the
// next delivery, alarm or signal.
func (e *Engine) dispatch() {
	changed, unsubscribe := e.conf.Store.Changed()
	defer func() {
		unsubscribe()
		e.mu.Lock()
		parked := e.capacity.parked()
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
		var alarm <-chan time.Time
		if next := e.claim(); !next.IsZero() {
			// What is due and was not claimed is not to be asked for in a
			// busy loop.
			timer.Reset(max(next.Sub(e.conf.Now()), time.Millisecond))
			alarm = timer.C
		}
		select {
		case <-e.quit:
			return
		case <-e.wake:
		case <-changed:
		case <-alarm:
		}
	}
}

// claim begins as many attempts as may begin now. It gives the time to look
// again at the latest, zero for when there is a signal.
func (e *Engine) claim() (next time.Time) {
	for {
		now := e.conf.Now()
		e.mu.Lock()
		resume, limit := e.capacity.prepare(now)
		wake, stopped := e.capacity.wakeAt(now), e.stopped
		if !stopped {
			e.keep()
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
		if err := e.conf.Store.Ready(); err != nil {
			// An attempt whose outcome can't be committed would be made
			// twice.
			e.storeDown(err)
			return earlier(wake, e.retryStore)
		}
		if !e.restored {
			if err := e.restore(); err != nil {
				e.storeDown(err)
				return earlier(wake, e.retryStore)
			}
			e.restored = true
		}
		claimed, due, err := e.conf.Store.ClaimDeliveries(e.life, limit, func(lane store.Lane) store.Slots {
			e.mu.Lock()
			defer e.mu.Unlock()
			return e.capacity.slots(lane, now)
		})
		e.launch(claimed, err != nil, len(claimed) == limit, now)
		if err != nil {
			e.storeDown(err)
			return earlier(wake, e.retryStore)
		}
		e.storeUp()
		if len(claimed) < limit {
			e.mu.Lock()
			wake = e.capacity.wakeAt(now)
			e.mu.Unlock()
			return earlier(wake, due)
		}
	}
}

func (e *Engine) storeDown(err error) {
	e.retryStore = e.conf.Now().Add(storeRetry)
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

// launch begins the attempts of what was claimed, and ends the claims of which
// nothing is sent.
func (e *Engine) launch(claimed []store.Delivery, failed, limited bool, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range claimed {
		e.pending++
		switch f := e.capacity.begin(claimed[i], now); {
		case f.outage != nil:
			go e.giveUpTry(f)
		case f.apart:
			go e.release(f, f.delivery.DueAt)
		default:
			go e.fly(f)
		}
	}
	e.capacity.settle(failed, limited, now)
	if len(e.capacity.resume) > 0 {
		e.nudge()
	}
}

// fly takes a delivery through one attempt to its commit.
func (e *Engine) fly(f *flight) {
	d := &f.delivery
	o := store.Outcome{Delivery: *d, Attempt: store.Attempt{
		Delivery: d.ID, Event: d.Event, URL: d.URL, Number: d.Attempts + 1, At: e.conf.Now(),
	}}
	a := e.attempt(d, o.Attempt.Number, o.Attempt.At)
	if e.life.Err() != nil {
		// Cut off. Whether the receiver has it nobody knows.
		e.forget(f)
		return
	}
	end := e.conf.Now()
	switch {
	case a.unsigned:
		e.noteUnsigned(d, &a, end)
		e.land(f, &a, end)
		e.release(f, end.Add(signRetry))
		return
	case errors.Is(a.cause, errClaimLost):
		e.conf.Logger.Warn("delivery attempt not made", zap.String("delivery", d.ID), zap.Error(errClaimLost))
		e.land(f, &a, end)
		// Whoever has it by now knows when it is due.
		e.release(f, end.Add(storeRetry))
		return
	}
	o.Attempt.Took = end.Sub(o.Attempt.At)
	o.Attempt.Status, o.Attempt.Response, o.Attempt.Error, o.Attempt.Exception = a.status, a.response, a.text, a.exception
	o.Verdict, o.Due = e.conf.Retry.verdict(&a, o.Attempt.Number, end)
	o.Apart = e.land(f, &a, end)
	e.note(&o, &a)
	if e.commit(&o) {
		e.conclude(&o, &a, end)
	}
	e.forget(f)
}

// signRetry is the time until a delivery is tried again that could not be
// signed.
const signRetry = 5 * time.Second

// noteUnsigned logs that a delivery could not be signed. That is no attempt: the
// receiver is not at fault, and the secrets will be there again.
func (e *Engine) noteUnsigned(d *store.Delivery, a *answer, now time.Time) {
	if last := e.unsigned.Load(); last == nil || now.Sub(*last) >= time.Minute {
		if e.unsigned.CompareAndSwap(last, &now) {
			e.conf.Logger.Error("deliveries can't be signed: they wait", zap.String("delivery", d.ID), zap.Error(a.cause))
		}
	}
}

// giveUpTry ends the try of a delivery that has waited for too long behind an
// open breaker.
func (e *Engine) giveUpTry(f *flight) {
	d, a, now := &f.delivery, f.outage, e.conf.Now()
	o := store.Outcome{Delivery: *d, Attempt: store.Attempt{
		Delivery: d.ID, Event: d.Event, URL: d.URL, Number: d.Attempts + 1, At: now, Error: a.text,
	}}
	o.Verdict, o.Due = e.conf.Retry.verdict(a, o.Attempt.Number, now)
	e.note(&o, a)
	if e.commit(&o) {
		e.conclude(&o, a, now)
	}
	e.forget(f)
}

// land gives back what an attempt held while it was in flight. It reports
// whether nothing more is sent to its URL for now.
func (e *Engine) land(f *flight, a *answer, now time.Time) (apart bool) {
	e.mu.Lock()
	p := f.endpoint
	u, ofURL, t := e.capacity.end(f, a, now)
	report := EndpointReport{Endpoint: p.name, Failures: p.breaker.failures, Until: p.breaker.until, Error: p.breaker.reason}
	var hook breaker
	if u != nil {
		hook, apart = u.breaker, u.blocked(now)
	}
	e.keep()
	if e.capacity.hungry() {
		e.nudge()
	}
	e.mu.Unlock()
	switch client := zap.String("client", f.delivery.Client); ofURL {
	case opened:
		e.conf.Logger.Warn("a client's webhook_url is left alone: its deliveries wait", zap.String("endpoint", p.name), client,
			zap.Int("failures", hook.failures), zap.Time("until", hook.until), zap.String("error", hook.reason))
	case closed:
		e.conf.Logger.Info("a client's webhook_url works again: its deliveries go on", zap.String("endpoint", p.name), client)
	}
	switch t {
	case opened:
		e.conf.Logger.Warn("endpoint is open: its deliveries wait", zap.String("endpoint", p.name),
			zap.Int("failures", report.Failures), zap.Time("until", report.Until), zap.String("error", report.Error))
		e.reports.endpoint(e.conf.OnEndpointOpen, report)
	case closed:
		e.conf.Logger.Info("endpoint is closed: its deliveries go on", zap.String("endpoint", p.name))
		e.reports.endpoint(e.conf.OnEndpointClosed, EndpointReport{Endpoint: p.name})
	}
	return apart
}

// forget ends a flight.
func (e *Engine) forget(f *flight) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if f.ended {
		e.capacity.forget(f)
	}
	if e.capacity.full {
		e.nudge()
	}
	e.leave()
}
