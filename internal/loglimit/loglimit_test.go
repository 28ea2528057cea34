package loglimit

import (
	"testing"
	"time"
)

func TestEachKeyIsAllowedOnceAMinute(t *testing.T) {
	var l Limiter
	start := time.Unix(1_700_000_000, 0)
	for _, c := range []struct {
		key     string
		after   time.Duration
		skipped int
		ok      bool
	}{
		{"a", 0, 0, true}, {"a", time.Second, 0, false}, {"b", time.Second, 0, true}, {"a", 59 * time.Second, 0, false},
		{"a", time.Minute, 2, true}, {"a", 61 * time.Second, 0, false}, {"a", 0, 1, true},
	} {
		if skipped, ok := l.Allow(c.key, start.Add(c.after)); skipped != c.skipped || ok != c.ok {
			t.Errorf("%s after %s: %d %v, want %d %v", c.key, c.after, skipped, ok, c.skipped, c.ok)
		}
	}
}
