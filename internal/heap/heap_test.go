package heap

import (
	"math/rand/v2"
	"slices"
	"testing"
)

type element struct {
	Node
	key int
}

func (e *element) Before(other *element) bool { return e.key < other.key }

// TestHeap compares a heap with a sorted list over random operations.
func TestHeap(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var (
		h   Heap[*element]
		all []*element
	)
	for step := range 20_000 {
		switch op := rng.IntN(10); {
		case op < 5 || len(all) == 0:
			e := &element{key: rng.IntN(1000)}
			h.Push(e)
			all = append(all, e)
		case op < 7:
			first := h.Pop()
			if least := slices.MinFunc(all, func(a, b *element) int { return a.key - b.key }); first.key != least.key {
				t.Fatalf("step %d: popped %d, want %d", step, first.key, least.key)
			}
			all = slices.DeleteFunc(all, func(e *element) bool { return e == first })
			if first.Queued() {
				t.Fatalf("step %d: a popped element says that it is queued", step)
			}
		case op < 8:
			i := rng.IntN(len(all))
			h.Remove(all[i])
			all = slices.Delete(all, i, i+1)
		default:
			e := all[rng.IntN(len(all))]
			e.key = rng.IntN(1000)
			h.Fix(e)
		}
		if len(h) != len(all) {
			t.Fatalf("step %d: %d elements, want %d", step, len(h), len(all))
		}
		for i, e := range h {
			if int(e.pos) != i+1 {
				t.Fatalf("step %d: the element at %d has position %d", step, i, e.pos)
			}
			if i > 0 && e.Before(h[(i-1)/2]) {
				t.Fatalf("step %d: the element at %d comes before its parent", step, i)
			}
		}
	}
}

// BenchmarkHeap pushes and pops through a heap of 1,000.
func BenchmarkHeap(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 2))
	var h Heap[*element]
	for range 1000 {
		h.Push(&element{key: rng.IntN(1 << 20)})
	}
	b.ReportAllocs()
	for b.Loop() {
		e := h.Pop()
		e.key += rng.IntN(1 << 20)
		h.Push(e)
	}
}
