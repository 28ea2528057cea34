package delivery

import (
	"net/http"
	"strconv"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/caddy-replicate/replicate-webhook/store"
)

const (
	// maxRetryAfter is the longest wait a receiver can ask for.
	maxRetryAfter = time.Hour
	// maxRetryAfterDigits is where a number of seconds stops being a wish:
	// ten digits are three centuries.
	maxRetryAfterDigits = 10
)

// delay is the wait after the failure of an attempt, numbered from 1. The
// schedule is stepped from its beginning each time: a delivery that waits
// holds nothing in memory.
func (r *Retry) delay(attempt int) time.Duration {
	b := backoff.ExponentialBackOff{
		InitialInterval:     r.InitialDelay,
		RandomizationFactor: r.Jitter,
		Multiplier:          r.BackoffFactor,
		MaxInterval:         r.MaxDelay,
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
	return min(d, r.MaxDelay)
}

// exhausted reports whether the attempt of the number was the last.
func (r *Retry) exhausted(attempt int) bool { return attempt > max(0, r.MaxAttempts) }

// verdict is what follows from an attempt that ended at the given time.
func (r *Retry) verdict(a *answer, attempt int, end time.Time) (store.Verdict, time.Time) {
	switch {
	case a.kind.success():
		return store.Delivered, time.Time{}
	case a.kind == kindGone:
		return store.Gone, time.Time{}
	case r.exhausted(attempt):
		return store.Exhausted, time.Time{}
	}
	return store.Retry, end.Add(max(r.delay(attempt), a.retryAfter))
}

// retryAfter reads a Retry-After header (RFC 9110, section 10.2.3): seconds or
// an HTTP date, at most an hour from now. It is 0 for what is in the past or
// can't be meant.
func retryAfter(value string, now time.Time) time.Duration {
	if value == "" {
		return 0
	}
	if value[0] >= '0' && value[0] <= '9' {
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil || len(value) > maxRetryAfterDigits {
			return 0
		}
		return time.Duration(min(n, uint64(maxRetryAfter/time.Second))) * time.Second
	}
	t, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return min(max(t.Sub(now), 0), maxRetryAfter)
}
