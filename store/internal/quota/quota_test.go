package quota

import (
	"errors"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// A caller is counted once, and again when a count is old, or a limit was reached a
// second ago: what begins in between is added.
func TestCallersAreCountedSeldom(t *testing.T) {
	now := time.Unix(0, 0)
	counts, there := 0, int64(0)
	q := New(5, func() time.Time { return now })
	take := func(want error) {
		t.Helper()
		err := q.Take(store.Key{1}, func() (int64, error) { counts++; return there, nil })
		if !errors.Is(err, want) {
			t.Fatalf("got %v, want %v", err, want)
		}
	}
	for range 5 {
		take(nil)
		there++
	}
	for range 3 {
		take(store.ErrTooManyCreates)
	}
	if counts != 1 {
		t.Fatalf("counted %d times", counts)
	}
	q.Return(store.Key{1})
	there--
	take(nil)
	there++
	there -= 2 // expired
	take(store.ErrTooManyCreates)
	now = now.Add(time.Second)
	take(nil)
	if counts != 2 {
		t.Fatalf("counted %d times", counts)
	}
	there = 5 // other nodes
	now = now.Add(recountAfter)
	take(store.ErrTooManyCreates)
	if err := q.Take(store.Key{2}, func() (int64, error) { return 0, store.ErrUnavailable }); !errors.Is(err, store.ErrUnavailable) {
		t.Fatal(err)
	}
}
