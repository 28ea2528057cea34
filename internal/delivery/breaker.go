package delivery

import "time"

// breaker is a circuit breaker, of an endpoint or of a client's URL on it.
//
// Closed, it counts failures in a row. At the limit it opens: nothing is sent
// until the cooldown is over. Then it is half-open: one attempt, the probe, goes
// first. A probe that succeeds closes the breaker, and one that fails begins the
// cooldown again.
type breaker struct {
	failures int
	open     bool
	since    time.Time // when it opened, while open
	until    time.Time // end of the cooldown, while open
	reason   string    // the failure that opened it last
}

// transition is what the outcome of an attempt did to a breaker.
type transition uint8

const (
	unchanged transition = iota
	opened
	reopened
	closed
)

// cooling reports whether nothing may be sent.
func (b *breaker) cooling(now time.Time) bool { return b.open && now.Before(b.until) }

// probing reports whether the breaker is half-open.
func (b *breaker) probing(now time.Time) bool { return b.open && !now.Before(b.until) }

// tripped reports whether there are enough failures in a row to open the breaker.
func (b *breaker) tripped(limit *Breaker) bool {
	return limit.Failures > 0 && b.failures >= limit.Failures
}

// failed records a failure of the probe or of another attempt. wait is how long
// the receiver asks to get nothing, which opens the breaker as well.
func (b *breaker) failed(limit *Breaker, probe bool, wait time.Duration, reason string, now time.Time) transition {
	b.failures++
	if b.tripped(limit) && (probe || !b.open) {
		wait = max(wait, time.Duration(limit.Cooldown))
	}
	until := now.Add(wait)
	switch {
	case b.open && probe && wait == 0:
		// It was open for as long as the receiver has asked for.
		return b.close()
	case b.open && probe:
		b.until, b.reason = until, reason
		return reopened
	case b.open:
		// The attempt began before. It does not prolong a cooldown.
		if wait > 0 && until.After(b.until) {
			b.until = until
		}
	case wait > 0:
		b.open, b.since, b.until, b.reason = true, now, until, reason
		return opened
	}
	return unchanged
}

// succeeded records that an attempt was no failure.
func (b *breaker) succeeded() transition {
	b.failures = 0
	return b.close()
}

func (b *breaker) close() transition {
	if !b.open {
		return unchanged
	}
	b.open = false
	return closed
}

// state returns the state that operators see.
func (b *breaker) state(now time.Time) State {
	switch {
	case !b.open:
		return Closed
	case b.probing(now):
		return HalfOpen
	}
	return Open
}
