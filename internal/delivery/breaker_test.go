package delivery

import (
	"testing"
	"time"
)

func TestBreaker(t *testing.T) {
	const s = time.Second
	limit := &Breaker{Failures: 3, Cooldown: Duration(30 * s)}
	type step struct {
		after  time.Duration
		failed bool
		probe  bool
		wait   time.Duration // asked for
		want   transition
		until  time.Duration // from the step on, if it is open
	}
	fail := step{failed: true}
	open := step{failed: true, want: opened, until: 30 * s}
	for name, steps := range map[string][]step{
		"opens at the limit":                 {fail, fail, open},
		"success resets":                     {fail, fail, {}, fail},
		"late failures do not prolong":       {fail, fail, open, {after: s, failed: true, until: 29 * s}},
		"late success closes":                {fail, fail, open, {after: s, want: closed}},
		"probe fails":                        {fail, fail, open, {after: 30 * s, failed: true, probe: true, want: reopened, until: 30 * s}},
		"probe succeeds":                     {fail, fail, open, {after: 30 * s, probe: true, want: closed}, fail},
		"a wait opens":                       {{failed: true, wait: 5 * s, want: opened, until: 5 * s}},
		"a shorter wait does not prolong":    {{failed: true, wait: 5 * s, want: opened, until: 5 * s}, {failed: true, wait: s, until: 5 * s}},
		"a longer wait prolongs":             {{failed: true, wait: 5 * s, want: opened, until: 5 * s}, {failed: true, wait: 60 * s, until: 60 * s}},
		"a wait ends with the first failure": {{failed: true, wait: 5 * s, want: opened, until: 5 * s}, {after: 5 * s, failed: true, probe: true, want: closed}},
		"a wait is repeated":                 {{failed: true, wait: 5 * s, want: opened, until: 5 * s}, {after: 5 * s, failed: true, probe: true, wait: 7 * s, want: reopened, until: 7 * s}},
		"a wait beyond the cooldown":         {fail, fail, {failed: true, wait: 60 * s, want: opened, until: 60 * s}},
		"a wait below the cooldown":          {fail, fail, {failed: true, wait: s, want: opened, until: 30 * s}},
		"the limit is reached after a wait":  {{failed: true, wait: s, want: opened, until: s}, {failed: true, until: s}, {after: s, failed: true, probe: true, want: reopened, until: 30 * s}},
	} {
		t.Run(name, func(t *testing.T) {
			var b breaker
			now := time.Unix(0, 0)
			for i, st := range steps {
				now = now.Add(st.after)
				got := unchanged
				if st.failed {
					got = b.failed(limit, st.probe, st.wait, "why", now)
				} else {
					got = b.succeeded()
				}
				if got != st.want {
					t.Fatalf("step %d: transition %d, want %d", i, got, st.want)
				}
				if b.open != (st.until > 0) || b.open && !b.until.Equal(now.Add(st.until)) {
					t.Fatalf("step %d: open %t for %v, want %v", i, b.open, b.until.Sub(now), st.until)
				}
			}
		})
	}
	var never breaker
	for range 1000 {
		if never.failed(&Breaker{Failures: -1}, false, 0, "why", time.Unix(0, 0)) != unchanged {
			t.Fatal("a breaker that is off opened")
		}
	}
}

func TestABreakerKnowsSinceWhenItIsOpen(t *testing.T) {
	limit := &Breaker{Failures: 1, Cooldown: Duration(time.Second)}
	var b breaker
	begun := time.Unix(0, 0)
	for i := range 5 {
		b.failed(limit, true, 0, "why", begun.Add(time.Duration(i)*time.Minute))
	}
	if !b.since.Equal(begun) {
		t.Errorf("open since %v", b.since)
	}
}
