package operator

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// Life is what happened to a prediction, as far as the store holds it.
type Life struct {
	ID string
	// Prediction is nil where the store holds events of the id alone: those that
	// the edge accepted.
	Prediction *Prediction
	Deliveries []Delivery
	Events     []Event
	// Steps are in the order of their times.
	Steps []LifeStep
	// Cut: older deliveries, events or attempts were left out.
	Cut bool
}

// LifeKind is the kind of a step.
type LifeKind string

// The kinds of steps.
const (
	LifeCreated   LifeKind = "created"   // the client created the prediction
	LifeCommitted LifeKind = "committed" // an event was committed for its receiver
	LifeAccepted  LifeKind = "accepted"  // the edge accepted an event for the app
	LifeAttempt   LifeKind = "attempt"   // of a delivery, or of an event to the app
	LifeEnded     LifeKind = "ended"     // a delivery or event ended
	LifeWaits     LifeKind = "waits"     // a delivery or event waits
)

// LifeStep is one thing that happened.
type LifeStep struct {
	Kind LifeKind
	At   time.Time
	// Delivery or Event is what it is of, both nil for LifeCreated.
	Delivery *Delivery
	Event    *Event
	Attempt  *Attempt // of LifeAttempt
}

const (
	// lifeRows bounds the deliveries and the events of a life each.
	lifeRows = 50
	// lifeAttempts bounds the attempts of its deliveries, and those of the events
	// of one order.
	lifeAttempts = 200
)

// Life returns what happened to a prediction. api is needed only where several APIs
// have a prediction of the id. The error is an *InvalidError, ErrNotFound or
// ErrUnavailable.
func (s *Service) Life(ctx context.Context, id, api string) (Life, error) {
	out := Life{ID: id}
	if id == "" {
		return out, ErrNotFound
	}
	err := s.use(func(o store.Store) error {
		p, err := findPrediction(ctx, o, id, api)
		switch {
		case err == nil:
			err = s.deliveredLife(ctx, o, &p, &out)
		case errors.Is(err, ErrNotFound) && api == "":
			err = nil // there may be events
		}
		if err != nil {
			return err
		}
		if err := s.forwardedLife(ctx, o, &out); err != nil {
			return err
		}
		if out.Prediction == nil && len(out.Events) == 0 {
			return ErrNotFound
		}
		return nil
	})
	slices.SortStableFunc(out.Steps, func(a, b LifeStep) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.rank(), b.rank()))
	})
	return out, err
}

// rank orders steps of the same millisecond.
func (l *LifeStep) rank() int {
	return slices.Index([]LifeKind{LifeCreated, LifeAccepted, LifeCommitted, LifeAttempt, LifeEnded, LifeWaits}, l.Kind)
}

// deliveredLife adds a prediction and its deliveries.
func (s *Service) deliveredLife(ctx context.Context, o store.Store, p *store.Prediction, out *Life) error {
	found := predictionOf(p)
	out.Prediction = &found
	out.Steps = append(out.Steps, LifeStep{Kind: LifeCreated, At: found.Created})
	rows, next, err := o.ListDeliveries(ctx, store.DeliveryFilter{Prediction: p.ID, Limit: lifeRows})
	if err != nil {
		return err
	}
	rows = slices.DeleteFunc(rows, func(r store.DeliveryRow) bool { return r.Prediction != p.Ref })
	log, err := o.Attempts(ctx, p.Ref, 0, lifeAttempts)
	if err != nil {
		return err
	}
	out.Cut = out.Cut || next != 0 || len(log) == lifeAttempts
	for i := range rows {
		d := s.deliveryOf(&rows[i])
		out.Deliveries = append(out.Deliveries, d)
		out.Steps = append(out.Steps, LifeStep{Kind: LifeCommitted, At: d.Created, Delivery: &d})
		out.attempts(log, d.ID, LifeStep{Delivery: &d})
		out.end(d.Ended, d.Due, LifeStep{Delivery: &d})
	}
	return nil
}

// forwardedLife adds the events of a prediction that the edge accepted.
func (s *Service) forwardedLife(ctx context.Context, o store.Store, out *Life) error {
	rows, next, err := o.ListDeliveries(ctx, store.DeliveryFilter{Inbound: true, Prediction: out.ID, Limit: lifeRows})
	if err != nil {
		return err
	}
	out.Cut = out.Cut || next != 0
	logs := make(map[int64][]store.Attempt) // by order
	for i := range rows {
		r := &rows[i]
		log, ok := logs[r.Prediction]
		if !ok {
			if log, err = o.Attempts(ctx, r.Prediction, 0, lifeAttempts); err != nil {
				return err
			}
			out.Cut = out.Cut || len(log) == lifeAttempts
			logs[r.Prediction] = log
		}
		e := s.eventOf(o, r)
		out.Events = append(out.Events, e)
		out.Steps = append(out.Steps, LifeStep{Kind: LifeAccepted, At: e.Accepted, Event: &e})
		out.attempts(log, e.ID, LifeStep{Event: &e})
		out.end(e.Ended, e.Due, LifeStep{Event: &e})
	}
	return nil
}

// attempts adds those of a log that are of a delivery or event.
func (l *Life) attempts(log []store.Attempt, id string, of LifeStep) {
	for i := range log {
		if log[i].Delivery == id {
			a := attemptsOf(log[i : i+1])[0]
			of.Kind, of.At, of.Attempt = LifeAttempt, a.At, &a
			l.Steps = append(l.Steps, of)
		}
	}
}

// end adds how a delivery or event ended, or that it waits.
func (l *Life) end(ended, due time.Time, of LifeStep) {
	switch {
	case !ended.IsZero():
		of.Kind, of.At = LifeEnded, ended
	case !due.IsZero():
		of.Kind, of.At = LifeWaits, due
	default:
		return // an attempt is under way
	}
	l.Steps = append(l.Steps, of)
}
