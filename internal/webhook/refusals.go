package webhook

import (
	"sync"
	"time"
)

// refusalsEvery is how often the refusals for one reason are reported at most:
// whoever sends forgeries must not be able to fill a disk with logs of them.
const refusalsEvery = time.Second

// Digest is what was refused for one reason since it was last reported.
type Digest struct {
	Reason string
	Count  int
	// Status and Client are the last one's.
	Status int
	Client string
}

// Refusals reports refusals, off the request's path: the first for a reason at
// once, further ones together once a second. Its goroutine runs only while
// there is something to report.
type Refusals struct {
	report func(Digest)

	mu       sync.Mutex
	byReason map[string]*refused
	running  bool
	wake     chan struct{}
	closed   chan struct{}
	once     sync.Once
}

type refused struct {
	Digest
	due time.Time // when it may be reported
}

// NewRefusals makes Refusals that call report, one call at a time.
func NewRefusals(report func(Digest)) *Refusals {
	return &Refusals{
		report: report, byReason: make(map[string]*refused), wake: make(chan struct{}, 1), closed: make(chan struct{}),
	}
}

// Add counts a refusal.
func (r *Refusals) Add(f *Refusal, client string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.byReason[f.Reason]
	if d == nil {
		d = &refused{Digest: Digest{Reason: f.Reason}}
		r.byReason[f.Reason] = d
	}
	d.Count++
	d.Status, d.Client = f.Status, client
	switch {
	case !r.running:
		r.running = true
		go r.run()
	case d.due.IsZero():
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
}

// Close reports what is left, without waiting for that.
func (r *Refusals) Close() { r.once.Do(func() { close(r.closed) }) }

func (r *Refusals) run() {
	for {
		due, wait := r.take(time.Now())
		for _, d := range due {
			r.report(d)
		}
		if wait == 0 {
			return
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-r.wake:
		case <-r.closed:
		}
		timer.Stop()
	}
}

// take gives what is to be reported now and how long to wait for the next, 0
// for not at all.
func (r *Refusals) take(now time.Time) (due []Digest, wait time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	closed := false
	select {
	case <-r.closed:
		closed = true
	default:
	}
	for reason, d := range r.byReason {
		if d.Count > 0 && (closed || !now.Before(d.due)) {
			due = append(due, d.Digest)
			d.Count, d.due = 0, now.Add(refusalsEvery)
		}
		if d.Count == 0 && (closed || !now.Before(d.due)) {
			delete(r.byReason, reason)
		} else if left := d.due.Sub(now); wait == 0 || left < wait {
			wait = left
		}
	}
	r.running = wait > 0
	return due, wait
}
