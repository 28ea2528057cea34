package store

import (
	"context"
	"strings"
)

// MarkerPrefix begins the names of secrets that are not sealed. Each records that
// a sealing key was used with this store.
const MarkerPrefix = "seal_key:"

// SealedValue is a value that is stored sealed: the credential of a prediction
// whose terminal event is to come, a secret, or the response to a create.
type SealedValue struct {
	// Ref is that of the prediction, 0 for others.
	Ref int64
	// API and ID are those of the prediction.
	API, ID string
	// Name is that of the secret, empty for others.
	Name string
	// Create is the key of the create, zero for others.
	Create Key
	// Sealed is the value as it is stored.
	Sealed []byte
}

// Resealed is a value that was sealed again.
type Resealed struct {
	SealedValue
	// New replaces Sealed.
	New []byte
}

// Secrets keeps signing secrets. It lists all sealed values, so that they can be
// sealed again with another key. Markers are not sealed values.
type Secrets interface {
	// Secret returns the sealed secret of the name, committing the one that
	// make returns if there is none yet. An error of make is returned as it is.
	Secret(ctx context.Context, name string, make func() ([]byte, error)) ([]byte, error)
	// CountSealed counts the sealed values by their first n bytes.
	CountSealed(ctx context.Context, n int) (map[string]int, error)
	// ListSealed returns the sealed values that do not begin with the prefix.
	// With after 0 the secrets come first, then, and with any that is positive,
	// up to limit credentials of predictions with a higher Ref, and then, with
	// one that is negative, up to limit responses to creates. next is the after
	// of the following call, 0 at the end.
	ListSealed(ctx context.Context, prefix []byte, after int64, limit int) (values []SealedValue, next int64, err error)
	// Reseal commits new values in place of old ones. A value that has changed
	// meanwhile, or is gone, stays as it is.
	Reseal(ctx context.Context, values []Resealed) error
}

// IsMarker reports whether a secret is a marker.
func IsMarker(name string) bool { return strings.HasPrefix(name, MarkerPrefix) }
