package store

import (
	"context"
	"errors"
	"time"
)

// EveryClient stands for all clients in Rotations, those that are still to come
// included. No client has this identity.
const EveryClient = "*"

// MaxOverlaps bounds how many rotations of one name, a client or EveryClient, overlap.
const MaxOverlaps = 4

// ErrOverlaps reports that MaxOverlaps rotations overlap already.
var ErrOverlaps = errors.New("too many earlier keys still sign")

// Rotation is the begin of a new generation of signing keys.
type Rotation struct {
	// Client whose key it is, or EveryClient.
	Client string
	// Generation is the new one. Generations are counted from 1 over all
	// rotations of a store: those of one client need not follow each other.
	// Generation 0 is the one before any rotation.
	Generation int64
	// Until is the end of the overlap: until then the generations before this
	// one may sign, too, and not from then on.
	Until time.Time
}

// Rotations keeps which generations of the clients' signing keys are in use. The keys
// themselves are derived, see internal/signingkey.
type Rotations interface {
	// RotateKey commits a new generation of the signing key of a client, or of
	// every client. It signs at once. The earlier ones sign for the time of
	// overlap, by the store's clock, those of earlier rotations at most until
	// their own overlap ends. With an overlap of 0 they end at once. Errors:
	// ErrOverlaps, never with an overlap of 0, and ErrUnavailable.
	RotateKey(ctx context.Context, client string, overlap time.Duration) (Rotation, error)
	// KeyGenerations returns, from memory, the generations that sign for a client
	// now, newest first. There is one at least. All processes follow a rotation
	// within a second. The result must not be changed.
	KeyGenerations(client string) []int64
}
