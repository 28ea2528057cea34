package store

import (
	"context"
	"errors"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
)

// WebhookStatus is the state of a prediction's webhook.
type WebhookStatus uint8

// The webhook statuses. They describe the last event that the client wants,
// which is the terminal one unless it filtered that out.
const (
	WebhookPending   WebhookStatus = iota // still to be sent
	WebhookDelivered                      // sent, or there was nothing to send
	WebhookFailed                         // given up
	WebhookDisabled                       // disabled by the client, or by a 410 of its receiver
)

// String returns the status as the API shows it.
func (s WebhookStatus) String() string {
	return [...]string{"pending", "delivered", "failed", "disabled"}[s]
}

// Prediction is a tracked prediction.
type Prediction struct {
	// Ref is the store's number for it, which Reserve or Track assigns.
	Ref int64
	// API is the base URL of the API that runs it. It is empty where events
	// come by callback only.
	API string
	// ID is the API's ID. It is empty between Reserve and Track.
	ID string
	// Client is the identity of the caller that created it: its key signs.
	Client string
	// URL is where the events are sent. Empty: disabled.
	URL string
	// Events are those that the client wants, with event.Native and its
	// filter where it wants webhooks as the API itself sends them.
	Events event.Set
	// PollPath is the path that it is polled at, below API, such as
	// /predictions/abc. Empty: it is not polled.
	PollPath string
	// Credential is the sealed Authorization to poll with, nil for none. It
	// is deleted with the terminal event.
	Credential []byte
	// Token is the SHA-256 of the callback token, nil without one.
	Token []byte
	// Traceparent is the creating request's trace context, or empty.
	Traceparent string
	// Test marks a prediction of test mode, which has no upstream.
	Test bool
	// Body is a test prediction itself, as JSON.
	Body []byte
	// CreatedAt is when its create was captured.
	CreatedAt time.Time

	// Seen are the events that there have been, wanted or not. Set by the
	// store.
	Seen event.Set
	// Webhook is set by the store.
	Webhook WebhookStatus
	// PollAt is when the first poll is due. It is kept in memory only: after
	// a restart all polls are due.
	PollAt time.Time
	// PollFailures counts the polls without a response since the last one
	// with a response. It is kept in memory only.
	PollFailures int
	// Watched is how long this process has polled a prediction that
	// ClaimPolls claimed. It is kept in memory only.
	Watched time.Duration
}

// Done reports whether nothing more will be sent.
func (p *Prediction) Done() bool { return p.Webhook != WebhookPending }

// Event is an event of a prediction, with the payload that announces it.
type Event struct {
	Kind    event.Set // one
	Payload []byte
}

// Delivery is one event to be sent to one receiver.
type Delivery struct {
	// ID is the same for all attempts: X-Replicate-Delivery and webhook-id.
	ID string
	// N is the store's number for it.
	N int64
	// Prediction, PredictionID, Client, URL and Traceparent are those of
	// its prediction now.
	Prediction   int64
	PredictionID string
	Client       string
	URL          string
	Traceparent  string
	// Native reports that the client wants webhooks as the API itself sends
	// them.
	Native  bool
	Event   event.Set
	Payload []byte
	// Attempts is the number of attempts made so far.
	Attempts int
	// Lane is the one it was claimed from, and DueAt when it was due. Only
	// claimed deliveries have them.
	Lane  Lane
	DueAt time.Time
	// CreatedAt is when the event was committed.
	CreatedAt time.Time

	// Inbound is the event of a delivery to the app behind the edge, whose
	// Payload is its body. It is nil for a webhook to a client. Such a delivery
	// has no Client, URL and Event, and Prediction is a number that the events
	// of one order share.
	Inbound *Inbound
	// Refusals is how many attempts the app has refused, with those that timed
	// out after the request was sent.
	Refusals int
	// Overtaken reports that a later event of its prediction went first.
	Overtaken bool
	// Replay reports that an operator has the event passed on again, and
	// WaitingSince is when it began to wait: CreatedAt, or when it was replayed.
	Replay       bool
	WaitingSince time.Time
}

// Attempt is one row of the delivery log.
type Attempt struct {
	// ID is the number of the row. Set by the store.
	ID int64
	// Delivery is the delivery's ID.
	Delivery string
	Event    event.Set
	URL      string
	// Status is the HTTP status, 0 when there was no response.
	Status int
	// Number of the attempt, from 1.
	Number int
	At     time.Time
	Took   time.Duration
	// Response is the beginning of the response's body, at most 4 KiB.
	Response string
	// Error is why the attempt failed, empty for a success.
	Error string
	// Exception reports that the receiver's address was admitted only by an
	// allow exception, so that Response is for operators alone.
	Exception bool
}

// Disposition is what follows from an attempt.
type Disposition uint8

// The dispositions.
const (
	Retry     Disposition = iota // again at Due
	Delivered                    // done
	Exhausted                    // given up
	Gone                         // 410: given up, and the prediction's webhook is disabled; Retry at once if its URL was changed meanwhile. An inbound event ends as refused
)

// Outcome is an attempt and what follows from it.
type Outcome struct {
	Delivery    Delivery
	Attempt     Attempt
	Disposition Disposition
	Due         time.Time // for Retry
	// Apart makes a retry wait in the lane of its URL.
	Apart bool
	// Refused counts the attempt among the delivery's Refusals.
	Refused bool
}

// Predictions keeps predictions and their events.
//
// Per prediction there is one started event at most, then one terminal event
// at most. The terminal event's delivery is not due before the started one's
// first attempt has an outcome; once the terminal event is known, a started
// delivery that fails is superseded instead of retried. A terminal event that
// the client does not want leaves the started one alone.
type Predictions interface {
	// Reserve commits a prediction whose ID is not known yet, so that its
	// callback token is, and returns its Ref.
	Reserve(ctx context.Context, p Prediction) (int64, error)
	// Abandon deletes what was reserved, unless its ID is known by now.
	Abandon(ctx context.Context, ref int64) error
	// Track commits a prediction (a reserved one, if Ref is set) together
	// with the events so far, and sets p.Ref. When the prediction is tracked
	// already, its webhook is replaced, as by SetWebhook, and the rest kept;
	// p is that prediction then, and what was reserved is deleted.
	Track(ctx context.Context, p *Prediction, events []Event) error
	// Observe commits those events that are new, in order. It does nothing
	// when none is. id names a reserved prediction. ErrNotFound, also when
	// the ID is another prediction's.
	Observe(ctx context.Context, ref int64, id string, events []Event) error
	// SetWebhook commits a new URL (empty: disabled) and filter. Pending
	// deliveries follow from their next attempt on; after a change of the
	// URL that is due at once. After the terminal event the filter stays as
	// it is. ErrNotFound.
	SetWebhook(ctx context.Context, ref int64, url string, events event.Set) error

	// Prediction finds a prediction by API and ID. ErrNotFound.
	Prediction(ctx context.Context, api, id string) (Prediction, error)
	// ByToken finds a prediction by the SHA-256 of its callback token.
	// ErrNotFound.
	ByToken(ctx context.Context, token []byte) (Prediction, error)
}

// Queue hands out the deliveries that are due.
type Queue interface {
	// ClaimDeliveries claims up to limit deliveries that are due. slots
	// returns how many more a lane may have now; a lane that has none left
	// is not asked for again before it is resumed. next is when the first of
	// the others is due, zero when there is none. slots is called once a
	// lane at most. With an error nothing is claimed.
	ClaimDeliveries(ctx context.Context, limit int, slots func(Lane) Slots) (claimed []Delivery, next time.Time, err error)
	// Resume makes lanes be asked for again.
	Resume(lanes ...Lane)
	// Holds reports whether the claim on a delivery is certain to be this
	// process's own still.
	Holds(d Delivery) bool
	// Complete commits an outcome and ends the claim. It does nothing for a
	// claim that has ended. After an error the claim is kept.
	Complete(ctx context.Context, o Outcome) error
	// Postpone ends a claim without an attempt. The delivery is due at the
	// given time.
	Postpone(ctx context.Context, d Delivery, due time.Time) error
	// SetApart ends a claim without an attempt. The delivery waits in the
	// lane of its URL alone, due when it was.
	SetApart(ctx context.Context, d Delivery) error

	// Changed is signaled when deliveries or polls may have become due sooner
	// than ClaimDeliveries or ClaimPolls said. Every subscriber is.
	Changed() (signal <-chan struct{}, unsubscribe func())
}

// Outages keeps what the breakers must know after a restart.
type Outages interface {
	// Outages lists the outages that were not ended.
	Outages(ctx context.Context) ([]Outage, error)
	// BeginOutage commits an outage. One that is known already keeps its
	// beginning.
	BeginOutage(ctx context.Context, o Outage) error
	// EndOutage ends the outage of a lane, if there is one.
	EndOutage(ctx context.Context, lane Lane) error
	// Witness commits that a process runs now, and returns the times in
	// which one did, oldest first. Times that are no further apart than
	// grace are one.
	Witness(ctx context.Context, grace time.Duration) ([]Span, error)
}

// Polls hands out the predictions that are to be polled.
type Polls interface {
	// ClaimPolls claims up to limit predictions that are due for polling.
	ClaimPolls(ctx context.Context, limit int) (claimed []Prediction, next time.Time, err error)
	// PollAgain ends a claim. The prediction is due at the given time.
	PollAgain(ctx context.Context, p Prediction, due time.Time) error
	// Changed is that of Queue.
	Changed() (signal <-chan struct{}, unsubscribe func())
}

// Log is the delivery log as clients see it.
type Log interface {
	// Attempts lists a prediction's delivery log, newest first, from before
	// the given row ID (0: the newest).
	Attempts(ctx context.Context, ref int64, before int64, limit int) ([]Attempt, error)
	// Redeliver commits a new delivery of the event that an attempt (by row
	// ID) of the prediction was for, and returns its ID. It shares the
	// payload of the old delivery, which is kept as long as one of them is.
	// ErrNotFound, ErrDisabled.
	Redeliver(ctx context.Context, ref int64, attempt int64) (string, error)
}

// Retention deletes what is old.
type Retention interface {
	// Forget deletes, in small batches, what is older than it says.
	Forget(ctx context.Context, before Before) error
}

// Before says what Forget deletes. A zero time deletes nothing of its kind.
type Before struct {
	// Deliveries is before when the deliveries to clients were finished.
	Deliveries time.Time
	// Predictions is before when the predictions were captured. Those are
	// spared that are not finished or have deliveries left, but for those that
	// were reserved and never named.
	Predictions time.Time
	// Events is before when the inbound events ended. Recorded events that
	// have a time of their own, see Inbound.KeepFor, are deleted by that.
	Events time.Time
}

// Errors of Predictions and Log.
var (
	// ErrNotFound reports that there is no such prediction or attempt.
	ErrNotFound = errors.New("not found")
	// ErrDisabled reports that the prediction's webhook is disabled.
	ErrDisabled = errors.New("webhook is disabled")
)
