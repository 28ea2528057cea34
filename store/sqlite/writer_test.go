package sqlite

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestRest: the time that a group is given to fill, by the size of the last one
// and by who there is to wait for.
func TestRest(t *testing.T) {
	for name, c := range map[string]struct {
		n      int   // ops of the last group
		claims int64 // of events, open
		taken  int64 // deliveries under way
		ready  int   // ops that wait from the start
		come   []time.Duration
		ends   bool // what comes ends claims
		took   time.Duration
		want   time.Duration
	}{
		"after one op":                           {n: 1, claims: 9},
		"by its size":                            {n: 4, claims: 9, want: 4 * restPerOp},
		"at most":                                {n: maxGroup, claims: 9, want: longestRest},
		"the commit's time counts":               {n: 4, claims: 9, took: 3 * restPerOp, want: restPerOp},
		"the commit took longer":                 {n: 4, claims: 9, took: time.Second},
		"all claims wait":                        {n: 100, claims: 2, come: []time.Duration{1, time.Millisecond}, ends: true, want: time.Millisecond},
		"one claim does not":                     {n: 100, claims: 3, come: []time.Duration{1, time.Millisecond}, ends: true, want: longestRest},
		"all claims and deliveries wait":         {n: 100, claims: 1, taken: 1, come: []time.Duration{1, time.Millisecond}, ends: true, want: time.Millisecond},
		"others than those expected":             {n: 100, taken: 1, come: []time.Duration{1, time.Millisecond}, want: longestRest},
		"nothing is expected, and all is quiet":  {n: 100, come: []time.Duration{1}, want: 2 * quiet},
		"nothing is expected, and more comes":    {n: 100, come: every(quiet/2, 2*longestRest), want: longestRest},
		"nothing is expected, and nothing comes": {n: 100, want: longestRest},
		"a full group":                           {n: 100, claims: maxGroup, ready: maxGroup / 4},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &writer{queue: newQueue(0), claims: func() int64 { return c.claims }, ops: make(chan *op, maxGroup), wake: make(chan struct{}, 1)}
				w.queue.claimed.Store(c.taken)
				ctx, cancel := context.WithCancel(t.Context())
				var ops sync.WaitGroup
				defer ops.Wait()
				defer cancel()
				began := time.Now()
				time.Sleep(c.took)
				for _, at := range c.come {
					ops.Go(func() {
						select {
						case <-time.After(at):
							_ = w.do(ctx, &op{ends: c.ends})
						case <-ctx.Done():
						}
					})
				}
				for range c.ready {
					w.ops <- new(op)
				}
				from := time.Now()
				w.rest(began, c.n)
				if got := time.Since(from); got != c.want {
					t.Errorf("rested %s, want %s", got, c.want)
				}
			})
		})
	}
}

// every lists the times of a steady stream.
func every(d, until time.Duration) (times []time.Duration) {
	for at := d; at < until; at += d {
		times = append(times, at)
	}
	return times
}
