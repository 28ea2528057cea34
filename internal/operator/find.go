package operator

import (
	"context"
	"net/url"
	"strings"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// The sizes of what is found.
const (
	DefaultFound = 20
	MaxFound     = 100
	// maxText is the longest text that is looked for, in bytes. URLs have less.
	maxText = 4096
)

// FindQuery is a search. It is written as the query of a URL.
type FindQuery struct {
	Text  string // what is looked for
	Limit int    // of each kind. Default: DefaultFound
}

func (q *FindQuery) fields() []field {
	return []field{{name: "q", text: &q.Text}, {name: "limit", n: &q.Limit}}
}

// ParseFindQuery is like ParseDeliveryQuery, for a search.
func ParseFindQuery(v url.Values) (q FindQuery, err error) {
	err = parse(v, q.fields())
	return q, err
}

// Values writes the query as ParseFindQuery reads it.
func (q FindQuery) Values() url.Values { return values(q.fields()) }

// Found is what was found. All lists are newest first.
type Found struct {
	// Text is what was looked for.
	Text string `json:"q"`
	// Predictions, Deliveries and Events that the text names, up to the limit of
	// each.
	Predictions []Prediction `json:"predictions"`
	Deliveries  []Delivery   `json:"deliveries"`
	Events      []Event      `json:"events"`
	// Clients are those whose identity begins with the text or whose name contains
	// it, and Endpoints those that contain it.
	Clients   []string `json:"clients"`
	Endpoints []string `json:"endpoints"`
	// More: there is more than the limit, or only the newest were looked through.
	More bool `json:"more"`
}

// None reports whether nothing was found.
func (f *Found) None() bool {
	return len(f.Predictions)+len(f.Deliveries)+len(f.Events)+len(f.Clients)+len(f.Endpoints) == 0
}

// QueryFound is like Find, for the query of a URL.
func (s *Service) QueryFound(ctx context.Context, v url.Values) (Found, error) {
	q, err := ParseFindQuery(v)
	if err != nil {
		return Found{}, err
	}
	return s.Find(ctx, q)
}

// Find finds what a text names: a prediction, delivery or event by its id or the
// beginning of it, the URL of a prediction at the API, or predictions and their
// deliveries by their client or a part of the URL of their webhook. Nothing found is
// no error, which is an *InvalidError or ErrUnavailable.
func (s *Service) Find(ctx context.Context, q FindQuery) (Found, error) {
	out := Found{Text: q.Text, Predictions: []Prediction{}, Deliveries: []Delivery{}, Events: []Event{}, Clients: []string{}, Endpoints: []string{}}
	switch {
	case strings.TrimSpace(q.Text) == "":
		return out, invalid("q", "is missing: write an id, a client, or a part of a URL")
	case len(q.Text) > maxText:
		return out, invalid("q", "has %d bytes, which is more than %d", len(q.Text), maxText)
	case q.Limit == 0:
		q.Limit = DefaultFound
	case q.Limit < 0 || q.Limit > MaxFound:
		return out, invalid("limit", "must be a number from 1 to %d", MaxFound)
	}
	err := s.use(func(o store.Store) error {
		found, err := findText(ctx, o, q)
		if err != nil {
			return err
		}
		for i := range found.Predictions {
			out.Predictions = append(out.Predictions, predictionOf(&found.Predictions[i]))
		}
		for i := range found.Deliveries {
			out.Deliveries = append(out.Deliveries, s.deliveryOf(&found.Deliveries[i]))
		}
		for i := range found.Events {
			out.Events = append(out.Events, s.eventOf(o, &found.Events[i]))
		}
		out.Clients, out.Endpoints = append(out.Clients, found.Clients...), append(out.Endpoints, found.Endpoints...)
		out.More = found.More
		return nil
	})
	return out, err
}

// findText finds a text, or the prediction that it is the URL of.
func findText(ctx context.Context, o store.Finder, q FindQuery) (store.Found, error) {
	if _, id, ok := strings.Cut(q.Text, "/predictions/"); ok {
		if end := strings.IndexAny(id, "/?#"); end >= 0 {
			id = id[:end]
		}
		found, err := o.Find(ctx, id, q.Limit)
		if err != nil || len(found.Predictions)+len(found.Events) > 0 {
			return found, err
		}
	}
	return o.Find(ctx, q.Text, q.Limit)
}
