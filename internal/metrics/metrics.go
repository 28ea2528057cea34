// Package metrics holds the plugin's Prometheus collectors.
//
// They are made once per process and registered with the registry of every
// configuration, so that counters survive a reload. No label is unbounded.
package metrics

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	namespace = "caddy"
	subsystem = "replicate_webhook"
)

var (
	requests      = counters("requests_total", "Requests to replicate_webhook by outcome.", "outcome")
	verifySeconds = histogram("verify_seconds", "Time to verify and parse a body once it is read.", prometheus.ExponentialBuckets(5e-6, 4, 9))
	dedupEntries  = gauge("dedup_entries", "Events remembered as accepted.")
	commitSeconds = histogram("store_commit_seconds", "Time of one transaction of the store, fsync included.", prometheus.ExponentialBuckets(1e-4, 2.5, 12))
	commitBatch   = histogram("store_commit_batch", "Operations committed together in one transaction.", prometheus.ExponentialBuckets(1, 2, 11))
)

// Register adds the collectors to a configuration's registry. The row counts of the
// configuration's store are read at each scrape.
func Register(r *prometheus.Registry, s Store) error {
	for _, c := range []prometheus.Collector{
		requests, verifySeconds, dedupEntries, commitSeconds, commitBatch, unreadable, sealingReady, clockOffset, storeCounts{s},
		deliveries, attempts, attemptSeconds, deliveryLag, endpointsOpen, inboxAttempts, inboxLag, keyedCreates, notices,
	} {
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
