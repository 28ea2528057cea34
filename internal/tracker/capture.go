package tracker

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"strings"

	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/internal/lifecycle"
	"github.com/caddy-replicate/replicate-webhook/internal/prediction"
	"github.com/caddy-replicate/replicate-webhook/internal/sealing"
	"github.com/caddy-replicate/replicate-webhook/internal/upstream"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// The collections, as they appear in the paths of creates and polls.
const (
	Predictions = "/predictions"
	Trainings   = "/trainings"
)

// Capture is one request to create a prediction with a webhook. It prints
// without its secrets. The zero values of its unexported fields are right.
type Capture struct {
	API    upstream.API
	Caller upstream.Caller
	// URL gets the events.
	URL string
	// Events are those the client wants; 0 for all.
	Events event.Set
	// Collection is below API where the prediction will be found:
	// Predictions, the default, or Trainings.
	Collection string
	// Traceparent is the request's trace context, or empty.
	Traceparent string
	// Exchange is that of a create under an Idempotency-Key, else nil. Reserve
	// begins it, and Created and CreatedWithoutBody commit what Answer returns
	// in the same transaction.
	Exchange *Exchange
	// Answer returns the response to the create for the prediction as it is
	// tracked. It must not refer to what its caller uses again. Required with
	// Exchange.
	Answer func(store.Prediction) *Answer

	ref   int64
	token []byte // SHA-256 of the callback token
}

// String returns whose webhook it is.
func (c Capture) String() string {
	return fmt.Sprintf("webhook of %s to %s", c.Caller, c.API)
}

// Format writes String for every verb and flag.
func (c Capture) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, c.String()) }

// tokenBytes is the number of random bytes in a callback token, which names a
// prediction before its id is known.
const tokenBytes = 32

// Reserve makes a callback URL for a prediction that is about to be created,
// and commits it, so that a callback finds its prediction however early it
// comes. Without a configured callback it returns "" and reserves nothing.
//
// After Reserve, call Abandon when the API refuses, else Created or
// CreatedWithoutBody. Errors: store.ErrUnavailable, and those of Exchange.Begin.
func (t *Tracker) Reserve(ctx context.Context, c *Capture) (callbackURL string, err error) {
	if t.conf.Callback == "" {
		if c.Exchange != nil {
			err = c.Exchange.Begin(ctx)
		}
		return "", err
	}
	var secret [tokenBytes]byte
	_, _ = rand.Read(secret[:]) // never fails
	token := base64.RawURLEncoding.EncodeToString(secret[:])
	p := t.predictionOf(c)
	p.Token = tokenSum(token)
	if c.Exchange != nil {
		err = c.Exchange.begin(ctx, &p)
		c.ref = p.Ref
	} else {
		err = t.use(func(s store.Store) error {
			c.ref, err = s.Reserve(ctx, p)
			return err
		})
	}
	if err != nil {
		return "", fmt.Errorf("reserving callback: %w", err)
	}
	c.token = p.Token
	return t.conf.Callback + "/" + token, nil
}

// tokenSum returns the hash of a callback token. The store keeps that alone, so
// that whoever reads the store can't send callbacks.
func tokenSum(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}

// Abandon undoes Reserve, after the API refused to create. What can't be deleted
// now is logged and does no harm.
func (t *Tracker) Abandon(ctx context.Context, c *Capture) {
	if c.ref == 0 {
		return
	}
	err := t.commit(ctx, func(ctx context.Context, s store.Store) error { return s.Abandon(ctx, c.ref) })
	if err != nil {
		t.conf.Logger.Warn("deleting a reserved callback", zap.Error(err))
		return
	}
	c.ref, c.token = 0, nil
}

// Created commits at once that the API created the prediction and what has
// happened to it already. The commit is made also when ctx is cancelled: the
// prediction is there, whether or not the client still is.
//
// Errors: prediction.ErrUnexpected for an id that is not valid,
// store.ErrUnavailable.
func (t *Tracker) Created(ctx context.Context, c *Capture, s *prediction.Snapshot) (store.Prediction, error) {
	return t.track(ctx, c, s)
}

// CreatedWithoutBody is Created for a response that is too large to be read in
// full: the first poll, or the callback, tells the rest. Nothing has happened yet,
// because a payload would lack the input and the output.
func (t *Tracker) CreatedWithoutBody(ctx context.Context, c *Capture, id, status string) (store.Prediction, error) {
	t.conf.Logger.Debug("tracking a prediction whose response was too large to read",
		zap.String("prediction", id), zap.String("status", status))
	return t.track(ctx, c, &prediction.Snapshot{ID: id})
}

// TrackExisting is Created for a prediction that was created without a
// webhook and is given one now. Neither of its events was ever sent, so it
// gets both, from here on: one that is finished already gets them at once.
//
// Errors: those of CheckURL, prediction.ErrUnexpected, store.ErrUnavailable.
func (t *Tracker) TrackExisting(ctx context.Context, c *Capture, s *prediction.Snapshot) (store.Prediction, error) {
	if c.URL != "" {
		if err := t.conf.CheckURL(c.URL); err != nil {
			return store.Prediction{}, err
		}
	}
	if err := t.conf.SealReady(); err != nil {
		return store.Prediction{}, err
	}
	return t.track(ctx, c, s)
}

func (t *Tracker) track(ctx context.Context, c *Capture, s *prediction.Snapshot) (store.Prediction, error) {
	if !prediction.ValidID(s.ID) {
		return store.Prediction{}, fmt.Errorf("tracking prediction: %w: its id is missing or malformed", prediction.ErrUnexpected)
	}
	t.conf.Traced(ctx)
	p := t.predictionOf(c)
	p.Ref, p.Token, p.ID = c.ref, c.token, s.ID
	p.PollPath = collection(c.Collection) + "/" + s.ID
	p.PollAt = t.conf.Poller.FirstPoll(&p)
	if !event.IsTerminal(s.Status) {
		p.Credential = t.credential(c, s.ID)
	}
	events := lifecycle.Events(&p, s, t.conf.Now(), t.conf.Callback)
	x := c.Exchange
	err := t.commit(ctx, func(ctx context.Context, st store.Store) error {
		if x == nil || !x.Open() {
			return st.Track(ctx, &p, events)
		}
		return x.ref.TrackCreate(ctx, &p, events, &x.c, func(now store.Prediction) store.CreateAnswer { return x.seal(c.Answer(now)) })
	})
	if err != nil {
		return store.Prediction{}, fmt.Errorf("tracking prediction %s: %w", s.ID, err)
	}
	if x != nil && x.Open() {
		x.settle()
	}
	return p, nil
}

func (t *Tracker) predictionOf(c *Capture) store.Prediction {
	events := c.Events
	if events == 0 {
		events = event.All
	}
	return store.Prediction{
		API:         c.API.URL,
		Client:      c.Caller.Identity,
		URL:         c.URL,
		Events:      events,
		Traceparent: c.Traceparent,
		CreatedAt:   t.conf.Now(),
	}
}

func collection(name string) string {
	if name == "" {
		return Predictions
	}
	return "/" + strings.Trim(name, "/")
}

// maxCredential is the longest Authorization worth keeping, in bytes.
const maxCredential = 8 << 10

// credential returns the caller's Authorization, sealed for the polls to come, if
// they need it: not where the operator's token does, and never a password, which
// opens more than one API.
func (t *Tracker) credential(c *Capture, id string) []byte {
	authorization := c.Caller.Authorization
	scheme, _, _ := strings.Cut(strings.TrimSpace(authorization), " ")
	if c.API.URL == "" || c.API.Token != "" || scheme == "" || strings.EqualFold(scheme, "basic") || len(authorization) > maxCredential {
		return nil
	}
	return t.conf.Seal.Seal([]byte(authorization), sealing.CredentialContext(c.API.URL, id))
}
