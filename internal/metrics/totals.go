package metrics

import (
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// Totals are the counters of this process by outcome.
type Totals struct {
	Requests map[string]uint64 // requests_total
	Attempts map[string]uint64 // attempts_total
}

// ReadTotals returns the totals.
func ReadTotals() Totals {
	return Totals{Requests: byOutcome(requests), Attempts: byOutcome(attempts)}
}

func byOutcome(vec *prometheus.CounterVec) map[string]uint64 {
	ch := make(chan prometheus.Metric)
	go func() {
		defer close(ch)
		vec.Collect(ch)
	}()
	totals := make(map[string]uint64)
	for m := range ch {
		var d dto.Metric
		if err := m.Write(&d); err != nil {
			continue
		}
		for _, l := range d.GetLabel() {
			if l.GetName() == "outcome" {
				totals[l.GetValue()] += uint64(d.GetCounter().GetValue())
			}
		}
	}
	return totals
}
