package delivery

import "time"

// breaker is one endpoint's circuit breaker.
//
// Closed, it counts failures in a row. At the limit it opens: nothing is sent
// until the cooldown is over. Then one attempt, the probe, goes first: if the
// endpoint answers it the breaker closes, if it fails the cooldown begins
// again.
type breaker struct {
	failures int
	open     bool
	until    time.Time // end of the cooldown, while open
}

// transition is what an attempt's outcome did to a breaker.
type transition uint8

const (
	unchanged transition = iota
	opened
	reopened
	closed
)

// cooling reports whether nothing may be sent.
func (b *breaker) cooling(now time.Time) bool { return b.open && now.Before(b.until) }

// probing reports whether one attempt may be sent to find out.
func (b *breaker) probing(now time.Time) bool { return b.open && !now.Before(b.until) }

// record takes in the outcome of an attempt, which was the probe or not.
//
// A failure counts against the endpoint only where it tells of the endpoint:
// no complete answer, 5xx and 429. Other answers that are not 2xx are the
// verdict on one delivery, of an endpoint that works: they close an open
// breaker and leave the count of a closed one as it is. What went wrong on
// this side says nothing at all.
func (b *breaker) record(limit *Breaker, h health, probe bool, now time.Time) transition {
	switch h {
	case up:
		b.failures = 0
		return b.close()
	case answering:
		if probe {
			b.failures = 0
			return b.close()
		}
	case down:
		b.failures++
		switch {
		case b.open && probe:
			b.until = now.Add(limit.Cooldown)
			return reopened
		case !b.open && limit.Failures > 0 && b.failures >= limit.Failures:
			b.open, b.until = true, now.Add(limit.Cooldown)
			return opened
		}
	}
	return unchanged
}

func (b *breaker) close() transition {
	if !b.open {
		return unchanged
	}
	b.open = false
	return closed
}
