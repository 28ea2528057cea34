package postgres

import (
	"sync"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// Deliveries are in the database, and any node may claim any that is due. What a
// node commits itself it may claim ahead with the same transaction (a lease), so
// that an idle store needs no further one to begin the attempt. What it has
// claimed ahead waits here for its endpoint to have a slot.

const (
	// laneLeases is how many deliveries to one endpoint a node claims ahead.
	// More are left to the node that has slots first.
	laneLeases = 16
	// maxLeases is how many it claims ahead in all.
	maxLeases = 512
)

// leased is a delivery that this node has claimed.
type leased struct {
	n, prediction int64
	// owner and lease are those of its row while it is still this node's.
	owner, lease int64
	due          int64
	endpoint     string
}

// lane is what this node knows of a lane. Lanes are named by their text, which is
// the endpoint of rows.
type lane struct {
	waiting []*leased
	// parked reports that it has no slot left.
	parked bool
	// resumed counts the calls of resume, so that one during the call of
	// slots is not lost.
	resumed int
}

// never is later than every due time.
const never = int64(1<<63 - 1)

// queue holds what this node has claimed.
type queue struct {
	mu      sync.Mutex
	lanes   map[string]*lane
	waiting map[int64]*leased
	claimed map[int64]*leased
	// scanAt is when the database is to be scanned again.
	scanAt int64
	// rescan reports that other nodes may have left deliveries.
	rescan bool
	leases int64
	// lost are leases that may have been committed or not.
	lost        []int64
	subscribers map[chan struct{}]bool

	// claiming is held by one ClaimDeliveries at a time.
	claiming sync.Mutex
}

func (q *queue) init() {
	q.lanes = make(map[string]*lane)
	q.waiting = make(map[int64]*leased)
	q.claimed = make(map[int64]*leased)
	q.subscribers = make(map[chan struct{}]bool)
}

// newLease returns the number of a new lease.
func (q *queue) newLease() int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.leases++
	return q.leases
}

// lose records a lease that may have been committed.
func (q *queue) lose(lease int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.lost = append(q.lost, lease)
}

func (q *queue) takeLost() []int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	lost := q.lost
	q.lost = nil
	return lost
}

// clear drops what waits here: it is another node's by then.
func (q *queue) clear() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, l := range q.lanes {
		l.waiting = nil
	}
	clear(q.waiting)
	q.scanAt = 0
}

// lane returns an endpoint's lane. The caller holds the mutex.
func (q *queue) lane(endpoint string) *lane {
	l := q.lanes[endpoint]
	if l == nil {
		l = new(lane)
		q.lanes[endpoint] = l
	}
	return l
}

// settle deletes a lane that is empty and not parked. The caller holds the mutex.
func (q *queue) settle(endpoint string, l *lane) {
	if len(l.waiting) == 0 && !l.parked {
		delete(q.lanes, endpoint)
	}
}

// room returns how many deliveries to the endpoint may be claimed ahead: none
// where no engine runs, or the lane is parked.
func (q *queue) room(endpoint string) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.subscribers) == 0 {
		return 0
	}
	n := min(laneLeases, maxLeases-len(q.waiting))
	if l := q.lanes[endpoint]; l != nil {
		if l.parked {
			return 0
		}
		n = min(n, laneLeases-len(l.waiting))
	}
	return n
}

// put adds claimed deliveries to their lanes.
func (q *queue) put(items []*leased) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, i := range items {
		q.waiting[i.n] = i
		l := q.lane(i.endpoint)
		l.waiting = append(l.waiting, i)
	}
}

// withdraw removes a delivery that waits here, so that no attempt begins.
func (q *queue) withdraw(n, lease int64) *leased {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := q.waiting[n]
	if i == nil || i.lease != lease {
		return nil
	}
	delete(q.waiting, n)
	l := q.lanes[i.endpoint]
	for at, other := range l.waiting {
		if other == i {
			l.waiting = append(l.waiting[:at], l.waiting[at+1:]...)
			break
		}
	}
	q.settle(i.endpoint, l)
	return i
}

// held returns the claim on a delivery, nil when it has ended.
func (q *queue) held(n int64) *leased {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.claimed[n]
}

// endClaim ends a claim.
func (q *queue) endClaim(i *leased) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.claimed[i.n] == i {
		delete(q.claimed, i.n)
	}
	q.resume(i.endpoint)
	q.signal()
}

// resume makes a parked endpoint be asked for again. The caller holds the mutex.
func (q *queue) resume(endpoint string) {
	if l := q.lanes[endpoint]; l != nil {
		q.resumeLane(endpoint, l)
	}
}

func (q *queue) resumeLane(endpoint string, l *lane) {
	l.resumed++
	if l.parked {
		l.parked = false
		q.scanAt = 0
		q.settle(endpoint, l)
	}
}

// signal wakes every subscriber. The caller holds the mutex.
func (q *queue) signal() {
	for c := range q.subscribers {
		signal(c)
	}
}

// look makes the database be scanned at the given time at the latest.
func (q *queue) look(due int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.scanAt = min(q.scanAt, due)
	q.signal()
}

// requestRescan makes the database be scanned for what other nodes have left. It
// does not change scanAt.
func (q *queue) requestRescan() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.rescan = true
	q.signal()
}

// Changed implements store.Queue. A new subscriber has limits of its own, so
// every endpoint is asked for again.
func (s *Store) Changed() (<-chan struct{}, func()) {
	c := make(chan struct{}, 1)
	q := &s.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	q.subscribers[c] = true
	for endpoint, l := range q.lanes {
		q.resumeLane(endpoint, l)
	}
	return c, func() {
		q.mu.Lock()
		delete(q.subscribers, c)
		var stranded []*leased
		if len(q.subscribers) == 0 {
			for _, i := range q.waiting {
				stranded = append(stranded, i)
			}
		}
		q.mu.Unlock()
		// No engine claims them here any more.
		for _, i := range stranded {
			if q.withdraw(i.n, i.lease) != nil {
				s.release(i)
			}
		}
	}
}

// Resume implements store.Queue.
func (s *Store) Resume(lanes ...store.Lane) {
	q := &s.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, l := range lanes {
		q.resume(l.String())
	}
	q.signal()
}

func timeOf(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}
