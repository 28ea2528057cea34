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
		"default":  {Retry{InitialDelay: Duration(s), MaxDelay: Duration(time.Minute), BackoffFactor: 2}, []time.Duration{s, 2 * s, 4 * s, 8 * s, 16 * s, 32 * s, 60 * s, 60 * s}},
		"factor 1": {Retry{InitialDelay: Duration(s), MaxDelay: Duration(time.Minute), BackoffFactor: 1}, []time.Duration{s, s, s}},
		"fraction": {Retry{InitialDelay: Duration(s), MaxDelay: Duration(time.Minute), BackoffFactor: 1.5}, []time.Duration{s, 1500 * time.Millisecond, 2250 * time.Millisecond}},
		"then": {Retry{MaxAttempts: 2, InitialDelay: Duration(s), MaxDelay: Duration(time.Minute), BackoffFactor: 2, Then: []Duration{Duration(time.Minute), Duration(5 * time.Minute), Duration(10 * time.Hour)}},
			[]time.Duration{s, 2 * s, time.Minute, 5 * time.Minute, 10 * time.Hour}},
		"then alone":     {Retry{MaxAttempts: -1, InitialDelay: Duration(s), MaxDelay: Duration(time.Minute), BackoffFactor: 2, Then: []Duration{Duration(3 * s)}}, []time.Duration{3 * s}},
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

// TestWhole: the time of a schedule is the sum of its waits, whatever their number.
func TestWhole(t *testing.T) {
	hours := func(n ...int) (list []Duration) {
		for _, h := range n {
			list = append(list, Duration(time.Duration(h)*time.Hour))
		}
		return list
	}
	for _, c := range []struct {
		max  int
		then []Duration
		want time.Duration
	}{{5, nil, 31 * time.Second}, {7, nil, 123 * time.Second}, {-1, nil, 0}, {5, hours(2, 5), 7*time.Hour + 31*time.Second}, {1 << 20, nil, 63*time.Second + (1<<20-6)*time.Minute}} {
		r := Retry{MaxAttempts: c.max, InitialDelay: Duration(time.Second), MaxDelay: Duration(time.Minute), BackoffFactor: 2, Jitter: 0.5, Then: c.then}
		if got := r.Whole(); got != c.want {
			t.Errorf("%d retries and %v take %v, want %v", c.max, c.then, got, c.want)
		}
	}
}

// TestThenIsSpread: the jitter is also that of the further waits.
func TestThenIsSpread(t *testing.T) {
	r := Retry{MaxAttempts: 1, InitialDelay: Duration(time.Second), MaxDelay: Duration(time.Minute), BackoffFactor: 2, Jitter: 0.5, Then: []Duration{Duration(time.Hour)}}
	seen := make(map[time.Duration]bool)
	for range 100 {
		d := r.delay(2)
		if d < 30*time.Minute || d > 90*time.Minute {
			t.Fatalf("a wait of 1h ± half is %v", d)
		}
		seen[d] = true
	}
	if len(seen) < 50 {
		t.Errorf("only %d different waits", len(seen))
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
		r.Then = []Duration{1, 1}
		if got := r.exhausted(c.attempt + 2); got != c.want {
			t.Errorf("attempt %d with %d retries and two more: exhausted %v", c.attempt+2, c.max, got)
		}
	}
}
