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
	inboxEvents        = desc("inbox_events", "Events of the inboxes, by state; those that ended are kept for the retention time.", "state")
	inboxOldestWaiting = desc("inbox_oldest_waiting_seconds", "Time since the oldest waiting event was accepted, 0 when there is none.")
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

// Store is the part of a configuration's store that scrapes need.
type Store interface {
	Counts(ctx context.Context) (store.Counts, error)
	InboxStates(ctx context.Context) ([]store.InboxState, error)
}

// storeCounts collects the store's row counts when it is scraped.
type storeCounts struct{ Store }

// Describe implements prometheus.Collector.
func (storeCounts) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{queueDeliveries, oldestPending, trackedPredictions, inboxEvents, inboxOldestWaiting} {
		ch <- d
	}
}

// Collect implements prometheus.Collector. A store that is not available has no
// samples, in place of samples that are 0.
func (s storeCounts) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), countTimeout)
	defer cancel()
	send := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	if c, err := s.Counts(ctx); err == nil {
		for state, n := range c.Deliveries {
			send(queueDeliveries, float64(n), store.DeliveryState(state).String())
		}
		send(oldestPending, age(c.OldestPending))
		send(trackedPredictions, float64(c.Tracked))
	}
	inboxes, err := s.InboxStates(ctx)
	if err != nil {
		return
	}
	var sum store.InboxState
	for i := range inboxes {
		for state, n := range inboxes[i].Events {
			sum.Events[state] += n
		}
		if at := inboxes[i].OldestWaiting; !at.IsZero() && (sum.OldestWaiting.IsZero() || at.Before(sum.OldestWaiting)) {
			sum.OldestWaiting = at
		}
	}
	for state, n := range sum.Events {
		if name := store.DeliveryState(state).EventState(); name != "" {
			send(inboxEvents, float64(n), name)
		}
	}
	send(inboxOldestWaiting, age(sum.OldestWaiting))
}

// age returns the seconds since a time, 0 for none.
func age(at time.Time) float64 {
	if at.IsZero() {
		return 0
	}
	return max(time.Since(at).Seconds(), 0)
}

// clockOffset has no sample unless several nodes share the store.
var clockOffset = gauges("clock_offset_seconds", "How far this node's clock is ahead of the database's, with store postgres.")

// SetClockOffset records how far the clock of this process is ahead of the
// database's.
func SetClockOffset(ahead time.Duration) { clockOffset.WithLabelValues().Set(ahead.Seconds()) }
