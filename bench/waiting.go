package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/sqlite"
)

// waitingEndpoints is how many receivers those that wait for a retry are for.
const waitingEndpoints = 1000

// retrying is a store in which deliveries wait for their retry, and the Caddy
// that has it.
type retrying struct {
	name    string
	waiting int
	path    string
	caddy   *caddy

	starts        spread // ms to the first response
	warm, settled int64  // RSS in bytes, before and after the rounds
}

// runWaiting compares a store in which many deliveries wait for a retry with one
// that has none.
func (l *lab) runWaiting(ctx context.Context) (section, error) {
	s, err := l.newStage(ctx)
	if err != nil {
		return section{}, err
	}
	defer s.stop()
	stores := []*retrying{{name: "none waits"}, {name: count(float64(l.waiting)) + " wait", waiting: l.waiting}}
	for _, f := range stores {
		f.path = filepath.Join(l.dir, "store-"+fileName(f.name), "webhook.db")
		if err := f.fill(ctx, l); err != nil {
			return section{}, fmt.Errorf("filling the store %q: %w", f.name, err)
		}
	}
	debug.FreeOSMemory()
	for _, f := range stores {
		if f.caddy, err = l.startDelivering(ctx, s, caddyConfig{name: "waiting-" + fileName(f.name), store: f.path, options: endpointOption(createConcurrency)}); err != nil {
			return section{}, err
		}
		defer f.caddy.shutDown()
	}
	if err := l.restartsWaiting(ctx, stores, s.receiver); err != nil {
		return section{}, err
	}
	var sides []*contender
	for _, f := range stores {
		// A fresh process, so that both have served the same.
		f.caddy.stop()
		if err := f.caddy.start(ctx); err != nil {
			return section{}, err
		}
		side := l.hookedContender(f.name, s, create{}, f.caddy)
		if err := l.warmCreates(ctx, side, l.warmRequests()); err != nil {
			return section{}, fmt.Errorf("warming up with the store %q: %w", f.name, err)
		}
		if f.warm, err = f.caddy.rss(); err != nil {
			return section{}, err
		}
		sides = append(sides, side)
	}
	if err := l.compare(ctx, "waiting", l.closed, sides...); err != nil {
		return section{}, err
	}
	for _, f := range stores {
		if f.settled, err = f.caddy.rss(); err != nil {
			return section{}, err
		}
	}
	return l.waitingSection(stores, sides), nil
}

// fill leaves deliveries behind whose first attempt failed and whose retry is
// far away.
func (f *retrying) fill(ctx context.Context, l *lab) error {
	s, err := sqlite.Open(sqlite.Options{Path: f.path})
	if err != nil {
		return err
	}
	n := uint64(f.waiting)
	lo := l.signer.next.Add(n) - n
	// Nothing listens there, and nothing is sent there.
	err = fillPredictions(ctx, s, lo, lo+n, event.Terminal, func(n uint64) string {
		return fmt.Sprintf("http://127.2.%d.%d/webhooks", n%waitingEndpoints/250, 1+n%250)
	})
	for err == nil && f.waiting > 0 {
		var left bool
		if left, err = failAttempts(ctx, s); !left {
			break
		}
	}
	return errors.Join(err, s.Close())
}

// failAttempts commits a failed attempt of some deliveries, and reports whether
// there were any.
func failAttempts(ctx context.Context, s store.Store) (bool, error) {
	claimed, _, err := s.ClaimDeliveries(ctx, 4*fillWriters, func(store.Lane) store.Slots { return store.Slots{N: 4 * fillWriters} })
	if err != nil || len(claimed) == 0 {
		return false, err
	}
	var wg sync.WaitGroup
	failed := newFailure(func() {})
	now := time.Now()
	for _, d := range claimed {
		wg.Go(func() {
			err := s.Complete(ctx, store.Outcome{
				Delivery: d, Disposition: store.Retry, Due: now.Add(24 * time.Hour),
				Attempt: store.Attempt{Delivery: d.ID, Event: d.Event, URL: d.URL, Status: 503, Number: 1, At: now, Took: time.Millisecond, Error: "status 503"},
			})
			if err != nil {
				failed.set(err)
			}
		})
	}
	wg.Wait()
	return true, failed.get()
}

// restartsWaiting measures the time from starting the process to the first
// create with a webhook that is answered: it is committed then, so the store is
// open.
func (l *lab) restartsWaiting(ctx context.Context, stores []*retrying, to *receiver) error {
	expect := expectation{status: 201, mark: `"webhook_status":"pending"`}
	request := func() []byte { return newCreate(bodySize, create{webhook: to.url()}).write(l.signer.next.Add(1) - 1) }
	// The first one only brings the files into the page cache.
	for round := range l.rounds + 1 {
		for i := range stores {
			f := stores[i]
			if round%2 == 1 {
				f = stores[len(stores)-1-i]
			}
			d, err := f.caddy.restart(ctx, f.caddy.sites["api"], request, expect)
			if err != nil {
				return fmt.Errorf("restarting with the store %q: %w", f.name, err)
			}
			if round > 0 {
				f.starts = append(f.starts, float64(d)/float64(time.Millisecond))
			}
		}
	}
	// What was created is delivered before anything else is counted.
	if err := to.await(ctx, 2*len(stores)*(l.rounds+1)); err != nil {
		return err
	}
	_, err := to.take(ctx)
	return err
}

// warmCreates sends a number of creates and waits until their events are
// delivered.
func (l *lab) warmCreates(ctx context.Context, c *contender, requests int) error {
	t, err := c.traffic(ctx)
	if err != nil {
		return err
	}
	// The feeds stop taking numbers when they end, so the check still holds.
	r, err := load{addrs: c.addrs, feeds: limited(t.feeds, requests), expect: c.expect, answered: t.answered}.closedLoop(ctx, time.Minute)
	if err == nil {
		err = t.check(ctx, &r)
	}
	return err
}

func (l *lab) waitingSection(stores []*retrying, sides []*contender) section {
	none, many := stores[0], stores[1]
	s := section{
		title: "Deliveries that wait for a retry",
		text: fmt.Sprintf("Creates with a webhook, end to end as above, with a store in which %s deliveries to %s receivers wait for their retry. "+
			"The first response is that of a create with a webhook, timed from the start of the process, with the files in the page cache. Memory is the process's resident set, after %s creates and after all rounds.",
			count(float64(many.waiting)), count(waitingEndpoints), count(float64(l.warmRequests()))),
		table: rateTable(sides...),
	}
	s.table[0] = append(s.table[0], "first response, ms", "RSS, warm", "RSS, after the rounds")
	for i, f := range stores {
		s.table[i+1] = append(s.table[i+1], f.starts.format("%.0f"), mebibytes(f.warm), mebibytes(f.settled))
	}
	what := count(float64(many.waiting)) + " waiting for a retry: "
	s.atLeast(what+"of the creates/s without", ratios(sides[1].rates, sides[0].rates), 0.9)
	s.atMost(what+"RSS above that without, warm", spread{megabytes(many.warm - none.warm)}, 64, "MB")
	s.atMost(what+"RSS above that without, after the rounds", spread{megabytes(many.settled - none.settled)}, 64, "MB")
	s.atMost(what+"first response after a start", many.starts, 1000, "ms")
	return s
}
