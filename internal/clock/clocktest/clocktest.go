// Package clocktest sets clocks in tests.
package clocktest

import (
	"sync/atomic"
	"time"
	"unsafe"
)

// Wall is a wall clock that can be set, as the system's can: its monotonic
// readings are those of time.Now.
type Wall struct{ ahead atomic.Int64 }

// Set sets the clock to so long after the system's, or before it.
func (w *Wall) Set(ahead time.Duration) { w.ahead.Store(int64(ahead)) }

// Now is the time by the clock.
func (w *Wall) Now() time.Time { return Step(time.Now(), time.Duration(w.ahead.Load())) }

// Manual is a clock that stands still until it is moved. It may be read meanwhile.
type Manual struct{ at atomic.Pointer[time.Time] }

// At returns a clock that shows a time.
func At(at time.Time) *Manual {
	var m Manual
	m.Set(at)
	return &m
}

// Now is the time by the clock.
func (m *Manual) Now() time.Time { return *m.at.Load() }

// Set sets the clock.
func (m *Manual) Set(at time.Time) { m.at.Store(&at) }

// Add moves the clock, and returns the time that it shows then.
func (m *Manual) Add(d time.Duration) time.Time {
	m.Set(m.Now().Add(d))
	return m.Now()
}

// Step returns a time with its wall clock reading moved by whole seconds and its
// monotonic reading as it was. Package time has no way to do that, so it is done
// to the fields of time.Time: the seconds of a time with a monotonic reading are
// bits 30 to 62 of the first. In a synctest bubble times have no monotonic
// reading, and the whole time is moved.
func Step(t time.Time, d time.Duration) time.Time {
	if t == t.Round(0) {
		return t.Add(d)
	}
	moved := t
	*(*uint64)(unsafe.Pointer(&moved)) += uint64(int64(d/time.Second)) << 30
	if moved.Round(0).Sub(t.Round(0)) != d.Truncate(time.Second) || moved.Sub(t) != 0 {
		panic("clocktest: a time.Time is not what it was thought to be")
	}
	return moved
}
