package sqlite

import (
	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/ledger"
)

// The items of an order go one at a time: those of a prediction after its started
// event, and the ordered inbound events of one order number. queue.orders has the
// last item of each, whose next is the first one, so that a long order is added to
// as fast as a short one. What was removed from the queue stays in the ring until
// it is the first.

// leads reports whether an item begins an order, so that later ones may have to
// wait for it.
func (i *item) leads() bool {
	if ledger.IsInbound(i.prediction) {
		return ledger.IsOrdered(i.prediction)
	}
	return i.event == event.Started && !i.redelivery
}

// follows reports whether an item waits for the order of its prediction, if there
// is one.
func (i *item) follows() bool { return !i.redelivery || ledger.IsInbound(i.prediction) }

// inOrder reports whether an item is in an order.
func (i *item) inOrder() bool { return i.next != nil }

// live reports whether an item of an order was not removed.
func (q *queue) live(i *item) bool { return q.items[i.n] == i }

// enqueue puts a new item into its lane, or holds it behind others of its order.
func (q *queue) enqueue(i *item, key store.Lane) {
	last := q.orders[i.prediction]
	switch {
	case last != nil && i.follows():
		i.next, last.next = last.next, i
		q.orders[i.prediction] = i
		i.lane = last.lane // mostly the one it goes to
		q.hold(i, key)
		// Behind one that is held, so is this one.
		if !last.held || !q.live(last) {
			q.settleOrder(i.prediction)
		}
	case i.leads():
		i.next = i
		q.orders[i.prediction] = i
		q.push(i, key)
	default:
		q.push(i, key)
	}
}

// put puts an item that is in no lane back, into a lane unless it has to wait for
// another one of its order.
func (q *queue) put(i *item, key store.Lane) {
	if !i.inOrder() || !ledger.IsOrdered(i.prediction) {
		q.push(i, key)
		return
	}
	q.hold(i, key)
	q.settleOrder(i.prediction)
}

// hold keeps an item out of the lanes. It is to go to the given one.
func (q *queue) hold(i *item, key store.Lane) {
	q.unlane(i)
	if i.held = true; i.lane == nil || i.lane.key != key {
		if i.lane = q.lanes[key]; i.lane == nil {
			i.lane = &lane{key: key}
		}
	}
	i.settled()
}

// settleOrder puts those items of an order into their lanes that may go now, and
// holds the others: those behind the first that does not let others go, and all
// while one is claimed.
func (q *queue) settleOrder(number int64) {
	last := q.orders[number]
	if last == nil {
		return
	}
	for first := last.next; !q.live(first); first = last.next {
		if first == last {
			delete(q.orders, number)
			return
		}
		last.next, first.next = first.next, nil
	}
	busy := false
	q.free(last, func(i *item) { busy = busy || i.claimed })
	q.free(last, func(i *item) {
		switch {
		case i.claimed:
		case busy && i.Queued():
			q.hold(i, i.lane.key)
		case !busy && i.held:
			q.push(i, i.goesTo())
		}
	})
}

// free calls f with the items of an order that no earlier one keeps from going. last
// is the last item of the order.
func (q *queue) free(last *item, f func(*item)) {
	for i := last.next; ; i = i.next {
		if q.live(i) {
			f(i)
			if !i.yields {
				return
			}
		}
		if i == last {
			return
		}
	}
}

// first returns the first item of an order, nil without one.
func (q *queue) first(number int64) *item {
	if last := q.orders[number]; last != nil {
		return last.next
	}
	return nil
}

// before calls f with the items of an order that are before one of them.
func (q *queue) before(i *item, f func(*item)) {
	if !i.inOrder() {
		return
	}
	for o := q.first(i.prediction); o != i; o = o.next {
		if q.live(o) {
			f(o)
		}
	}
}
