package edge

import (
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/ecmajson"
	"github.com/caddy-replicate/replicate-webhook/internal/event"
)

// Envelope is what a webhook's body says that it is about.
type Envelope struct {
	// Name is the event's name, such as "prediction.completed". That of a bare
	// prediction follows from its status, and is empty if it doesn't.
	Name string
	// ID is the prediction's id, empty if the body has none.
	ID string
	// Status is the prediction's status as it was sent.
	Status string
	// Timestamp is the body's own time, zero if it is missing or not valid.
	Timestamp time.Time
	// TimestampFault is why Timestamp is zero, "" if it is not.
	TimestampFault TimestampFault
	// Bare means that the body is the prediction itself, as Replicate sends
	// it, and not the guide's {event, prediction, timestamp}.
	Bare bool
}

// The paths of NewSelector, in its order.
const (
	pathEvent = iota
	pathTimestamp
	pathPrediction
	pathPredictionID
	pathPredictionStatus
	pathID
	pathStatus
	pathType // of anySelector alone
)

// NewSelector returns the selector of the values that an Envelope is made of.
func NewSelector() *ecmajson.Selector { return ecmajson.NewSelector(paths[:]...) }

var paths = [...][]string{
	{"event"},
	{"timestamp"},
	{"prediction"},
	{"prediction", "id"},
	{"prediction", "status"},
	{"id"},
	{"status"},
}

var (
	selector = NewSelector()
	// anySelector selects what readAny needs.
	anySelector = ecmajson.NewSelector(append(paths[:], []string{"type"})...)
)

// ReadEnvelope reads the envelope of a body that was parsed with NewSelector's
// selector. Members of an unexpected type count as missing.
func ReadEnvelope(d *ecmajson.Document) Envelope {
	text := func(path int) string {
		s, _ := d.Value(path).Text()
		return s
	}
	var e Envelope
	if d.Value(pathPrediction).Kind() == ecmajson.Object {
		e = Envelope{Name: text(pathEvent), ID: text(pathPredictionID), Status: text(pathPredictionStatus)}
	} else {
		e = Envelope{ID: text(pathID), Status: text(pathStatus), Bare: true}
	}
	if e.Name == "" {
		e.Name = event.ForWebhookStatus(e.Status).Name()
	}
	e.Timestamp, e.TimestampFault = parseTimestamp(d.Value(pathTimestamp))
	return e
}

// readAny reads the envelope of a body that need not be about a prediction, and was
// parsed with anySelector. Its event is the text type, else the text event. Without
// either, it is a bare prediction if it has the id and a status of one.
func readAny(d *ecmajson.Document) Envelope {
	e := ReadEnvelope(d)
	name, _ := d.Value(pathType).Text()
	if name == "" {
		name, _ = d.Value(pathEvent).Text()
	}
	if e.ID == "" || e.Bare && (name != "" || e.Name == "") {
		return Envelope{Name: name, Timestamp: e.Timestamp, TimestampFault: e.TimestampFault}
	}
	if name != "" {
		e.Name = name
	}
	return e
}
