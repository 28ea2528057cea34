// Package move defines the form in which the content of one store is copied to
// another.
package move

import (
	"iter"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// Entry is a deduplication entry. Times are Unix milliseconds.
type Entry struct {
	Key             store.Key
	Scope           string
	Expires, Signed int64
}

// Mark is the newest signed time purged from a scope, in Unix milliseconds.
type Mark struct {
	Scope  string
	Signed int64
}

// Payload is the body of one delivery, or of several.
type Payload struct {
	N    int64
	Body []byte
}

// Delivery is a delivery. Times are Unix milliseconds.
type Delivery struct {
	N, Nonce, Prediction int64
	Event                event.Set
	Redelivery           bool
	State                int16
	Attempts             int
	Due, Created         int64
	// Endpoint is the lane of its prediction's webhooks, as text.
	Endpoint string
	// Payload is the number of the payload it shares, 0 for its own, which
	// has its number.
	Payload int64
}

// Event is an inbound event. Times are Unix milliseconds. Of the fields of Delivery
// it has no Event, Endpoint and Payload, and Redelivery is that it is replayed.
type Event struct {
	Delivery
	store.Inbound
	Refusals            int
	Overtaken, Recorded bool
	// Place is what the events of one order are ordered by, and Since since
	// when it waits.
	Place, Since int64
	// Expires is when the entry of a waiting event expires, math.MaxInt64 for
	// one without, and when an ended one is to be deleted, 0 for one that has no
	// time of its own.
	Expires int64
}

// Pause is a time in which the inbox of a scope was paused, in Unix milliseconds.
// Ended is 0 while it is.
type Pause struct {
	Scope        string
	Began, Ended int64
}

// Attempt is a row of the delivery log.
type Attempt struct {
	store.Attempt
	Delivery, Prediction int64
}

// Secret is a sealed secret.
type Secret struct {
	Name   string
	Sealed []byte
}

// Create is a create with an Idempotency-Key. Expires is in Unix milliseconds, in
// place of that of store.Create.
type Create struct {
	store.Create
	Expires int64
}

// Source is a store that is read. Each sequence may be read once. An error ends
// it.
type Source interface {
	Entries() (iter.Seq2[Entry, error], error)
	Marks() iter.Seq2[Mark, error]
	Predictions() iter.Seq2[store.Prediction, error]
	Payloads() iter.Seq2[Payload, error]
	Deliveries() iter.Seq2[Delivery, error]
	Events() iter.Seq2[Event, error]
	Pauses() iter.Seq2[Pause, error]
	Attempts() iter.Seq2[Attempt, error]
	Secrets() iter.Seq2[Secret, error]
	Creates() iter.Seq2[Create, error]
	Rotations() iter.Seq2[store.Rotation, error]
}

// Report counts what was copied.
type Report struct {
	Entries, Predictions, Deliveries, Events, Attempts, Secrets, Creates int64
}
