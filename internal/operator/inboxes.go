package operator

import (
	"context"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/delivery"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// Inbox is the inbox of a scope.
type Inbox struct {
	Scope string `json:"scope"`
	// Configured: this process has an inbox for the scope, and forwards its
	// events.
	Configured bool `json:"configured"`
	// PausedSince is when it was paused, missing where it is not.
	PausedSince time.Time `json:"paused_since,omitzero"`
	// Events held, by state.
	Events EventCounts `json:"events"`
	// Bytes is the size of the stored requests, bodies included.
	Bytes int64 `json:"bytes"`
	// OldestWaiting is when the oldest waiting event was accepted.
	OldestWaiting time.Time `json:"oldest_waiting,omitzero"`
	// Breaker is that of the app in this process, missing where it is not
	// configured.
	Breaker *InboxBreaker `json:"breaker,omitempty"`
}

// EventCounts are numbers of events by state. Running ones are waiting here.
type EventCounts struct {
	Waiting   int `json:"waiting"`
	Accepted  int `json:"accepted"`
	Refused   int `json:"refused"`
	Failed    int `json:"failed"`
	Discarded int `json:"discarded"`
}

// InboxBreaker is the breaker of an app.
type InboxBreaker struct {
	State    delivery.State `json:"state"`
	InFlight int            `json:"in_flight"`
	Failures int            `json:"failures"`        // in a row
	Since    time.Time      `json:"since,omitzero"`  // when it opened, unless closed
	Until    time.Time      `json:"until,omitzero"`  // end of the cooldown, unless closed
	Error    string         `json:"error,omitempty"` // of the failure that opened it last, unless closed
}

// Inboxes lists inboxes by scope: those that are configured, and those that have
// events or are paused.
type Inboxes struct {
	Results []Inbox `json:"results"`
}

// Paused is an inbox that was paused or resumed.
type Paused struct {
	Scope  string `json:"scope"`
	Paused bool   `json:"paused"`
}

// Inboxes lists the inboxes. The error is ErrUnavailable.
func (s *Service) Inboxes(ctx context.Context) (Inboxes, error) {
	out := Inboxes{Results: []Inbox{}}
	err := s.use(func(o store.Store) (err error) {
		out.Results, err = s.inboxes(ctx, o)
		return err
	})
	return out, err
}

func (s *Service) inboxes(ctx context.Context, o store.Store) ([]Inbox, error) {
	states, err := o.Inboxes(ctx)
	if err != nil {
		return []Inbox{}, err
	}
	apps := s.apps()
	out := make([]Inbox, 0, len(states))
	for i := range states {
		st := &states[i]
		n := st.Events
		in := Inbox{
			Scope: st.Scope, PausedSince: st.PausedAt, Bytes: st.Bytes, OldestWaiting: st.OldestWaiting,
			Events: EventCounts{
				Waiting: n[store.DeliveryPending], Accepted: n[store.DeliveryDelivered], Refused: n[store.DeliveryRefused],
				Failed: n[store.DeliveryFailed], Discarded: n[store.DeliveryCanceled],
			},
		}
		utc(&in.PausedSince, &in.OldestWaiting)
		out = append(out, in)
	}
	for scope := range apps {
		if !slices.ContainsFunc(out, func(in Inbox) bool { return in.Scope == scope }) {
			out = append(out, Inbox{Scope: scope})
		}
	}
	for i := range out {
		out[i].Breaker = apps[out[i].Scope]
		out[i].Configured = out[i].Breaker != nil
	}
	slices.SortFunc(out, func(a, b Inbox) int { return strings.Compare(a.Scope, b.Scope) })
	return out, nil
}

// InboxStates returns what the store holds of inboxes. ErrUnavailable.
func (s *Service) InboxStates(ctx context.Context) (states []store.InboxState, err error) {
	err = s.use(func(o store.Store) error {
		states, err = o.Inboxes(ctx)
		return err
	})
	return states, err
}

// apps returns the apps that this process forwards events to, by scope.
func (s *Service) apps() map[string]*InboxBreaker {
	out := make(map[string]*InboxBreaker)
	e := s.conf.Engine()
	if e == nil {
		return out
	}
	for _, a := range e.Inboxes() {
		b := &InboxBreaker{State: a.State, InFlight: a.InFlight, Failures: a.Failures, Since: a.Since, Until: a.Until, Error: a.Error}
		utc(&b.Since, &b.Until)
		out[a.Endpoint] = b
	}
	return out
}

// SetPaused pauses or resumes the inbox of a scope, on all nodes. The error is an
// *InvalidError, ErrNotFound for a scope that has no inbox and no events, or
// ErrUnavailable.
func (s *Service) SetPaused(ctx context.Context, scope string, paused bool) (Paused, error) {
	if scope == "" {
		return Paused{}, invalid("scope", "is missing: name one of the inboxes listed")
	}
	err := s.use(func(o store.Store) error {
		known, err := s.inboxes(ctx, o)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(known, func(in Inbox) bool { return in.Scope == scope }) {
			return ErrNotFound
		}
		return o.SetPaused(ctx, scope, paused)
	})
	if err != nil {
		return Paused{}, err
	}
	return Paused{Scope: scope, Paused: paused}, nil
}

// hostOf returns an address without its port.
func hostOf(address string) string {
	if host, _, err := net.SplitHostPort(address); err == nil {
		return host
	}
	return address
}
