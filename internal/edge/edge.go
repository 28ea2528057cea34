// Package edge verifies signed webhooks and forwards each genuine event once.
//
// A request passes these steps, and leaves at the first one that does not let it
// on:
//
//	admit    by method and headers
//	read     the body, within its limits
//	verify   the signatures, the signed time and the JSON
//	claim    the event, so that no other request forwards it
//	forward  to the app
//	commit   the claim when a 2xx is about to leave, so that the event is
//	         stored as accepted before the sender is told
//
// With an inbox, the last two are one: the claim and the event are committed, and
// the app gets the event later.
//
// A claim that was not committed is released, however the request ends.
package edge

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/internal/body"
	"github.com/caddy-replicate/replicate-webhook/internal/inbox"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// Config is what an Edge works with.
type Config struct {
	// Secrets returns the signing secrets, any of which may have signed.
	Secrets func() []signature.Secret
	// Scheme is the only scheme accepted. 0 accepts both, as far as the
	// secrets can verify them.
	Scheme signature.Scheme
	// Tolerance is how far the signed time may be from now. 0 is any.
	Tolerance time.Duration
	// Dedup is how long an accepted event is remembered. 0 forwards every
	// webhook.
	Dedup time.Duration
	// DedupKey is what makes two webhooks the same: event, prediction or
	// message.
	DedupKey string
	// Scope keeps the events of edges apart.
	Scope string
	// InFlightWait is how long a request waits for another one that holds a
	// claim on its event.
	InFlightWait time.Duration
	// AnyPayload accepts every JSON object, also one that is not about a
	// prediction. DedupKey must be message then.
	AnyPayload bool
	// Events are the names of the events that are forwarded. Empty is all.
	Events []string
	// MaxBody is the largest body in bytes.
	MaxBody int64
	// ReadTimeout is the time for the whole body to arrive.
	ReadTimeout time.Duration
	// UpstreamTimeout is how long the app may take until its response begins.
	UpstreamTimeout time.Duration
	// PassOnStoreError forwards events without deduplication while the store
	// is unavailable.
	PassOnStoreError bool

	// Inbox has events stored for the app in place of being forwarded. nil
	// forwards them.
	Inbox *Inbox
	// Record is how long an event that was forwarded and accepted is kept with
	// the app's response. 0 keeps none. It has no effect with Inbox.
	Record time.Duration

	// Acquire returns the store. It is not called if nothing is to be stored.
	Acquire func() (Store, error)
	// Budget bounds the bytes of bodies in memory.
	Budget *body.Budget

	// The fields from here on are optional.

	// Received returns the URI of a request before any handler changed it, and
	// where the request came from, for events that are stored. Default: as the
	// request says.
	Received func(*http.Request) (originalURI string, from inbox.Origin)
	// Printable returns text of the beginning of a response's body that can be
	// stored and shown. cut means that the body goes on. Default: none.
	Printable func(body []byte, cut bool) string
	// StatusOf returns the HTTP status that a handler before the edge gave an
	// error of the body, 0 for none.
	StatusOf func(error) int
	// Verified is called after each verification with the time that it took,
	// and before the webhook is forwarded. hook is nil if it was refused.
	Verified func(r *http.Request, hook *Webhook, took time.Duration)
	// Ended is called once with the outcome of each request, also when the
	// app's handler panics.
	Ended func(Outcome)
	// Now is the clock. Default: time.Now.
	Now func() time.Time
	// Logger gets what operators have to know. Default: none.
	Logger *zap.Logger
}

// Inbox says how events are stored for an app.
type Inbox struct {
	// Ordered has an event wait for the earlier ones of its prediction.
	Ordered bool
	// MaxEvents and MaxBytes are the bounds of store.Inbound.
	MaxEvents, MaxBytes int64
}

// Store holds the claims on events.
type Store interface {
	Claim(ctx context.Context, e store.Entry, wait time.Duration) (store.Claim, error)
	// Release ends the use of the store. Requests may outlive the
	// configuration that they began with.
	Release() error
}

// Handler is an app, or what leads to it. An error that it returns has not been
// sent as a response.
type Handler interface {
	ServeHTTP(w http.ResponseWriter, r *http.Request) error
}

// Edge serves webhooks. It is safe for concurrent use. New makes one.
type Edge struct{ Config }

// New returns an Edge.
func New(c Config) *Edge {
	if c.StatusOf == nil {
		c.StatusOf = func(error) int { return 0 }
	}
	if c.Verified == nil {
		c.Verified = func(*http.Request, *Webhook, time.Duration) {}
	}
	if c.Ended == nil {
		c.Ended = func(Outcome) {}
	}
	if c.Received == nil {
		c.Received = func(r *http.Request) (string, inbox.Origin) { return r.URL.RequestURI(), inbox.Origin{} }
	}
	if c.Printable == nil {
		c.Printable = func([]byte, bool) string { return "" }
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	return &Edge{c}
}

// Serve serves a request from the client with the given address. The error is a
// *Refusal or one of the app's handler; in both cases no response was sent, and
// r may still hold what only a verified webhook may have: see Discard.
func (e *Edge) Serve(w http.ResponseWriter, r *http.Request, client string, app Handler) error {
	q := &request{Edge: e, w: w, r: r, app: app}
	defer q.finish()
	q.outcome, q.err = q.serve(client)
	return q.err
}

// request is a request on its way through the edge. Its steps are called in the
// order of the package comment, and finish at last.
type request struct {
	*Edge
	w   http.ResponseWriter
	r   *http.Request
	app Handler

	charge   *body.Charge
	verifier Verifier
	signed   *signature.Claim // what the headers say, not verified
	raw      []byte           // the body
	hook     *Webhook
	store    Store
	claim    store.Claim
	exchange *exchange // with the app, nil before forward

	outcome Outcome // empty until serve has returned
	err     error
}

func (q *request) serve(client string) (Outcome, error) {
	if refused := q.admit(); refused != nil {
		return refused.Outcome, refused
	}
	q.charge = q.Budget.For(client)
	if refused := q.read(); refused != nil {
		return refused.Outcome, refused
	}
	if refused := q.verify(); refused != nil {
		return refused.Outcome, refused
	}
	if len(q.Events) > 0 && !slices.Contains(q.Events, q.hook.Name) {
		q.w.WriteHeader(http.StatusOK)
		return OutcomeFiltered, nil
	}
	if q.Dedup > 0 || q.Inbox != nil || q.Record > 0 {
		switch duplicate, refused := q.acquireClaim(); {
		case refused != nil:
			return refused.Outcome, refused
		case duplicate:
			q.hook.Duplicate = true
			q.w.Header().Set("X-Replicate-Duplicate", "true")
			q.w.WriteHeader(http.StatusOK)
			return OutcomeDuplicate, nil
		}
	}
	if q.Inbox != nil {
		return q.accept()
	}
	return q.forward()
}

// admit refuses what can be judged without the body, cheapest first.
func (q *request) admit() *Refusal {
	scrub(q.r.Header)
	if q.AnyPayload {
		signature.AdoptSvix(q.r.Header)
	}
	refused := q.judgeHeaders()
	if refused != nil {
		refused.Unread = true
	}
	return refused
}

func (q *request) judgeHeaders() *Refusal {
	r := q.r
	if r.Method != http.MethodPost {
		return &Refusal{
			Status: http.StatusMethodNotAllowed, Outcome: OutcomeMethod, Cause: fmt.Errorf("method %s", r.Method),
			Header: map[string]string{"Allow": http.MethodPost},
		}
	}
	q.verifier = Verifier{Secrets: q.Secrets(), Accept: q.Scheme, Tolerance: q.Tolerance, Any: q.AnyPayload}
	if q.Scheme == 0 {
		q.verifier.Accept = signature.Verifiable(q.verifier.Secrets)
	}
	var err error
	if q.signed, err = signature.ParseHeaders(r.Header, q.verifier.Accept); err != nil {
		return q.badHeaders(err)
	}
	for _, encoding := range r.Header["Content-Encoding"] {
		if encoding != "" && !strings.EqualFold(encoding, "identity") {
			return &Refusal{
				Status: http.StatusUnsupportedMediaType, Outcome: OutcomeEncoding,
				Cause: errors.New("the body has a content encoding"),
			}
		}
	}
	if r.ContentLength > q.MaxBody {
		return q.tooLarge()
	}
	return nil
}

// badHeaders returns the refusal of a request whose signature headers cannot be
// used.
func (e *Edge) badHeaders(err error) *Refusal {
	var he *signature.HeaderError
	if !errors.As(err, &he) {
		return unauthorized(OutcomeHeadersMalformed, err)
	}
	if he.Reason() == signature.ReasonScheme && e.Scheme == 0 {
		// Without the option, a scheme is not accepted for want of a secret.
		return unauthorized(OutcomeHeadersSecret,
			fmt.Errorf("%s is present, but no secret can verify it: scheme %s takes %s", he.Header, he.Scheme, he.Scheme.Secrets()))
	}
	return unauthorized(ofHeaders(he.Reason()), err)
}

// verify checks what was read against the signatures.
func (q *request) verify() *Refusal {
	start := time.Now()
	var refused *Refusal
	q.hook, refused = q.verifier.Verify(q.signed, q.raw, q.Now())
	q.Verified(q.r, q.hook, time.Since(start))
	return refused
}

// acquireClaim acquires the claim on the event, and reports whether the app has
// the event already. Without a refusal the claim is nil if the event is to be
// forwarded without one.
func (q *request) acquireClaim() (duplicate bool, refused *Refusal) {
	var err error
	if q.store, err = q.Acquire(); err != nil {
		q.store = nil
		return false, q.withoutStore(err)
	}
	ctx := q.r.Context()
	q.claim, err = q.store.Claim(ctx, q.entry(), q.InFlightWait)
	switch {
	case err == nil && !q.claim.Forwarded():
		return false, nil
	case err == nil:
		// The app or the inbox took the event, and the commit was lost. An event
		// that was to be stored with it is committed now, once.
		if err := q.commitClaim(ctx, nil); err != nil {
			return false, uncommitted(err)
		}
		return true, nil
	}
	q.claim = nil
	switch {
	case errors.Is(err, store.ErrDuplicate):
		return true, nil
	case errors.Is(err, store.ErrReplayed):
		return false, unauthorized(OutcomeReplayed, err)
	case errors.Is(err, store.ErrInFlight):
		return false, retryLater(OutcomeInFlight, err, "1")
	case ctx.Err() != nil:
		return false, clientGone(err)
	}
	return false, q.withoutStore(err)
}

// entry returns what dedup is to know of the event. Without deduplication it has no
// key, and nothing of it is stored.
func (q *request) entry() store.Entry {
	e := store.Entry{Scope: q.Scope, Expires: q.Now().Add(q.Dedup)}
	if q.Dedup > 0 {
		e.Keys = q.hook.Keys(q.Scope, q.DedupKey)
		e.SignedAt, e.SignedUntil = q.hook.JudgedAt, q.hook.SignedUntil
	}
	return e
}

// withoutStore returns the refusal of an event that cannot be claimed, nil if it
// is to be forwarded all the same.
func (q *request) withoutStore(err error) *Refusal {
	if !q.PassOnStoreError {
		return storeUnavailable(err)
	}
	q.Logger.Error("passing an event on without deduplication", zap.Error(err))
	return nil
}

// commitClaim commits the claim, and the event if it is not nil, also if the sender
// has gone. A sender whose commit takes longer than store.CommitTimeout is told to
// retry.
func (q *request) commitClaim(ctx context.Context, ev *store.Inbound) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), store.CommitTimeout)
	defer cancel()
	if ev != nil {
		return q.claim.CommitEvent(ctx, ev)
	}
	return q.claim.Commit(ctx)
}

// finish ends the request, however its last step ended. What the request holds is
// given back even if a writer of the response panics.
func (q *request) finish() {
	defer q.release()
	if q.outcome == "" {
		// A step panicked. That is how a proxy ends a response that is cut
		// short, whose event may have been accepted.
		q.outcome = OutcomePanicked
		if q.exchange != nil && q.exchange.interrupted() {
			q.outcome = OutcomeAccepted
		}
	}
	q.Ended(q.outcome)
}

// release gives back what the request holds. The claim comes before the store
// that it belongs to; it was committed, or another request may have it now.
func (q *request) release() {
	if q.exchange != nil {
		q.exchange.close()
	}
	if q.claim != nil {
		q.claim.Release()
	}
	if q.store != nil {
		_ = q.store.Release()
	}
	if q.charge != nil {
		q.charge.Return()
	}
}
