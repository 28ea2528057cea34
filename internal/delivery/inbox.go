package delivery

import (
	"context"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// Inbox is the app behind the edges of a scope, and how the events that the store
// keeps for it reach it.
type Inbox struct {
	// Scope is that of the events: see store.InboxLane.
	Scope string
	// RetryFor is how long an event is tried, from when it began to wait.
	RetryFor time.Duration
	// MaxDelay is the longest wait after an attempt. Waits are 1 s, 2 s, 4 s and
	// so on up to it.
	MaxDelay time.Duration
	// Concurrency is the number of events with the app at once.
	Concurrency int
	// App takes the events.
	App App
}

// App takes the events of an inbox. Its method may be called concurrently.
type App interface {
	// Pass makes one attempt to hand an event to the app, and returns what
	// the app said. attempt counts from 1.
	Pass(ctx context.Context, d *store.Delivery, attempt int) AppResponse
}

// AppResponse is an app's response to an event.
type AppResponse struct {
	// Status is the first final status, 0 without one.
	Status int
	// RetryAfter is how long the app wants to be left alone, 0 if it did not
	// say.
	RetryAfter time.Duration
	// Body is the beginning of the response, at most 4 KiB.
	Body string
	// Err is why there is no status, or what the status of a handler's error
	// stands for. It is nil for a response of the app's own.
	Err error
	// Sent reports that the request reached the app: an attempt that times out
	// then is a refusal of the event, too.
	Sent bool
	// TimedOut reports that the app's time was over.
	TimedOut bool
}
