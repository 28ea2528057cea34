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
	DeliveryCanceled                        // the webhook was disabled before it was sent, or an operator discarded the event
	DeliveryRefused                         // an inbound event that the app refused for good
)

// eventStates are the names of the states of inbound events, in the order of the
// states.
var eventStates = [...]string{"waiting", "accepted", "failed", "", "discarded", "refused"}

// EventState returns the state of an inbound event as the admin API shows it.
func (s DeliveryState) EventState() string { return eventStates[s] }

// ParseEventState returns the state of a name, and whether there is one.
func ParseEventState(name string) (DeliveryState, bool) {
	for i, n := range eventStates {
		if n == name && n != "" {
			return DeliveryState(i), true
		}
	}
	return 0, false
}

// deliveryStates are the names of the states, in their order.
var deliveryStates = [...]string{"pending", "delivered", "failed", "superseded", "canceled"}

// String returns the state as the admin API shows it. That of an inbound event
// has another name there, see EventState.
func (s DeliveryState) String() string {
	if int(s) < len(deliveryStates) {
		return deliveryStates[s]
	}
	return s.EventState()
}

// ParseDeliveryState returns the state of a name, and whether there is one.
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
	// Redelivery reports that a client or an operator requested it.
	Redelivery bool
	// Due is when the next attempt of a pending delivery is due, and when
	// any other ended.
	Due time.Time

	// Claimed reports that an inbound event is claimed, on any node: an attempt
	// is under way. Replayable reports that ReplayEvent has what it needs: the
	// head and body were not deleted, and the event was not only recorded.
	// Lists have both, too.
	Claimed, Replayable bool

	// Last is the last attempt, without its response, nil before the first.
	Last *Attempt
}

// DeliveryFilter selects deliveries. A zero field excludes none.
type DeliveryFilter struct {
	// Inbound selects the events that the edge accepted, in place of the
	// webhooks to clients, and Scope and Name those of a scope and of an event's
	// name. Event, Endpoint and Client exclude none of them.
	Inbound     bool
	Scope, Name string

	State      *DeliveryState
	Event      event.Set
	Endpoint   string // as EndpointOf returns it
	Prediction string // the API's ID
	// Client is a part of the client's name.
	Client string
	// Class is the class of the last attempt's status: 2 for 2xx to 5 for 5xx,
	// and 0 for an attempt without a response. What was delivered is of class 2.
	Class *int
	Since time.Time
	// Before is the cursor: only deliveries with a lower N.
	Before int64
	// Limit is the most rows wanted.
	Limit int
}

// PredictionFilter selects predictions. A zero field excludes none.
type PredictionFilter struct {
	Webhook *WebhookStatus
	ID      string // the API's ID
	// Before is the cursor: only predictions with a lower Ref.
	Before int64
	// Limit is the most rows wanted.
	Limit int
}

// Counts are the numbers of rows in a store.
type Counts struct {
	// Entries is the number of deduplication entries, including expired ones
	// that are not purged yet.
	Entries int
	// Deliveries are the numbers of webhooks to clients by state. Those of
	// inbound events are in InboxState.
	Deliveries [len(deliveryStates)]int
	// OldestPending is when the oldest pending one was committed, zero when
	// there is none.
	OldestPending time.Time
	// Tracked is the number of predictions whose terminal event is to come.
	// Those whose ID is not known yet are not counted, and not listed.
	Tracked int
}

// Clocked is implemented by a store whose own clock decides what is due and what
// has expired.
type Clocked interface {
	// ClockOffset returns how far the clock of this process is ahead of the
	// store's. wrong reports that this is too far for it to purge anything.
	ClockOffset() (ahead time.Duration, wrong bool)
	// SetMaxClockError sets how far the clocks may be apart.
	SetMaxClockError(time.Duration)
}

// Inspector serves operators: the admin API, the command line and the dashboard.
// None of it is on the path of a request. Lists are newest first
// and stay right while rows are added: a page begins below the cursor of the
// page before.
//
// A page may be shorter than its limit, even empty, where few of many rows
// match, so that no page costs more than about 20 ms. next is then where the
// list goes on, and 0 only at its end.
type Inspector interface {
	Counts(ctx context.Context) (Counts, error)
	// ListPredictions returns predictions without Credential, Token and Body.
	ListPredictions(ctx context.Context, f PredictionFilter) (rows []Prediction, next int64, err error)
	ListDeliveries(ctx context.Context, f DeliveryFilter) (rows []DeliveryRow, next int64, err error)
	// FindDelivery returns a delivery by its ID, with its payload, and its
	// attempts, oldest first. ErrNotFound.
	FindDelivery(ctx context.Context, id string) (DeliveryRow, []Attempt, error)
	// RedeliverDelivery commits a new delivery of the same event, as
	// Tracking.Redeliver does, whether or not the old one was ever tried.
	// ErrNotFound, ErrDisabled.
	RedeliverDelivery(ctx context.Context, id string) (string, error)
}
