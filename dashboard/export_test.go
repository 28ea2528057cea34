package dashboard

import (
	"context"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/delivery"
	"github.com/caddy-replicate/replicate-webhook/internal/metrics"
)

// FillHistory gives the process' history an hour of work, until the test ends.
func FillHistory(t *testing.T) {
	s := &source{pending: func(context.Context) (int, error) { return 0, nil }}
	h, err := attachHistory(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.detach(s); err != nil {
			t.Error(err)
		}
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	for i := range 360 {
		wave := []uint32{6, 7, 9, 12, 14, 13, 10, 8, 7, 9, 11, 8}[i/6%12] + uint32(i*7%5)
		sample := sample{end: now.Add(time.Duration(i-360) * sampleEvery), pending: int32(wave / 3)}
		sample.count = [counters]uint32{wave * 2, wave / 4, uint32(i * 5 % 7 / 5), 0, wave, uint32(i * 3 % 11 / 9), 0}
		if i > 200 && i < 225 {
			sample.count[attRefused], sample.count[attUnanswered] = wave/2, wave/4
			sample.count[attDelivered] /= 2
			sample.pending = int32(wave + uint32(i-200)*2)
		} else if i >= 225 && i < 240 {
			sample.pending = int32(60 - 4*(i-225))
		}
		h.samples = append(h.samples, sample)
	}
}

// TestSamples: a ring of a day, charts that end now, and bars that hold all
// that was counted.
func TestSamples(t *testing.T) {
	clock := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	count := uint64(0)
	h := newHistory(func() time.Time { return clock }, func() metrics.Totals {
		return metrics.Totals{
			Requests: map[string]uint64{"accepted": count, "duplicate": 2 * count, "signature": count, "store": count},
			Attempts: map[string]uint64{"success": count, "server_error": count, "timeout": 3 * count},
		}
	})
	for range maxSamples + 100 {
		clock = clock.Add(sampleEvery)
		count++
		h.sample()
	}
	if len(h.samples) != maxSamples {
		t.Fatalf("%d samples are kept", len(h.samples))
	}
	all := h.Since(clock.Add(-25 * time.Hour))
	for i := 1; i < len(all); i++ {
		if all[i].end.Before(all[i-1].end) {
			t.Fatalf("sample %d of %d ends at %s, the one before at %s", i, len(all), all[i].end, all[i-1].end)
		}
	}
	for _, r := range chartRanges {
		steps := int64(chartBars * r.step / sampleEvery)
		for _, c := range charts(h.Since(clock.Add(-chartBars*r.step)), clock, r.step) {
			want := map[string]int64{"chart-out": 5 * steps, "chart-in": 5 * steps}[c.ID]
			if c.Total != want || len(c.Bars) != chartBars {
				t.Errorf("%s over %s: total %d, want %d, in %d bars", c.ID, r.Name, c.Total, want, len(c.Bars))
			}
			for _, b := range c.Bars {
				for _, p := range b.Parts {
					if p.Y < 0 || p.Height < 0 || p.Y+p.Height > chartHeight {
						t.Errorf("%s over %s: a part at %d of height %d", c.ID, r.Name, p.Y, p.Height)
					}
				}
			}
		}
	}
	// Watchers wake once something happened, and not before.
	h.look() // takes in what the samples counted
	changed := h.Changed()
	h.look()
	select {
	case <-changed:
		t.Error("woken by nothing")
	default:
	}
	count++
	h.look()
	select {
	case <-changed:
	default:
		t.Error("not woken")
	}
}

// TestEveryOutcomeOfAnAttemptIsCharted: each is counted in one series of the
// chart of attempts.
func TestEveryOutcomeOfAnAttemptIsCharted(t *testing.T) {
	names := map[delivery.Class]string{
		delivery.Received: "delivered", delivery.Refused: "refused", delivery.Unanswered: "without an answer",
	}
	for _, o := range delivery.Outcomes() {
		s := sample{end: time.Now()}
		for i, n := range sum(metrics.Totals{Attempts: map[string]uint64{o.String(): 1}}) {
			s.count[i] = uint32(n)
		}
		for _, series := range charts(nil, time.Now(), time.Minute)[0].Series {
			n, _ := series.of(&s)
			if want := series.Name == names[o.Class()]; (n == 1) != want || n > 1 {
				t.Errorf("%s counts %d times as %q", o, n, series.Name)
			}
		}
	}
}
