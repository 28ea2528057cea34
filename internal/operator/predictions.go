package operator

import (
	"context"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// Prediction is a prediction with a webhook.
type Prediction struct {
	ID string `json:"id"`
	// API is the base URL of the API that has it, empty for one whose events
	// only come by callback.
	API    string `json:"api"`
	Client string `json:"client"`
	// URL gets the events, empty when the webhook is disabled.
	URL string `json:"url"`
	// Events are the events that the client selected.
	Events []string `json:"events"`
	// Happened are the events there have been.
	Happened []string `json:"happened"`
	// Status of the webhook: pending, delivered, failed or disabled.
	Status string `json:"webhook_status"`
	// Completed: nothing more will be sent.
	Completed bool `json:"webhook_completed"`
	// Test marks one of test mode.
	Test    bool      `json:"test"`
	Created time.Time `json:"created"`
}

// PredictionPage is a page of predictions, newest first. It may be short, even
// empty, where few of many match: the list ends where Next is empty.
type PredictionPage struct {
	Results []Prediction `json:"results"`
	Next    string       `json:"next"`
}

// PredictionDetail is a prediction with its deliveries.
type PredictionDetail struct {
	Prediction
	// Deliveries are the newest, up to DefaultLimit.
	Deliveries []Delivery `json:"deliveries"`
}

// Predictions lists predictions. The error is an *InvalidError or
// ErrUnavailable.
func (s *Service) Predictions(ctx context.Context, q PredictionQuery) (PredictionPage, error) {
	out := PredictionPage{Results: []Prediction{}}
	f, err := q.filter()
	if err != nil {
		return out, err
	}
	err = s.use(func(o store.Store) error {
		rows, next, err := o.ListPredictions(ctx, f)
		for i := range rows {
			out.Results = append(out.Results, predictionOf(&rows[i]))
		}
		out.Next = cursor(next)
		return err
	})
	return out, err
}

// Prediction finds a prediction. api is needed only where several APIs have a
// prediction of the id. The error is an *InvalidError, ErrNotFound or
// ErrUnavailable.
func (s *Service) Prediction(ctx context.Context, id, api string) (out PredictionDetail, err error) {
	if id == "" {
		return out, ErrNotFound
	}
	err = s.use(func(o store.Store) error {
		p, err := findPrediction(ctx, o, id, api)
		if err != nil {
			return err
		}
		out = PredictionDetail{Prediction: predictionOf(&p), Deliveries: []Delivery{}}
		rows, _, err := o.ListDeliveries(ctx, store.DeliveryFilter{Prediction: id, Limit: DefaultLimit})
		for i := range rows {
			if rows[i].Prediction == p.Ref {
				out.Deliveries = append(out.Deliveries, s.deliveryOf(&rows[i]))
			}
		}
		return err
	})
	return out, err
}

func findPrediction(ctx context.Context, o store.Store, id, api string) (store.Prediction, error) {
	rows, _, err := o.ListPredictions(ctx, store.PredictionFilter{ID: id, Limit: MaxLimit})
	if err != nil {
		return store.Prediction{}, err
	}
	for _, p := range rows {
		if p.API == api && api != "" {
			return p, nil
		}
	}
	switch {
	case len(rows) == 0 || api != "":
		return store.Prediction{}, ErrNotFound
	case len(rows) > 1:
		return store.Prediction{}, invalid("api", "is missing: %d APIs have a prediction of this id, such as %s and %s", len(rows), rows[0].API, rows[1].API)
	}
	return rows[0], nil
}

func predictionOf(p *store.Prediction) Prediction {
	return Prediction{
		ID: p.ID, API: p.API, Client: p.Client, URL: p.URL, Events: eventNames(p.Events), Happened: eventNames(p.Seen),
		Status: p.Webhook.String(), Completed: p.Done(), Test: p.Test, Created: p.CreatedAt.UTC(),
	}
}

func eventNames(s event.Set) []string {
	out := []string{}
	for _, e := range []event.Set{event.Started, event.Completed, event.Failed} {
		if s.Has(e) {
			out = append(out, e.Name())
		}
	}
	return out
}
