package history

import (
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/delivery"
	"github.com/caddy-replicate/replicate-webhook/internal/edge"
	"github.com/caddy-replicate/replicate-webhook/internal/metrics"
)

// TestHistory tests that the newest samples of a day are kept, in order, and that
// watchers wake once something has happened, and not before.
func TestHistory(t *testing.T) {
	clock := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	count := uint64(0)
	h := newHistory(func() time.Time { return clock }, func() metrics.Totals {
		return metrics.Totals{
			Requests: map[string]uint64{"accepted": count, "duplicate": 2 * count, "signature": count, "store": count},
			Attempts: map[string]uint64{"success": count, "server_error": count, "timeout": 3 * count},
		}
	})
	for range maxSamples + 100 {
		clock = clock.Add(Step)
		count++
		h.sample()
	}
	if len(h.samples) != maxSamples {
		t.Fatalf("%d samples are kept", len(h.samples))
	}
	all := h.Since(clock.Add(-25 * time.Hour))
	if len(all) != maxSamples+1 {
		t.Fatalf("Since returns %d samples", len(all))
	}
	for i, s := range all[:maxSamples] {
		if want := clock.Add(time.Duration(i+1-maxSamples) * Step); !s.End.Equal(want) {
			t.Fatalf("sample %d of %d ends at %s, want %s", i, len(all), s.End, want)
		}
		if want := [counters]uint32{1, 2, 1, 1, 1, 1, 3}; s.Counts != want || s.Pending != -1 {
			t.Fatalf("sample %d is %+v, want the counts %v", i, s, want)
		}
	}
	h.wakeWatchers() // for what the samples counted
	changed := h.Changed()
	h.wakeWatchers()
	select {
	case <-changed:
		t.Error("a watcher was woken by nothing")
	default:
	}
	count++
	h.wakeWatchers()
	select {
	case <-changed:
	default:
		t.Error("the watcher was not woken")
	}
}

// TestEveryOutcomeOfAnAttemptIsCounted tests that each is counted once, by its
// class.
func TestEveryOutcomeOfAnAttemptIsCounted(t *testing.T) {
	counter := map[delivery.Class]int{
		delivery.Received: AttemptsDelivered, delivery.Refused: AttemptsRefused, delivery.Unanswered: AttemptsNoResponse,
	}
	for _, o := range delivery.Outcomes() {
		var want Counts
		want[counter[o.Class()]] = 1
		if got := sum(metrics.Totals{Attempts: map[string]uint64{o.String(): 1}}); got != want {
			t.Errorf("%s gives the counts %v, want %v", o, got, want)
		}
	}
}

// TestEveryOutcomeOfARequestIsCounted tests that each is counted once, by its
// class.
func TestEveryOutcomeOfARequestIsCounted(t *testing.T) {
	counter := map[edge.Class]int{
		edge.Accepted: RequestsAccepted, edge.Duplicate: RequestsDuplicate, edge.Rejected: RequestsRejected, edge.Refused: RequestsRefused,
	}
	for _, o := range edge.Outcomes() {
		var want Counts
		want[counter[o.Class()]] = 1
		if got := sum(metrics.Totals{Requests: map[string]uint64{string(o): 1}}); got != want {
			t.Errorf("%s gives the counts %v, want %v", o, got, want)
		}
	}
}
