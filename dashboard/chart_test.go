package dashboard

import (
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/history"
)

// TestCharts tests that the bars of each range hold all that was counted within
// it, and fit the chart.
func TestCharts(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	for _, r := range chartRanges {
		steps := int64(chartBars * r.step / history.Step)
		var samples []history.Sample
		for i := range steps {
			s := history.Sample{End: now.Add(time.Duration(i+1-steps) * history.Step), Pending: int32(i)}
			for j := range s.Counts {
				s.Counts[j] = uint32(j + 1)
			}
			samples = append(samples, s)
		}
		for _, c := range charts(samples, now, r.step) {
			want := map[string]int64{"chart-in": (1 + 2 + 3 + 4) * steps, "chart-out": (5 + 6 + 7) * steps}[c.ID]
			if c.Total != want || len(c.Bars) != chartBars {
				t.Errorf("%s over %s: total %d, want %d, in %d bars", c.ID, r.Name, c.Total, want, len(c.Bars))
			}
			for i, series := range c.Series {
				first := map[string]int64{"chart-in": 1, "chart-out": 5}[c.ID]
				if want := (first + int64(i)) * steps; !c.Level && series.Total != want {
					t.Errorf("%s over %s: %d %s, want %d", c.ID, r.Name, series.Total, series.Name, want)
				}
			}
			if c.Level && c.Now != steps-1 {
				t.Errorf("%s over %s: %d now, want %d", c.ID, r.Name, c.Now, steps-1)
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
}
