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

// record prepares that the event is stored with the app's response. It must be
// called before the request is prepared.
func (x *exchange) record(q *request) {
	x.began = time.Now()
	x.recorded = q.inbound()
	x.recorded.KeepFor = q.Record
	x.recorded.Recorded = &store.Attempt{Number: 1, At: q.Now()}
}

// respond completes the event to be stored by the app's response, of whose body held
// is known.
func (x *exchange) respond(q *request, status int, held []byte) *store.Inbound {
	if x.recorded == nil {
		return nil
	}
	a := x.recorded.Recorded
	a.Status, a.Took = status, time.Since(x.began)
	if x.Header().Get("Content-Encoding") == "" {
		a.Response = q.Printable(held, len(held) < cap(held))
	}
	return x.recorded
}
