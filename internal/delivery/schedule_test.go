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
		"default":        {Retry{InitialDelay: s, MaxDelay: time.Minute, BackoffFactor: 2}, []time.Duration{s, 2 * s, 4 * s, 8 * s, 16 * s, 32 * s, 60 * s, 60 * s}},
		"factor 1":       {Retry{InitialDelay: s, MaxDelay: time.Minute, BackoffFactor: 1}, []time.Duration{s, s, s}},
		"fraction":       {Retry{InitialDelay: s, MaxDelay: time.Minute, BackoffFactor: 1.5}, []time.Duration{s, 1500 * time.Millisecond, 2250 * time.Millisecond}},
		"initial capped": {Retry{InitialDelay: 90 * s, MaxDelay: time.Minute, BackoffFactor: 2}, []time.Duration{60 * s, 60 * s}},
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
	r := Retry{InitialDelay: time.Second, MaxDelay: time.Minute, BackoffFactor: 2, Jitter: 0.5}
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

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"":                               0,
		"0":                              0,
		"7":                              7 * time.Second,
		"007":                            7 * time.Second,
		"3600":                           time.Hour,
		"86400":                          time.Hour,
		"9999999999":                     time.Hour,
		"99999999999":                    0,
		"18446744073709551616":           0,
		"-5":                             0,
		"+5":                             0,
		"5s":                             0,
		"1.5":                            0,
		" 5":                             0,
		"soon":                           0,
		"Sun, 01 Mar 2026 12:00:30 GMT":  30 * time.Second,
		"Sun, 01 Mar 2026 11:00:00 GMT":  0,
		"Mon, 02 Mar 2026 12:00:00 GMT":  time.Hour,
		"Sunday, 01-Mar-26 12:01:00 GMT": time.Minute,
		"Fri, 31 Dec 9999 23:59:59 GMT":  time.Hour,
	} {
		if got := retryAfter(value, now); got != want {
			t.Errorf("Retry-After %q means %v, want %v", value, got, want)
		}
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
