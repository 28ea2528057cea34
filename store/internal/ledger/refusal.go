package ledger

import (
	"errors"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// refusals are the errors of what could be committed and is not to be.
var refusals = []error{
	store.ErrNotFound, store.ErrDisabled, store.ErrEnded, store.ErrWaiting, store.ErrNoBody, store.ErrCreateKnown, store.ErrOverlaps,
}

// IsRefusal reports whether an error means that nothing was written, and that nothing
// is wrong with the store: what else is in the transaction goes on.
func IsRefusal(err error) bool {
	for _, r := range refusals {
		if errors.Is(err, r) {
			return true
		}
	}
	return false
}
