package postgres

import (
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/internal/metrics"
)

// The clock of the database decides what is due and what has expired, so that
// nodes whose clocks differ agree. A node compares the two with each heartbeat,
// and counts the time in between by its monotonic clock. Times that callers give
// or get are by the clock of the node, and are converted here.

// DefaultMaxClockError is half the default tolerance of the edge.
const DefaultMaxClockError = 150 * time.Second

const readClock = "SELECT clock_timestamp()"

// clock is the database's, as far as it is known, and converts between that and the
// node's.
type clock struct {
	opts *Options
	name string // of the database, in messages

	reading atomic.Pointer[reading]
	most    atomic.Int64
	// wrong is set while the node's clock is too far off.
	wrong atomic.Bool
}

// reading is one comparison of the clocks.
type reading struct {
	database time.Time
	at       time.Time     // with a monotonic part
	ahead    time.Duration // of the database, by the node's clock
}

// checkClock takes in the database's time, which was read between the two others.
func (c *clock) checkClock(sent, received, database time.Time) {
	if c.opts.DatabaseNow != nil {
		database = c.opts.DatabaseNow()
	}
	at := sent.Add(received.Sub(sent) / 2)
	// The wall clock may have been set since the process began.
	node := c.opts.Now().Round(0).Add(-received.Sub(at))
	r := &reading{database: database, at: at, ahead: node.Sub(database)}
	c.reading.Store(r)
	metrics.SetClockOffset(r.ahead)
	wrong := r.ahead.Abs() > c.maxError()
	if c.wrong.Swap(wrong) == wrong {
		return
	}
	if wrong {
		c.opts.Logger().Error("the clock of this node is wrong, or the database's is: it forgets nothing until they agree, and refuses genuine webhooks that its clock takes for old ones",
			zap.String("store", c.name), zap.Duration("ahead_of_database", r.ahead.Round(time.Millisecond)), zap.Duration("most", c.maxError()))
	} else {
		c.opts.Logger().Info("the clocks of this node and of the database agree again", zap.String("store", c.name))
	}
}

// max is how far the clocks may be apart.
func (c *clock) maxError() time.Duration {
	if d := time.Duration(c.most.Load()); d > 0 {
		return d
	}
	return DefaultMaxClockError
}

// SetMaxClockError implements store.Clocked.
func (c *clock) SetMaxClockError(d time.Duration) { c.most.Store(int64(d)) }

// ClockOffset implements store.Clocked.
func (c *clock) ClockOffset() (ahead time.Duration, wrong bool) {
	if r := c.reading.Load(); r != nil {
		ahead = r.ahead
	}
	return ahead, c.wrong.Load()
}

// now is the time by the database's clock.
func (c *clock) now() time.Time {
	if c.opts.DatabaseNow != nil {
		return c.opts.DatabaseNow()
	}
	r := c.reading.Load()
	return r.database.Add(time.Since(r.at))
}

// toDatabase converts a time by the node's clock.
func (c *clock) toDatabase(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return c.now().Add(t.Sub(c.opts.Now()))
}

// fromDatabase converts a time by the database's clock.
func (c *clock) fromDatabase(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return c.opts.Now().Add(t.Sub(c.now()))
}
