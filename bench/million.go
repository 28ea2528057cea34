package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/sqlite"
)

const (
	// fillWriters is how many commits wait for the store at once while it is
	// filled, nearly as many as it puts into one transaction.
	fillWriters = 1000

	// entriesMetric tells how many events a store remembers.
	entriesMetric = "caddy_replicate_webhook_dedup_entries"
)

// warmRequests returns the number of requests that a Caddy serves before its
// memory is read.
func (l *lab) warmRequests() int {
	if l.quick {
		return 500
	}
	return 5000
}

// filled is a store with a history and the Caddy that has it.
type filled struct {
	name    string
	entries int
	scope   func(writer int) string
	path    string
	caddy   *caddy

	starts        spread // ms to the first response
	warm, settled int64  // RSS in bytes, before and after the rounds
}

// runMillion compares a store with a long history with one that has none. The
// entries of one transaction share a row, so there are two histories: of a busy
// edge, with long rows, and of an idle one, with a row for each entry.
func (l *lab) runMillion(ctx context.Context) (section, error) {
	stores := []*filled{
		{name: "empty"},
		{name: "long rows", entries: l.entries, scope: func(int) string { return "default" }},
		// A row holds one scope's entries, so with a scope for each writer
		// every entry gets its own row, without an fsync for each.
		{name: "one entry a row", entries: l.entries, scope: func(w int) string { return fmt.Sprintf("fill%03d", w) }},
	}
	for _, f := range stores {
		f.path = filepath.Join(l.dir, "store-"+fileName(f.name), "webhook.db")
		if err := f.fill(ctx); err != nil {
			return section{}, fmt.Errorf("filling the store %q: %w", f.name, err)
		}
	}
	// The filler's maps must not burden the load generator.
	debug.FreeOSMemory()
	for _, f := range stores {
		var err error
		f.caddy, err = l.startCaddy(ctx, caddyConfig{
			name: "million-" + fileName(f.name), store: f.path, sites: map[string]string{"edge": edgeRoute(l.app.addr, "")},
		})
		if err != nil {
			return section{}, err
		}
		defer f.caddy.shutDown()
		if err := f.complete(ctx); err != nil {
			return section{}, err
		}
	}
	if err := l.restarts(ctx, stores); err != nil {
		return section{}, err
	}
	sides, err := l.historyRounds(ctx, stores)
	if err != nil {
		return section{}, err
	}
	return l.historySection(stores, sides), nil
}

// fill commits the entries through the store itself.
func (f *filled) fill(ctx context.Context) error {
	s, err := sqlite.Open(sqlite.Options{Path: f.path})
	if err != nil {
		return err
	}
	var next atomic.Int64
	failed := newFailure(func() { next.Store(int64(f.entries)) })
	now := time.Now()
	var wg sync.WaitGroup
	for w := range min(fillWriters, f.entries) {
		scope := f.scope(w)
		wg.Go(func() {
			for n := next.Add(1) - 1; n < int64(f.entries); n = next.Add(1) - 1 {
				claim, err := s.Claim(ctx, store.Entry{
					Scope:    scope,
					Keys:     []store.Key{store.KeyOf(scope, "event", "filled-"+strconv.FormatInt(n, 10), "prediction.completed")},
					SignedAt: now,
					Expires:  now.Add(24 * time.Hour),
				}, 0)
				if err == nil {
					err = claim.Commit(ctx)
				}
				if err != nil {
					failed.set(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(failed.get(), s.Close())
}

// complete waits until the running Caddy remembers all that was filled in:
// Caddy's apps start in any order, so its sites may listen before the store is
// open.
func (f *filled) complete(ctx context.Context) error {
	return f.caddy.poll(ctx, func() error {
		got, err := f.caddy.metric(ctx, entriesMetric)
		if err == nil && got < float64(f.entries) {
			err = fmt.Errorf("caddy with the store %q remembers %.0f entries, want %d", f.name, got, f.entries)
		}
		return err
	})
}

// restarts measures the time from starting the process to the first webhook
// that is accepted.
func (l *lab) restarts(ctx context.Context, stores []*filled) error {
	t := l.signer.template()
	request := func() []byte { return t.write(l.signer.next.Add(1) - 1) }
	// The first one only brings the files into the page cache.
	for round := range l.rounds + 1 {
		for i := range stores {
			f := stores[i]
			if round%2 == 1 {
				f = stores[len(stores)-1-i]
			}
			d, err := f.caddy.restart(ctx, f.caddy.sites["edge"], request, expectation{status: 200})
			if err != nil {
				return fmt.Errorf("restarting with the store %q: %w", f.name, err)
			}
			if round > 0 {
				f.starts = append(f.starts, float64(d)/float64(time.Millisecond))
			}
		}
	}
	return nil
}

// historyRounds reads the memory of each Caddy after a few thousand requests,
// compares their throughput, and reads the memory again.
func (l *lab) historyRounds(ctx context.Context, stores []*filled) ([]*contender, error) {
	var sides []*contender
	for _, f := range stores {
		// A fresh process, so that all have served the same.
		f.caddy.stop()
		if err := f.caddy.start(ctx); err != nil {
			return nil, err
		}
		if err := l.warm(ctx, f.caddy.sites["edge"], l.warmRequests()); err != nil {
			return nil, fmt.Errorf("warming up with the store %q: %w", f.name, err)
		}
		var err error
		if f.warm, err = f.caddy.rss(); err != nil {
			return nil, err
		}
		c := caddyContender(f.name, "edge", f.caddy)
		c.traffic = l.unique
		sides = append(sides, c)
	}
	if err := l.compare(ctx, "million", l.closed, sides...); err != nil {
		return nil, err
	}
	for _, f := range stores {
		var err error
		if f.settled, err = f.caddy.rss(); err != nil {
			return nil, err
		}
		if err := f.complete(ctx); err != nil {
			return nil, err
		}
	}
	return sides, nil
}

func (l *lab) historySection(stores []*filled, sides []*contender) section {
	s := section{
		title: "A store with a history",
		text: fmt.Sprintf("Unique events again, with a store that remembers %s live events: committed in groups, as a busy edge does, so that rows are long, "+
			"or with one entry a row, as an idle edge leaves them. The first response is an accepted webhook, timed from the start of the process, with the files in the page cache. "+
			"Memory is the process's resident set, after %s requests and after all rounds.", count(float64(l.entries)), count(float64(l.warmRequests()))),
	}
	rows := rateTable(sides...)
	rows[0] = append(rows[0], "first response, ms", "RSS, warm", "RSS, after the rounds")
	empty := stores[0]
	for i, f := range stores {
		rows[i+1] = append(rows[i+1], f.starts.format("%.0f"), mebibytes(f.warm), mebibytes(f.settled))
		if i == 0 {
			continue
		}
		what := fmt.Sprintf("%s entries, %s: ", count(float64(f.entries)), f.name)
		s.atMost(what+"RSS above an empty store's, warm", spread{megabytes(f.warm - empty.warm)}, 150, "MB")
		s.atMost(what+"RSS above an empty store's, after the rounds", spread{megabytes(f.settled - empty.settled)}, 150, "MB")
		s.atMost(what+"first response after an empty store's", differences(f.starts, empty.starts), 1000, "ms")
		s.atLeast(what+"of an empty store's requests/s", ratios(sides[i].rates, sides[0].rates), 0.9)
	}
	s.table = rows
	return s
}

func mebibytes(n int64) string  { return fmt.Sprintf("%.0f MiB", float64(n)/(1<<20)) }
func megabytes(n int64) float64 { return float64(n) / 1e6 }
