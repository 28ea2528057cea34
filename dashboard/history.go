package dashboard

import (
	"context"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-replicate/replicate-webhook/internal/delivery"
	"github.com/caddy-replicate/replicate-webhook/internal/metrics"
)

// What is charted. Counters of outcomes are summed up into these.
const (
	reqAccepted = iota
	reqDuplicate
	reqRejected
	reqTrouble
	attDelivered
	attRefused
	attUnanswered
	counters
)

// sample is what happened within one step, and the backlog at its end.
type sample struct {
	end     time.Time
	count   [counters]uint32
	pending int32 // -1: not known
}

const (
	// sampleEvery is the finest step of a chart.
	sampleEvery = 10 * time.Second
	// maxSamples cover a day.
	maxSamples = int(24 * time.Hour / sampleEvery)
)

// history is what the charts show: this process' counters over time. It is
// shared by all dashboards of the process and outlives reloads.
type history struct {
	now  func() time.Time
	read func() metrics.Totals

	mu      sync.Mutex
	samples []sample // a ring once it is full
	next    int      // where the ring goes on
	last    [counters]uint64
	sources []*source
	wake    chan struct{} // closed and replaced when the counters moved
	moved   [counters]uint64
	stop    chan struct{}
}

// source is where a configuration's backlog is read.
type source struct {
	pending func(context.Context) (int, error)
}

// histories holds the one history. A configuration takes it over from the one
// before.
var histories = caddy.NewUsagePool()

const historyKey = "history"

// attachHistory takes a reference to the process' history.
func attachHistory(s *source) (*history, error) {
	v, _, err := histories.LoadOrNew(historyKey, func() (caddy.Destructor, error) {
		h := newHistory(time.Now, metrics.ReadTotals)
		go h.run()
		return h, nil
	})
	if err != nil {
		return nil, err
	}
	h := v.(*history)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sources = append(h.sources, s)
	return h, nil
}

// detach gives the reference back.
func (h *history) detach(s *source) error {
	h.mu.Lock()
	for i, other := range h.sources {
		if other == s {
			h.sources = append(h.sources[:i:i], h.sources[i+1:]...)
			break
		}
	}
	h.mu.Unlock()
	_, err := histories.Delete(historyKey)
	return err
}

func newHistory(now func() time.Time, read func() metrics.Totals) *history {
	h := &history{now: now, read: read, wake: make(chan struct{}), stop: make(chan struct{})}
	h.last = sum(read())
	h.moved = h.last
	return h
}

// Destruct ends the sampling. The pool calls it with the last reference.
func (h *history) Destruct() error {
	close(h.stop)
	return nil
}

// watchEvery is how often the counters are looked at for those who watch.
const watchEvery = 500 * time.Millisecond

func (h *history) run() {
	watch, take := time.NewTicker(watchEvery), time.NewTicker(sampleEvery)
	defer watch.Stop()
	defer take.Stop()
	for {
		select {
		case <-h.stop:
			return
		case <-watch.C:
			h.look()
		case <-take.C:
			h.sample()
		}
	}
}

// look wakes those who watch if something happened.
func (h *history) look() {
	now := sum(h.read())
	h.mu.Lock()
	defer h.mu.Unlock()
	if now != h.moved {
		h.moved = now
		close(h.wake)
		h.wake = make(chan struct{})
	}
}

// Changed is closed when something happens.
func (h *history) Changed() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.wake
}

// sample keeps what happened since the last one.
func (h *history) sample() {
	pending := h.pending()
	now := sum(h.read())
	h.mu.Lock()
	defer h.mu.Unlock()
	s := sample{end: h.now(), pending: pending}
	for i := range now {
		s.count[i] = uint32(now[i] - h.last[i])
	}
	h.last = now
	if len(h.samples) < maxSamples {
		h.samples = append(h.samples, s)
		return
	}
	h.samples[h.next] = s
	h.next = (h.next + 1) % maxSamples
}

// pending asks the newest configuration that is there.
func (h *history) pending() int32 {
	h.mu.Lock()
	var s *source
	if n := len(h.sources); n > 0 {
		s = h.sources[n-1]
	}
	h.mu.Unlock()
	if s == nil {
		return -1
	}
	ctx, cancel := context.WithTimeout(context.Background(), sampleEvery/2)
	defer cancel()
	n, err := s.pending(ctx)
	if err != nil {
		return -1
	}
	return int32(n)
}

// Since gives the samples that ended after a time, oldest first, and as the
// last one what happened since.
func (h *history) Since(t time.Time) []sample {
	now := sum(h.read())
	h.mu.Lock()
	defer h.mu.Unlock()
	var found []sample
	for i := range h.samples {
		if s := h.samples[(h.next+i)%len(h.samples)]; s.end.After(t) {
			found = append(found, s)
		}
	}
	current := sample{end: h.now(), pending: -1}
	for i := range now {
		current.count[i] = uint32(now[i] - h.last[i])
	}
	return append(found, current)
}

// sum gives the counters out of which charts are made.
func sum(t metrics.Totals) (c [counters]uint64) {
	for outcome, n := range t.Requests {
		switch outcome {
		case "accepted":
			c[reqAccepted] += n
		case "duplicate", "filtered":
			c[reqDuplicate] += n
		case "store", "in_flight", "client_gone", "panicked", "upstream_refused", "upstream_timeout", "budget":
			c[reqTrouble] += n
		default:
			c[reqRejected] += n
		}
	}
	for _, o := range delivery.Outcomes() {
		c[attemptCounter(o)] += t.Attempts[o.String()]
	}
	return c
}

// attemptCounter returns the counter of an outcome of an attempt.
func attemptCounter(o delivery.Outcome) int {
	switch o.Class() {
	case delivery.Received:
		return attDelivered
	case delivery.Refused:
		return attRefused
	}
	return attUnanswered
}

// Interface guard.
var _ caddy.Destructor = (*history)(nil)
