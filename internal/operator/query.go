package operator

import (
	"context"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// The sizes of a page.
const (
	DefaultLimit = 50
	MaxLimit     = 500
)

// DeliveryQuery selects deliveries. Empty fields select all. It is written as
// the query of a URL.
type DeliveryQuery struct {
	State      string // pending, delivered, failed, superseded or canceled
	Event      string // with or without "prediction."
	Endpoint   string // scheme://host[:port], or a host
	Prediction string // id
	Client     string // a part of the client's name
	Response   string // that of the last attempt: 2xx, 3xx, 4xx, 5xx or none
	Since      string // a time (RFC 3339), or how long ago, such as 24h
	Limit      int    // of one page
	Cursor     string // Next of the page before
}

// PredictionQuery selects predictions. Empty fields select all.
type PredictionQuery struct {
	Status string // of the webhook: pending, delivered, failed or disabled
	ID     string
	Limit  int
	Cursor string
}

// EventQuery is like DeliveryQuery, for events.
type EventQuery struct {
	State      string // waiting, running, accepted, refused, failed or discarded
	Scope      string
	Event      string // its name, such as prediction.completed
	Prediction string // id
	Response   string // that of the app to the last attempt: 2xx, 3xx, 4xx, 5xx or none
	Since      string // a time (RFC 3339), or how long ago, such as 24h
	Limit      int    // of one page
	Cursor     string // Next of the page before
}

// field is a parameter and where its value goes.
type field struct {
	name string
	text *string
	n    *int
}

func (q *DeliveryQuery) fields() []field {
	return []field{
		{name: "state", text: &q.State}, {name: "event", text: &q.Event}, {name: "endpoint", text: &q.Endpoint},
		{name: "prediction", text: &q.Prediction}, {name: "client", text: &q.Client}, {name: "response", text: &q.Response},
		{name: "since", text: &q.Since}, {name: "limit", n: &q.Limit}, {name: "cursor", text: &q.Cursor},
	}
}

func (q *PredictionQuery) fields() []field {
	return []field{
		{name: "status", text: &q.Status}, {name: "id", text: &q.ID}, {name: "limit", n: &q.Limit}, {name: "cursor", text: &q.Cursor},
	}
}

func (q *EventQuery) fields() []field {
	return []field{
		{name: "state", text: &q.State}, {name: "scope", text: &q.Scope}, {name: "event", text: &q.Event},
		{name: "prediction", text: &q.Prediction}, {name: "response", text: &q.Response},
		{name: "since", text: &q.Since}, {name: "limit", n: &q.Limit}, {name: "cursor", text: &q.Cursor},
	}
}

// ParseDeliveryQuery reads a query. Parameters that are not known or come more
// than once are an *InvalidError; what the values mean is checked when the
// query is used.
func ParseDeliveryQuery(v url.Values) (q DeliveryQuery, err error) {
	err = parse(v, q.fields())
	return q, err
}

// ParsePredictionQuery is like ParseDeliveryQuery, for predictions.
func ParsePredictionQuery(v url.Values) (q PredictionQuery, err error) {
	err = parse(v, q.fields())
	return q, err
}

// ParseEventQuery is like ParseDeliveryQuery, for events.
func ParseEventQuery(v url.Values) (q EventQuery, err error) {
	err = parse(v, q.fields())
	return q, err
}

// QueryDeliveries is like Deliveries, for the query of a URL.
func (s *Service) QueryDeliveries(ctx context.Context, v url.Values) (DeliveryPage, error) {
	q, err := ParseDeliveryQuery(v)
	if err != nil {
		return DeliveryPage{}, err
	}
	return s.Deliveries(ctx, q)
}

// QueryPredictions is like Predictions, for the query of a URL.
func (s *Service) QueryPredictions(ctx context.Context, v url.Values) (PredictionPage, error) {
	q, err := ParsePredictionQuery(v)
	if err != nil {
		return PredictionPage{}, err
	}
	return s.Predictions(ctx, q)
}

// QueryEvents is like Events, for the query of a URL.
func (s *Service) QueryEvents(ctx context.Context, v url.Values) (EventPage, error) {
	q, err := ParseEventQuery(v)
	if err != nil {
		return EventPage{}, err
	}
	return s.Events(ctx, q)
}

// Values writes the query as ParseDeliveryQuery reads it.
func (q DeliveryQuery) Values() url.Values { return values(q.fields()) }

// Values writes the query as ParsePredictionQuery reads it.
func (q PredictionQuery) Values() url.Values { return values(q.fields()) }

// Values writes the query as ParseEventQuery reads it.
func (q EventQuery) Values() url.Values { return values(q.fields()) }

func parse(v url.Values, fields []field) error {
	for name, given := range v {
		if len(given) > 1 {
			return invalid(name, "is there more than once")
		}
		i := slices.IndexFunc(fields, func(f field) bool { return f.name == name })
		if i < 0 {
			return invalid(name, "is not a parameter of this list: it has %s", names(fields))
		}
		if len(given) == 0 || given[0] == "" {
			continue
		}
		f := fields[i]
		if f.text != nil {
			*f.text = given[0]
			continue
		}
		n, err := strconv.Atoi(given[0])
		if err != nil || n == 0 {
			n = -1 // a number that is refused when it is used
		}
		*f.n = n
	}
	return nil
}

func names(fields []field) string {
	var out []string
	for _, f := range fields {
		out = append(out, f.name)
	}
	return strings.Join(out, ", ")
}

func values(fields []field) url.Values {
	v := make(url.Values)
	for _, f := range fields {
		switch {
		case f.text != nil && *f.text != "":
			v.Set(f.name, *f.text)
		case f.n != nil && *f.n != 0:
			v.Set(f.name, strconv.Itoa(*f.n))
		}
	}
	return v
}

// filter checks the query and returns the filter for the store.
func (q *DeliveryQuery) filter(now time.Time) (f store.DeliveryFilter, err error) {
	if q.State != "" {
		state, ok := store.ParseDeliveryState(q.State)
		if !ok {
			return f, invalid("state", "is %q: use pending, delivered, failed, superseded or canceled", q.State)
		}
		f.State = &state
	}
	if q.Event != "" {
		if f.Event, err = event.Parse(q.Event); err != nil {
			return f, invalid("event", "%v", err)
		}
	}
	if f.Endpoint, err = endpoint(q.Endpoint); err != nil {
		return f, err
	}
	f.Prediction, f.Client = q.Prediction, q.Client
	if f.Class, err = class(q.Response); err != nil {
		return f, err
	}
	if f.Since, err = since(q.Since, now); err != nil {
		return f, err
	}
	f.Limit, f.Before, err = page(q.Limit, q.Cursor)
	return f, err
}

// eventFilter is a filter of the store, and the state as it was asked for.
type eventFilter struct {
	store.DeliveryFilter
	state string
}

// filter checks the query and returns the filter.
func (q *EventQuery) filter(now time.Time) (f eventFilter, err error) {
	f.DeliveryFilter = store.DeliveryFilter{Inbound: true, Scope: q.Scope, Name: q.Event, Prediction: q.Prediction}
	if f.state = q.State; f.state != "" {
		state, ok := store.ParseEventState(f.state)
		if !ok && f.state != stateRunning {
			return f, invalid("state", "is %q: use waiting, running, accepted, refused, failed or discarded", f.state)
		}
		f.State = &state // that of running is that of waiting
	}
	if f.Class, err = class(q.Response); err != nil {
		return f, err
	}
	if f.Since, err = since(q.Since, now); err != nil {
		return f, err
	}
	f.Limit, f.Before, err = page(q.Limit, q.Cursor)
	return f, err
}

// selects reports whether a row that the store selected is in the state that was
// asked for. To the store what is running is waiting.
func (f *eventFilter) selects(r *store.DeliveryRow) bool {
	switch f.state {
	case stateRunning:
		return r.Claimed
	case "waiting":
		return !r.Claimed
	}
	return true
}

func (q *PredictionQuery) filter() (f store.PredictionFilter, err error) {
	if q.Status != "" {
		i := slices.IndexFunc(webhookStatuses, func(s store.WebhookStatus) bool { return s.String() == q.Status })
		if i < 0 {
			return f, invalid("status", "is %q: use pending, delivered, failed or disabled", q.Status)
		}
		f.Webhook = &webhookStatuses[i]
	}
	f.ID = q.ID
	f.Limit, f.Before, err = page(q.Limit, q.Cursor)
	return f, err
}

var webhookStatuses = []store.WebhookStatus{store.WebhookPending, store.WebhookDelivered, store.WebhookFailed, store.WebhookDisabled}

// endpoint reads an endpoint as people write it: a host alone is HTTPS.
func endpoint(text string) (string, error) {
	if text == "" {
		return "", nil
	}
	if !strings.Contains(text, "://") {
		text = "https://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && u.Scheme != "http" {
		return "", invalid("endpoint", "is not a valid endpoint: write it like https://hooks.example.com:8443")
	}
	return store.EndpointOf(text), nil
}

// responses are the classes of responses by the store's numbers for them. No response
// ends with an 1xx.
var responses = []string{"none", "", "2xx", "3xx", "4xx", "5xx"}

// class reads a class of responses.
func class(text string) (*int, error) {
	if text == "" {
		return nil, nil
	}
	i := slices.Index(responses, text)
	if i < 0 {
		return nil, invalid("response", "is %q: use 2xx, 3xx, 4xx, 5xx or none", text)
	}
	return &i, nil
}

// since reads a time, or how long ago it was.
func since(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil || t.IsZero() {
		return t, invalid("since", "is %q: write a time such as 2026-11-25T12:00:00Z, or how long ago, such as 24h", text)
	}
	return t, nil
}

func page(limit int, cursor string) (n int, before int64, err error) {
	switch {
	case limit == 0:
		limit = DefaultLimit
	case limit < 0 || limit > MaxLimit:
		return 0, 0, invalid("limit", "must be a number from 1 to %d", MaxLimit)
	}
	if cursor != "" {
		if before, err = strconv.ParseInt(cursor, 36, 64); err != nil || before <= 0 {
			return 0, 0, invalid("cursor", "is not a valid cursor: take it from next of the previous page")
		}
	}
	return limit, before, nil
}

func cursor(next int64) string {
	if next == 0 {
		return ""
	}
	return strconv.FormatInt(next, 36)
}
