package ledger

import (
	"encoding/binary"
	"slices"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// Line is the inbound events of one order number that wait or are claimed, in the
// order in which they were committed; one that is replayed is behind those that
// waited before. An event that is not ordered is a line of its own.
//
// A store may leave out events that are held, from behind the second one whose
// refusals do not let others go first.
type Line[R any] []*Delivery[R]

// FirstEvent is the lowest number of an inbound event. Those of deliveries to clients
// are below, so that a walk over the ones reads none of the others.
const FirstEvent = 1 << 40

// SplitNumbers returns the numbers of deliveries and those of inbound events, each in
// their order.
func SplitNumbers(numbers []int64) (deliveries, events []int64) {
	for _, n := range numbers {
		if n >= FirstEvent {
			events = append(events, n)
		} else {
			deliveries = append(deliveries, n)
		}
	}
	return deliveries, events
}

// OrderNumber returns what an inbound event has in place of its prediction's
// number: a negative number, even for an ordered event. The ordered events of a
// prediction in a scope share one. Where two predictions share one by chance, they
// are ordered more than they need to be.
//
// Events without a prediction are never ordered. Their number is 0 here: a store
// gives each an odd one of its own, see [LoneNumber].
func OrderNumber(scope, prediction string, ordered bool) int64 {
	if prediction == "" {
		return 0
	}
	k := store.KeyOf(scope, "order", prediction)
	n := int64(binary.BigEndian.Uint64(k[:])|1<<63) &^ 1
	if !ordered {
		n |= 1
	}
	return n
}

// OrderNumbers returns the order numbers that the events of a prediction may have in a
// scope.
func OrderNumbers(scope, prediction string) [2]int64 {
	return [2]int64{OrderNumber(scope, prediction, true), OrderNumber(scope, prediction, false)}
}

// LoneNumber returns the order number of an event without a prediction, by its own
// number.
func LoneNumber(n int64) int64 { return -2*n - 1 }

// IsInbound reports whether a delivery's prediction number is an order number.
func IsInbound(number int64) bool { return number < 0 }

// IsOrdered reports whether the events of an order number go one at a time.
func IsOrdered(number int64) bool { return number < 0 && number&1 == 0 }

// LetsOthersGo reports whether an event was refused so many times that later ones
// of its prediction wait for it no longer.
func LetsOthersGo(refusals int) bool { return refusals >= store.MaxRefusals }

// Usage is what the inbox of a scope holds.
type Usage struct {
	// Waiting is the number of waiting events, Bytes the size of all stored
	// heads and bodies, and Ended that of the events that have ended.
	Waiting, Bytes, Ended int64
}

// Size returns how many bytes of its scope's bound an event takes.
func Size(ev *store.Inbound) int64 { return int64(len(ev.Head) + len(ev.Body)) }

// Room returns how many bytes of ended events are to be deleted to make room for an
// event, or [store.ErrInboxFull]. A recorded event is never refused, since its app
// has accepted it.
func (u Usage) Room(ev *store.Inbound) (free int64, err error) {
	if ev.MaxEvents > 0 && u.Waiting >= ev.MaxEvents && ev.Recorded == nil {
		return 0, store.ErrInboxFull
	}
	free = u.Bytes + Size(ev) - ev.MaxBytes
	switch {
	case ev.MaxBytes <= 0 || free <= 0:
		return 0, nil
	case free <= u.Ended:
		return free, nil
	case ev.Recorded != nil:
		return u.Ended, nil
	}
	return 0, store.ErrInboxFull
}

// RoomFor is Room for several events, which are stored together or not at all.
func (u Usage) RoomFor(events []*store.Inbound) (free int64, err error) {
	for _, ev := range events {
		f, err := u.Room(ev)
		if err != nil {
			return 0, err
		}
		free += f
		u.Waiting++
		u.Bytes += Size(ev) - f
		u.Ended -= f
	}
	return free, nil
}

// MaxSpans is how many times a store keeps in which a process was running, and in
// which a scope was paused.
const MaxSpans = 1000

// PausedSince returns when the pause of a scope began that has not ended, the last of
// its pauses. It is zero without one.
func PausedSince(pauses []store.Span) time.Time {
	if n := len(pauses); n > 0 && pauses[n-1].Ended.IsZero() {
		return pauses[n-1].Began
	}
	return time.Time{}
}

// RecordedState returns the state of an event whose app has given a response.
func RecordedState(a *store.Attempt) store.DeliveryState {
	switch {
	case a.Status >= 200 && a.Status < 300:
		return store.DeliveryDelivered
	case a.Status == 410:
		return store.DeliveryRefused
	}
	return store.DeliveryFailed
}

// Accept adds an event, and returns its delivery. One that is recorded has ended.
func (l *Line[R]) Accept(tx *Tx[R], ev *store.Inbound) *Delivery[R] {
	d := &Delivery[R]{Due: tx.Now, Since: tx.Now, Lane: store.InboxLane(ev.Scope), Fresh: true}
	if ev.Recorded != nil {
		d.State, d.Attempts = RecordedState(ev.Recorded), ev.Recorded.Number
		return d
	}
	*l = append(*l, d)
	l.Settle()
	return d
}

// Complete ends the claim on an event with the outcome of its attempt. due is the
// outcome's, in Unix milliseconds by the store's clock.
func (l Line[R]) Complete(tx *Tx[R], d *Delivery[R], o *store.Outcome, due int64) {
	state := store.DeliveryPending
	switch o.Disposition {
	case store.Delivered:
		state = store.DeliveryDelivered
	case store.Exhausted:
		state = store.DeliveryFailed
	case store.Gone:
		state = store.DeliveryRefused
	}
	// What was discarded stays so, unless it was accepted after all.
	if d.State == store.DeliveryCanceled && state != store.DeliveryDelivered {
		state = store.DeliveryCanceled
	}
	if state != store.DeliveryPending {
		due = tx.Now
	}
	if o.Refused {
		d.Refusals++
	}
	d.Claimed, d.State, d.Attempts, d.Due = false, state, o.Attempt.Number, due
	d.Changed |= Outcome | Place
	if o.Refused || o.Attempt.Status != 0 {
		l.overtake(d)
	}
	l.Settle()
}

// overtake marks the events that an event went before, now that the app has had it.
func (l Line[R]) overtake(by *Delivery[R]) {
	for _, d := range l {
		if d == by {
			return
		}
		if d.State == store.DeliveryPending && !d.Overtaken {
			d.Overtaken = true
			d.Changed |= Mark
		}
	}
}

// Retry makes a waiting event due now. The error is [store.ErrEnded].
func (l Line[R]) Retry(tx *Tx[R], d *Delivery[R]) error {
	if d.State != store.DeliveryPending {
		return store.ErrEnded
	}
	if d.Due > tx.Now && tx.Withdraw(d) {
		d.Due = tx.Now
		d.Changed |= Outcome | Place
	}
	return nil
}

// Discard ends a waiting event. The attempt that is under way is its last, and
// those behind it wait for that. The error is [store.ErrEnded].
func (l Line[R]) Discard(tx *Tx[R], d *Delivery[R]) error {
	if d.State != store.DeliveryPending {
		return store.ErrEnded
	}
	tx.Withdraw(d)
	d.end(tx, store.DeliveryCanceled)
	l.Settle()
	return nil
}

// Replay makes an ended event wait again, behind the others: as if it had never been
// refused. whole reports whether its body is there. The store sets where it waits.
// The errors are [store.ErrWaiting] and [store.ErrNoBody].
func (l *Line[R]) Replay(tx *Tx[R], d *Delivery[R], whole bool) error {
	switch {
	case d.State == store.DeliveryPending || d.Claimed:
		return store.ErrWaiting
	case !whole:
		return store.ErrNoBody
	}
	d.State, d.Due, d.Since = store.DeliveryPending, tx.Now, tx.Now
	d.Redelivery, d.Refusals, d.Overtaken = true, 0, false
	d.Changed |= Outcome | Place | Mark | Replayed
	*l = append(slices.DeleteFunc(*l, func(o *Delivery[R]) bool { return o == d }), d)
	l.Settle()
	return nil
}

// Settle holds the events that are not to be handed out: all others while one is
// claimed, else those that an earlier one does not let go. The operations do so
// themselves. A store calls it when an event was claimed, or a claim ended in
// another way.
func (l Line[R]) Settle() {
	held := slices.ContainsFunc(l, func(d *Delivery[R]) bool { return d.Claimed })
	for _, d := range l {
		if d.State != store.DeliveryPending && !d.Claimed {
			continue
		}
		if hold := held && !d.Claimed; d.Held != hold {
			d.Held = hold
			d.Changed |= Order
		}
		held = held || !LetsOthersGo(d.Refusals)
	}
}
