package tracker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/internal/sealing"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/shared"
)

// MaxAnswer is the largest body of a response that is kept under an
// Idempotency-Key, in bytes.
const MaxAnswer = 256 << 10

// ErrOtherBody reports that an Idempotency-Key was used with another body.
var ErrOtherBody = errors.New("the key was used with another body")

// Keyed is a request to create that carries an Idempotency-Key.
type Keyed struct {
	// API is the base URL of the API, empty where it can't be asked.
	API string
	// Authorization is the request's only one, and User the user that Caddy
	// authenticated. Either may be empty.
	Authorization, User string
	// Path is that of the request.
	Path string
	// Key is the Idempotency-Key.
	Key string
	// Digest is the SHA-256 of the body.
	Digest [sha256.Size]byte
	// Lifetime is how long the key is kept.
	Lifetime time.Duration
}

// Answer is a response to a create.
type Answer struct {
	Status int
	// Header has what describes the body.
	Header http.Header
	// Body is the body without a content encoding.
	Body []byte
	// ID is the prediction's, or empty.
	ID string
	// IDOnly reports that the body is too large to be kept, or is not known.
	IDOnly bool
}

// Earlier describes an earlier create under the same key.
type Earlier struct {
	// Answer is the response to it, nil while the outcome is unknown: the
	// connection to the API broke, or the process ended, after the request had
	// been sent.
	Answer *Answer
	// Callback reports that a callback may still name the prediction.
	Callback bool
}

// Exchange is a create under an Idempotency-Key that holds the claim on the key. It
// is used by one goroutine at a time. End must be called.
type Exchange struct {
	t     *Tracker
	ref   *shared.Ref
	claim store.Claim
	c     store.Create

	begun, settled bool
	end            sync.Once
}

// ClaimCreate claims a key. It returns the exchange of a create that may be passed
// to the API, or what is known of an earlier one.
//
// Errors: ErrOtherBody, store.ErrInFlight while the earlier create runs,
// store.ErrUnavailable.
func (t *Tracker) ClaimCreate(ctx context.Context, k *Keyed) (*Exchange, *Earlier, error) {
	if err := t.conf.SealReady(); err != nil {
		return nil, nil, err
	}
	ref, err := t.conf.Acquire()
	if err != nil {
		return nil, nil, err
	}
	x := &Exchange{t: t, ref: ref, c: k.create(t.conf.Now())}
	earlier, err := x.acquire(ctx)
	if err != nil || earlier != nil {
		x.End()
		return nil, earlier, err
	}
	return x, nil, nil
}

func (k *Keyed) create(now time.Time) store.Create {
	token := ""
	if k.Authorization != "" {
		sum := sha256.Sum256([]byte(k.Authorization))
		token = string(sum[:])
	}
	return store.Create{
		Key:    store.KeyOf(store.CreateScope, "create", k.API, token, k.User, k.Path, k.Key),
		Caller: store.KeyOf(store.CreateScope, "caller", k.API, token, k.User),
		Digest: k.Digest, Expires: now.Add(k.Lifetime),
	}
}

// acquire takes the claim, and then looks whether the key was used before: whoever
// had the claim has committed the response by now, or is gone.
func (x *Exchange) acquire(ctx context.Context) (*Earlier, error) {
	if err := x.ref.Ready(); err != nil {
		return nil, err
	}
	claim, err := x.ref.Claim(ctx, store.Entry{Scope: store.CreateScope, Keys: []store.Key{x.c.Key}, Expires: x.c.Expires, Lock: true}, 0)
	running := errors.Is(err, store.ErrInFlight)
	if err != nil && !running {
		return nil, fmt.Errorf("claiming an Idempotency-Key: %w", err)
	}
	x.claim = claim
	c, err := x.ref.Create(ctx, x.c.Key)
	switch {
	case errors.Is(err, store.ErrNotFound) && running:
		return nil, store.ErrInFlight
	case errors.Is(err, store.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("looking an Idempotency-Key up: %w", err)
	case c.Digest != x.c.Digest:
		return nil, ErrOtherBody
	case c.Status == 0 && running:
		return nil, store.ErrInFlight
	}
	return x.t.earlier(&c), nil
}

// earlier returns what is known of a create.
func (t *Tracker) earlier(c *store.Create) *Earlier {
	switch {
	case c.Sealed != nil:
		a, err := t.openAnswer(c)
		if err == nil {
			return &Earlier{Answer: a}
		}
		t.conf.Logger.Error("the response that is kept under an Idempotency-Key can't be read", zap.String("prediction", c.ID), zap.Error(err))
	}
	if c.ID == "" {
		return &Earlier{Callback: c.Status == 0 && c.Ref != 0}
	}
	return &Earlier{Answer: &Answer{Status: c.Status, ID: c.ID, IDOnly: true}}
}

// Begin commits that the request is about to leave. With a capture it reserves the
// prediction, too, as Reserve does, which calls it.
//
// Errors: store.ErrTooManyCreates, store.ErrInFlight if the key is used by now,
// store.ErrUnavailable.
func (x *Exchange) Begin(ctx context.Context) error { return x.begin(ctx, nil) }

func (x *Exchange) begin(ctx context.Context, reserve *store.Prediction) error {
	if x.begun {
		return nil
	}
	err := x.ref.BeginCreate(ctx, &x.c, reserve)
	switch {
	case err == nil:
		x.begun = true
		return nil
	case errors.Is(err, store.ErrCreateKnown):
		return store.ErrInFlight
	case !errors.Is(err, store.ErrTooManyCreates):
		// It may become durable all the same, and its request has not left.
		_ = x.t.commit(ctx, func(ctx context.Context, _ store.Store) error { return x.ref.DropCreate(ctx, &x.c) })
	}
	return fmt.Errorf("storing an Idempotency-Key: %w", err)
}

// Open reports whether the create has begun, and neither its response was committed
// nor was it released.
func (x *Exchange) Open() bool { return x.begun && !x.settled }

// Settle commits the response, and ends the claim. It is made also when ctx is
// cancelled. Errors: store.ErrUnavailable; then the outcome stays unknown.
func (x *Exchange) Settle(ctx context.Context, a *Answer) error {
	err := x.t.commit(ctx, func(ctx context.Context, _ store.Store) error {
		return x.ref.AnswerCreate(ctx, &x.c, x.seal(a))
	})
	if err == nil {
		x.settle()
	}
	return err
}

// Release deletes the create, so that the next one under the key is passed to the
// API, and ends the claim. Errors: store.ErrUnavailable; then the outcome stays
// unknown.
func (x *Exchange) Release(ctx context.Context) error {
	err := x.t.commit(ctx, func(ctx context.Context, _ store.Store) error { return x.ref.DropCreate(ctx, &x.c) })
	if err == nil {
		x.settle()
	}
	return err
}

func (x *Exchange) settle() {
	x.settled = true
	x.claim.Release()
}

// End ends the claim and gives the store back. A create that has begun and has no
// response by then is one whose outcome is unknown.
func (x *Exchange) End() {
	x.end.Do(func() {
		if x.claim != nil {
			x.claim.Release()
		}
		_ = x.ref.Release()
	})
}

// sealedHeader holds the kept part of a response's header.
type sealedHeader struct {
	Header http.Header `json:"header,omitempty"`
}

// seal returns an answer as it is stored.
func (x *Exchange) seal(a *Answer) store.CreateAnswer {
	out := store.CreateAnswer{Status: a.Status, ID: a.ID}
	if a.IDOnly {
		return out
	}
	head, _ := json.Marshal(sealedHeader{a.Header}) // strings always can be
	plain := append(append(head, '\n'), a.Body...)
	out.Sealed = x.t.conf.Seal.Seal(plain, sealing.AnswerContext(x.c.Key))
	return out
}

// openAnswer returns a stored answer.
func (t *Tracker) openAnswer(c *store.Create) (*Answer, error) {
	plain, err := t.conf.Seal.Open(c.Sealed, sealing.AnswerContext(c.Key))
	if err != nil {
		return nil, err
	}
	head, body, _ := strings.Cut(string(plain), "\n")
	var h sealedHeader
	if err := json.Unmarshal([]byte(head), &h); err != nil {
		return nil, err
	}
	return &Answer{Status: c.Status, Header: h.Header, Body: []byte(body), ID: c.ID}, nil
}

// Name returns a name of the key for the log, which does not show the key.
func (x *Exchange) Name() string { return hex.EncodeToString(x.c.Key[:4]) }
