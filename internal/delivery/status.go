package delivery

import (
	"slices"
	"strings"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/metrics"
)

// State is the state of an endpoint's breaker.
type State string

// The states of a breaker.
const (
	Closed   State = "closed"    // deliveries go out
	Open     State = "open"      // they wait for the cooldown to end
	HalfOpen State = "half_open" // they wait for a probe's outcome
)

// EndpointStatus is what the engine knows of an endpoint. Endpoints of which
// nothing was heard for five minutes are not known.
type EndpointStatus struct {
	Endpoint string    `json:"endpoint"`
	State    State     `json:"state"`
	InFlight int       `json:"in_flight"`
	Failures int       `json:"failures"`        // in a row
	Until    time.Time `json:"until,omitzero"`  // end of the cooldown, unless closed
	Error    string    `json:"error,omitempty"` // of the failure that opened it, unless closed
}

// Status is the load of an engine.
type Status struct {
	InFlight   int `json:"in_flight"`  // attempts
	Workers    int `json:"workers"`    // of which hold a worker
	Committing int `json:"committing"` // attempts that ended and are being committed
	Endpoints  int `json:"endpoints"`  // known
}

// Status gives the engine's load.
func (e *Engine) Status() Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := &e.capacity
	s := Status{Workers: c.working.Len(), Committing: c.committing, Endpoints: len(c.endpoints)}
	for _, p := range c.endpoints {
		s.InFlight += p.inFlight
	}
	return s
}

// Endpoints lists the known endpoints, those not closed first, then by name.
func (e *Engine) Endpoints() []EndpointStatus {
	now := e.conf.Now()
	e.mu.Lock()
	list := make([]EndpointStatus, 0, len(e.capacity.endpoints))
	for _, p := range e.capacity.endpoints {
		s := EndpointStatus{Endpoint: p.name, State: Closed, InFlight: p.inFlight, Failures: p.breaker.failures}
		if p.breaker.open {
			s.State, s.Until, s.Error = Open, p.breaker.until, p.reason
			if p.breaker.probing(now) {
				s.State = HalfOpen
			}
		}
		list = append(list, s)
	}
	e.mu.Unlock()
	slices.SortFunc(list, func(a, b EndpointStatus) int {
		if (a.State == Closed) != (b.State == Closed) {
			if a.State == Closed {
				return 1
			}
			return -1
		}
		return strings.Compare(a.Endpoint, b.Endpoint)
	})
	return list
}

// Reset closes the breaker of an endpoint and forgets its failures, so that its
// deliveries go on at once. It reports whether the endpoint is known.
func (e *Engine) Reset(name string) bool {
	now := e.conf.Now()
	e.mu.Lock()
	p := e.capacity.endpoints[name]
	if p == nil {
		e.mu.Unlock()
		return false
	}
	p.breaker.failures = 0
	t := p.breaker.close()
	if t == closed {
		metrics.AddEndpointsOpen(-1)
	}
	e.capacity.reconsider(p, now)
	e.nudge()
	e.mu.Unlock()
	if t == closed {
		e.reports.endpoint(e.conf.OnEndpointClosed, EndpointReport{Endpoint: name})
	}
	return true
}
