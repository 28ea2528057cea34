// Package store defines what the plugin needs of a store, on the standard library
// alone. Package store/shared opens one store for all configurations that use it.
//
// A store is a Caddy module in the namespace replicate_webhook.stores. Every
// store passes the suite in store/storetest.
package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"time"
)

// Store is an open store. All methods are safe for concurrent use.
//
// It is composed of roles. A package that uses a store takes the roles that it
// needs, or declares an interface of its own.
type Store interface {
	// Ready returns ErrUnavailable when nothing could be committed now.
	Ready() error

	Dedup
	Predictions
	Queue
	Outages
	Polls
	Log
	Secrets
	Rotations
	Retention
	Inspector
	Finder
	Inbox
	Creates
}

// CommitTimeout bounds the wait for a commit that is made whether or not its caller
// is still there, such as one for a client that has left.
const CommitTimeout = 10 * time.Second

// Closer is a store that can be closed, which only package store/shared does. Close
// waits until what was handed to the store is durable, and frees the resource. Later
// calls return ErrUnavailable.
type Closer interface {
	Store
	io.Closer
}

// Opener is implemented by store modules: it knows where the store is and how to
// open it.
type Opener interface {
	// Resource names what is opened (a path, a database), and not how:
	// configurations with the same resource share one open store.
	Resource() string
	// Open opens the resource. For one resource, calls are never concurrent.
	Open() (Closer, error)
}

// SealKeyFiler is implemented by store modules that have a place of their own for
// the key that seals secrets and credentials. It is optional: with a store that
// does not implement it, the configuration names the key.
type SealKeyFiler interface {
	// SealKeyFile returns the path of the key file, which is created when it is
	// first needed.
	SealKeyFile() string
}

// Dedup remembers which events were forwarded to an app.
type Dedup interface {
	// Claim claims the right to forward an event. If another claim on one of the
	// entry's keys is open, Claim waits for its outcome, at most for wait. When
	// that claim is released, the waiting call takes over.
	//
	// Errors: ErrDuplicate, ErrReplayed, ErrInFlight, ErrUnavailable, or the
	// context's own.
	Claim(ctx context.Context, e Entry, wait time.Duration) (Claim, error)
}

// Claim is the right to forward one event. Commit or Release ends it; calls after
// that do nothing.
type Claim interface {
	// Forwarded reports whether the app already answered 2xx to this event
	// but the entry could not be committed then: the holder only commits.
	Forwarded() bool

	// Commit makes the entry durable and returns when it is. After an error
	// this process remembers the entry as forwarded, so that a retry gets a
	// claim for which Forwarded is true.
	Commit(ctx context.Context) error

	// CommitEvent is Commit with the event itself, and sets ev.ID. After an
	// error nothing is acknowledged; where it is not known whether the event is
	// on disk, the next claim for which Forwarded is true commits it, once.
	// Such a claim commits the event of the claim before it in place of ev, and
	// sets ev.ID to the ID of that. Errors: ErrInboxFull, after which the claim
	// is released, and those of Commit.
	CommitEvent(ctx context.Context, ev *Inbound) error

	// Release gives the claim up: the next one forwards the event.
	Release()
}

// Entry is what dedup knows of an event.
type Entry struct {
	// Scope separates handlers that must not see each other's events.
	Scope string
	// Keys identify the event: up to three, see KeyOf. Events that share a key
	// are duplicates. Without a key, Claim grants the entry at once, and Commit
	// stores nothing of it: for an event that is not deduplicated.
	Keys []Key
	// SignedAt is the signed time of the event, zero if the handler does not
	// check it. Times at or before the newest one ever purged from the scope
	// are refused with ErrReplayed.
	SignedAt time.Time
	// SignedUntil is the newest signed time by which the event could come
	// again under other keys or another signature: purging the entry counts
	// as purging this time. Default: SignedAt.
	SignedUntil time.Time
	// Expires is when the entry may be purged.
	Expires time.Time
	// Lock reports that the claim is only ever released: nothing is committed
	// with it, and it may be held for long.
	Lock bool
}

// PurgeMark returns the signed time that is purged with the entry, in Unix
// milliseconds, or 0 if the handler does not check it.
func (e *Entry) PurgeMark() int64 {
	switch {
	case e.SignedAt.IsZero():
		return 0
	case e.SignedUntil.After(e.SignedAt):
		return e.SignedUntil.UnixMilli()
	}
	return e.SignedAt.UnixMilli()
}

// Key is the first half of a SHA-256. To find two events with one key, about 2^64
// events signed with the secret would have to be compared.
type Key [16]byte

// KeyOf returns the key for a scope, a kind of identity ("event", "message", …) and
// the signed material. Each part is preceded by its length, so that different lists
// of parts have different keys.
func KeyOf(scope, kind string, material ...string) Key {
	h := sha256.New()
	write := func(s string) {
		n := len(s)
		h.Write([]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
		h.Write([]byte(s))
	}
	write(scope)
	write(kind)
	for _, m := range material {
		write(m)
	}
	var sum [sha256.Size]byte
	return Key(h.Sum(sum[:0])[:len(Key{})])
}

// Errors of Claim and Commit.
var (
	// ErrDuplicate means that the event was committed before.
	ErrDuplicate = errors.New("event was accepted before")
	// ErrReplayed means that entries with this signed time have been purged, so
	// that it can't be known whether the event was accepted before.
	ErrReplayed = errors.New("signed time is not newer than what was purged")
	// ErrInFlight means that another request still holds the event.
	ErrInFlight = errors.New("event is in flight")
	// ErrUnavailable means that the store can't read or can't commit now.
	// Errors that wrap it wrap the cause, too.
	ErrUnavailable = errors.New("store is unavailable")
)
