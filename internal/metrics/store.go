package metrics

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// countTimeout bounds how long a scrape waits for the store.
const countTimeout = 2 * time.Second

var (
	queueDeliveries    = desc("queue_deliveries", "Deliveries held, by state; those that ended are kept for the retention time.", "state")
	oldestPending      = desc("oldest_pending_seconds", "Age of the oldest pending delivery, 0 when there is none.")
	trackedPredictions = desc("tracked_predictions", "Predictions whose terminal event is to come.")
	unreadable         = counter("unreadable_total", "Sealed values of the store that no sealing key opened.")
	sealingReady       = gauge("sealing_ready", "1 while the sealing key is there and opens what signs, else 0.")
)

// CountUnreadable counts a sealed value that no key opens.
func CountUnreadable() { unreadable.Inc() }

// SetSealingReady records whether the sealing key is available.
func SetSealingReady(ready bool) {
	v := 0.0
	if ready {
		v = 1
	}
	sealingReady.Set(v)
}

// storeCounts collects the store's row counts when it is scraped.
type storeCounts struct {
	count func(context.Context) (store.Counts, error)
}

// Describe implements prometheus.Collector.
func (storeCounts) Describe(ch chan<- *prometheus.Desc) {
	ch <- queueDeliveries
	ch <- oldestPending
	ch <- trackedPredictions
}

// Collect implements prometheus.Collector. A store that is not available has no
// samples, in place of samples that are 0.
func (s storeCounts) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), countTimeout)
	defer cancel()
	c, err := s.count(ctx)
	if err != nil {
		return
	}
	send := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for state, n := range c.Deliveries {
		send(queueDeliveries, float64(n), store.DeliveryState(state).String())
	}
	age := 0.0
	if !c.OldestPending.IsZero() {
		age = max(time.Since(c.OldestPending).Seconds(), 0)
	}
	send(oldestPending, age)
	send(trackedPredictions, float64(c.Tracked))
}

// clockOffset has no sample unless several nodes share the store.
var clockOffset = gauges("clock_offset_seconds", "How far this node's clock is ahead of the database's, with store postgres.")

// SetClockOffset records how far the clock of this process is ahead of the
// database's.
func SetClockOffset(ahead time.Duration) { clockOffset.WithLabelValues().Set(ahead.Seconds()) }
