package store

import (
	"context"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
)

// DeliveryState is how far a delivery has come.
type DeliveryState uint8

// The states of a delivery. Stores keep them as these numbers.
const (
	DeliveryPending    DeliveryState = iota // its next attempt is to come, or under way
	DeliveryDelivered                       // an attempt had a 2xx
	DeliveryFailed                          // given up
	DeliverySuperseded                      // a started event overtaken by the terminal one
	DeliveryCanceled                        // the webhook was disabled before it was sent
)

// deliveryStates are the names of the states, in their order.
var deliveryStates = [...]string{"pending", "delivered", "failed", "superseded", "canceled"}

// String is the state as the admin API shows it.
func (s DeliveryState) String() string { return deliveryStates[s] }

// ParseDeliveryState reads a state's name.
func ParseDeliveryState(name string) (DeliveryState, bool) {
	for i, n := range deliveryStates {
		if n == name {
			return DeliveryState(i), true
		}
	}
	return 0, false
}

// DeliveryRow is a delivery as operators see it. In lists it comes without its
// payload.
type DeliveryRow struct {
	Delivery
	State DeliveryState
	// Redelivery: asked for by a client or an operator.
	Redelivery bool
	// Due is when the next attempt of a pending delivery is due, and when
	// any other came to its end.
	Due time.Time
}

// DeliveryFilter selects deliveries. Zero fields select all.
type DeliveryFilter struct {
	State      *DeliveryState
	Event      event.Set
	Endpoint   string // as EndpointOf gives it
	Prediction string // the API's id
	Since      time.Time
	// Before is the cursor: only deliveries with a lower N.
	Before int64
	// Limit is the most rows wanted.
	Limit int
}

// PredictionFilter selects predictions. Zero fields select all.
type PredictionFilter struct {
	Webhook *WebhookStatus
	ID      string // the API's id
	// Before is the cursor: only predictions with a lower Ref.
	Before int64
	// Limit is the most rows wanted.
	Limit int
}

// Counts is what a store holds now.
type Counts struct {
	// Entries are the events that dedup remembers, expired ones included
	// that are not purged yet.
	Entries int
	// Deliveries by state.
	Deliveries [len(deliveryStates)]int
	// OldestPending is when the oldest pending delivery was committed, zero
	// when there is none.
	OldestPending time.Time
	// Tracked are the predictions whose terminal event is to come. Those
	// whose id is not known yet are not among them, nor are they listed.
	Tracked int
}

// Clocked is implemented by a store whose own clock decides what is due and what
// has expired.
type Clocked interface {
	// ClockOffset returns how far the clock of this process is ahead of the
	// store's. wrong reports that this is too far for it to purge anything.
	ClockOffset() (ahead time.Duration, wrong bool)
	// SetMaxClockError says how far the clocks may be apart.
	SetMaxClockError(time.Duration)
}

// Inspector is what operators ask of a store: the admin API, the command line
// and the dashboard. None of it is on a request's path. Lists are newest first
// and stay right while rows are added: a page begins below the cursor of the
// page before.
//
// A page may be shorter than its limit, even empty, where few of many rows
// match, so that no page costs more than about 20 ms. next is then where the
// list goes on, and 0 only at its end.
type Inspector interface {
	Counts(ctx context.Context) (Counts, error)
	// ListPredictions gives predictions without Credential, Token and Body.
	ListPredictions(ctx context.Context, f PredictionFilter) (rows []Prediction, next int64, err error)
	ListDeliveries(ctx context.Context, f DeliveryFilter) (rows []DeliveryRow, next int64, err error)
	// FindDelivery gives a delivery by its ID, with its payload, and its
	// attempts, oldest first. ErrNotFound.
	FindDelivery(ctx context.Context, id string) (DeliveryRow, []Attempt, error)
	// RedeliverDelivery commits a new delivery of the same event, as
	// Tracking.Redeliver does, whether or not the old one was ever tried.
	// ErrNotFound, ErrDisabled.
	RedeliverDelivery(ctx context.Context, id string) (string, error)
}
