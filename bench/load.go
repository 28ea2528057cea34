package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// grace is how long a measurement may run on after its time: for the responses
// that are still out, and to tell a hanging server from a slow one.
const grace = 30 * time.Second

// expectation is what every single response of a measurement has to be.
type expectation struct {
	status    int
	duplicate bool
	mark      string // what its body holds, if set
	kept      bool   // the connection must stay
}

func (e expectation) check(a response) error {
	if a.status == e.status && a.duplicate == e.duplicate {
		if e.mark != "" && !a.marked {
			return fmt.Errorf("response does not hold %s", e.mark)
		}
		if e.kept && a.closing {
			return errors.New("response ends the connection, which should stay")
		}
		return nil
	}
	return fmt.Errorf("response is %s, want %s", describe(a.status, a.duplicate), describe(e.status, e.duplicate))
}

func describe(status int, duplicate bool) string {
	if duplicate {
		return fmt.Sprintf("%d marked as a duplicate", status)
	}
	return fmt.Sprintf("%d", status)
}

// load is one measurement's traffic.
type load struct {
	addrs  []string // among which the connections are spread
	feeds  []feed   // one a connection
	expect expectation
	// answered, if set, hears of each response to the feed of that index, before
	// its next request.
	answered func(feed int)
}

// result is what a measurement gave.
type result struct {
	requests  int
	elapsed   time.Duration
	ended     time.Time
	latencies []time.Duration // sorted; open loop only
	delivered *delivered      // nil unless there are deliveries
}

func (r result) rate() float64 { return float64(r.requests) / r.elapsed.Seconds() }

// closedLoop keeps one request in flight on every connection, until the time is
// over or the feeds end. Requests that are out when the time is over are waited
// for, so that what was sent and what was answered are the same events.
func (l load) closedLoop(ctx context.Context, d time.Duration) (result, error) {
	clients, err := l.connect(time.Now().Add(d + grace))
	if err != nil {
		return result{}, err
	}
	defer closeAll(clients)

	var over atomic.Bool
	var done atomic.Int64
	failed := newFailure(func() { over.Store(true) })
	defer context.AfterFunc(ctx, func() { failed.set(context.Cause(ctx)) })()
	start := time.Now()
	defer time.AfterFunc(d, func() { over.Store(true) }).Stop()
	var wg sync.WaitGroup
	for i, c := range clients {
		wg.Go(func() {
			n := 0
			defer func() { done.Add(int64(n)) }()
			for !over.Load() {
				request, ok := l.feeds[i]()
				if !ok {
					return
				}
				if err := l.exchange(c, i, request); err != nil {
					failed.set(err)
					return
				}
				n++
			}
		})
	}
	wg.Wait()
	end := time.Now()
	return result{requests: int(done.Load()), elapsed: end.Sub(start), ended: end}, failed.get()
}

// openLoop sends at a fixed rate whatever the responses do, and counts each
// latency from when the request was due: a server that stalls makes all of them
// late, not only the one it stalled on.
func (l load) openLoop(ctx context.Context, rate int, d time.Duration) (result, error) {
	clients, err := l.connect(time.Now().Add(d + grace))
	if err != nil {
		return result{}, err
	}
	defer closeAll(clients)

	total := max(1, int(d.Seconds()*float64(rate)))
	due := make(chan time.Time, total)
	latencies := make([]time.Duration, total)
	var done atomic.Int64
	stop := make(chan struct{})
	failed := newFailure(func() { close(stop) })
	defer context.AfterFunc(ctx, func() { failed.set(context.Cause(ctx)) })()
	var wg sync.WaitGroup
	for i, c := range clients {
		wg.Go(func() {
			for at := range due {
				request, ok := l.feeds[i]()
				if !ok {
					return
				}
				if err := l.exchange(c, i, request); err != nil {
					failed.set(err)
					return
				}
				latencies[done.Add(1)-1] = time.Since(at)
			}
		})
	}
	start := time.Now()
	pace(stop, start, rate, total, due)
	close(due)
	wg.Wait()
	end := time.Now()
	r := result{requests: int(done.Load()), elapsed: end.Sub(start), ended: end}
	r.latencies = latencies[:r.requests]
	slices.Sort(r.latencies)
	return r, failed.get()
}

// exchange sends a request and judges its response.
func (l load) exchange(c *client, feed int, request []byte) error {
	a, err := c.do(request)
	if err == nil {
		err = l.expect.check(a)
	}
	if err == nil && l.answered != nil {
		l.answered(feed)
	}
	return err
}

// pace sends on due when each request is due.
func pace(stop <-chan struct{}, start time.Time, rate, total int, due chan<- time.Time) {
	for n := range total {
		at := start.Add(time.Duration(n) * time.Second / time.Duration(rate))
		pauseUntil(at)
		select {
		case due <- at:
		case <-stop:
			return
		}
	}
}

// connect opens a connection for every feed, outside of the measured time.
func (l load) connect(deadline time.Time) ([]*client, error) {
	clients := make([]*client, len(l.feeds))
	for i := range clients {
		clients[i] = newClient(l.addrs[i%len(l.addrs)], deadline)
		if l.expect.mark != "" {
			clients[i].mark = []byte(l.expect.mark)
		}
		if err := clients[i].dial(); err != nil {
			closeAll(clients[:i])
			return nil, fmt.Errorf("connecting: %w", err)
		}
	}
	return clients, nil
}

func closeAll(clients []*client) {
	for _, c := range clients {
		c.close()
	}
}

// failure keeps the first error of many goroutines.
type failure struct {
	once sync.Once
	mu   sync.Mutex
	err  error
	stop func()
}

func newFailure(stop func()) *failure { return &failure{stop: stop} }

func (f *failure) set(err error) {
	if err == nil {
		err = errors.New("interrupted")
	}
	f.once.Do(func() {
		f.mu.Lock()
		f.err = err
		f.mu.Unlock()
		f.stop()
	})
}

func (f *failure) get() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}
