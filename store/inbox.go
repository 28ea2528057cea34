package store

import (
	"context"
	"errors"
	"strings"
	"time"
)

// Inbound is an event that the edge has accepted, with the request that brought it.
// It is stored as a delivery to the app of its scope, in the lane InboxLane.
type Inbound struct {
	// ID is the event's, X-Replicate-Event-Id. Set by Claim.Commit.
	ID string
	// Scope is that of the edge.
	Scope string
	// Name is the event's, such as prediction.completed. It may be empty.
	Name string
	// PredictionID is the prediction's, or empty.
	PredictionID string
	// Ordered makes the event wait for the earlier ones of its prediction.
	Ordered bool
	// Head is the request without its body, as internal/inbox encodes it.
	Head []byte
	// Body is what was signed. Head and Body are nil where they were deleted to
	// make room. They must not be changed after they were given to
	// Claim.CommitEvent, whatever it returned.
	Body []byte

	// MaxEvents bounds the waiting events of the scope, and MaxBytes the heads
	// and bodies of all stored ones. 0 is no bound. To make room, the heads and
	// bodies of ended events are deleted, those that ended first before the
	// others; what waits is never deleted, so that CommitEvent may return
	// ErrInboxFull. A recorded event is stored in any case.
	MaxEvents, MaxBytes int64

	// Recorded is the app's response to an event that was passed on before it was
	// stored, as for the option record: it is stored as having ended. It is nil
	// for an event that waits.
	Recorded *Attempt
	// KeepFor is how long a recorded event is kept. 0: as long as Forget keeps
	// ended events.
	KeepFor time.Duration
}

// inboxScheme begins the endpoint of an inbox. No URL has it: see EndpointOf.
const inboxScheme = "inbox:"

// InboxLane returns the lane of a scope's events.
func InboxLane(scope string) Lane { return Lane{Endpoint: inboxScheme + scope} }

// Inbox returns the scope whose events are in the lane, and whether it is such a
// lane.
func (l Lane) Inbox() (scope string, ok bool) { return strings.CutPrefix(l.Endpoint, inboxScheme) }

// MaxRefusals is how many refusals of an ordered event the later ones of its
// prediction wait for at most.
const MaxRefusals = 10

// InboxState is what operators see of a scope's inbox.
type InboxState struct {
	Scope string
	// PausedAt is when it was paused, zero when it is not.
	PausedAt time.Time
	// Events are the numbers of events by state. Events that were recorded
	// count as what their app's response makes them.
	Events [len(eventStates)]int
	// Bytes is the size of the heads and bodies that are stored.
	Bytes int64
	// OldestWaiting is when the oldest waiting event was accepted, zero
	// without one.
	OldestWaiting time.Time
}

// Inbox keeps the events that the edge accepted. They are committed by
// Claim.Commit, handed out by Queue like all deliveries, and listed by Inspector.
//
// Of the ordered events of a prediction in a scope one is handed out at a time, in
// the order in which they were committed. A later one waits until the earlier has
// ended, or was refused MaxRefusals times: the earlier one keeps its schedule then,
// and is overtaken once the app has had the later one.
type Inbox interface {
	// SetPaused commits whether the events of a scope wait untried. All
	// processes follow within a second: Paused says so.
	SetPaused(ctx context.Context, scope string, paused bool) error
	// Paused reports, from memory, whether a scope is paused. Queue.Changed is
	// signaled when that changes.
	Paused(scope string) bool
	// Pauses returns, from memory, the times in which a scope was paused,
	// oldest first. The last one has no end while the scope is paused. Those
	// that ended long ago are left out.
	Pauses(scope string) []Span
	// Inboxes lists the scopes that have events or are paused, by name.
	Inboxes(ctx context.Context) ([]InboxState, error)
	// RetryEvent makes a waiting event due now. ErrNotFound, ErrEnded.
	RetryEvent(ctx context.Context, id string) error
	// DiscardEvent ends a waiting event without an attempt; one under way is
	// its last. ErrNotFound, ErrEnded.
	DiscardEvent(ctx context.Context, id string) error
	// ReplayEvent makes an ended event wait again, behind the waiting ones of
	// its prediction. Its attempts go on counting, and its time to be retried
	// begins anew; the refusals of before count no more. ErrNotFound,
	// ErrWaiting, also during the last attempt of a discarded event, and
	// ErrNoBody where the body was deleted or the event was only recorded.
	ReplayEvent(ctx context.Context, id string) error
}

// Errors of Inbox, and of Claim.Commit with an event.
var (
	// ErrInboxFull reports that an event exceeds a bound of its inbox.
	ErrInboxFull = errors.New("inbox is full")
	// ErrEnded reports that the event has ended.
	ErrEnded = errors.New("event has ended")
	// ErrWaiting reports that the event has not ended.
	ErrWaiting = errors.New("event is waiting")
	// ErrNoBody reports that the event can't be passed on again.
	ErrNoBody = errors.New("event has no body any more")
)
