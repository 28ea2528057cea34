// Package polling keeps in memory which predictions a process polls, and when.
// After a restart all polls are due.
package polling

import (
	"sync"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/clock"
	"github.com/caddy-replicate/replicate-webhook/internal/heap"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/ledger"
)

// Poll is a prediction that is polled.
type Poll struct {
	heap.Node
	Ref int64
	// Failures counts the polls without a response since the last one with a
	// response.
	Failures int32
	// Watched is how long it has been in the schedule.
	Watched time.Duration

	due     int64 // on the clock's scale
	since   time.Duration
	claimed bool
}

// Schedule orders predictions by when their next poll is due. It does not depend
// on steps of the wall clock. It is safe for concurrent use.
type Schedule struct {
	clock *clock.Clock

	mu    sync.Mutex
	byRef map[int64]*Poll
	due   heap.Heap[*Poll]
}

// Init makes an empty schedule that uses a clock.
func (s *Schedule) Init(c *clock.Clock) { s.clock = c }

// Add adds a prediction that is due at once.
func (s *Schedule) Add(ref int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.add(ref, s.clock.Now())
}

// add adds a prediction, and reports whether it was not in the schedule.
func (s *Schedule) add(ref, due int64) bool {
	if s.byRef[ref] != nil {
		return false
	}
	if s.byRef == nil {
		s.byRef = make(map[int64]*Poll)
	}
	p := &Poll{Ref: ref, due: max(due, 1), since: s.clock.Passed()}
	s.byRef[ref] = p
	s.due.Push(p)
	return true
}

// Update follows a committed prediction and reports whether something is due
// that was not.
func (s *Schedule) Update(p *store.Prediction) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ledger.Polled(p) {
		return s.add(p.Ref, s.clock.At(p.PollAt))
	}
	s.remove(p.Ref)
	return false
}

// Remove removes a prediction, also while it is claimed.
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
		s.due.Remove(p)
	}
}

// Clear removes all predictions.
func (s *Schedule) Clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byRef, s.due = nil, nil
}

// Take claims up to limit predictions that are due, earliest first. next is when
// the first of the others is due, zero when there is none.
func (s *Schedule) Take(limit int) (taken []Poll, next time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, passed := s.clock.Now(), s.clock.Passed()
	for len(s.due) > 0 && len(taken) < limit && s.due[0].due <= now {
		p := s.due.Pop()
		p.claimed = true
		p.Watched = passed - p.since
		taken = append(taken, *p)
	}
	if len(s.due) > 0 {
		next = s.clock.Time(s.due[0].due)
	}
	return taken, next
}

// Again ends a claim, and reports whether that poll is now the first one due.
func (s *Schedule) Again(ref int64, due time.Time, failures int32) bool {
	at := max(s.clock.At(due), 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.byRef[ref]
	if p == nil || !p.claimed {
		return false
	}
	p.due, p.Failures, p.claimed = at, failures, false
	s.due.Push(p)
	return s.due[0] == p
}

// Before orders predictions by when they are to be polled.
func (p *Poll) Before(other *Poll) bool { return p.due < other.due }
