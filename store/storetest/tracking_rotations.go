package storetest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
)

var rotationCases = []trackingCase{
	{"without a rotation the first generation signs", notRotated},
	{"earlier generations sign until the overlap ends", overlapEnds},
	{"rotations survive reopening", rotationsSurvive},
	{"rotations of one client and of all", rotationsOfAll},
	{"overlaps of several rotations", overlapsOfSeveral},
	{"no overlap ends all earlier generations", noOverlap},
	{"a shorter overlap shortens those before", shorterOverlap},
	{"overlaps are bounded", overlapsBounded},
	{"many rotations", manyRotations},
	{"many rotations at once", rotationsAtOnce},
	{"a closed store rotates nothing", rotateClosed},
}

// rotate rotates and returns the new generation.
func (b *tracking) rotate(client string, overlap time.Duration) int64 {
	b.t.Helper()
	r, err := b.s.RotateKey(ctx, client, overlap)
	if err != nil {
		b.t.Fatal(err)
	}
	if want := b.now().Add(overlap); r.Client != client || !r.Until.Equal(want) {
		b.t.Fatalf("rotated %+v, want the overlap to end at %v", r, want)
	}
	return r.Generation
}

// signing checks which generations sign for a client.
func (b *tracking) signing(client string, want ...int64) {
	b.t.Helper()
	if got := b.s.KeyGenerations(client); !slices.Equal(got, want) {
		b.t.Fatalf("generations %v sign for %q, want %v", got, client, want)
	}
}

func notRotated(_ *testing.T, b *tracking) {
	b.signing(client, 0)
	b.signing("", 0)
	b.signing(store.EveryClient, 0)
}

func overlapEnds(_ *testing.T, b *tracking) {
	first := b.rotate(client, time.Hour)
	b.signing(client, first, 0)
	b.signing("another", 0)
	b.advance(time.Hour - time.Millisecond)
	b.signing(client, first, 0)
	b.advance(time.Millisecond)
	b.signing(client, first)
	second := b.rotate(client, time.Minute)
	b.signing(client, second, first)
	b.advance(time.Minute)
	b.signing(client, second)
}

func rotationsSurvive(_ *testing.T, b *tracking) {
	name := "a client \x00 \xff of another kind"
	ended := b.rotate(client, 0)
	first := b.rotate(name, time.Hour)
	b.reopen()
	b.signing(client, ended)
	b.signing(name, first, 0)
	second := b.rotate(name, time.Hour)
	if second <= first || first <= ended {
		b.t.Fatalf("generations are %d, %d, %d", ended, first, second)
	}
	b.reopen()
	b.signing(name, second, first, 0)
	b.advance(time.Hour)
	b.signing(name, second)
}

func rotationsOfAll(_ *testing.T, b *tracking) {
	own := b.rotate("own", 3*time.Hour)
	b.advance(time.Minute)
	all := b.rotate(store.EveryClient, time.Hour)
	b.signing("own", all, own, 0)
	b.signing("another", all, 0)
	again := b.rotate("own", 2*time.Hour)
	b.signing("own", again, all, own, 0)
	b.signing("another", all, 0)
	b.advance(time.Hour) // which ends what was before the rotation of all
	b.signing("own", again, all)
	b.signing("another", all)
	b.advance(time.Hour)
	b.signing("own", again)
}

func overlapsOfSeveral(_ *testing.T, b *tracking) {
	first := b.rotate(client, time.Hour)
	b.advance(30 * time.Minute)
	second := b.rotate(client, time.Hour)
	b.signing(client, second, first, 0)
	b.advance(30 * time.Minute)
	b.signing(client, second, first)
	b.advance(30 * time.Minute)
	b.signing(client, second)
}

func noOverlap(_ *testing.T, b *tracking) {
	b.rotate(client, time.Hour)
	b.rotate(client, time.Hour)
	b.signing(client, b.rotate(client, 0))
	after := b.rotate(store.EveryClient, time.Hour)
	b.signing(client, after, after-1)
	b.signing(client, b.rotate(client, 0))
}

func shorterOverlap(_ *testing.T, b *tracking) {
	first := b.rotate(client, 24*time.Hour)
	second := b.rotate(client, time.Minute)
	b.signing(client, second, first, 0)
	b.advance(time.Minute)
	b.signing(client, second)
}

func overlapsBounded(_ *testing.T, b *tracking) {
	want := []int64{0}
	for range store.MaxOverlaps {
		want = slices.Insert(want, 0, b.rotate(client, time.Hour))
		b.advance(time.Minute)
	}
	for range 2 {
		b.signing(client, want...)
		_, err := b.s.RotateKey(ctx, client, time.Hour)
		if !errors.Is(err, store.ErrOverlaps) {
			b.t.Fatalf("a further rotation: %v", err)
		}
		// It says until when, and what else can be done.
		if end := b.now().Add(time.Hour - store.MaxOverlaps*time.Minute).Format(time.RFC3339); !strings.Contains(err.Error(), end) || !strings.Contains(err.Error(), "overlap of 0") {
			b.t.Fatalf("a further rotation: %v", err)
		}
		b.reopen()
	}
	b.rotate("another", time.Hour)
	b.advance(time.Hour - store.MaxOverlaps*time.Minute) // the first overlap ends
	want = slices.Insert(want[:store.MaxOverlaps], 0, b.rotate(client, time.Hour))
	b.signing(client, want...)
	last := b.rotate(client, 0)
	b.signing(client, last)
	// Those of all clients are bounded by themselves, and count for each client.
	for range store.MaxOverlaps {
		b.rotate(client, time.Hour)
	}
	for range store.MaxOverlaps {
		b.rotate(store.EveryClient, time.Hour)
	}
	for _, name := range []string{client, "a third", store.EveryClient} {
		if _, err := b.s.RotateKey(ctx, name, time.Hour); !errors.Is(err, store.ErrOverlaps) {
			b.t.Fatalf("a further rotation of %s: %v", name, err)
		}
	}
	last = b.rotate(store.EveryClient, 0)
	b.signing(client, last)
	b.signing(client, b.rotate(client, time.Hour), last)
	b.reopen()
	b.signing(client, last+1, last)
}

func manyRotations(t *testing.T, b *tracking) {
	var last int64
	for range 12 {
		last = b.rotate(client, time.Hour)
		b.rotate(store.EveryClient, 0)
		b.rotate("another", time.Hour)
		b.advance(time.Hour)
	}
	for range 2 {
		got := b.s.KeyGenerations(client)
		if len(got) != 1 || got[0] != last+1 {
			t.Fatalf("generations %v sign, want %d", got, last+1)
		}
		b.reopen()
	}
}

func rotationsAtOnce(t *testing.T, b *tracking) {
	const n = 8
	var mu sync.Mutex
	var wg sync.WaitGroup
	had := make(map[int64]bool)
	for i := range n {
		name := fmt.Sprint("client ", i/store.MaxOverlaps)
		wg.Go(func() {
			r, err := b.s.RotateKey(ctx, name, time.Hour)
			mu.Lock()
			defer mu.Unlock()
			if err != nil || had[r.Generation] {
				t.Errorf("rotated %+v, %v", r, err)
			}
			had[r.Generation] = true
		})
	}
	wg.Wait()
	b.reopen()
	for i := range n / store.MaxOverlaps {
		if got := b.s.KeyGenerations(fmt.Sprint("client ", i)); len(got) != store.MaxOverlaps+1 {
			t.Errorf("generations %v sign for client %d", got, i)
		}
	}
}

func rotateClosed(t *testing.T, b *tracking) {
	first := b.rotate(client, time.Hour)
	b.must(b.s.Close())
	if _, err := b.s.RotateKey(ctx, client, time.Hour); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("rotating: %v", err)
	}
	b.signing(client, first, 0) // attempts under way are signed
	b.open()
	b.signing(client, first, 0)
}
