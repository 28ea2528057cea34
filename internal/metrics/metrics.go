// Package metrics holds the plugin's Prometheus collectors.
//
// They are made once per process and registered with the registry of every
// configuration, so that counters survive a reload. No label is unbounded.
package metrics

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-replicate/replicate-webhook/store"
)

const (
	namespace = "caddy"
	subsystem = "replicate_webhook"
)

var (
	requests = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: namespace, Subsystem: subsystem, Name: "requests_total",
		Help: "Requests to replicate_webhook by outcome.",
	}, []string{"outcome"})

	verifySeconds = prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: namespace, Subsystem: subsystem, Name: "verify_seconds",
		Help:    "Time to verify and parse a body once it is read.",
		Buckets: prometheus.ExponentialBuckets(5e-6, 4, 9),
	})

	dedupEntries = prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: namespace, Subsystem: subsystem, Name: "dedup_entries",
		Help: "Events remembered as accepted.",
	})

	commitSeconds = prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: namespace, Subsystem: subsystem, Name: "store_commit_seconds",
		Help:    "Time of one transaction of the store, fsync included.",
		Buckets: prometheus.ExponentialBuckets(1e-4, 2.5, 12),
	})

	commitBatch = prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: namespace, Subsystem: subsystem, Name: "store_commit_batch",
		Help:    "Operations committed together in one transaction.",
		Buckets: prometheus.ExponentialBuckets(1, 2, 11),
	})
)

// Register adds the collectors to a configuration's registry. count is called at
// each scrape and returns the row counts of the configuration's store.
func Register(r *prometheus.Registry, count func(context.Context) (store.Counts, error)) error {
	edge := []prometheus.Collector{requests, verifySeconds, dedupEntries, commitSeconds, commitBatch, unreadable, sealingReady, clockOffset, storeCounts{count}}
	for _, c := range append(edge, deliveryCollectors()...) {
		var already prometheus.AlreadyRegisteredError
		if err := r.Register(c); err != nil && !errors.As(err, &already) {
			return err
		}
	}
	return nil
}

// CountRequest counts a request by its outcome, one of a fixed set.
func CountRequest(outcome string) { requests.WithLabelValues(outcome).Inc() }

// ObserveVerify records how long verification took.
func ObserveVerify(d time.Duration) { verifySeconds.Observe(d.Seconds()) }

// SetDedupEntries records the number of deduplication entries.
func SetDedupEntries(n int) { dedupEntries.Set(float64(n)) }

// ObserveCommit records one transaction of n operations.
func ObserveCommit(n int, d time.Duration) {
	commitBatch.Observe(float64(n))
	commitSeconds.Observe(d.Seconds())
}
