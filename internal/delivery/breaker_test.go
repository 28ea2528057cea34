package delivery

import (
	"testing"
	"time"
)

func TestBreaker(t *testing.T) {
	limit := &Breaker{Failures: 3, Cooldown: 30 * time.Second}
	type step struct {
		after time.Duration
		h     health
		probe bool
		want  transition
	}
	for name, steps := range map[string][]step{
		"opens at the limit":            {{0, down, false, unchanged}, {0, down, false, unchanged}, {0, down, false, opened}},
		"2xx resets":                    {{0, down, false, unchanged}, {0, down, false, unchanged}, {0, up, false, unchanged}, {0, down, false, unchanged}, {0, down, false, unchanged}},
		"other answers leave the count": {{0, down, false, unchanged}, {0, down, false, unchanged}, {0, answering, false, unchanged}, {0, down, false, opened}},
		"own failures leave the count":  {{0, down, false, unchanged}, {0, down, false, unchanged}, {0, unknown, false, unchanged}, {0, down, false, opened}},
		"late failures do not prolong":  {{0, down, false, unchanged}, {0, down, false, unchanged}, {0, down, false, opened}, {time.Second, down, false, unchanged}},
		"late success closes":           {{0, down, false, unchanged}, {0, down, false, unchanged}, {0, down, false, opened}, {time.Second, up, false, closed}},
		"probe fails":                   {{0, down, false, unchanged}, {0, down, false, unchanged}, {0, down, false, opened}, {30 * time.Second, down, true, reopened}},
		"probe succeeds":                {{0, down, false, unchanged}, {0, down, false, unchanged}, {0, down, false, opened}, {30 * time.Second, up, true, closed}, {0, down, false, unchanged}},
		"probe is answered":             {{0, down, false, unchanged}, {0, down, false, unchanged}, {0, down, false, opened}, {30 * time.Second, answering, true, closed}, {0, down, false, unchanged}},
		"probe tells nothing":           {{0, down, false, unchanged}, {0, down, false, unchanged}, {0, down, false, opened}, {30 * time.Second, unknown, true, unchanged}},
	} {
		t.Run(name, func(t *testing.T) {
			var b breaker
			now := time.Unix(0, 0)
			for i, s := range steps {
				now = now.Add(s.after)
				if got := b.record(limit, s.h, s.probe, now); got != s.want {
					t.Fatalf("step %d: transition %d, want %d", i, got, s.want)
				}
				if b.open && s.want == reopened && b.until != now.Add(limit.Cooldown) {
					t.Errorf("step %d: open until %v", i, b.until)
				}
			}
		})
	}
	var never breaker
	for range 1000 {
		if never.record(&Breaker{Failures: -1}, down, false, time.Unix(0, 0)) != unchanged {
			t.Fatal("a breaker that is off opened")
		}
	}
}

func TestWhatCountsAgainstAnEndpoint(t *testing.T) {
	for status, want := range map[int]health{
		101: down, 200: up, 204: up, 299: up, 301: answering, 304: answering, 400: answering, 401: answering,
		404: answering, 410: answering, 413: answering, 429: down, 500: down, 503: down, 599: down, 700: down,
	} {
		if got := ofStatus(status).health(); got != want {
			t.Errorf("status %d: %v, want %v", status, got, want)
		}
	}
}
