package ledger

import (
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

// Generations returns the generations that sign for a client, newest first.
func (r Rotations) Generations(client string, now time.Time) []int64 {
	own, every := r[client], r[store.EveryClient]
	switch {
	case len(own) == 0 && len(every) == 0:
		return unrotated
	case len(own) == 0:
		return signing(every, now)
	case len(every) == 0:
		return signing(own, now)
	}
	both := slices.Concat(own, every)
	slices.SortFunc(both, func(a, b store.Rotation) int { return int(b.Generation - a.Generation) })
	return signing(both, now)
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
// comes first. Those that can't matter any more are left out. last is the newest
// generation of all clients. The error is store.ErrOverlaps.
func Rotate(own []store.Rotation, last int64, client string, now time.Time, overlap time.Duration) ([]store.Rotation, error) {
	if overlap > 0 && len(signing(own, now)) > store.MaxOverlaps {
		// The earliest of the ends.
		end := own[0].Until
		for _, r := range own[:store.MaxOverlaps] {
			if r.Until.Before(end) {
				end = r.Until
			}
		}
		return nil, fmt.Errorf("%w: %d rotations overlap, and the first overlap ends at %s; rotate after that, or with an overlap of 0, which ends all earlier keys at once",
			store.ErrOverlaps, store.MaxOverlaps, end.UTC().Format(time.RFC3339))
	}
	next := store.Rotation{Client: client, Generation: last + 1, Until: time.UnixMilli(now.Add(overlap).UnixMilli()).UTC()}
	// With MaxOverlaps overlaps, as many generations before the newest sign.
	return slices.Concat([]store.Rotation{next}, own[:min(len(own), store.MaxOverlaps)]), nil
}
