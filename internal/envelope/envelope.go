// Package envelope reads what a webhook's body is about.
package envelope

import (
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/ecmajson"
	"github.com/caddy-replicate/replicate-webhook/internal/event"
)

// Event is a webhook's subject.
type Event struct {
	// Name is the event, such as "prediction.completed". For a bare
	// prediction it follows from the status; empty when it doesn't.
	Name string
	// ID is the prediction's id, empty when the body has none.
	ID string
	// Status is the prediction's status as sent.
	Status string
	// Timestamp is the body's own time, zero when absent or unreadable.
	Timestamp time.Time
	// TimestampFault is why Timestamp is zero, "" when it is not.
	TimestampFault TimestampFault
	// Bare is true for Replicate's own body, which is the prediction
	// itself, false for the guide's {event, prediction, timestamp}.
	Bare bool
}

// The paths of Selector, in its order.
const (
	pathEvent = iota
	pathTimestamp
	pathPrediction
	pathPredictionID
	pathPredictionStatus
	pathID
	pathStatus
)

// NewSelector picks out of a body what Of reads.
func NewSelector() *ecmajson.Selector {
	return ecmajson.NewSelector(
		[]string{"event"},
		[]string{"timestamp"},
		[]string{"prediction"},
		[]string{"prediction", "id"},
		[]string{"prediction", "status"},
		[]string{"id"},
		[]string{"status"},
	)
}

// Of reads the event of a body parsed with NewSelector's selector. Members of
// an unexpected type count as absent.
func Of(d *ecmajson.Document) Event {
	text := func(path int) string {
		s, _ := d.Value(path).Text()
		return s
	}
	var e Event
	if d.Value(pathPrediction).Kind() == ecmajson.Object {
		e = Event{Name: text(pathEvent), ID: text(pathPredictionID), Status: text(pathPredictionStatus)}
	} else {
		e = Event{ID: text(pathID), Status: text(pathStatus), Bare: true}
	}
	if e.Name == "" {
		e.Name = event.ForWebhookStatus(e.Status).Name()
	}
	e.Timestamp, e.TimestampFault = parseTimestamp(d.Value(pathTimestamp))
	return e
}
