package delivery

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// State is the state of an endpoint's breaker.
type State string

// The states of a breaker.
const (
	Closed   State = "closed"    // deliveries go out
	Open     State = "open"      // they wait for the cooldown to end
	HalfOpen State = "half_open" // they wait for a probe's outcome
)

// EndpointStatus is what the engine knows of an endpoint. An endpoint at which
// nothing happened for five minutes is not known.
type EndpointStatus struct {
	Endpoint string    `json:"endpoint"`
	State    State     `json:"state"`
	InFlight int       `json:"in_flight"`
	Failures int       `json:"failures"`        // in a row
	Since    time.Time `json:"since,omitzero"`  // when it opened, unless closed
	Until    time.Time `json:"until,omitzero"`  // end of the cooldown, unless closed
	Error    string    `json:"error,omitempty"` // of the failure that opened it last, unless closed
	// URLs are the clients' URLs on it whose breaker is open, those for
	// longest first, up to MaxURLs.
	URLs []URLStatus `json:"urls,omitempty"`
	// URLsOpen is the number of all such URLs.
	URLsOpen int `json:"urls_open"`
}

// MaxURLs bounds the URLs of an endpoint that are listed.
const MaxURLs = 20

// URLStatus is a client's URL whose breaker is open, because its receiver refuses
// deliveries or has asked for a pause. A URL may be a secret, so only its client
// is named.
type URLStatus struct {
	Client   string    `json:"client"`
	State    State     `json:"state"`
	Failures int       `json:"failures"` // in a row
	Since    time.Time `json:"since"`
	Until    time.Time `json:"until"`
	Error    string    `json:"error"`
}

// Status is the load of an engine.
type Status struct {
	InFlight   int `json:"in_flight"`  // attempts
	Workers    int `json:"workers"`    // attempts that hold a worker
	Committing int `json:"committing"` // attempts that ended and are being committed
	Endpoints  int `json:"endpoints"`  // known
}

// Status returns the engine's load.
func (e *Engine) Status() Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	a := &e.admission
	s := Status{Workers: a.workers.busy.Len(), Committing: a.backlog.committing, Endpoints: len(a.endpoints)}
	for _, p := range a.endpoints {
		s.InFlight += p.inFlight
	}
	return s
}

// Endpoints returns the known endpoints, those that are not closed first, then
// those with URLs whose breaker is open, then by name.
func (e *Engine) Endpoints() []EndpointStatus {
	now := e.conf.Now()
	e.mu.Lock()
	list := make([]EndpointStatus, 0, len(e.admission.endpoints))
	for _, p := range e.admission.endpoints {
		if p.inbox == nil && !p.absent {
			list = append(list, p.status(now))
		}
	}
	e.mu.Unlock()
	rank := func(s *EndpointStatus) int {
		switch {
		case s.State != Closed:
			return 0
		case s.URLsOpen > 0:
			return 1
		}
		return 2
	}
	slices.SortFunc(list, func(a, b EndpointStatus) int {
		return cmp.Or(cmp.Compare(rank(&a), rank(&b)), strings.Compare(a.Endpoint, b.Endpoint))
	})
	return list
}

// Blocker is the open breaker that a delivery waits for.
type Blocker struct {
	// Of is what the breaker is of: endpoint, url or app.
	Of       string    `json:"of"`
	State    State     `json:"state"`    // open or half_open
	Failures int       `json:"failures"` // in a row
	Since    time.Time `json:"since"`
	// Until is the end of the cooldown: one attempt decides then.
	Until time.Time `json:"until"`
	Error string    `json:"error"` // of the failure that opened it last
}

// Blocker returns the open breaker that a pending delivery waits for: that of its
// endpoint, else that of its URL. It returns nil if both are closed.
func (e *Engine) Blocker(d *store.Delivery) *Blocker {
	lane, of := store.Lane{Endpoint: store.EndpointOf(d.URL), Client: d.Client}.Only(d.URL), "endpoint"
	if d.Inbound != nil {
		lane, of = store.InboxLane(d.Inbound.Scope), "app"
	}
	now := e.conf.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.admission.endpoints[lane.Endpoint]
	if p == nil {
		return nil
	}
	b := &p.breaker
	if u := p.urls[lane]; !b.open && u != nil {
		b, of = &u.breaker, "url"
	}
	if !b.open {
		return nil
	}
	return &Blocker{Of: of, State: b.state(now), Failures: b.failures, Since: b.since, Until: b.until, Error: b.reason}
}

// Inboxes returns the states of the apps behind the configuration's inboxes: each as
// of an endpoint, whose name is the scope. They are sorted by it.
func (e *Engine) Inboxes() []EndpointStatus {
	e.mu.Lock()
	defer e.mu.Unlock()
	list := make([]EndpointStatus, 0, len(e.conf.inboxes))
	for scope := range e.conf.inboxes {
		s := EndpointStatus{State: Closed}
		if p := e.admission.endpoints[store.InboxLane(scope).Endpoint]; p != nil {
			s = p.status(e.conf.Now())
		}
		s.Endpoint = scope
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b EndpointStatus) int { return strings.Compare(a.Endpoint, b.Endpoint) })
	return list
}

func (p *endpoint) status(now time.Time) EndpointStatus {
	b := &p.breaker
	s := EndpointStatus{Endpoint: p.name, State: b.state(now), InFlight: p.inFlight, Failures: b.failures}
	if b.open {
		s.Since, s.Until, s.Error = b.since, b.until, b.reason
	}
	for _, u := range p.urls {
		if b := &u.breaker; b.open {
			s.URLs = append(s.URLs, URLStatus{Client: u.lane.Client, State: b.state(now), Failures: b.failures, Since: b.since, Until: b.until, Error: b.reason})
		}
	}
	s.URLsOpen = len(s.URLs)
	slices.SortFunc(s.URLs, func(a, b URLStatus) int {
		return cmp.Or(a.Since.Compare(b.Since), strings.Compare(a.Client, b.Client))
	})
	s.URLs = s.URLs[:min(len(s.URLs), MaxURLs)]
	return s
}

// Reset closes the breakers of an endpoint and of the URLs on it and forgets
// their failures, so that their deliveries go on at once. It reports whether the
// endpoint is known.
func (e *Engine) Reset(name string) bool {
	now := e.conf.Now()
	e.mu.Lock()
	a := &e.admission
	p := a.endpoints[name]
	if p == nil {
		e.mu.Unlock()
		return false
	}
	t := p.breaker.succeeded()
	if t == closed {
		a.countOpen(p, -1)
		a.outages.changed(store.Lane{Endpoint: name})
	}
	for _, u := range p.urls {
		u.breaker.failures = 0
		if u.inFlight == 0 {
			a.forgetURL(u, now)
			continue
		}
		u.breaker.open = false
		a.storeURL(u)
		a.unblockURL(p, u.lane, now)
	}
	a.reconsider(p, now)
	e.writeOutages()
	e.wakeUp()
	e.mu.Unlock()
	if t == closed && p.inbox == nil {
		e.reports.endpoint(e.conf.OnEndpointClosed, EndpointReport{Endpoint: name})
	}
	return true
}
