// Package quota bounds how many live creates each caller has, without a count for
// each create.
package quota

import (
	"sync"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/lru"
	"github.com/caddy-replicate/replicate-webhook/store"
)

const (
	// maxCallers bounds the callers that are remembered. Those that are not are
	// counted.
	maxCallers = 10_000
	// recountAfter is the age at which a count is of no use any more: creates
	// expire, and other nodes begin some.
	recountAfter = 10 * time.Second
)

// Quota remembers how many live creates callers have at most. The zero value is not
// ready, see New.
type Quota struct {
	limit int64
	now   func() time.Time

	mu      sync.Mutex
	callers *lru.Cache[store.Key, *counted]
}

// counted is how many live creates a caller has at most: those that were counted,
// and those that have begun since.
type counted struct {
	n  int64
	at time.Time
}

// New returns a quota. now is a clock for intervals. Default: time.Now.
func New(limit int64, now func() time.Time) *Quota {
	if now == nil {
		now = time.Now
	}
	return &Quota{limit: limit, now: now, callers: lru.New[store.Key, *counted](maxCallers, 0)}
}

// Take takes one create of the caller, or returns store.ErrTooManyCreates. count
// counts the caller's live creates in the database; its errors are returned as they
// are.
func (q *Quota) Take(caller store.Key, count func() (int64, error)) error {
	now := q.now()
	q.mu.Lock()
	defer q.mu.Unlock()
	c, ok := q.callers.Get(caller)
	if !ok || now.Sub(c.at) >= recountAfter || c.n >= q.limit && now.Sub(c.at) >= time.Second {
		q.mu.Unlock()
		n, err := count()
		q.mu.Lock()
		if err != nil {
			return err
		}
		c = &counted{n: n, at: now}
		q.callers.Add(caller, c)
	}
	if c.n >= q.limit {
		return store.ErrTooManyCreates
	}
	c.n++
	return nil
}

// Return gives back one that was taken and did not come to be, or was deleted.
func (q *Quota) Return(caller store.Key) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if c, ok := q.callers.Get(caller); ok && c.n > 0 {
		c.n--
	}
}
