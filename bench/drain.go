package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/internal/lifecycle"
	"github.com/caddy-replicate/replicate-webhook/internal/prediction"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/sqlite"
)

// drainConcurrency is how many attempts one endpoint may have in flight where a
// queue is drained.
const drainConcurrency = 128

// fillPredictions commits predictions lo to hi, which have succeeded, so that
// the events they want are due. url gives the receiver of each.
func fillPredictions(ctx context.Context, s store.Store, lo, hi uint64, events event.Set, url func(n uint64) string) error {
	var next atomic.Uint64
	next.Store(lo)
	failed := newFailure(func() { next.Store(hi) })
	var wg sync.WaitGroup
	for range min(fillWriters, hi-lo) {
		wg.Go(func() {
			for n := next.Add(1) - 1; n < hi; n = next.Add(1) - 1 {
				if err := fillPrediction(ctx, s, n, events, url(n)); err != nil {
					failed.set(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return failed.get()
}

func fillPrediction(ctx context.Context, s store.Store, n uint64, events event.Set, url string) error {
	id := fmt.Sprintf("%s%016x", idPrefix, n)
	seen, err := prediction.Parse(fmt.Appendf(nil, `{"id":%q,"version":"39ed52f2a78e934b3ba6e2a89f5b1c712de7dfea535525255b1aa35c5565e08b",`+
		`"input":{"prompt":%q,"width":1024,"height":768},"output":["https://files.example.com/out/6a1f0c3e/out-0.png"],"status":"succeeded",`+
		`"created_at":"2026-01-15T09:30:00.120Z","started_at":"2026-01-15T09:30:01.004Z","completed_at":"2026-01-15T09:30:07.881Z"}`, id, prompt(bodySize/2)))
	if err != nil {
		return err
	}
	p := store.Prediction{
		API: "https://api.example.com/v1", ID: id, Client: "https://api.example.com/v1 user/bench", URL: url,
		Events: events, PollPath: "/predictions/" + id, CreatedAt: time.Now(),
	}
	return s.Track(ctx, &p, lifecycle.Events(&p, seen, time.Now(), ""))
}

// runDrain measures how fast a queue is emptied.
func (l *lab) runDrain(ctx context.Context) (section, error) {
	to, err := l.startReceiver(ctx, 0)
	if err != nil {
		return section{}, err
	}
	defer to.stop()
	n := uint64(l.queued) / 2
	lo := l.signer.next.Add(n) - n
	filled := filepath.Join(l.dir, "drain-filled", "webhook.db")
	s, err := sqlite.Open(sqlite.Options{Path: filled})
	if err != nil {
		return section{}, err
	}
	err = fillPredictions(ctx, s, lo, lo+n, event.All, func(uint64) string { return to.url() })
	if err := errors.Join(err, s.Close()); err != nil {
		return section{}, fmt.Errorf("queueing deliveries: %w", err)
	}
	var rates, cpu, batches spread
	for round := range l.rounds {
		d := drain{l: l, to: to, lo: lo, hi: lo + n, filled: filled}
		if err := d.run(ctx, fmt.Sprintf("drain-%d", round), ""); err != nil {
			return section{}, fmt.Errorf("round %d: %w", round+1, err)
		}
		rates, cpu, batches = append(rates, d.rate), append(cpu, d.cpu), append(batches, d.batch)
	}
	if l.profile != "" {
		d := drain{l: l, to: to, lo: lo, hi: lo + n, filled: filled}
		file, err := l.profileFile("drain")
		if err != nil {
			return section{}, err
		}
		if err := d.run(ctx, "drain-profile", file); err != nil {
			return section{}, err
		}
	}
	sec := section{
		title: "Draining a queue",
		text: fmt.Sprintf("A Caddy starts with %s deliveries due to one receiver: both events of each of %s predictions, %s bytes and more each. The endpoint may have %d attempts in flight. "+
			"The receiver verifies each webhook and must get both events of each prediction, exactly once, in order. "+
			"The rate is of deliveries from the first receipt to when the last outcome is committed with its row of the delivery log; the CPU is all that the process used from its start.",
			count(float64(2*n)), count(float64(n)), count(bodySize/2), drainConcurrency),
		table: [][]string{
			{"deliveries/s, median (least–greatest)", "server CPU a delivery", "outcomes a commit"},
			{rates.format("%.0f"), fmt.Sprintf("%.0f µs", cpu.median()), batches.format("%.1f")},
		},
	}
	sec.atLeastOf("deliveries/s from a queue", rates, 5000, "%.0f")
	return sec, nil
}

// drain is one run of a Caddy that finds a queue.
type drain struct {
	l      *lab
	to     *receiver
	lo, hi uint64
	filled string // the store to begin with

	rate, cpu, batch float64
}

func (d *drain) run(ctx context.Context, name, profile string) error {
	path := filepath.Join(d.l.dir, name+"-store", "webhook.db")
	if err := copyFile(d.filled, path); err != nil {
		return err
	}
	defer os.RemoveAll(filepath.Dir(path))
	before, err := d.to.counts(ctx)
	if err != nil {
		return err
	}
	if err := d.l.settle(ctx); err != nil {
		return err
	}
	c, err := d.l.startCaddy(ctx, caddyConfig{
		name: name, store: path, sites: map[string]string{"none": "respond 404"},
		options: deliveryOptions(d.to) + endpointOption(drainConcurrency),
	})
	if err != nil {
		return err
	}
	defer c.stop()
	saved := make(chan error, 1)
	if profile != "" {
		go func() { saved <- c.saveProfile(ctx, d.l.duration, profile) }()
	} else {
		saved <- nil
	}
	got, err := d.to.lifecycles(ctx, before.taken, d.lo, d.hi)
	if err == nil {
		err = awaitDelivered(ctx, []*caddy{c}, 2*int(d.hi-d.lo))
	}
	end := time.Now()
	used, cpuErr := c.cpu()
	if err := errors.Join(err, cpuErr, <-saved); err != nil {
		return err
	}
	n := float64(2 * (d.hi - d.lo))
	d.rate = n / end.Sub(got.firstCame).Seconds()
	d.cpu = float64(used.Microseconds()) / n
	commits, err := c.metric(ctx, "caddy_replicate_webhook_store_commit_batch_count")
	d.batch = n / commits
	return err
}

// copyFile copies a store that is closed.
func copyFile(from, to string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	return os.WriteFile(to, text, 0o600)
}
