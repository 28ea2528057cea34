package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-replicate/replicate-webhook/internal/delivery"
)

var (
	deliveries     = counters("deliveries_total", "Deliveries that ended, by event and outcome.", "event", "outcome")
	attempts       = counters("attempts_total", "Attempts to deliver by outcome.", "outcome")
	attemptSeconds = histogram("attempt_seconds", "Time of one attempt, from connecting to the last byte of the response.", prometheus.ExponentialBuckets(1e-3, 2.5, 12))
	deliveryLag    = histogram("delivery_lag_seconds", "Time from an event's commit to its receipt, retries included.", prometheus.ExponentialBuckets(1e-3, 4, 12))
	inboxAttempts  = counters("inbox_attempts_total", "Attempts to hand an event to the app behind an inbox, by outcome.", "outcome")
	inboxLag       = histogram("inbox_lag_seconds", "Time from an event's acceptance to its app's 2xx, retries included.", prometheus.ExponentialBuckets(1e-3, 4, 12))
	endpointsOpen  = gauge("endpoints_open", "Endpoints whose breaker is open.")
)

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

// CountInboxAttempt implements delivery.Metrics.
func (Delivery) CountInboxAttempt(o delivery.Outcome) {
	inboxAttempts.WithLabelValues(o.String()).Inc()
}

// ObserveInboxLag implements delivery.Metrics.
func (Delivery) ObserveInboxLag(d time.Duration) { inboxLag.Observe(d.Seconds()) }

// AddOpenEndpoints implements delivery.Metrics.
func (Delivery) AddOpenEndpoints(n int) { endpointsOpen.Add(float64(n)) }

// Interface guard.
var _ delivery.Metrics = Delivery{}
