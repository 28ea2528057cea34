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

// clock is what is known of the database's clock.
type clock struct {
	reading atomic.Pointer[reading]
	most    atomic.Int64
	// wrong is set while the node's clock is too far off.
	wrong atomic.Bool
}

// databaseClock is the part of the store that converts between the clocks.
type databaseClock struct{ s *Store }

// reading is one comparison of the clocks.
type reading struct {
	database time.Time
	at       time.Time     // with a monotonic part
	ahead    time.Duration // of the database, by the node's clock
}

// checkClock takes in the database's time, which was read between the two others.
func (c *databaseClock) checkClock(sent, received, database time.Time) {
	if c.s.opts.DatabaseNow != nil {
		database = c.s.opts.DatabaseNow()
	}
	at := sent.Add(received.Sub(sent) / 2)
	// The wall clock may have been set since the process began.
	node := c.s.opts.Now().Round(0).Add(-received.Sub(at))
	r := &reading{database: database, at: at, ahead: node.Sub(database)}
	c.s.clock.reading.Store(r)
	metrics.SetClockOffset(r.ahead)
	wrong := r.ahead.Abs() > c.s.clock.max()
	if c.s.clock.wrong.Swap(wrong) == wrong {
		return
	}
	if wrong {
		c.s.opts.Logger().Error("the clock of this node is wrong, or the database's is: it forgets nothing until they agree, and refuses genuine webhooks that its clock takes for old ones",
			zap.String("store", c.s.name), zap.Duration("ahead_of_database", r.ahead.Round(time.Millisecond)), zap.Duration("most", c.s.clock.max()))
	} else {
		c.s.opts.Logger().Info("the clocks of this node and of the database agree again", zap.String("store", c.s.name))
	}
}

// max is how far the clocks may be apart.
func (c *clock) max() time.Duration {
	if d := time.Duration(c.most.Load()); d > 0 {
		return d
	}
	return DefaultMaxClockError
}

// SetMaxClockError implements store.Clocked.
func (c *databaseClock) SetMaxClockError(d time.Duration) { c.s.clock.most.Store(int64(d)) }

// ClockOffset implements store.Clocked.
func (c *databaseClock) ClockOffset() (ahead time.Duration, wrong bool) {
	if r := c.s.clock.reading.Load(); r != nil {
		ahead = r.ahead
	}
	return ahead, c.s.clock.wrong.Load()
}

// now is the time by the database's clock.
func (c *databaseClock) now() time.Time {
	if c.s.opts.DatabaseNow != nil {
		return c.s.opts.DatabaseNow()
	}
	r := c.s.clock.reading.Load()
	return r.database.Add(time.Since(r.at))
}

// toDatabase converts a time by the node's clock.
func (c *databaseClock) toDatabase(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return c.s.now().Add(t.Sub(c.s.opts.Now()))
}

// fromDatabase converts a time by the database's clock.
func (c *databaseClock) fromDatabase(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return c.s.opts.Now().Add(t.Sub(c.s.now()))
}
