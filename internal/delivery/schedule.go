package delivery

import (
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// delay returns the wait after the failure of an attempt, numbered from 1. It
// steps through the schedule from its beginning each time, because a delivery
// that waits holds nothing in memory.
func (r *Retry) delay(attempt int) time.Duration {
	b := backoff.ExponentialBackOff{
		InitialInterval:     time.Duration(r.InitialDelay),
		RandomizationFactor: r.Jitter,
		Multiplier:          r.BackoffFactor,
		MaxInterval:         time.Duration(r.MaxDelay),
		MaxElapsedTime:      0, // attempts are counted, time is not
		Stop:                backoff.Stop,
		Clock:               backoff.SystemClock,
	}
	b.Reset()
	var d time.Duration
	for range attempt {
		d = b.NextBackOff()
	}
	// The library caps the interval before it is spread, and never the first.
	return min(d, time.Duration(r.MaxDelay))
}

// exhausted reports whether the attempt with the number was the last.
func (r *Retry) exhausted(attempt int) bool { return attempt > max(0, r.MaxAttempts) }

// disposition returns what follows from an attempt that ended at the given time.
func (r *Retry) disposition(res *result, attempt int, end time.Time) (store.Disposition, time.Time) {
	return r.follow(res, attempt, r.exhausted(attempt), end)
}

// follow returns what follows from an attempt. last reports that there is no other.
func (r *Retry) follow(res *result, attempt int, last bool, end time.Time) (store.Disposition, time.Time) {
	switch {
	case res.outcome.success():
		return store.Delivered, time.Time{}
	case res.outcome == OutcomeGone:
		return store.Gone, time.Time{}
	case last:
		return store.Exhausted, time.Time{}
	}
	return store.Retry, end.Add(max(r.delay(attempt), res.retryAfter))
}
