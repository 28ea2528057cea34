package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

var (
	deliveries = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: namespace, Subsystem: subsystem, Name: "deliveries_total",
		Help: "Deliveries that came to an end, by event and by what end it was.",
	}, []string{"event", "outcome"})

	attempts = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: namespace, Subsystem: subsystem, Name: "attempts_total",
		Help: "Attempts to deliver by what became of them.",
	}, []string{"outcome"})

	attemptSeconds = prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: namespace, Subsystem: subsystem, Name: "attempt_seconds",
		Help:    "Time of one attempt, from connecting to the last byte of the answer.",
		Buckets: prometheus.ExponentialBuckets(1e-3, 2.5, 12),
	})

	deliveryLag = prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: namespace, Subsystem: subsystem, Name: "delivery_lag_seconds",
		Help:    "Time from an event's commit to its receipt, retries included.",
		Buckets: prometheus.ExponentialBuckets(1e-3, 4, 12),
	})

	endpointsOpen = prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: namespace, Subsystem: subsystem, Name: "endpoints_open",
		Help: "Endpoints whose breaker is open.",
	})
)

// deliveryCollectors are the collectors of outbound delivery.
func deliveryCollectors() []prometheus.Collector {
	return []prometheus.Collector{deliveries, attempts, attemptSeconds, deliveryLag, endpointsOpen}
}

// CountDelivery counts a delivery that came to an end, by its event's name and
// its outcome, each one of a fixed set.
func CountDelivery(event, outcome string) { deliveries.WithLabelValues(event, outcome).Inc() }

// ObserveAttempt records an attempt by its outcome, one of a fixed set, and
// how long it took.
func ObserveAttempt(outcome string, took time.Duration) {
	attempts.WithLabelValues(outcome).Inc()
	attemptSeconds.Observe(took.Seconds())
}

// CountHeldAttempt counts a try that came to its end without anything being
// sent.
func CountHeldAttempt(outcome string) { attempts.WithLabelValues(outcome).Inc() }

// ObserveDeliveryLag records how long an event took to reach its receiver.
func ObserveDeliveryLag(d time.Duration) { deliveryLag.Observe(d.Seconds()) }

// AddEndpointsOpen changes the number of endpoints whose breaker is open.
func AddEndpointsOpen(n int) { endpointsOpen.Add(float64(n)) }
