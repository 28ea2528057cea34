package edge

import (
	"sync"
	"time"
)

// digestInterval is the least time between two digests of one outcome: whoever
// sends forgeries must not be able to fill a disk with logs of them.
const digestInterval = time.Second

// Digest is what was refused with one outcome since the last digest.
type Digest struct {
	Outcome Outcome
	Count   int
	// Status and Client are those of the last refusal.
	Status int
	Client string
}

// Digests reports refusals, outside of the requests: the first with an outcome at
// once, further ones together once a second. Its goroutine runs only while there
// is something to report. It is safe for concurrent use. NewDigests makes one.
type Digests struct {
	report func(Digest)

	mu        sync.Mutex
	byOutcome map[Outcome]*pendingDigest
	running   bool
	wake      chan struct{}
	closed    chan struct{}
	once      sync.Once
}

type pendingDigest struct {
	Digest
	due time.Time // when it may be reported
}

// NewDigests returns Digests that call report, one call at a time.
func NewDigests(report func(Digest)) *Digests {
	return &Digests{
		report: report, byOutcome: make(map[Outcome]*pendingDigest), wake: make(chan struct{}, 1), closed: make(chan struct{}),
	}
}

// Add counts a refusal.
func (r *Digests) Add(f *Refusal, client string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.byOutcome[f.Outcome]
	if d == nil {
		d = &pendingDigest{Digest: Digest{Outcome: f.Outcome}}
		r.byOutcome[f.Outcome] = d
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

// Close has what is left reported, and does not wait for it.
func (r *Digests) Close() { r.once.Do(func() { close(r.closed) }) }

func (r *Digests) run() {
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

// take returns the digests to report now, and the time until the next are due, 0
// if there are none.
func (r *Digests) take(now time.Time) (due []Digest, wait time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	closed := false
	select {
	case <-r.closed:
		closed = true
	default:
	}
	for outcome, d := range r.byOutcome {
		if d.Count > 0 && (closed || !now.Before(d.due)) {
			due = append(due, d.Digest)
			d.Count, d.due = 0, now.Add(digestInterval)
		}
		if d.Count == 0 && (closed || !now.Before(d.due)) {
			delete(r.byOutcome, outcome)
		} else if left := d.due.Sub(now); wait == 0 || left < wait {
			wait = left
		}
	}
	r.running = wait > 0
	return due, wait
}
