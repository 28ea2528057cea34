// Package clock separates the time that has passed from the time of day.
//
// The wall clock may be set: by NTP soon after a start, by hand, or for seconds
// by mistake. What waits in a process, and how old things become while it runs,
// must not depend on that, so it is counted by the monotonic clock. Only a time
// that was stored before the process began has to be taken as it is.
package clock

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxDrift is the largest difference between the wall clock and the
	// monotonic one that does not count as a step.
	maxDrift = 2 * time.Second
	// settling is the time after which things expire by a wall clock that was
	// set forward.
	settling = 5 * time.Minute
	// maxSpans bounds the steps that are remembered one by one.
	maxSpans = 64
)

// Clock relates the wall clock to the time that has passed. It is safe for
// concurrent use.
type Clock struct {
	wall    func() time.Time
	elapsed func(wall time.Time) time.Duration
	start   time.Time

	mu    sync.Mutex // held while spans is replaced
	spans atomic.Pointer[[]span]
}

// span is a time in which the wall clock was not set.
type span struct {
	begun time.Duration // on the monotonic clock, since the clock was made
	// offset is what the wall clock shows when it is added to the monotonic
	// one, in Unix nanoseconds.
	offset int64
}

// New returns a clock by the given wall clock, time.Now if it is nil. Of its
// times those with a monotonic reading, as time.Now gives them, show what has
// passed and when the wall clock was set. Without such readings time passes as the
// wall clock says.
func New(wall func() time.Time) *Clock {
	if wall == nil {
		wall = time.Now
	}
	c := &Clock{wall: wall, start: wall()}
	c.elapsed = func(t time.Time) time.Duration { return t.Sub(c.start) }
	c.spans.Store(&[]span{{0, c.start.UnixNano()}})
	return c
}

// NewMonotonic is New for a wall clock without monotonic readings: what has passed
// is counted by time.Now.
func NewMonotonic(wall func() time.Time) *Clock {
	c := New(wall)
	start := time.Now()
	c.elapsed = func(time.Time) time.Duration { return time.Since(start) }
	return c
}

// read returns the time that has passed and the spans until now.
func (c *Clock) read() (time.Duration, []span) {
	wall := c.wall()
	passed := c.elapsed(wall)
	offset := wall.UnixNano() - int64(passed)
	spans := *c.spans.Load()
	if near(offset, spans) {
		return passed, spans
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	spans = *c.spans.Load()
	if near(offset, spans) {
		return passed, spans
	}
	if len(spans) == maxSpans {
		// The two oldest become one, which lets things become old later.
		merged := span{spans[0].begun, min(spans[0].offset, spans[1].offset)}
		spans = append([]span{merged}, spans[2:]...)
	}
	spans = append(spans[:len(spans):len(spans)], span{passed, offset})
	c.spans.Store(&spans)
	return passed, spans
}

// near reports whether an offset is that of the last span.
func near(offset int64, spans []span) bool {
	d := time.Duration(offset - spans[len(spans)-1].offset)
	return d.Abs() <= maxDrift
}

// Passed returns the time that has passed since the clock was made.
func (c *Clock) Passed() time.Duration {
	passed, _ := c.read()
	return passed
}

// Now returns the time in milliseconds on a scale that the wall clock does not
// move. At first it is the Unix time.
func (c *Clock) Now() int64 {
	return (c.start.UnixNano() + int64(c.Passed())) / int64(time.Millisecond)
}

// At converts a time by the wall clock, as it is set now, to the scale of Now.
func (c *Clock) At(t time.Time) int64 {
	return c.Now() + t.Sub(c.wall()).Round(time.Millisecond).Milliseconds()
}

// Time converts a time on the scale of Now to one by the wall clock. 0 is the
// zero time.
func (c *Clock) Time(at int64) time.Time {
	if at == 0 {
		return time.Time{}
	}
	return c.wall().Add(time.Duration(at-c.Now()) * time.Millisecond)
}

// Before returns a time by the wall clock such that whatever was stamped before
// it is older than age. While the process runs, age is counted by what has passed,
// however the wall clock was set meanwhile; a stamp of before it began is taken
// as it is. Where a stamp may be from one side of a step or the other, it counts
// as the younger.
func (c *Clock) Before(age time.Duration) time.Time {
	passed, spans := c.read()
	then := passed - age
	// What was stamped before the span in which then lies is older than age.
	// All others were stamped in this span or a later one.
	i := len(spans) - 1
	for i > 0 && spans[i].begun > then {
		i--
	}
	offset := spans[i].offset
	for _, s := range spans[i:] {
		offset = min(offset, s.offset)
	}
	return time.Unix(0, offset+int64(then)).UTC()
}

// Settled returns the wall clock's time, without a step forward that it made in
// the last few minutes: what is forgotten once is not remembered again when the
// clock is set back.
func (c *Clock) Settled() time.Time { return c.Before(settling).Add(settling) }
