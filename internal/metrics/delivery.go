package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-replicate/replicate-webhook/internal/delivery"
)

var (
	deliveries = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: namespace, Subsystem: subsystem, Name: "deliveries_total",
		Help: "Deliveries that ended, by event and outcome.",
	}, []string{"event", "outcome"})

	attempts = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: namespace, Subsystem: subsystem, Name: "attempts_total",
		Help: "Attempts to deliver by outcome.",
	}, []string{"outcome"})

	attemptSeconds = prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: namespace, Subsystem: subsystem, Name: "attempt_seconds",
		Help:    "Time of one attempt, from connecting to the last byte of the response.",
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

// Delivery counts what delivery engines do. It implements delivery.Metrics.
type Delivery struct{}

// CountAttempt implements delivery.Metrics.
func (Delivery) CountAttempt(o delivery.Outcome) { attempts.WithLabelValues(o.String()).Inc() }

// ObserveAttempt implements delivery.Metrics.
func (Delivery) ObserveAttempt(took time.Duration) { attemptSeconds.Observe(took.Seconds()) }

// CountDelivery implements delivery.Metrics.
func (Delivery) CountDelivery(event string, f delivery.Final) {
	deliveries.WithLabelValues(event, f.String()).Inc()
}

// ObserveLag implements delivery.Metrics.
func (Delivery) ObserveLag(d time.Duration) { deliveryLag.Observe(d.Seconds()) }

// AddOpenEndpoints implements delivery.Metrics.
func (Delivery) AddOpenEndpoints(n int) { endpointsOpen.Add(float64(n)) }

// Interface guard.
var _ delivery.Metrics = Delivery{}
