package edge

import (
	"errors"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// headerInbox tells a sender, in a response, that an event is stored, and names it.
const headerInbox = "X-Replicate-Inbox"

// accept stores the event for the app. The sender is told when it is durable.
func (q *request) accept() (Outcome, error) {
	ev := q.inbound()
	ev.Ordered = q.Inbox.Ordered && ev.PredictionID != ""
	ev.MaxEvents, ev.MaxBytes = q.Inbox.MaxEvents, q.Inbox.MaxBytes
	if err := q.commitClaim(q.r.Context(), ev); err != nil {
		refused := uncommitted(err)
		return refused.Outcome, refused
	}
	q.w.Header().Set(headerInbox, ev.ID)
	q.w.WriteHeader(http.StatusOK)
	return OutcomeAccepted, nil
}

// uncommitted returns the refusal of an event whose commit failed.
func uncommitted(err error) *Refusal {
	if errors.Is(err, store.ErrInboxFull) {
		return retryLater(OutcomeInboxFull, err, "30")
	}
	return storeUnavailable(err)
}

// inbound returns the event as it is stored. The request must not be prepared yet.
func (q *request) inbound() *store.Inbound {
	uri, from := q.Received(q.r)
	head, truncated := q.hook.Head(q.r, uri, from)
	if truncated {
		q.Logger.Warn("storing an event without some of its headers, which are over 16 KiB together",
			zap.String("scope", q.Scope), zap.String("event", loggable(q.hook.Name)))
	}
	return &store.Inbound{
		Scope: q.Scope, Name: q.hook.Name, PredictionID: q.hook.Envelope.ID,
		Head: head.Encode(), Body: q.hook.Body,
	}
}

// recording is an event that was forwarded to the app and is to be stored with the
// app's response.
type recording struct {
	event *store.Inbound
	began time.Time
}

// record begins a recording. The request must not be prepared yet.
func (q *request) record() *recording {
	ev := q.inbound()
	ev.KeepFor = q.Record
	ev.Recorded = &store.Attempt{Number: 1, At: q.Now()}
	return &recording{ev, time.Now()}
}

// recorded returns the event to be stored with the app's response, of whose body held
// is known. It is nil without a recording.
func (x *exchange) recorded(q *request, status int, held []byte) *store.Inbound {
	if x.recording == nil {
		return nil
	}
	a := x.recording.event.Recorded
	a.Status, a.Took = status, time.Since(x.recording.began)
	if x.Header().Get("Content-Encoding") == "" {
		a.Response = q.Printable(held, len(held) < cap(held))
	}
	return x.recording.event
}
