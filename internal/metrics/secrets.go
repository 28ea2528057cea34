package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

var secretFileAge = desc("secret_file_age_seconds", "Time since the secret in use was last found in its file, by option; of several secrets the longest.", "option")

// secretAges collects the ages of secrets read from files when it is scraped.
type secretAges func() map[string]time.Duration

// RegisterSecrets adds the ages of a configuration's secrets by option, each of
// a fixed set, to its registry.
func RegisterSecrets(r *prometheus.Registry, ages func() map[string]time.Duration) error {
	return r.Register(secretAges(ages))
}

// Describe implements prometheus.Collector.
func (secretAges) Describe(ch chan<- *prometheus.Desc) { ch <- secretFileAge }

// Collect implements prometheus.Collector.
func (ages secretAges) Collect(ch chan<- prometheus.Metric) {
	for option, age := range ages() {
		ch <- prometheus.MustNewConstMetric(secretFileAge, prometheus.GaugeValue, age.Seconds(), option)
	}
}
