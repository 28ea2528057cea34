package delivery

import (
	"testing"
	"time"
)

func TestDelays(t *testing.T) {
	s := time.Second
	for name, c := range map[string]struct {
		retry Retry
		want  []time.Duration
	}{
		"default":        {Retry{InitialDelay: Duration(s), MaxDelay: Duration(time.Minute), BackoffFactor: 2}, []time.Duration{s, 2 * s, 4 * s, 8 * s, 16 * s, 32 * s, 60 * s, 60 * s}},
		"factor 1":       {Retry{InitialDelay: Duration(s), MaxDelay: Duration(time.Minute), BackoffFactor: 1}, []time.Duration{s, s, s}},
		"fraction":       {Retry{InitialDelay: Duration(s), MaxDelay: Duration(time.Minute), BackoffFactor: 1.5}, []time.Duration{s, 1500 * time.Millisecond, 2250 * time.Millisecond}},
		"initial capped": {Retry{InitialDelay: Duration(90 * s), MaxDelay: Duration(time.Minute), BackoffFactor: 2}, []time.Duration{60 * s, 60 * s}},
	} {
		t.Run(name, func(t *testing.T) {
			for i, want := range c.want {
				if got := c.retry.delay(i + 1); got != want {
					t.Errorf("delay after failure %d is %v, want %v", i+1, got, want)
				}
			}
		})
	}
}

func TestJitterStaysInRange(t *testing.T) {
	r := Retry{InitialDelay: Duration(time.Second), MaxDelay: Duration(time.Minute), BackoffFactor: 2, Jitter: 0.5}
	seen := map[time.Duration]bool{}
	for range 1000 {
		d := r.delay(3)
		if d < 2*time.Second || d > 6*time.Second {
			t.Fatalf("delay of 4s ± half is %v", d)
		}
		seen[d] = true
		if d := r.delay(9); d < 30*time.Second || d > time.Minute {
			t.Fatalf("capped delay is %v", d)
		}
	}
	if len(seen) < 100 {
		t.Errorf("only %d different delays", len(seen))
	}
}

func TestExhausted(t *testing.T) {
	for _, c := range []struct {
		max, attempt int
		want         bool
	}{{5, 5, false}, {5, 6, true}, {5, 60, true}, {-1, 1, true}, {1, 1, false}, {1, 2, true}} {
		r := Retry{MaxAttempts: c.max}
		if got := r.exhausted(c.attempt); got != c.want {
			t.Errorf("attempt %d with %d retries: exhausted %v", c.attempt, c.max, got)
		}
	}
}
