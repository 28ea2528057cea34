package delivery

import (
	"math"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// delay returns the wait after the failure of an attempt, numbered from 1. It
// steps through the schedule from its beginning each time, because a delivery
// that waits holds nothing in memory.
func (r *Retry) delay(attempt int) (d time.Duration) {
	if further := attempt - r.retries(); further > 0 && further <= len(r.Then) {
		return r.backoff(time.Duration(r.Then[further-1])).NextBackOff()
	}
	b := r.backoff(time.Duration(r.InitialDelay))
	for range attempt {
		d = b.NextBackOff()
	}
	// The library caps the interval before it is spread, and never the first.
	return min(d, time.Duration(r.MaxDelay))
}

// backoff returns the waits from a first one on.
func (r *Retry) backoff(first time.Duration) *backoff.ExponentialBackOff {
	b := &backoff.ExponentialBackOff{
		InitialInterval:     first,
		RandomizationFactor: r.Jitter,
		Multiplier:          r.BackoffFactor,
		MaxInterval:         time.Duration(r.MaxDelay),
		MaxElapsedTime:      0, // attempts are counted, time is not
		Stop:                backoff.Stop,
		Clock:               backoff.SystemClock,
	}
	b.Reset()
	return b
}

// retries is the number of those before Then.
func (r *Retry) retries() int { return max(0, r.MaxAttempts) }

// exhausted reports whether the attempt with the number was the last.
func (r *Retry) exhausted(attempt int) bool { return attempt > r.retries()+len(r.Then) }

// Whole returns the time of all waits together, without jitter, of options whose
// defaults are set.
func (r *Retry) Whole() time.Duration {
	plain := *r
	plain.Jitter = 0
	sum := 0.0
	b := plain.backoff(time.Duration(r.InitialDelay))
	for range r.retries() {
		sum += float64(min(b.NextBackOff(), time.Duration(r.MaxDelay)))
	}
	for _, d := range r.Then {
		sum += float64(d)
	}
	return time.Duration(min(sum, math.MaxInt64/2))
}

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
