package tracker

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/clock/clocktest"
	"github.com/caddy-replicate/replicate-webhook/internal/duration"
)

// TestClockStepsEndNoPrediction: a clock that is set for seconds, or for good,
// makes no running prediction overdue and keeps none from being given up when its
// time is over.
func TestClockStepsEndNoPrediction(t *testing.T) {
	const day = 24 * time.Hour
	for name, to := range map[string][2]time.Duration{
		"forward for seconds": {25 * time.Hour, 0},
		"forward for good":    {400 * day, 400 * day},
		"back for seconds":    {-25 * time.Hour, 0},
		"back for good":       {-400 * day, -400 * day},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				wall := new(clocktest.Wall)
				w := newWorld(t, func(c *options) { c.Now = wall.Now })
				w.api.set("/v1/predictions/before", body("before", "processing"))
				w.api.set("/v1/predictions/between", body("between", "processing"))
				w.start()
				defer w.end()
				begun := time.Now()
				w.track("before", "processing")
				time.Sleep(time.Hour)
				wall.Set(to[0])
				w.track("between", "processing")
				time.Sleep(10 * time.Second)
				wall.Set(to[1])
				polls := len(w.api.requests())
				time.Sleep(time.Minute)
				if n := len(w.api.requests()) - polls; n < 8 || n > 20 {
					t.Errorf("%d polls of two predictions in the minute after the step", n)
				}
				started := both[:1]
				time.Sleep(time.Until(begun.Add(day - time.Minute)))
				w.wantEvents("before", started)
				w.wantEvents("between", started)
				time.Sleep(2 * time.Minute)
				w.wantEvents("before", failed)
				w.wantEvents("between", started)
				time.Sleep(time.Hour)
				w.wantEvents("between", failed)
			})
		})
	}
}

// TestClockThatIsWrongAtTheStart has some minutes to be set right before it ends
// a prediction. What was stored in its future counts as new.
func TestClockThatIsWrongAtTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wall := new(clocktest.Wall)
		configure := func(c *options) { c.Now = wall.Now }
		w := newWorld(t, configure)
		w.track("p", "processing")
		w.api.set("/v1/predictions/p", body("p", "processing"))
		wall.Set(48 * time.Hour)
		w.renew(configure)
		w.st.restart()
		w.start()
		time.Sleep(4 * time.Minute)
		w.wantEvents("p", both[:1])
		wall.Set(0)
		time.Sleep(time.Hour)
		w.wantEvents("p", both[:1])
		w.end()

		wall.Set(-48 * time.Hour)
		w.renew(configure)
		w.st.restart()
		w.start()
		defer w.end()
		time.Sleep(23 * time.Hour)
		w.wantEvents("p", both[:1])
		time.Sleep(2 * time.Hour)
		w.wantEvents("p", failed)
	})
}

// TestClockStepsForgetNothing that is within retention.
func TestClockStepsForgetNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wall := new(clocktest.Wall)
		w := newWorld(t, func(c *options) { c.Now, c.Retention.Deliveries = wall.Now, duration.Duration(time.Hour) })
		w.start()
		defer w.end()
		time.Sleep(10 * time.Minute)
		wall.Set(1000 * time.Hour)
		time.Sleep(2 * time.Minute)
		wall.Set(0)
		time.Sleep(10 * time.Minute)
		w.st.mu.Lock()
		defer w.st.mu.Unlock()
		if len(w.st.forgot) < 20 {
			t.Errorf("retention was looked at %d times", len(w.st.forgot)/2)
		}
		for i := 0; i < len(w.st.forgot); i += 2 {
			// The ages are by the wall clock then.
			if age := w.st.forgot[i]; age != time.Hour && age != 1001*time.Hour {
				t.Errorf("what was older than %s was forgotten", age)
			}
		}
	})
}
