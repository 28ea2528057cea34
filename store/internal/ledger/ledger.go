// Package ledger holds the rules of a webhook's life, once for every store:
// which events are owed, in which order they go, what ends a delivery, and what
// a prediction's webhook status is.
//
// The rules are functions on one entry. A store loads it, applies an operation,
// and writes what the entry says has changed. Nothing here reads a database,
// takes a lock or asks for the time.
package ledger

import (
	"slices"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// Change says which parts of a row are to be written.
type Change uint16

// The parts of a prediction's row, and then those of a delivery's.
const (
	// Identity is the ID and everything that the prediction was created with.
	Identity Change = 1 << iota
	// Target is the URL, the filter and the webhook status.
	Target
	// Progress is the events that there have been, the credential and the
	// webhook status.
	Progress
	// Status is the webhook status alone.
	Status
	// Token is the callback token.
	Token

	// Outcome is the state, the numbers of attempts and refusals, and the due
	// time.
	Outcome
	// Place is the lane, and who has claimed the delivery.
	Place
	// Order is whether the delivery is held.
	Order
	// Mark is whether an inbound event was overtaken.
	Mark
	// Replayed is that an inbound event waits again, since when, and behind all
	// others of its line.
	Replayed
)

// Has reports whether the changes share a part.
func (c Change) Has(o Change) bool { return c&o != 0 }

// Entry is a prediction with those of its deliveries that the rules look at: all
// that are pending or claimed, and the first one of the started event. R is what
// the store keeps with a delivery.
//
// A store may leave out deliveries that an operation does not look at. Observe,
// Redeliver and Complete need the started one and the one that it holds while
// they are pending or claimed. Complete with [store.Gone], Adopt, Retrack and
// SetWebhook need all pending ones. The started one that has ended is needed
// where the client does not want every terminal event.
type Entry[R any] struct {
	store.Prediction
	Deliveries []*Delivery[R]
	// Fresh reports that the prediction is not stored yet.
	Fresh bool
	// Changed is what of a stored prediction is to be written.
	Changed Change
}

// Delivery is a delivery as the rules see it. Times are Unix milliseconds.
type Delivery[R any] struct {
	// N is its number, 0 until the store assigns one.
	N          int64
	Event      event.Set
	Redelivery bool
	State      store.DeliveryState
	Attempts   int
	// Due is when the next attempt is due, or when the delivery ended.
	Due int64
	// Lane is where it waits from now on. It is zero for a stored delivery
	// that waits where it did.
	Lane store.Lane
	// Held reports that it waits for the started event's delivery, or for
	// other events of its line.
	Held bool
	// Claimed reports that an attempt may be under way.
	Claimed bool
	// Payload is that of a fresh delivery that shares none.
	Payload []byte
	// Shared is the number of the payload that a fresh redelivery shares.
	Shared int64
	// Fresh reports that it is not stored yet.
	Fresh bool
	// Changed is what of a stored delivery is to be written.
	Changed Change
	// Refusals, Overtaken and Since are of inbound events alone, as
	// [store.Delivery] describes them. Redelivery is that one is replayed.
	Refusals  int
	Overtaken bool
	Since     int64
	// Row is the store's own.
	Row R
}

// Tx is the transaction that operations are part of.
type Tx[R any] struct {
	// Now is its time, in Unix milliseconds.
	Now int64
	// Withdraw keeps a delivery from being attempted before the transaction
	// ends. It reports false if an attempt may be under way already.
	Withdraw func(*Delivery[R]) bool
}

// Reserved returns p as it is stored before its ID is known.
func Reserved(p store.Prediction) store.Prediction {
	p.ID, p.Seen, p.Webhook = "", 0, store.WebhookPending
	p.Webhook = webhookFor(&p)
	return p
}

// Track returns the entry of a prediction that is new to the store, with the
// deliveries of what it has come to so far.
func Track[R any](tx *Tx[R], p store.Prediction, events []store.Event) *Entry[R] {
	p.Seen, p.Webhook = 0, store.WebhookPending
	p.Webhook = webhookFor(&p)
	e := &Entry[R]{Prediction: p, Fresh: true}
	e.Observe(tx, events)
	return e
}

// Adopt completes a reserved prediction with what is known of it now. What has
// happened to it meanwhile stays.
func (e *Entry[R]) Adopt(tx *Tx[R], p store.Prediction, events []store.Event) {
	before := e.URL
	p.Ref, p.Seen, p.Webhook, p.Token, p.CreatedAt = e.Ref, e.Seen, e.Webhook, e.Token, e.CreatedAt
	if e.Webhook == store.WebhookDisabled {
		p.URL = "" // its receiver said 410 before the create had a response
	}
	p.Webhook = webhookFor(&p)
	if p.Seen.Has(event.Terminal) {
		p.Credential, p.Events = nil, e.Events
	}
	e.Prediction = p
	e.Changed |= Identity
	e.redirect(tx, before)
	e.Observe(tx, events)
}

// Retrack sets the webhook of p on a prediction that is tracked already. Where p was
// reserved, as for a create that an API answered with a prediction it had made
// before, callbacks find the tracked prediction after that. The store deletes
// the reserved one.
func (e *Entry[R]) Retrack(tx *Tx[R], p *store.Prediction, events []store.Event) {
	if p.Ref != 0 && e.Token == nil && p.Token != nil {
		e.Token = p.Token
		e.Changed |= Token
	}
	e.SetWebhook(tx, p.URL, p.Events)
	e.Observe(tx, events)
}

// Name sets the ID of a reserved prediction.
func (e *Entry[R]) Name(id string) {
	e.ID = id
	e.Changed |= Identity
}

// Observe takes in what is new among what has happened, in order. After the
// terminal event nothing is.
func (e *Entry[R]) Observe(tx *Tx[R], events []store.Event) {
	before := e.Seen
	wanted := false
	for _, ev := range events {
		if e.Seen.Has(event.Terminal) || e.Seen.Has(ev.Kind) {
			continue
		}
		e.Seen |= ev.Kind
		if e.URL != "" && e.Events.Has(ev.Kind) {
			if ev.Kind.Has(event.Terminal) {
				e.supersede(tx)
			}
			e.add(tx, ev.Kind).Payload = ev.Payload
			wanted = true
		}
	}
	if e.Seen != before {
		e.Changed |= Progress
		if e.Seen.Has(event.Terminal) {
			e.Credential = nil
			if e.Webhook == store.WebhookPending && !wanted {
				e.Webhook = e.webhookByStarted()
			}
		}
	}
	e.Settle()
}

// SetWebhook sets a new URL (empty: disabled) and filter. After the terminal event
// the filter stays: the webhook status follows from what was wanted then.
func (e *Entry[R]) SetWebhook(tx *Tx[R], url string, events event.Set) {
	before := e.URL
	e.URL = url
	if !e.Seen.Has(event.Terminal) {
		e.Events = events
	}
	e.Webhook = webhookFor(&e.Prediction)
	e.Changed |= Target
	e.redirect(tx, before)
	e.Settle()
}

// Disable switches the webhook off. What is pending is canceled.
func (e *Entry[R]) Disable(tx *Tx[R]) {
	e.URL, e.Webhook = "", store.WebhookDisabled
	e.Changed |= Target
	e.cancelPending(tx)
	e.Settle()
}

// Redeliver adds a delivery of an event with a payload that is stored. It is apart
// from the order of events. The error is [store.ErrDisabled].
func (e *Entry[R]) Redeliver(tx *Tx[R], kind event.Set, payload int64) (*Delivery[R], error) {
	if e.URL == "" {
		return nil, store.ErrDisabled
	}
	d := e.add(tx, kind)
	d.Redelivery, d.Shared = true, payload
	return d, nil
}

// Complete ends the claim on a delivery with the outcome of its attempt. due is
// the outcome's, in Unix milliseconds by the store's clock.
func (e *Entry[R]) Complete(tx *Tx[R], d *Delivery[R], o *store.Outcome, due int64) {
	d.Claimed = false
	canceled := d.State == store.DeliveryCanceled
	// Where the URL was changed meanwhile, another receiver gave the outcome.
	same := e.URL == o.Delivery.URL
	state, gone := store.DeliveryPending, false
	switch o.Disposition {
	case store.Retry:
		if !same {
			due = tx.Now // the backoff was the old receiver's
		}
		e.Wait(d, &o.Delivery, o.Apart)
	case store.Delivered:
		state = store.DeliveryDelivered
	case store.Exhausted:
		state = store.DeliveryFailed
	case store.Gone:
		if gone = same; gone {
			state = store.DeliveryFailed
		} else {
			due = tx.Now
		}
	}
	if state == store.DeliveryPending || state == store.DeliveryFailed && !gone {
		switch {
		case canceled:
			state = store.DeliveryCanceled
		case e.overtaken(d):
			state = store.DeliverySuperseded
		}
	}
	if state != store.DeliveryPending {
		due = tx.Now
	}
	d.Attempts, d.Due = o.Attempt.Number, due
	d.Changed |= Outcome | Place
	// What was canceled stays so, unless it was delivered after all.
	if !canceled || state == store.DeliveryDelivered {
		d.State = state
	}
	last := isLast(d.Event, &e.Prediction)
	switch {
	case gone:
		e.Disable(tx)
	case last && state == store.DeliveryDelivered && (e.Webhook != store.WebhookDisabled || e.URL != ""):
		e.setStatus(store.WebhookDelivered)
	case last && state == store.DeliveryFailed && !d.Redelivery && e.Webhook == store.WebhookPending:
		e.setStatus(store.WebhookFailed)
	}
	e.Settle()
}

// Wait makes a pending delivery wait in the lane of its URL alone, if it is to be
// apart, else in that of its client and endpoint. One that was attempted at
// another URL than its prediction's waits where it does.
func (e *Entry[R]) Wait(d *Delivery[R], attempted *store.Delivery, apart bool) {
	if d.State != store.DeliveryPending || e.URL != attempted.URL {
		return
	}
	d.Lane = store.LaneOf(e.Client, e.URL)
	if apart {
		d.Lane = d.Lane.Only(e.URL)
	}
	d.Changed |= Place
}

// Settle holds the terminal event's delivery while an attempt at the started one
// may come, and lets it go after that. The operations do so themselves. A store
// calls it when a claim ended in another way.
func (e *Entry[R]) Settle() {
	first := e.Started()
	blocked := first != nil && (first.State == store.DeliveryPending || first.Claimed)
	for _, d := range e.Deliveries {
		if d.State != store.DeliveryPending || d.Redelivery {
			continue
		}
		if held := blocked && d.Event != event.Started; d.Held != held {
			d.Held = held
			d.Changed |= Order
		}
	}
}

// Started returns the delivery of the started event, redeliveries apart, or nil.
func (e *Entry[R]) Started() *Delivery[R] {
	for _, d := range e.Deliveries {
		if d.Event == event.Started && !d.Redelivery {
			return d
		}
	}
	return nil
}

// add adds a delivery that is due at once.
func (e *Entry[R]) add(tx *Tx[R], kind event.Set) *Delivery[R] {
	d := &Delivery[R]{Event: kind, Due: tx.Now, Lane: store.LaneOf(e.Client, e.URL), Fresh: true}
	e.Deliveries = append(e.Deliveries, d)
	return d
}

// overtaken reports whether a delivery is the started event's while the terminal
// event's is pending.
func (e *Entry[R]) overtaken(d *Delivery[R]) bool {
	return d.Event == event.Started && !d.Redelivery && slices.ContainsFunc(e.Deliveries, func(o *Delivery[R]) bool {
		return o.State == store.DeliveryPending && !o.Redelivery && o.Event.Has(event.Terminal)
	})
}

// supersede ends the delivery of a started event that has failed, now that the
// terminal event is known. One that was not attempted yet, or has an attempt under
// way, stays.
func (e *Entry[R]) supersede(tx *Tx[R]) {
	first := e.Started()
	if first != nil && first.State == store.DeliveryPending && first.Attempts > 0 && tx.Withdraw(first) {
		first.end(tx, store.DeliverySuperseded)
	}
}

// redirect makes pending deliveries go to the prediction's URL, or nowhere if it
// has none. If it had another one before, they are due at once: the backoff that
// the old receiver caused has nothing to do with the new one. Those under way
// follow when their attempt is over.
func (e *Entry[R]) redirect(tx *Tx[R], before string) {
	switch e.URL {
	case "":
		e.cancelPending(tx)
		return
	case before:
		return
	}
	lane := store.LaneOf(e.Client, e.URL)
	for _, d := range e.Deliveries {
		if d.State != store.DeliveryPending {
			continue
		}
		tx.Withdraw(d)
		d.Lane = lane
		d.Changed |= Place
		if d.Due > tx.Now {
			d.Due = tx.Now
			d.Changed |= Outcome
		}
	}
}

// cancelPending cancels pending deliveries. The attempt that is under way at one
// is its last.
func (e *Entry[R]) cancelPending(tx *Tx[R]) {
	for _, d := range e.Deliveries {
		if d.State == store.DeliveryPending {
			tx.Withdraw(d)
			d.end(tx, store.DeliveryCanceled)
		}
	}
}

// end closes a delivery without an attempt.
func (d *Delivery[R]) end(tx *Tx[R], state store.DeliveryState) {
	d.State, d.Due = state, tx.Now
	d.Changed |= Outcome
}

// setStatus sets the webhook status.
func (e *Entry[R]) setStatus(s store.WebhookStatus) {
	if e.Webhook != s {
		e.Webhook = s
		e.Changed |= Status
	}
}

// webhookByStarted returns the webhook status of a prediction whose terminal
// event is not to be sent: that of its started event's delivery.
func (e *Entry[R]) webhookByStarted() store.WebhookStatus {
	first := e.Started()
	switch {
	case first == nil:
		return store.WebhookDelivered // there is nothing to send
	case first.State == store.DeliveryPending:
		return store.WebhookPending
	case first.State == store.DeliveryFailed:
		return store.WebhookFailed
	}
	return store.WebhookDelivered
}

// webhookFor returns the webhook status once p's URL and filter were set.
func webhookFor(p *store.Prediction) store.WebhookStatus {
	sent := p.Webhook == store.WebhookDelivered || p.Webhook == store.WebhookFailed
	switch {
	case sent && (p.Seen.Has(event.Terminal) || !p.Events.Has(event.Terminal)):
		return p.Webhook
	case p.URL == "":
		return store.WebhookDisabled
	case p.Seen.Has(event.Terminal):
		return p.Webhook
	}
	return store.WebhookPending
}

// isLast reports whether the webhook status follows from the event's delivery:
// the terminal event's does, and the started one's where the client does not
// want the terminal event.
func isLast(e event.Set, p *store.Prediction) bool {
	terminal := p.Seen & event.Terminal
	if terminal == 0 {
		terminal = event.Terminal
	}
	return e.Has(event.Terminal) || !p.Events.Has(terminal)
}

// Polled reports whether a prediction is to be polled.
func Polled(p *store.Prediction) bool {
	return !p.Seen.Has(event.Terminal) && p.PollPath != ""
}
