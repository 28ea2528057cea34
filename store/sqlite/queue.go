package sqlite

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/clock"
	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/internal/heap"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/ledger"
)

// freshBytes bounds the payloads that are kept in memory between their commit
// and their first attempt. Others are read back when their turn comes.
const freshBytes = 32 << 20

// freshEventBytes is how many of these inbound events use.
const freshEventBytes = freshBytes / 4

// item is a pending delivery. Items of a queue are guarded by its mutex.
type item struct {
	n, due     int64 // due on the clock's scale
	prediction int64
	attempts   int32
	heap.Node  // in its lane
	event      event.Set
	// redelivery reports that it is apart from the order of events. An inbound
	// event is replayed, and in the order.
	redelivery bool
	// claimed reports that an attempt is under way.
	claimed bool
	// canceled reports that it was canceled while it was claimed.
	canceled bool
	// pinned reports that it is counted in known.
	pinned bool
	// held reports that it waits for another one of its order, and yields that
	// it lets later ones of its order go.
	held, yields bool
	// next is the one behind it in its order: see queue.orders.
	next *item
	// lane is the one that it waits in or was claimed from, or, where it is
	// held, will wait in.
	lane *lane
	// extra is what few items have. Many items may wait for a retry, so that
	// each must be small.
	extra *extra
}

// extra is what an item has for a short time.
type extra struct {
	// lane is the one that it goes to next, if that is not the one it is in.
	lane store.Lane
	// fresh is the delivery until it is handed out, if there is room.
	fresh *store.Delivery
}

// goesTo returns where the item goes next.
func (i *item) goesTo() store.Lane {
	switch {
	case i.extra != nil && i.extra.lane != store.Lane{}:
		return i.extra.lane
	case i.lane != nil:
		return i.lane.key
	}
	return store.Lane{}
}

// sendTo records where an item goes that is in no lane or claimed.
func (i *item) sendTo(key store.Lane) {
	if i.extra == nil {
		i.extra = new(extra)
	}
	i.extra.lane = key
}

// settled forgets where the item was to go, since its lane says so now.
func (i *item) settled() {
	if i.fresh() == nil {
		i.extra = nil
	} else {
		i.extra.lane = store.Lane{}
	}
}

// fresh returns the delivery, nil if it is not in memory.
func (i *item) fresh() *store.Delivery {
	if i.extra == nil {
		return nil
	}
	return i.extra.fresh
}

// lane holds the deliveries of one lane of the store, earliest due time first.
type lane struct {
	key       store.Lane
	heap.Node // in queue.waiting
	items     heap.Heap[*item]
	where     laneState
	// paused makes the lane wait as if no slots were left.
	paused bool
	// resumed counts the calls of resume, so that one during the call of
	// slots is not lost.
	resumed int
}

type laneState uint8

const (
	laneEmpty   laneState = iota
	laneWaiting           // in queue.waiting, for its first item to become due
	laneReady             // in queue.ready
	laneParked            // due, but the lane has no slot left, or is paused
)

// known is what the queue knows of a prediction with deliveries that are claimed
// or in memory still, so that their outcomes cost no query.
type known struct {
	id, client, url, traceparent string
	events, happened             event.Set
	webhook                      store.WebhookStatus
	// current reports that it is set, and follows the transactions.
	current bool
	items   int
}

func (k *known) set(p *store.Prediction) {
	k.id, k.client, k.url, k.traceparent = p.ID, p.Client, p.URL, p.Traceparent
	k.events, k.happened, k.webhook, k.current = p.Events, p.Seen, p.Webhook, true
}

func (k *known) prediction(ref int64) store.Prediction {
	return store.Prediction{
		Ref: ref, ID: k.id, Client: k.client, URL: k.url, Traceparent: k.traceparent,
		Events: k.events, Seen: k.happened, Webhook: k.webhook,
	}
}

// queue is the index of pending deliveries.
type queue struct {
	mu      sync.Mutex
	items   map[int64]*item
	orders  map[int64]*item // last items of orders by prediction: see order.go
	known   map[int64]*known
	lanes   map[store.Lane]*lane
	paused  map[store.Lane]bool
	ready   []*lane
	waiting heap.Heap[*lane]
	fresh   int
	// tails are the waiting events that are not in memory, and inbound is how many
	// are.
	tails   map[store.Lane]*tail
	inbound int
	window  window
	claimed atomic.Int64 // items with an attempt under way

	subscribers map[chan struct{}]bool
}

// newQueue returns a queue with room for n items.
func newQueue(n int, w window) *queue {
	return &queue{
		items:       make(map[int64]*item, n),
		orders:      make(map[int64]*item),
		known:       make(map[int64]*known),
		lanes:       make(map[store.Lane]*lane),
		paused:      make(map[store.Lane]bool),
		tails:       make(map[store.Lane]*tail),
		window:      w,
		subscribers: make(map[chan struct{}]bool),
	}
}

// add adds a delivery. One that has to wait for another one of its order is held.
func (q *queue) add(i *item, key store.Lane) {
	q.items[i.n] = i
	if ledger.IsInbound(i.prediction) {
		q.inbound++
	}
	if d := i.fresh(); d != nil {
		size, limit := sizeOf(d), freshBytes
		if d.Inbound != nil {
			limit = freshEventBytes
		}
		if q.fresh+size > limit {
			i.extra.fresh = nil
		} else {
			q.fresh += size
			q.pin(i)
		}
	}
	q.enqueue(i, key)
}

// sizeOf returns how many bytes of the bound a delivery uses.
func sizeOf(d *store.Delivery) int {
	if d.Inbound != nil {
		return len(d.Payload) + len(d.Inbound.Head) + 1024
	}
	return len(d.Payload)
}

// pin makes an item's prediction known. An inbound event has none.
func (q *queue) pin(i *item) {
	if i.pinned || ledger.IsInbound(i.prediction) {
		return
	}
	i.pinned = true
	k := q.known[i.prediction]
	if k == nil {
		k = new(known)
		q.known[i.prediction] = k
	}
	k.items++
}

// unpin forgets what is known of an item's prediction, unless it is needed.
func (q *queue) unpin(i *item) {
	if !i.pinned || i.claimed || i.fresh() != nil {
		return
	}
	i.pinned = false
	k := q.known[i.prediction]
	if k.items--; k.items == 0 {
		delete(q.known, i.prediction)
	}
}

// push puts an item into a lane.
func (q *queue) push(i *item, key store.Lane) {
	l := q.lanes[key]
	if l == nil {
		l = &lane{key: key, paused: q.paused[key]}
		q.lanes[key] = l
	}
	i.lane, i.claimed, i.held = l, false, false
	i.settled()
	q.unpin(i)
	l.items.Push(i)
	if l.where != laneWaiting || l.items[0] == i {
		q.settle(l)
	}
}

// settle puts a lane where its first item belongs.
func (q *queue) settle(l *lane) {
	if l.where == laneWaiting {
		q.waiting.Remove(l)
		l.where = laneEmpty
	}
	if l.where != laneEmpty {
		return
	}
	if len(l.items) == 0 {
		delete(q.lanes, l.key)
		return
	}
	if l.paused {
		l.where = laneParked
		return
	}
	l.where = laneWaiting
	q.waiting.Push(l)
}

// remove removes an item. What waited for it goes into its lane.
func (q *queue) remove(i *item) {
	delete(q.items, i.n)
	if ledger.IsInbound(i.prediction) {
		q.inbound--
	}
	q.dropFresh(i)
	q.unlane(i)
	q.unpin(i)
	if i.inOrder() {
		q.settleOrder(i.prediction)
	}
}

// unlane removes an item from its lane, so that it can't be claimed.
func (q *queue) unlane(i *item) {
	l := i.lane
	if !i.Queued() {
		return
	}
	l.items.Remove(i)
	i.lane = nil
	q.settle(l)
}

// cancel removes an item. If it is claimed, its attempt is its last.
func (q *queue) cancel(i *item) {
	if i.claimed {
		i.canceled = true
	} else {
		q.remove(i)
	}
}

// requeue ends a claim. The item goes into its lane, or is removed if it was
// canceled meanwhile.
func (q *queue) requeue(i *item) {
	key := i.goesTo()
	q.unclaim(i)
	if i.canceled {
		q.remove(i)
	} else {
		q.put(i, key)
	}
}

// unclaim ends a claim. The item is in no lane then.
func (q *queue) unclaim(i *item) {
	q.resume(i.lane.key)
	q.signal()
	i.claimed, i.lane = false, nil
	q.claimed.Add(-1)
}

func (q *queue) dropFresh(i *item) {
	if d := i.fresh(); d != nil {
		q.fresh -= sizeOf(d)
		i.extra.fresh = nil
	}
}

// take claims up to limit due items. slots is called without the lock, since
// it takes locks of its own, and once a lane, since it does not know yet
// what was taken.
func (q *queue) take(clock *clock.Clock, limit int, slots func(store.Lane) store.Slots) (taken []*item, next int64) {
	now := clock.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.waiting) > 0 && q.waiting[0].items[0].due <= now {
		l := q.waiting.Pop()
		l.where = laneReady
		q.ready = append(q.ready, l)
	}
	for len(q.ready) > 0 && len(taken) < limit {
		l := q.ready[0]
		resumed := l.resumed
		q.mu.Unlock()
		given := slots(l.key)
		free, by := given.N, now
		if !given.DueBy.IsZero() {
			by = min(by, clock.At(given.DueBy))
		}
		q.mu.Lock()
		if len(q.ready) == 0 || q.ready[0] != l {
			continue // another claim came in between
		}
		for ; free > 0 && len(taken) < limit && l.due(by); free-- {
			i := l.items.Pop()
			i.claimed = true
			q.pin(i)
			q.claimed.Add(1)
			taken = append(taken, i)
			if ledger.IsOrdered(i.prediction) {
				q.settleOrder(i.prediction)
			}
		}
		if l.due(by) && free > 0 {
			break // limit reached
		}
		q.ready = q.ready[1:]
		if l.due(now) && l.resumed == resumed {
			l.where = laneParked
			continue
		}
		l.where = laneEmpty
		q.settle(l)
	}
	if len(q.waiting) > 0 {
		next = q.waiting[0].items[0].due
	}
	for _, l := range q.ready {
		if l.due(now) {
			return taken, l.items[0].due
		}
	}
	return taken, next
}

// due reports whether the lane's first item is.
func (l *lane) due(now int64) bool { return len(l.items) > 0 && l.items[0].due <= now }

// resume makes a parked lane be asked for again.
func (q *queue) resume(key store.Lane) {
	if l := q.lanes[key]; l != nil {
		q.resumeLane(l)
	}
}

func (q *queue) resumeLane(l *lane) {
	l.resumed++
	if l.where == laneParked {
		l.where = laneEmpty
		q.settle(l)
	}
}

// setPaused makes a lane wait, or go on.
func (q *queue) setPaused(key store.Lane, paused bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if paused {
		q.paused[key] = true
	} else {
		delete(q.paused, key)
	}
	l := q.lanes[key]
	if l != nil && l.paused != paused {
		l.paused = paused
		if l.where == laneReady {
			q.ready = slices.DeleteFunc(q.ready, func(o *lane) bool { return o == l })
			l.where = laneEmpty
		}
		q.settle(l)
		q.resumeLane(l)
	}
	q.signal()
}

// signal wakes every subscriber.
func (q *queue) signal() {
	for c := range q.subscribers {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// Changed implements store.Queue. A new subscriber has limits of its own, so
// every lane is asked for again.
func (s *Store) Changed() (<-chan struct{}, func()) {
	c := make(chan struct{}, 1)
	q := s.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	q.subscribers[c] = true
	for _, l := range q.lanes {
		q.resumeLane(l)
	}
	return c, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		delete(q.subscribers, c)
	}
}

// Resume implements store.Queue.
func (s *Store) Resume(lanes ...store.Lane) {
	q := s.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, key := range lanes {
		q.resume(key)
	}
	q.signal()
}

// Before orders the items of a lane.
func (i *item) Before(other *item) bool {
	return i.due < other.due || i.due == other.due && i.n < other.n
}

// Before orders waiting lanes by their first item.
func (l *lane) Before(other *lane) bool { return l.items[0].due < other.items[0].due }

func timeOf(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}
