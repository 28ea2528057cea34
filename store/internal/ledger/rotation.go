package ledger

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// Rotations are the rotations of signing keys by client, newest first. A list is
// replaced, and never changed.
type Rotations map[string][]store.Rotation

// unrotated are the generations of a client whose key was never rotated.
var unrotated = []int64{0}

// Generations returns the generations that sign for a client, newest first. The clock
// is not asked where nothing was rotated.
func (r Rotations) Generations(client string, now func() time.Time) []int64 {
	rotations := r.of(client)
	if len(rotations) == 0 {
		return unrotated
	}
	return signing(rotations, now())
}

// of returns the rotations of a client and of every client, newest first.
func (r Rotations) of(client string) []store.Rotation {
	own, every := r[client], r[store.EveryClient]
	switch {
	case len(own) == 0 || client == store.EveryClient:
		return every
	case len(every) == 0:
		return own
	}
	both := slices.Concat(own, every)
	slices.SortFunc(both, func(a, b store.Rotation) int { return cmp.Compare(b.Generation, a.Generation) })
	return both
}

// signing returns the generations that sign, newest first, by the rotations that
// began them. One ends with the first of the overlaps of the rotations after it.
func signing(rotations []store.Rotation, now time.Time) []int64 {
	out := make([]int64, 0, len(rotations)+1)
	for _, r := range rotations {
		out = append(out, r.Generation)
		if !r.Until.After(now) {
			return out
		}
	}
	return append(out, 0)
}

// Rotate returns the rotations of a client, or of EveryClient, with a new one, which
// comes first. last is the newest generation of all clients. The error is
// store.ErrOverlaps.
//
// The oldest are left out. They can't matter any more: of those that stay, one whose
// overlap has ended comes after them, since no more than MaxOverlaps overlap.
func (r Rotations) Rotate(last int64, client string, now time.Time, overlap time.Duration) ([]store.Rotation, error) {
	before := r.of(client)
	if overlap > 0 && len(signing(before, now)) > store.MaxOverlaps {
		end := before[0].Until
		for _, b := range before[:store.MaxOverlaps] {
			if b.Until.Before(end) {
				end = b.Until
			}
		}
		return nil, fmt.Errorf("%w: %d rotations overlap, and the first overlap ends at %s; rotate after that, or with an overlap of 0, which ends all earlier keys at once",
			store.ErrOverlaps, store.MaxOverlaps, end.UTC().Format(time.RFC3339))
	}
	own := r[client]
	next := store.Rotation{Client: client, Generation: last + 1, Until: time.UnixMilli(now.Add(overlap).UnixMilli()).UTC()}
	return slices.Concat([]store.Rotation{next}, own[:min(len(own), store.MaxOverlaps)]), nil
}
