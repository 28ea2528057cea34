package delivery

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/duration"
)

// Duration is a duration in the configuration.
type Duration = duration.Duration

// Options are the options of delivery as they are in the configuration's JSON.
// SetDefaults sets what is left out.
type Options struct {
	// Retry is the schedule after a failed attempt.
	Retry Retry `json:"retry,omitzero"`

	// Timeout bounds one attempt, from connecting to the last byte of the
	// response. Default: 15s.
	Timeout Duration `json:"timeout,omitempty"`

	// Workers is how many attempts may be in flight, all endpoints together.
	// Those that have waited for their receiver for a while do not count.
	// Default: 256.
	Workers int `json:"workers,omitempty"`

	// Endpoint limits what one endpoint (scheme://host:port) gets.
	Endpoint Endpoint `json:"endpoint,omitzero"`
}

// Retry is the schedule after a failed attempt: the first wait is InitialDelay,
// each further one BackoffFactor times as long, and then come those of Then.
type Retry struct {
	// MaxAttempts is the number of retries after the first attempt. Default:
	// 5. -1 is none.
	MaxAttempts int `json:"max_attempts,omitempty"`
	// InitialDelay is the first wait. Default: 1s.
	InitialDelay Duration `json:"initial_delay,omitempty"`
	// MaxDelay is the longest wait. Default: 60s.
	MaxDelay Duration `json:"max_delay,omitempty"`
	// BackoffFactor is at least 1. Default: 2.
	BackoffFactor float64 `json:"backoff_factor,omitempty"`
	// Jitter, 0 to 1, spreads each wait by up to this part of it. Default:
	// 0.
	Jitter float64 `json:"jitter,omitempty"`
	// Then are the waits after those of the MaxAttempts retries, each before one
	// more retry. Default: none.
	Then []Duration `json:"then,omitempty"`
}

// Endpoint limits what one endpoint gets.
type Endpoint struct {
	// Concurrency is the number of attempts in flight. Default: 16.
	Concurrency int `json:"concurrency,omitempty"`
	// Rate bounds how often attempts begin. Default: no bound.
	Rate Rate `json:"rate,omitzero"`
	// Breaker stops deliveries to an endpoint, or to a client's URL on it,
	// that keeps failing.
	Breaker Breaker `json:"breaker,omitzero"`
}

// Rate is a number of attempts per time. After a pause Count attempts may begin
// at once.
type Rate struct {
	// Count is the number of attempts, 1 or more.
	Count int `json:"count,omitempty"`
	// Per is the time in which so many may begin.
	Per Duration `json:"per,omitempty"`
}

// Breaker opens after consecutive failures. Attempts without a complete response
// count for the endpoint, and responses other than 2xx for the client's URL
// alone.
type Breaker struct {
	// Failures in a row that open it. Default: 10. -1 is never.
	Failures int `json:"failures,omitempty"`
	// Cooldown is how long deliveries wait then, before one goes first.
	// Default: 30s.
	Cooldown Duration `json:"cooldown,omitempty"`
	// Hold is the longest that a delivery waits behind an open breaker for
	// one attempt. Then the attempt has failed, and the next wait of the
	// schedule begins. Default: 1h.
	Hold Duration `json:"hold,omitempty"`
}

// SetDefaults checks the options and sets the defaults of those that are 0.
func (o *Options) SetDefaults() error {
	r, e := &o.Retry, &o.Endpoint
	switch {
	case r.Jitter < 0 || r.Jitter > 1 || math.IsNaN(r.Jitter):
		return errors.New("configuring delivery: jitter is not between 0 and 1")
	case slices.ContainsFunc(r.Then, func(d Duration) bool { return d <= 0 }):
		return errors.New("configuring delivery: a wait of then is not positive")
	case math.IsNaN(r.BackoffFactor) || math.IsInf(r.BackoffFactor, 0):
		return errors.New("configuring delivery: backoff factor is not a number")
	case e.Rate.Count < 0 || e.Rate.Per < 0 || (e.Rate.Count == 0) != (e.Rate.Per == 0):
		return errors.New("configuring delivery: rate takes a count and a duration above 0")
	}
	for _, err := range []error{
		setDefault(&r.MaxAttempts, 5, -1, "max attempts"),
		setDefault(&r.InitialDelay, Duration(time.Second), 0, "initial delay"),
		setDefault(&r.MaxDelay, Duration(time.Minute), 0, "max delay"),
		setDefault(&r.BackoffFactor, 2, 1, "backoff factor"),
		setDefault(&e.Concurrency, 16, 1, "endpoint concurrency"),
		setDefault(&e.Breaker.Failures, 10, -1, "breaker failures"),
		setDefault(&e.Breaker.Cooldown, Duration(30*time.Second), 0, "breaker cooldown"),
		setDefault(&e.Breaker.Hold, Duration(time.Hour), 0, "breaker hold"),
		setDefault(&o.Timeout, Duration(15*time.Second), 0, "timeout"),
		setDefault(&o.Workers, 256, 1, "workers"),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

// setDefault sets *p to its default if it is 0, and checks that it is not below
// the least value.
func setDefault[T int | float64 | Duration](p *T, standard, least T, name string) error {
	if *p == 0 {
		*p = standard
	}
	if *p < least {
		return fmt.Errorf("configuring delivery: %s is less than %v", name, least)
	}
	return nil
}
