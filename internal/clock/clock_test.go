package clock

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/clock/clocktest"
)

const day = 24 * time.Hour

// within runs a test in a bubble, with a wall clock that can be set.
func within(t *testing.T, test func(t *testing.T, wall *clocktest.Wall, c *Clock)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		wall := new(clocktest.Wall)
		test(t, wall, NewMonotonic(wall.Now))
	})
}

// TestStepsMoveNothingThatWaits: a time on the clock's scale comes when it would
// have come.
func TestStepsMoveNothingThatWaits(t *testing.T) {
	within(t, func(t *testing.T, wall *clocktest.Wall, c *Clock) {
		due := c.At(wall.Now().Add(time.Hour))
		for _, step := range []time.Duration{-day, day, 0, 400 * day} {
			wall.Set(step)
			if left := due - c.Now(); left != time.Hour.Milliseconds() {
				t.Errorf("after a step to %s it comes in %d ms", step, left)
			}
			if in := c.Time(due).Sub(wall.Now()); in != time.Hour {
				t.Errorf("after a step to %s its time is in %s", step, in)
			}
		}
		time.Sleep(time.Hour)
		if c.Now() < due || c.Passed() != time.Hour {
			t.Errorf("an hour later it is %d, and it comes at %d", c.Now(), due)
		}
	})
}

// TestMonotonicReadingsShowSteps of a clock such as time.Now.
func TestMonotonicReadingsShowSteps(t *testing.T) {
	wall := new(clocktest.Wall)
	c := New(wall.Now)
	due, stamp := c.At(wall.Now().Add(time.Hour)), wall.Now()
	for _, step := range []time.Duration{-day, day, 0} {
		wall.Set(step)
		if left := time.Duration(due-c.Now()) * time.Millisecond; left > time.Hour || left < 59*time.Minute {
			t.Errorf("after a step to %s it comes in %s", step, left)
		}
		if c.Passed() > time.Minute || stamp.Before(c.Before(time.Hour)) {
			t.Errorf("after a step to %s %s have passed", step, c.Passed())
		}
	}
}

// TestNothingIsOldBeforeItsTime, and it is when that has passed, whenever it was
// stamped.
func TestNothingIsOldBeforeItsTime(t *testing.T) {
	const age = 72 * time.Hour
	for name, steps := range map[string]struct{ first, second time.Duration }{
		"no step":              {0, 0},
		"forward for seconds":  {1000 * day, 0},
		"back for seconds":     {-1000 * day, 0},
		"forward for good":     {20000 * day, 20000 * day},
		"a little each time":   {time.Minute, 2 * time.Minute},
		"forward and further":  {day, 100 * day},
		"forward, then behind": {day, -day},
	} {
		t.Run(name, func(t *testing.T) {
			within(t, func(t *testing.T, wall *clocktest.Wall, c *Clock) {
				old := func(stamp time.Time) bool { return stamp.Before(c.Before(age)) }
				before := wall.Now()
				time.Sleep(time.Hour)
				wall.Set(steps.first)
				c.Before(age) // notices the step
				between := wall.Now()
				time.Sleep(10 * time.Second)
				wall.Set(steps.second)
				c.Before(age)
				after := wall.Now()
				for range 70 {
					if old(before) || old(between) || old(after) {
						t.Fatalf("after %s, of %s: %v %v %v", c.Passed(), age, old(before), old(between), old(after))
					}
					time.Sleep(time.Hour)
				}
				time.Sleep(3 * time.Hour)
				if !old(after) {
					t.Errorf("what was stamped last is not old after %s", c.Passed())
				}
				if steps.second >= 0 && !old(before) {
					t.Errorf("what was stamped first is not old after %s", c.Passed())
				}
			})
		})
	}
}

// TestStampsFromBeforeTheStartAreTakenAsTheyAre.
func TestStampsFromBeforeTheStartAreTakenAsTheyAre(t *testing.T) {
	within(t, func(t *testing.T, wall *clocktest.Wall, c *Clock) {
		stamp := wall.Now().Add(-23 * time.Hour)
		wall.Set(365 * day)
		if stamp.Before(c.Before(day)) {
			t.Error("a step made it old")
		}
		wall.Set(0)
		time.Sleep(time.Hour + time.Second)
		if !stamp.Before(c.Before(day)) {
			t.Error("it does not become old")
		}
	})
}

// TestSettledTakesNoStepForSeconds, one for good after some minutes, and one
// back at once.
func TestSettledTakesNoStepForSeconds(t *testing.T) {
	within(t, func(t *testing.T, wall *clocktest.Wall, c *Clock) {
		ahead := func() time.Duration { return time.Until(c.Settled()).Round(time.Second) }
		wall.Set(day)
		for range 4 {
			if got := ahead(); got != 0 {
				t.Fatalf("settled is %s ahead", got)
			}
			time.Sleep(time.Minute)
		}
		time.Sleep(2 * time.Minute)
		if got := ahead(); got != day {
			t.Errorf("after 6 minutes settled is %s ahead", got)
		}
		wall.Set(0)
		if got := ahead(); got != 0 {
			t.Errorf("after a step back settled is %s ahead", got)
		}
	})
}

// TestManySteps keeps no more than a few of them, and lets nothing become old too
// early.
func TestManySteps(t *testing.T) {
	within(t, func(t *testing.T, wall *clocktest.Wall, c *Clock) {
		stamp := wall.Now()
		for i := range 10 * maxSpans {
			wall.Set(time.Duration(i%7) * time.Hour)
			if stamp.Before(c.Before(time.Hour)) != (c.Passed() > time.Hour) && c.Passed() < time.Hour {
				t.Fatalf("old after %s", c.Passed())
			}
			time.Sleep(time.Second)
		}
		if n := len(*c.spans.Load()); n > maxSpans {
			t.Errorf("%d spans", n)
		}
	})
}

// TestClockWithoutMonotonicReadings: time passes as it says.
func TestClockWithoutMonotonicReadings(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	c := New(func() time.Time { return now })
	if c.Now() != now.UnixMilli() || !c.Settled().Equal(now) || c.At(now.Add(time.Second)) != now.Add(time.Second).UnixMilli() {
		t.Errorf("it is %d, settled %s", c.Now(), c.Settled())
	}
	now = now.Add(-day)
	if c.Now() != now.UnixMilli() || !c.Time(now.UnixMilli()+1).Equal(now.Add(time.Millisecond)) || !c.Before(time.Hour).Equal(now.Add(-time.Hour)) {
		t.Errorf("a day before it is %d", c.Now())
	}
}

func BenchmarkSettled(b *testing.B) {
	c := New(nil)
	for b.Loop() {
		c.Settled()
	}
}
