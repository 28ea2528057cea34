// Package history samples the process's counters, for the charts of the
// dashboard.
package history

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-replicate/replicate-webhook/internal/delivery"
	"github.com/caddy-replicate/replicate-webhook/internal/edge"
	"github.com/caddy-replicate/replicate-webhook/internal/metrics"
)

// Counters of a sample. Each is the sum of the metrics' counters of several
// outcomes.
const (
	RequestsAccepted = iota
	RequestsDuplicate
	RequestsRejected
	RequestsRefused // temporarily: the sender tries again
	AttemptsDelivered
	AttemptsRefused
	AttemptsNoResponse
	counters
)

// Counts are the values of the counters.
type Counts [counters]uint64

// Sample counts the events of one step.
type Sample struct {
	End time.Time
	// Counts are the increases of the counters within the step.
	Counts [counters]uint32
	// Pending is the number of pending deliveries at the end, -1 if it is not
	// known.
	Pending int32
}

const (
	// Step is the time between two samples.
	Step = 10 * time.Second
	// maxSamples cover a day.
	maxSamples = int(24 * time.Hour / Step)
	// watchInterval is the time between two checks for callers of Changed.
	watchInterval = 500 * time.Millisecond
)

// History holds the samples of the last day. All dashboards of the process share
// one, which outlives reloads of the configuration.
type History struct {
	now  func() time.Time
	read func() metrics.Totals

	mu      sync.Mutex
	samples []Sample // a ring once it is full
	next    int      // index of the oldest sample of a full ring
	last    Counts   // at the last sample
	watched Counts   // at the last check for watchers
	wake    chan struct{}
	sources []*Source
	stop    chan struct{}
}

// Source is one configuration's backlog.
type Source struct {
	// Pending returns the number of pending deliveries.
	Pending func(context.Context) (int, error)
}

// histories holds the one history.
var histories = caddy.NewUsagePool()

const poolKey = "history"

// Attach returns the process's history. The source that was attached last is the
// one that is asked. Detach must be called with the same source.
func Attach(s *Source) (*History, error) {
	v, _, err := histories.LoadOrNew(poolKey, func() (caddy.Destructor, error) {
		h := newHistory(time.Now, metrics.ReadTotals)
		go h.run()
		return h, nil
	})
	if err != nil {
		return nil, err
	}
	h := v.(*History)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sources = append(h.sources, s)
	return h, nil
}

// Detach removes the source. The history ends with its last source.
func (h *History) Detach(s *Source) error {
	h.mu.Lock()
	h.sources = slices.DeleteFunc(h.sources, func(other *Source) bool { return other == s })
	h.mu.Unlock()
	_, err := histories.Delete(poolKey)
	return err
}

func newHistory(now func() time.Time, read func() metrics.Totals) *History {
	h := &History{now: now, read: read, wake: make(chan struct{}), stop: make(chan struct{})}
	h.last = sum(read())
	h.watched = h.last
	return h
}

// Destruct stops the sampling. The pool calls it with the last reference.
func (h *History) Destruct() error {
	close(h.stop)
	return nil
}

func (h *History) run() {
	watch, step := time.NewTicker(watchInterval), time.NewTicker(Step)
	defer watch.Stop()
	defer step.Stop()
	for {
		select {
		case <-h.stop:
			return
		case <-watch.C:
			h.wakeWatchers()
		case <-step.C:
			h.sample()
		}
	}
}

// wakeWatchers closes the channel that Changed returned if a counter has
// increased.
func (h *History) wakeWatchers() {
	now := sum(h.read())
	h.mu.Lock()
	defer h.mu.Unlock()
	if now != h.watched {
		h.watched = now
		close(h.wake)
		h.wake = make(chan struct{})
	}
}

// Changed returns a channel that is closed when a counter increases.
func (h *History) Changed() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.wake
}

// sample records what happened since the last sample.
func (h *History) sample() {
	pending := h.pending()
	now := sum(h.read())
	h.mu.Lock()
	defer h.mu.Unlock()
	h.record(h.since(now, pending))
	h.last = now
}

// since returns the increase of the counters since the last sample. The caller
// holds mu.
func (h *History) since(now Counts, pending int32) Sample {
	s := Sample{End: h.now(), Pending: pending}
	for i := range now {
		s.Counts[i] = uint32(now[i] - h.last[i])
	}
	return s
}

// Record adds a sample, which must end after those before it.
func (h *History) Record(s Sample) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.record(s)
}

func (h *History) record(s Sample) {
	if len(h.samples) < maxSamples {
		h.samples = append(h.samples, s)
		return
	}
	h.samples[h.next] = s
	h.next = (h.next + 1) % maxSamples
}

// pending asks the newest source.
func (h *History) pending() int32 {
	h.mu.Lock()
	var s *Source
	if n := len(h.sources); n > 0 {
		s = h.sources[n-1]
	}
	h.mu.Unlock()
	if s == nil {
		return -1
	}
	ctx, cancel := context.WithTimeout(context.Background(), Step/2)
	defer cancel()
	n, err := s.Pending(ctx)
	if err != nil {
		return -1
	}
	return int32(n)
}

// Since returns the samples that ended after t, oldest first, and as the last
// one what happened since.
func (h *History) Since(t time.Time) []Sample {
	now := sum(h.read())
	h.mu.Lock()
	defer h.mu.Unlock()
	var found []Sample
	for i := range h.samples {
		if s := h.samples[(h.next+i)%len(h.samples)]; s.End.After(t) {
			found = append(found, s)
		}
	}
	return append(found, h.since(now, -1))
}

// sum returns the counters of the metrics' totals.
func sum(t metrics.Totals) (c Counts) {
	for _, o := range edge.Outcomes() {
		c[requestCounter(o)] += t.Requests[string(o)]
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
		return AttemptsDelivered
	case delivery.Refused:
		return AttemptsRefused
	}
	return AttemptsNoResponse
}

// requestCounter returns the counter of an outcome of a request.
func requestCounter(o edge.Outcome) int {
	switch o.Class() {
	case edge.Accepted:
		return RequestsAccepted
	case edge.Duplicate:
		return RequestsDuplicate
	case edge.Rejected:
		return RequestsRejected
	}
	return RequestsRefused
}

// Interface guard.
var _ caddy.Destructor = (*History)(nil)
