package operator

import (
	"context"
	"encoding/json"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/delivery"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// Delivery is one event on its way to one receiver.
type Delivery struct {
	ID         string `json:"id"`
	Event      string `json:"event"`
	Prediction string `json:"prediction"` // id, empty as long as it is not known
	Client     string `json:"client"`
	// URL is the current webhook_url of its prediction, empty when the webhook
	// is disabled, and Endpoint the scheme, host and port of it.
	URL      string `json:"url"`
	Endpoint string `json:"endpoint"`
	// State is pending, delivered, failed, superseded or canceled.
	State string `json:"state"`
	// Redelivery: asked for by a client or an operator.
	Redelivery bool `json:"redelivery"`
	// Attempts made so far.
	Attempts int       `json:"attempts"`
	Created  time.Time `json:"created"`
	// Due is the time of the next attempt of a pending delivery.
	Due time.Time `json:"due,omitzero"`
	// Ended is the time at which any other delivery ended.
	Ended time.Time `json:"ended,omitzero"`
	// Last is the last attempt, missing before the first.
	Last *LastAttempt `json:"last,omitempty"`
	// Breaker is the open breaker of this process that a pending delivery waits
	// for, missing where none is open.
	Breaker *delivery.Blocker `json:"breaker,omitempty"`
}

// LastAttempt is the last attempt of a delivery or event, without its response.
type LastAttempt struct {
	Number int       `json:"number"` // from 1
	At     time.Time `json:"at"`
	// Seconds it took.
	Seconds float64 `json:"seconds"`
	// Status is the HTTP status, 0 when there was no response.
	Status int `json:"status"`
	// Error says why it failed.
	Error string `json:"error,omitempty"`
}

// OK reports whether the receiver took the event.
func (a *LastAttempt) OK() bool { return a.Error == "" && a.Status >= 200 && a.Status < 300 }

// DeliveryPage is a page of deliveries, newest first. It may be short, even
// empty, where few of many match: the list ends where Next is empty.
type DeliveryPage struct {
	Results []Delivery `json:"results"`
	Next    string     `json:"next"`
}

// DeliveryDetail is a delivery with all there is to it.
type DeliveryDetail struct {
	Delivery
	// Payload is the body that receivers get.
	Payload json.RawMessage `json:"payload"`
	// Log has the attempts, oldest first.
	Log []Attempt `json:"log"`
}

// Attempt is one try to deliver.
type Attempt struct {
	ID     int64     `json:"id"`
	Number int       `json:"number"` // from 1
	URL    string    `json:"url"`
	At     time.Time `json:"at"`
	// Seconds it took.
	Seconds float64 `json:"seconds"`
	// Status is the HTTP status, 0 when there was no response.
	Status int `json:"status"`
	// Response is the beginning of the response's body.
	Response string `json:"response,omitempty"`
	// Error says why it failed.
	Error string `json:"error,omitempty"`
}

// OK reports whether the receiver took the event.
func (a *Attempt) OK() bool { return a.Error == "" && a.Status >= 200 && a.Status < 300 }

// Deliveries lists deliveries. The error is an *InvalidError or
// ErrUnavailable.
func (s *Service) Deliveries(ctx context.Context, q DeliveryQuery) (DeliveryPage, error) {
	out := DeliveryPage{Results: []Delivery{}}
	f, err := q.filter(s.conf.Now())
	if err != nil {
		return out, err
	}
	err = s.use(func(o store.Store) error {
		rows, next, err := o.ListDeliveries(ctx, f)
		for i := range rows {
			out.Results = append(out.Results, s.deliveryOf(&rows[i]))
		}
		out.Next = cursor(next)
		return err
	})
	return out, err
}

// Delivery finds a delivery. ErrNotFound, ErrUnavailable.
func (s *Service) Delivery(ctx context.Context, id string) (out DeliveryDetail, err error) {
	err = s.use(func(o store.Store) error {
		row, attempts, err := o.FindDelivery(ctx, id)
		if err == nil && row.Inbound != nil {
			err = ErrNotFound // it is an event of an inbox
		}
		if err != nil {
			return err
		}
		out = DeliveryDetail{Delivery: s.deliveryOf(&row), Payload: row.Payload, Log: attemptsOf(attempts)}
		return nil
	})
	return out, err
}

func attemptsOf(attempts []store.Attempt) []Attempt {
	out := make([]Attempt, len(attempts))
	for i := range attempts {
		a := &attempts[i]
		out[i] = Attempt{
			ID: a.ID, Number: a.Number, URL: a.URL, At: a.At.UTC(), Seconds: a.Took.Seconds(),
			Status: a.Status, Response: a.Response, Error: a.Error,
		}
	}
	return out
}

// lastOf returns the last attempt of a row, nil before the first.
func lastOf(r *store.DeliveryRow) *LastAttempt {
	a := r.Last
	if a == nil {
		return nil
	}
	return &LastAttempt{Number: a.Number, At: a.At.UTC(), Seconds: a.Took.Seconds(), Status: a.Status, Error: a.Error}
}

// blockerOf returns the open breaker that a pending row waits for, nil without one.
func (s *Service) blockerOf(r *store.DeliveryRow) *delivery.Blocker {
	e := s.conf.Engine()
	if e == nil || r.State != store.DeliveryPending {
		return nil
	}
	b := e.Blocker(&r.Delivery)
	if b != nil {
		utc(&b.Since, &b.Until)
	}
	return b
}

func (s *Service) deliveryOf(r *store.DeliveryRow) Delivery {
	d := Delivery{
		ID: r.ID, Event: r.Event.Name(), Prediction: r.PredictionID, Client: r.Client, URL: r.URL,
		State: r.State.String(), Redelivery: r.Redelivery, Attempts: r.Attempts, Created: r.CreatedAt.UTC(),
		Last: lastOf(r), Breaker: s.blockerOf(r),
	}
	if r.URL != "" {
		d.Endpoint = store.EndpointOf(r.URL)
	}
	if r.State == store.DeliveryPending {
		d.Due = r.Due.UTC()
	} else {
		d.Ended = r.Due.UTC()
	}
	return d
}
