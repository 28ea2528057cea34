package store

import (
	"context"
	"errors"
	"time"
)

// CreateScope is the scope of the claims on the keys of creates.
const CreateScope = "idempotency"

// MaxCreates is how many live keys a caller may have.
const MaxCreates = 10_000

// Create is a request to create a prediction that carries an Idempotency-Key, and
// what became of it.
type Create struct {
	// Key identifies it: API, caller, path and Idempotency-Key, see KeyOf.
	Key Key
	// Caller is what MaxCreates counts by.
	Caller Key
	// Digest is the SHA-256 of the request's body.
	Digest [32]byte
	// Expires is when the key may be used anew.
	Expires time.Time
	// Nonce tells it from another create under the same key. Set by the store.
	Nonce int64
	// Ref is the prediction that was reserved for it, 0 for none.
	Ref int64

	// CreateAnswer is zero until the response is committed, but for the ID of
	// the prediction that was reserved, once a callback has named that.
	CreateAnswer
}

// CreateAnswer is the response to a create.
type CreateAnswer struct {
	// Status is the HTTP status, 0 while it is not known.
	Status int
	// ID is the prediction's, empty where the response has none.
	ID string
	// Sealed is the response itself, nil where it is too large to be kept.
	Sealed []byte
}

// Creates keeps what became of creates that carry an Idempotency-Key. Whoever
// begins one holds a claim on its key, see Dedup: a lock of CreateScope, which is
// released when the response is committed. A create without a response that nobody
// holds a claim on is one whose outcome is unknown.
type Creates interface {
	// Create returns the create of a key. ErrNotFound, also once it has expired.
	Create(ctx context.Context, key Key) (Create, error)
	// BeginCreate commits a create whose request is about to leave, in place of
	// one that has expired, and sets c.Nonce. With reserve that prediction is
	// reserved, too, as by Reserve, and its Ref and c.Ref are set. Errors:
	// ErrCreateKnown, ErrTooManyCreates, ErrUnavailable, or the context's own.
	// After the last two the create may still become durable: DropCreate, called
	// then, deletes it.
	BeginCreate(ctx context.Context, c *Create, reserve *Prediction) error
	// AnswerCreate commits the response to a create. It does nothing if the
	// create is gone.
	AnswerCreate(ctx context.Context, c *Create, a CreateAnswer) error
	// TrackCreate is Track, and commits the response that answer returns for the
	// prediction as it is then. answer may be called more than once, and after
	// TrackCreate has returned an error.
	TrackCreate(ctx context.Context, p *Prediction, events []Event, c *Create, answer func(Prediction) CreateAnswer) error
	// DropCreate deletes a create, so that its key may be used anew.
	DropCreate(ctx context.Context, c *Create) error
}

// Errors of Creates.
var (
	// ErrCreateKnown means that the key is in use.
	ErrCreateKnown = errors.New("the Idempotency-Key is in use")
	// ErrTooManyCreates means that the caller has MaxCreates live keys.
	ErrTooManyCreates = errors.New("too many live keys of one caller")
)
