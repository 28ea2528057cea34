// Package polling keeps, in memory, which predictions a process asks for and
// when. After a restart everything is asked for anew.
package polling

import (
	"container/heap"
	"sync"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// Poll is a prediction that is asked for.
type Poll struct {
	Ref int64
	// Failures counts polls without an answer since the last one with.
	Failures int32

	due     int64
	claimed bool
	pos     int
}

// Schedule orders predictions by when they are to be asked for. Times are Unix
// milliseconds. It is safe for concurrent use; the zero value is empty.
type Schedule struct {
	mu    sync.Mutex
	byRef map[int64]*Poll
	due   byDue
}

// Add takes a prediction in, and reports whether it was not there.
func (s *Schedule) Add(ref, due int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.add(ref, due)
}

func (s *Schedule) add(ref, due int64) bool {
	if s.byRef[ref] != nil {
		return false
	}
	if s.byRef == nil {
		s.byRef = make(map[int64]*Poll)
	}
	p := &Poll{Ref: ref, due: due}
	s.byRef[ref] = p
	heap.Push(&s.due, p)
	return true
}

// Update follows a committed prediction and reports whether something is due
// that was not.
func (s *Schedule) Update(p *store.Prediction) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !p.Happened.Has(store.Terminal) && p.PollPath != "" {
		return s.add(p.Ref, max(p.PollAt.UnixMilli(), 1))
	}
	s.remove(p.Ref)
	return false
}

// Remove forgets a prediction, also while it is being asked for.
func (s *Schedule) Remove(ref int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(ref)
}

func (s *Schedule) remove(ref int64) {
	p := s.byRef[ref]
	if p == nil {
		return
	}
	delete(s.byRef, ref)
	if !p.claimed {
		heap.Remove(&s.due, p.pos)
	}
}

// Clear forgets all.
func (s *Schedule) Clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byRef, s.due = nil, nil
}

// Take claims up to limit that are due, those due first in front. next is when
// the first of the others is due, 0 when there is none.
func (s *Schedule) Take(now int64, limit int) (taken []Poll, next int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.due) > 0 && len(taken) < limit && s.due[0].due <= now {
		p := heap.Pop(&s.due).(*Poll)
		p.claimed = true
		taken = append(taken, *p)
	}
	if len(s.due) > 0 {
		next = s.due[0].due
	}
	return taken, next
}

// Again gives a claim back and reports whether it is the first one due now.
func (s *Schedule) Again(ref, due int64, failures int32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.byRef[ref]
	if p == nil || !p.claimed {
		return false
	}
	p.due, p.Failures, p.claimed = due, failures, false
	heap.Push(&s.due, p)
	return s.due[0] == p
}

// byDue is a heap.
type byDue []*Poll

func (h byDue) Len() int           { return len(h) }
func (h byDue) Less(a, b int) bool { return h[a].due < h[b].due }
func (h byDue) Swap(a, b int) {
	h[a], h[b] = h[b], h[a]
	h[a].pos, h[b].pos = a, b
}
func (h *byDue) Push(x any) {
	p := x.(*Poll)
	p.pos = len(*h)
	*h = append(*h, p)
}
func (h *byDue) Pop() any {
	old := *h
	p := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return p
}
