// Package loglimit bounds the lines of a log when one fault affects thousands of
// requests.
package loglimit

import (
	"sync"
	"time"
)

// interval is the time between two lines of one key.
const interval = time.Minute

// Limiter allows a line of each key once a minute. It is safe for concurrent use.
// The zero value is ready. The number of keys must be bounded.
type Limiter struct {
	mu sync.Mutex
	m  map[string]*line
}

type line struct {
	last    time.Time
	skipped int
}

// Allow reports whether a line of the key may be written now, and returns how many
// were skipped since the last one that was written.
func (l *Limiter) Allow(key string, now time.Time) (skipped int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.m[key]
	if e == nil {
		if l.m == nil {
			l.m = make(map[string]*line)
		}
		l.m[key] = &line{last: now}
		return 0, true
	}
	// A time below zero means that the clock was set back.
	if d := now.Sub(e.last); d >= 0 && d < interval {
		e.skipped++
		return 0, false
	}
	skipped = e.skipped
	e.last, e.skipped = now, 0
	return skipped, true
}
