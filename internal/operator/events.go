package operator

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/delivery"
	"github.com/caddy-replicate/replicate-webhook/internal/inbox"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// Event is an event that the edge has accepted and stored for its app.
type Event struct {
	ID    string `json:"id"`
	Scope string `json:"scope"`
	// Event is its name, such as prediction.completed. It may be empty.
	Event      string `json:"event"`
	Prediction string `json:"prediction"` // id, empty without one
	// State is waiting, running, accepted, refused, failed or discarded.
	State string `json:"state"`
	// Replay: an operator had it forwarded again.
	Replay bool `json:"replay"`
	// Overtaken: a later event of its prediction was forwarded before it.
	Overtaken bool `json:"overtaken"`
	// Replayable: it can be replayed once it has ended. Its body was not
	// deleted, and it was not only recorded.
	Replayable bool `json:"replayable"`
	// Attempts made so far, and how many of them the app has refused.
	Attempts int `json:"attempts"`
	Refusals int `json:"refusals"`
	// Accepted is when it was committed.
	Accepted time.Time `json:"accepted"`
	// Due is when the next attempt of a waiting event is.
	Due time.Time `json:"due,omitzero"`
	// Ended is when any other came to its end.
	Ended time.Time `json:"ended,omitzero"`
	// Paused: its inbox is paused, and it waits until that is resumed.
	Paused bool `json:"paused"`
	// Last is the last attempt, missing before the first.
	Last *LastAttempt `json:"last,omitempty"`
	// Breaker is that of the app in this process, which a waiting event waits
	// for, missing where it is closed.
	Breaker *delivery.Blocker `json:"breaker,omitempty"`
}

// stateRunning is the state of a waiting event that is claimed.
const stateRunning = "running"

// EventPage is a page of events, newest first. It may be short, even empty, where
// few of many match: the list ends where Next is empty.
type EventPage struct {
	Results []Event `json:"results"`
	Next    string  `json:"next"`
}

// EventDetail is an event with its attempts.
type EventDetail struct {
	Event
	// Request is what is shown of the request that brought it. It is missing
	// where that was deleted to make room.
	Request *EventRequest `json:"request,omitempty"`
	// Payload is the body. It is missing where that was deleted to make room.
	Payload json.RawMessage `json:"payload,omitempty"`
	// Log has the attempts, oldest first.
	Log []Attempt `json:"log"`
}

// EventRequest is what is shown of the request that brought an event. It has no
// header that verifies, and none that the edge does not know: it may be a secret,
// as the query of the URI may.
type EventRequest struct {
	Method   string `json:"method"`
	Host     string `json:"host"`
	Path     string `json:"path"`
	TLS      bool   `json:"tls"`
	ClientIP string `json:"client_ip"`

	ContentType string `json:"content_type"`
	UserAgent   string `json:"user_agent"`
	// Schemes of the signatures that verified, joined by a plus.
	Schemes string `json:"schemes"`
	// MessageID is the webhook-id, empty without a standard signature.
	MessageID string `json:"message_id"`
	// SignedAt is the signed time, missing where there was none.
	SignedAt time.Time `json:"signed_at,omitzero"`
}

// Events lists events. The error is an *InvalidError or ErrUnavailable.
func (s *Service) Events(ctx context.Context, q EventQuery) (EventPage, error) {
	out := EventPage{Results: []Event{}}
	f, err := q.filter(s.conf.Now())
	if err != nil {
		return out, err
	}
	err = s.use(func(o store.Store) error {
		rows, next, err := o.ListDeliveries(ctx, f.DeliveryFilter)
		for i := range rows {
			if f.selects(&rows[i]) {
				out.Results = append(out.Results, s.eventOf(o, &rows[i]))
			}
		}
		out.Next = cursor(next)
		return err
	})
	return out, err
}

// Event finds an event. The error is ErrNotFound, ErrUnavailable, or that of a
// stored request that can't be read.
func (s *Service) Event(ctx context.Context, id string) (out EventDetail, err error) {
	err = s.use(func(o store.Store) error {
		row, attempts, err := findEvent(ctx, o, id)
		if err != nil {
			return err
		}
		out = EventDetail{Event: s.eventOf(o, &row), Log: attemptsOf(attempts)}
		if out.Request, err = requestOf(row.Inbound); err != nil {
			return err
		}
		// The edge has accepted nothing but JSON.
		if json.Valid(row.Inbound.Body) {
			out.Payload = row.Inbound.Body
		}
		return nil
	})
	return out, err
}

func findEvent(ctx context.Context, o store.Store, id string) (store.DeliveryRow, []store.Attempt, error) {
	row, attempts, err := o.FindDelivery(ctx, id)
	if err == nil && row.Inbound == nil {
		err = ErrNotFound // it is a webhook to a client
	}
	return row, attempts, err
}

func requestOf(ev *store.Inbound) (*EventRequest, error) {
	if ev.Head == nil {
		return nil, nil
	}
	h, err := inbox.DecodeHead(ev.Head)
	if err != nil {
		return nil, err
	}
	path, _, _ := strings.Cut(h.OriginalURI, "?")
	r := &EventRequest{
		Method: h.Method, Host: h.Host, Path: path, TLS: h.TLS != 0, ClientIP: h.ClientIP,
		ContentType: h.Header.Get("Content-Type"), UserAgent: h.Header.Get("User-Agent"),
		Schemes: h.Schemes.String(), MessageID: h.MessageID, SignedAt: h.JudgedAt,
	}
	if r.ClientIP == "" {
		r.ClientIP = hostOf(h.RemoteAddr)
	}
	if r.SignedAt.IsZero() {
		r.SignedAt = h.SignedAt
	}
	utc(&r.SignedAt)
	return r, nil
}

func (s *Service) eventOf(o store.Inbox, r *store.DeliveryRow) Event {
	e := Event{
		ID: r.ID, Scope: r.Inbound.Scope, Event: r.Inbound.Name, Prediction: r.Inbound.PredictionID,
		State: r.State.EventState(), Replay: r.Replay, Overtaken: r.Overtaken, Replayable: r.Replayable,
		Attempts: r.Attempts, Refusals: r.Refusals, Accepted: r.CreatedAt.UTC(),
		Last: lastOf(r),
	}
	switch {
	case r.State != store.DeliveryPending:
		e.Ended = r.Due.UTC()
	case r.Claimed:
		e.State = stateRunning
	default:
		e.Due, e.Breaker, e.Paused = r.Due.UTC(), s.blockerOf(r), o.Paused(e.Scope)
	}
	return e
}
