// Package lifecycle turns what is seen of a prediction into the events its
// client is owed.
//
// Whoever speaks first, and whatever was missed in between, a prediction has
// exactly one prediction.started and then exactly one terminal event. What is
// seen afterwards changes nothing: an API's responses may overtake one another.
package lifecycle

import (
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/conceal"
	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/internal/prediction"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// NextNative is Next for a client that wants webhooks as the API itself sends them:
// there is a start where the prediction was seen before its end, and none else.
func NextNative(happened event.Set, status string) []event.Set {
	e := event.ForStatus(status)
	switch {
	case status == "", happened.Has(event.Terminal):
		return nil
	case e.Has(event.Terminal):
		return []event.Set{e}
	case happened.Has(event.Started):
		return nil
	}
	return []event.Set{event.Started}
}

// Next returns the events that are new, in order, when a prediction of which the
// given events have happened is seen with the given status.
func Next(happened event.Set, status string) []event.Set {
	e := event.ForStatus(status)
	switch {
	case e == 0, happened.Has(event.Terminal), happened.Has(e):
		return nil
	case e == event.Started, happened.Has(event.Started):
		return []event.Set{e}
	}
	return []event.Set{event.Started, e}
}

// Events returns what is new about p, now that it was seen as s at the given
// time, with the payloads that say so. The time at which p was captured stands
// in for a created_at that the API does not send. callback is the configured URL of
// callbacks, or empty: no payload shows one that is made from it.
func Events(p *store.Prediction, s *prediction.Snapshot, at time.Time, callback string) []store.Event {
	if p.Events.Has(event.Native) {
		return nativeEvents(p, s, callback)
	}
	events := Next(p.Seen, s.Status)
	if len(events) == 0 {
		return nil
	}
	known := *s
	if known.ID == "" {
		known.ID = p.ID
	}
	if known.CreatedAt == "" && !p.CreatedAt.IsZero() {
		known.CreatedAt = prediction.FormatTime(p.CreatedAt)
	}
	out := make([]store.Event, len(events))
	for i, e := range events {
		out[i] = store.Event{Kind: e, Payload: known.Payload(e, at)}
	}
	return out
}

// nativeEvents is Events for a client that wants webhooks as the API itself sends
// them.
func nativeEvents(p *store.Prediction, s *prediction.Snapshot, callback string) []store.Event {
	var out []store.Event
	for _, e := range NextNative(p.Seen, s.Status) {
		out = append(out, store.Event{Kind: e, Payload: NativePayload(p, s, callback)})
	}
	return out
}

// NativePayload returns the body of a webhook as the API itself would send it, now that
// p was seen as s. callback is as in Events.
func NativePayload(p *store.Prediction, s *prediction.Snapshot, callback string) []byte {
	payload, _ := conceal.New(callback, p.Token).Conceal(s.NativePayload(p.URL, p.Events.Filter()))
	return payload
}
