package main

import (
	"context"
	"fmt"
	"time"
)

// batchSize is how many different webhooks are posted again and again where the
// scenario is about repeats or forgeries.
const batchSize = 1000

// unique returns traffic of events that are all new, with the check that the
// app received each of them exactly once.
func (l *lab) unique(ctx context.Context) (traffic, error) {
	return l.counted(ctx, l.signer.uniqueFeed)
}

// counted returns traffic of numbered events from one feed for each connection,
// with the check that the app received each of them exactly once.
func (l *lab) counted(ctx context.Context, newFeed func() feed) (traffic, error) {
	before, err := l.app.read(ctx)
	if err != nil {
		return traffic{}, err
	}
	lo := l.signer.next.Load()
	check := func(ctx context.Context, r *result) error {
		after, err := l.app.read(ctx)
		if err != nil {
			return err
		}
		got, want := after.minus(before), expected(lo, l.signer.next.Load())
		if got != want || got.count != uint64(r.requests) {
			return fmt.Errorf("%d events were sent and %d answered, but the app was given %d, not each of them once", want.count, r.requests, got.count)
		}
		return nil
	}
	feeds := make([]feed, l.connections)
	for i := range feeds {
		feeds[i] = newFeed()
	}
	return traffic{feeds: feeds, check: check}, nil
}

// repeats returns traffic of events that were accepted just before. Signed
// times age, so each measurement has a batch of its own.
func (l *lab) repeats(addrs []string) func(context.Context) (traffic, error) {
	return func(ctx context.Context) (traffic, error) {
		batch := l.signer.batch(batchSize)
		r, err := load{addrs: addrs, feeds: once(batch, l.connections), expect: expectation{status: 200}}.closedLoop(ctx, grace)
		if err == nil && r.requests != batchSize {
			err = fmt.Errorf("%d of %d were answered in time", r.requests, batchSize)
		}
		if err != nil {
			return traffic{}, fmt.Errorf("having events accepted: %w", err)
		}
		return l.unheard(ctx, batch)
	}
}

// forgeries returns traffic of webhooks with wrong signatures.
func (l *lab) forgeries(ctx context.Context) (traffic, error) {
	return l.unheard(ctx, l.signer.forged(batchSize))
}

// unheard returns traffic of which nothing may reach the app.
func (l *lab) unheard(ctx context.Context, batch [][]byte) (traffic, error) {
	before, err := l.app.read(ctx)
	if err != nil {
		return traffic{}, err
	}
	check := func(ctx context.Context, _ *result) error {
		after, err := l.app.read(ctx)
		if err == nil && after != before {
			err = fmt.Errorf("%d events reached the app, want none", after.minus(before).count)
		}
		return err
	}
	return traffic{feeds: cycle(batch, l.connections), check: check}, nil
}

// warm sends a number of unique events and waits for the responses.
func (l *lab) warm(ctx context.Context, addr string, requests int) error {
	t, err := l.unique(ctx)
	if err != nil {
		return err
	}
	// The feeds stop taking numbers when they end, so the check still holds.
	r, err := load{addrs: []string{addr}, feeds: limited(t.feeds, requests), expect: expectation{status: 200}}.closedLoop(ctx, time.Minute)
	if err == nil {
		err = t.check(ctx, &r)
	}
	return err
}
