package sqlite

import (
	"container/heap"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// poll is a tracked prediction that is asked for.
type poll struct {
	ref      int64
	due      int64
	failures int32
	claimed  bool
	pos      int
}

// polls is the index of predictions to ask for.
type polls struct {
	mu    sync.Mutex
	byRef map[int64]*poll
	due   pollHeap
}

// loadPolls reads which predictions are tracked. All are due at once; the
// tracker bounds how many it asks for at a time.
func (s *Store) loadPolls() error {
	s.polls.byRef = make(map[int64]*poll)
	rows, err := s.db.Query("SELECT ref FROM predictions INDEXED BY predictions_tracked WHERE happened < 2 AND poll_path <> ''")
	if err != nil {
		return err
	}
	defer rows.Close()
	now := s.opts.Now().UnixMilli()
	for rows.Next() {
		p := &poll{due: now, pos: len(s.polls.due)}
		if err := rows.Scan(&p.ref); err != nil {
			return err
		}
		s.polls.byRef[p.ref] = p
		s.polls.due = append(s.polls.due, p)
	}
	return rows.Err()
}

// update follows a committed prediction and reports whether something is due
// that was not.
func (ps *polls) update(p *store.Prediction) bool {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	known := ps.byRef[p.Ref]
	tracked := !p.Happened.Has(store.Terminal) && p.PollPath != ""
	switch {
	case tracked && known == nil:
		n := &poll{ref: p.Ref, due: max(p.PollAt.UnixMilli(), 1)}
		ps.byRef[p.Ref] = n
		heap.Push(&ps.due, n)
		return true
	case !tracked && known != nil:
		delete(ps.byRef, p.Ref)
		if !known.claimed {
			heap.Remove(&ps.due, known.pos)
		}
	}
	return false
}

// ClaimPolls implements store.Tracking.
func (s *Store) ClaimPolls(ctx context.Context, limit int) ([]store.Prediction, time.Time, error) {
	if err := s.closed(); err != nil {
		return nil, time.Time{}, err
	}
	now := s.opts.Now().UnixMilli()
	ps := &s.polls
	ps.mu.Lock()
	var taken []*poll
	for len(ps.due) > 0 && len(taken) < limit && ps.due[0].due <= now {
		p := heap.Pop(&ps.due).(*poll)
		p.claimed = true
		taken = append(taken, p)
	}
	var next int64
	if len(ps.due) > 0 {
		next = ps.due[0].due
	}
	ps.mu.Unlock()
	out := make([]store.Prediction, 0, len(taken))
	for _, p := range taken {
		found, err := s.findPrediction(ctx, "ref = ?", p.ref)
		if errors.Is(err, store.ErrNotFound) {
			ps.mu.Lock()
			delete(ps.byRef, p.ref)
			ps.mu.Unlock()
			continue
		}
		if err != nil {
			again := now + claimAgain.Milliseconds()
			for _, p := range taken {
				ps.again(p.ref, again, p.failures)
			}
			return nil, timeOf(again), err
		}
		found.PollFailures = int(p.failures)
		out = append(out, found)
	}
	return out, timeOf(next), nil
}

// PollAgain implements store.Tracking. When to ask next is kept in memory:
// after a restart everything is asked for anew.
func (s *Store) PollAgain(_ context.Context, p store.Prediction, due time.Time) error {
	if err := s.closed(); err != nil {
		return err
	}
	if s.polls.again(p.Ref, due.UnixMilli(), int32(p.PollFailures)) {
		s.queue.mu.Lock()
		s.queue.signal()
		s.queue.mu.Unlock()
	}
	return nil
}

// again reports whether the poll is the first one due now.
func (ps *polls) again(ref, due int64, failures int32) bool {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p := ps.byRef[ref]
	if p == nil || !p.claimed {
		return false
	}
	p.due, p.failures, p.claimed = due, failures, false
	heap.Push(&ps.due, p)
	return ps.due[0] == p
}

// pollHeap orders polls by when they are due.
type pollHeap []*poll

func (h pollHeap) Len() int           { return len(h) }
func (h pollHeap) Less(a, b int) bool { return h[a].due < h[b].due }
func (h pollHeap) Swap(a, b int) {
	h[a], h[b] = h[b], h[a]
	h[a].pos, h[b].pos = a, b
}
func (h *pollHeap) Push(x any) {
	p := x.(*poll)
	p.pos = len(*h)
	*h = append(*h, p)
}
func (h *pollHeap) Pop() any {
	old := *h
	p := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return p
}
