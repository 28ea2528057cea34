package delivery

import (
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// maxReports bounds what waits for the hooks.
const maxReports = 1024

// Report says how a delivery ended.
type Report struct {
	// Delivery is without its payload.
	Delivery store.Delivery
	// Attempt is the last one. Its ID is not known.
	Attempt store.Attempt
	// Verdict is Delivered, Exhausted or Gone.
	Verdict store.Verdict
	// Duplicate: the receiver says that it had the event before.
	Duplicate bool
}

// EndpointReport says that a breaker opened or closed. All but Endpoint is
// about opening.
type EndpointReport struct {
	Endpoint string
	Failures int       // in a row
	Until    time.Time // when it is probed
	Error    string    // of the last attempt
}

// reports calls the hooks. Its goroutine runs only while there is something to
// report.
type reports struct {
	log *zap.Logger

	mu      sync.Mutex
	queue   []func()
	running bool
	dropped atomic.Int64
}

func newReports(conf *Config) *reports { return &reports{log: conf.Logger} }

func (q *reports) delivery(hook func(Report), r Report) {
	if hook != nil {
		q.add(func() { hook(r) })
	}
}

func (q *reports) endpoint(hook func(EndpointReport), r EndpointReport) {
	if hook != nil {
		q.add(func() { hook(r) })
	}
}

func (q *reports) add(call func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.queue) >= maxReports {
		q.dropped.Add(1)
		return
	}
	q.queue = append(q.queue, call)
	if !q.running {
		q.running = true
		go q.run()
	}
}

func (q *reports) run() {
	for {
		q.mu.Lock()
		calls := q.queue
		q.queue = nil
		q.running = len(calls) > 0
		q.mu.Unlock()
		if n := q.dropped.Swap(0); n > 0 {
			q.log.Warn("delivery events dropped: their hook is too slow", zap.Int64("dropped", n))
		}
		if len(calls) == 0 {
			return
		}
		for _, call := range calls {
			q.call(call)
		}
	}
}

// call contains what a hook does wrong.
func (q *reports) call(hook func()) {
	defer func() {
		if v := recover(); v != nil {
			q.log.Error("panic in a delivery hook", zap.Any("panic", v), zap.Stack("stack"))
		}
	}()
	hook()
}
