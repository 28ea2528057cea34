// Package lifecycle turns what is seen of a prediction into the events its
// client is owed.
//
// Whoever speaks first, and whatever was missed in between, a prediction has
// exactly one prediction.started and then exactly one terminal event. What is
// seen afterwards changes nothing: an API's answers may overtake one another.
package lifecycle

import (
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/prediction"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// Of is the event that a status stands for, 0 for "starting" and for one that
// the API is not known to have: of these nothing follows yet.
func Of(status string) store.EventSet {
	switch status {
	case "processing":
		return store.Started
	case "succeeded":
		return store.Completed
	case "failed", "canceled", "aborted":
		return store.Failed
	}
	return 0
}

// Terminal reports whether nothing can follow the status.
func Terminal(status string) bool { return store.Terminal.Has(Of(status)) }

// Next gives the events that are new, in order, when a prediction of which the
// given events have happened is seen with the given status.
func Next(happened store.EventSet, status string) []store.EventSet {
	e := Of(status)
	switch {
	case e == 0, happened.Has(store.Terminal), happened.Has(e):
		return nil
	case e == store.Started, happened.Has(store.Started):
		return []store.EventSet{e}
	}
	return []store.EventSet{store.Started, e}
}

// Happenings gives what is new about p, now that it was seen as s at the given
// time, with the payloads that say so. The time at which p was captured stands
// in for a created_at that the API doesn't tell.
func Happenings(p *store.Prediction, s *prediction.Snapshot, at time.Time) []store.Happening {
	events := Next(p.Happened, s.Status)
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
	out := make([]store.Happening, len(events))
	for i, e := range events {
		out[i] = store.Happening{Event: e, Payload: known.Payload(e, at)}
	}
	return out
}
