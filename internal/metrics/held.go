package metrics

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// countTimeout bounds how long a scrape waits for a store that does not answer.
const countTimeout = 2 * time.Second

var (
	queueDeliveries = prometheus.NewDesc(prometheus.BuildFQName(namespace, subsystem, "queue_deliveries"),
		"Deliveries held, by state; those that ended are kept for the retention time.", []string{"state"}, nil)
	oldestPending = prometheus.NewDesc(prometheus.BuildFQName(namespace, subsystem, "oldest_pending_seconds"),
		"Age of the oldest pending delivery, 0 when there is none.", nil, nil)
	trackedPredictions = prometheus.NewDesc(prometheus.BuildFQName(namespace, subsystem, "tracked_predictions"),
		"Predictions whose terminal event is to come.", nil, nil)

	unreadable = prometheus.NewCounter(prometheus.CounterOpts{
		Namespace: namespace, Subsystem: subsystem, Name: "unreadable_total",
		Help: "Sealed values of the store that no sealing key opened.",
	})
)

// CountUnreadable counts a sealed value that no key opens.
func CountUnreadable() { unreadable.Inc() }

// held collects what the store holds when it is scraped.
type held struct {
	count func(context.Context) (store.Counts, error)
}

// Describe implements prometheus.Collector.
func (held) Describe(ch chan<- *prometheus.Desc) {
	ch <- queueDeliveries
	ch <- oldestPending
	ch <- trackedPredictions
}

// Collect implements prometheus.Collector. A store that can't be asked has no
// samples, which is not the same as none.
func (h held) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), countTimeout)
	defer cancel()
	c, err := h.count(ctx)
	if err != nil {
		return
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for state, n := range c.Deliveries {
		gauge(queueDeliveries, float64(n), store.DeliveryState(state).String())
	}
	age := 0.0
	if !c.OldestPending.IsZero() {
		age = max(time.Since(c.OldestPending).Seconds(), 0)
	}
	gauge(oldestPending, age)
	gauge(trackedPredictions, float64(c.Tracked))
}
