package operator

import (
	"context"
	"net/url"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/duration"
	"github.com/caddy-replicate/replicate-webhook/store"
)

const (
	// DefaultOverlap is for how long the keys before a rotation sign, too.
	DefaultOverlap = "24h"
	// maxOverlap is 30 days.
	maxOverlap = 30 * 24 * time.Hour
)

// Rotation is a new generation of signing keys.
type Rotation struct {
	// Client whose key it is, empty for the keys of all clients.
	Client string `json:"client"`
	// Generation is its number.
	Generation int64 `json:"generation"`
	// Until is when the overlap ends: from then on the keys before sign no more.
	Until time.Time `json:"until"`
}

// Rotate begins a new generation of the signing key of the client that a query names,
// or of all clients' keys. The parameter overlap says for how long the keys before
// sign, too: 24h by default, 0 for not at all, at most 30d. The error is an
// *InvalidError, ErrNotFound for a client without predictions, ErrOverlaps, or
// ErrUnavailable.
func (s *Service) Rotate(ctx context.Context, query url.Values) (Rotation, error) {
	client, text := query.Get("client"), DefaultOverlap
	if query.Has("overlap") {
		text = query.Get("overlap")
	}
	overlap, err := duration.Parse(text)
	switch {
	case !s.conf.Keys.PerClient():
		return Rotation{}, invalid("signing", "is shared, so that clients have no keys to rotate: write the new signing_secret before the old one into the configuration")
	case query.Has("client") && client == "":
		return Rotation{}, invalid("client", "is empty: name the client of a prediction, or leave it out to rotate the keys of all clients")
	case err != nil || overlap < 0:
		return Rotation{}, invalid("overlap", "is %q: write for how long the keys before sign, too, such as 24h, or 0s for not at all", text)
	case overlap > maxOverlap:
		return Rotation{}, invalid("overlap", "is %q, which is more than 30d: use 30d or less, so that a key that has leaked is of no use some day", text)
	}
	out := Rotation{Client: client}
	err = s.use(func(o store.Store) error {
		whose := store.EveryClient
		if client != "" {
			whose = client
			if err := findClient(ctx, o, client); err != nil {
				return err
			}
		}
		r, err := o.RotateKey(ctx, whose, overlap)
		out.Generation, out.Until = r.Generation, r.Until.UTC()
		return err
	})
	if err != nil {
		return Rotation{}, err
	}
	return out, nil
}
