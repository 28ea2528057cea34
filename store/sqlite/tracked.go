package sqlite

import (
	"math/rand/v2"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/ledger"
)

// tracked is a prediction within a transaction, for all ops of it.
type tracked struct {
	ledger.Entry[row]
	// partial reports that the prediction holds only what the queue knows.
	partial bool
	// counted reports that it is among the tracked predictions.
	counted bool
}

// delivery is a delivery within a transaction.
type delivery = ledger.Delivery[row]

// row is what a transaction has written of a delivery, and what it means for the
// queue.
type row struct {
	fresh   bool
	changed ledger.Change
	state   store.DeliveryState
	// stored is a fresh delivery that has a payload of its own.
	stored *store.Delivery
	id     string
	// ended reports that the claim ends with the transaction.
	ended bool
	// at is the time due on the clock's scale.
	due, at int64
	// place is that of an event that is replayed.
	place int64
}

func set[K comparable, V any](m *map[K]V, k K, v V) {
	if *m == nil {
		*m = make(map[K]V)
	}
	(*m)[k] = v
}

// effects is what a transaction means for the memory, once it is committed.
type effects struct {
	tx ledger.Tx[row]
	// at is tx.Now on the clock's scale.
	at     int64
	byRef  map[int64]*tracked
	loaded []*tracked // in the order in which they were loaded
	// withdrawn items were removed from their lanes, so that no attempt
	// begins.
	withdrawn []*item
	// accepted are the new inbound events, and accepts the events that the
	// transaction has stored.
	accepted []*item
	accepts  map[*store.Inbound]string
	// boxes is what changes in the inboxes, by scope.
	boxes map[string]*boxChange
	// pages are what is loaded of tails.
	pages []*page
}

// now returns the time of the transaction in Unix milliseconds.
func (g *group) now() int64 { return g.ledger().Now }

// ledger returns the transaction as the rules see it.
func (g *group) ledger() *ledger.Tx[row] {
	if g.tx.Withdraw == nil {
		g.tx = ledger.Tx[row]{Now: g.w.opts.Now().UnixMilli(), Withdraw: g.withdraw}
		g.at = g.w.opts.clock.Now()
	}
	return &g.tx
}

// entry loads a prediction with the deliveries that most operations look at.
func (g *group) entry(ref int64) (*tracked, error) {
	if e := g.byRef[ref]; e != nil && !e.partial {
		return e, nil
	}
	return g.load("ref = ?", ref)
}

// load loads the prediction that the condition selects.
func (g *group) load(where string, arg any) (*tracked, error) {
	p, err := g.prediction(where, arg)
	if err != nil {
		return nil, err
	}
	e := g.byRef[p.Ref]
	switch {
	case e == nil:
		e = g.remember(&tracked{Entry: ledger.Entry[row]{Prediction: p}, counted: isCounted(&p)})
		q := g.w.queue
		q.mu.Lock()
		g.addFirst(e)
		q.mu.Unlock()
	case e.partial:
		e.Prediction, e.partial = p, false
	}
	if e.Webhook == store.WebhookPending && e.Events&event.Terminal != event.Terminal && e.Started() == nil {
		err = g.addStored(e, "event = 1 AND redelivery = 0")
	}
	return e, err
}

// remember makes an entry known to the ops that follow.
func (g *group) remember(e *tracked) *tracked {
	set(&g.byRef, e.Ref, e)
	g.loaded = append(g.loaded, e)
	return e
}

// addFirst adds the started event's delivery, if it is in the queue, and the one
// that it holds. The caller holds the queue's mutex.
func (g *group) addFirst(e *tracked) {
	q := g.w.queue
	if first := q.first(e.Ref); first != nil && first.event == event.Started {
		g.addItem(e, first)
		if next := first.next; next != first && q.live(next) {
			g.addItem(e, next).Held = true
		}
	}
}

// addItem adds a delivery that is in the queue. The caller holds the queue's
// mutex.
func (g *group) addItem(e *tracked, i *item) *delivery {
	if d := e.delivery(i.n); d != nil {
		return d
	}
	d := &delivery{
		N: i.n, Event: i.event, Redelivery: i.redelivery, Attempts: int(i.attempts), Claimed: i.claimed,
		Due: g.now() + i.due - g.at,
	}
	if i.yields {
		d.Refusals = store.MaxRefusals // or more
	}
	if i.canceled {
		d.State = store.DeliveryCanceled
	}
	d.Row.state = d.State
	e.Deliveries = append(e.Deliveries, d)
	return d
}

// addPending adds all deliveries that are pending, and the started event's also when
// it has ended: with another filter the webhook status may follow from it.
func (g *group) addPending(e *tracked) error {
	return g.addStored(e, "(state = 0 OR event = 1 AND redelivery = 0)")
}

// addStored adds the deliveries that match a condition.
func (g *group) addStored(e *tracked, condition string) error {
	rows, err := g.query("SELECT n, event, redelivery, state, attempts, due FROM deliveries WHERE prediction = ? AND "+condition+" ORDER BY n", e.Ref)
	if err != nil {
		return err
	}
	defer rows.Close()
	q := g.w.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	for rows.Next() {
		d := new(delivery)
		if err := rows.Scan(&d.N, &d.Event, &d.Redelivery, &d.State, &d.Attempts, &d.Due); err != nil {
			return err
		}
		d.Row.state = d.State
		switch i := q.items[d.N]; {
		case e.delivery(d.N) != nil:
		case i != nil:
			g.addItem(e, i)
		default:
			e.Deliveries = append(e.Deliveries, d)
		}
	}
	return rows.Err()
}

// claimed returns a claimed delivery with its entry, nil when the claim has ended.
func (g *group) claimed(i *item) (*tracked, *delivery) {
	q := g.w.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	if !i.claimed || q.items[i.n] != i {
		return nil, nil
	}
	e, k := g.byRef[i.prediction], q.known[i.prediction]
	switch {
	case ledger.IsInbound(i.prediction):
		e = g.events(i.prediction)
	case e != nil:
	case !k.current:
		return nil, nil // it is claimed again, and not handed out yet
	default:
		e = g.remember(&tracked{Entry: ledger.Entry[row]{Prediction: k.prediction(i.prediction)}, partial: true})
		e.counted = isCounted(&e.Prediction)
		g.addFirst(e)
	}
	d := g.addItem(e, i)
	if d.Row.ended {
		return nil, nil
	}
	return e, d
}

func (e *tracked) delivery(n int64) *delivery {
	for _, d := range e.Deliveries {
		if d.N == n {
			return d
		}
	}
	return nil
}

// withdraw removes a delivery from its lane. It reports false if an attempt is
// under way.
func (g *group) withdraw(d *delivery) bool {
	q := g.w.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	i := q.items[d.N]
	if i == nil || d.Row.ended {
		return true
	}
	if d.Claimed = i.claimed; d.Claimed {
		return false
	}
	if i.Queued() {
		i.sendTo(i.goesTo()) // for undo
		q.unlane(i)
		g.withdrawn = append(g.withdrawn, i)
	}
	return true
}

// isCounted reports whether a prediction is among the tracked ones.
func isCounted(p *store.Prediction) bool { return p.ID != "" && !p.Seen.Has(event.Terminal) }

// insertPrediction adds a prediction. It reports false when one of that ID or
// token is there.
func (g *group) insertPrediction(p *store.Prediction) (bool, error) {
	g.w.lastRef++
	p.Ref = g.w.lastRef
	n, err := g.changed("INSERT INTO predictions (ref, key, api, id, client, url, events, poll_path, credential, token, traceparent, test, body, created, happened, webhook) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
		p.Ref, ledger.PredictionKey(p.API, p.ID), p.API, p.ID, p.Client, p.URL, p.Events, p.PollPath, p.Credential, p.Token,
		p.Traceparent, p.Test, p.Body, p.CreatedAt.UnixMilli(), p.Seen, p.Webhook)
	return n == 1, err
}

// deleteReserved deletes a prediction unless its ID is known. The ops that follow
// do not find it.
func (g *group) deleteReserved(ref int64) error {
	n, err := g.changed("DELETE FROM predictions WHERE ref = ? AND key IS NULL", ref)
	if n == 1 {
		delete(g.byRef, ref)
	}
	return err
}

// write writes what an operation has changed.
func (g *group) write(e *tracked) error {
	if err := g.writePrediction(e); err != nil {
		return err
	}
	for _, d := range e.Deliveries {
		switch {
		case ledger.IsInbound(e.Ref):
			if err := g.writeEvent(d); err != nil {
				return err
			}
		case d.Fresh:
			if err := g.insertDelivery(e, d); err != nil {
				return err
			}
		case d.Changed.Has(ledger.Outcome):
			n, err := g.changed("UPDATE deliveries SET state = ?, attempts = ?, due = ? WHERE n = ?", d.State, d.Attempts, d.Due, d.N)
			if err != nil {
				return err
			}
			// None, if it was deleted: a canceled one during its last attempt.
			g.totals.deliveries[d.Row.state] -= n
			g.totals.deliveries[d.State] += n
		}
		d.Row.changed |= d.Changed
		d.Row.state, d.Changed = d.State, 0
	}
	return nil
}

func (g *group) writePrediction(e *tracked) (err error) {
	p, changed := &e.Prediction, e.Changed
	e.Changed = 0
	switch {
	case changed.Has(ledger.Identity):
		err = g.exec("UPDATE predictions SET key = ?, api = ?, id = ?, client = ?, url = ?, events = ?, poll_path = ?, credential = ?, traceparent = ?, test = ?, body = ?, happened = ?, webhook = ? WHERE ref = ?",
			ledger.PredictionKey(p.API, p.ID), p.API, p.ID, p.Client, p.URL, p.Events, p.PollPath, p.Credential, p.Traceparent, p.Test, p.Body, p.Seen, p.Webhook, p.Ref)
	case changed.Has(ledger.Target) && changed.Has(ledger.Progress):
		err = g.exec("UPDATE predictions SET url = ?, events = ?, happened = ?, webhook = ?, credential = ? WHERE ref = ?", p.URL, p.Events, p.Seen, p.Webhook, p.Credential, p.Ref)
	case changed.Has(ledger.Target):
		err = g.exec("UPDATE predictions SET url = ?, events = ?, webhook = ? WHERE ref = ?", p.URL, p.Events, p.Webhook, p.Ref)
	case changed.Has(ledger.Progress):
		err = g.exec("UPDATE predictions SET happened = ?, webhook = ?, credential = ? WHERE ref = ?", p.Seen, p.Webhook, p.Credential, p.Ref)
	case changed.Has(ledger.Status):
		err = g.exec("UPDATE predictions SET webhook = ? WHERE ref = ?", p.Webhook, p.Ref)
	}
	if err == nil && changed.Has(ledger.Token) {
		err = g.exec("UPDATE OR IGNORE predictions SET token = ? WHERE ref = ?", p.Token, p.Ref)
	}
	switch counted := isCounted(p); {
	case counted && !e.counted:
		g.totals.tracked++
	case !counted && e.counted:
		g.totals.tracked--
	}
	e.counted = isCounted(p)
	return err
}

// insertDelivery adds a delivery, with its payload unless it shares one.
func (g *group) insertDelivery(e *tracked, d *delivery) error {
	g.w.lastDelivery++
	nonce := int64(rand.Uint64())
	d.N, d.Fresh, d.Row.fresh = g.w.lastDelivery, false, true
	d.Row.id = ledger.DeliveryID(d.N, nonce)
	g.totals.deliveries[d.State]++
	err := g.exec("INSERT INTO deliveries (n, nonce, prediction, event, redelivery, state, attempts, due, created, payload) VALUES (?, ?, ?, ?, ?, ?, 0, ?, ?, ?)",
		d.N, nonce, e.Ref, d.Event, d.Redelivery, d.State, d.Due, g.now(), d.Shared)
	if err != nil || d.Shared != 0 {
		return err
	}
	d.Row.stored = &store.Delivery{N: d.N, ID: d.Row.id, Event: d.Event, Payload: d.Payload, CreatedAt: timeOf(g.now())}
	return g.exec("INSERT INTO payloads (n, body) VALUES (?, ?)", d.N, d.Payload)
}

// insertAttempt adds a row to the delivery log.
func (g *group) insertAttempt(prediction, delivery int64, kind event.Set, a *store.Attempt) error {
	g.w.lastAttempt++
	return g.exec("INSERT INTO attempts (id, delivery, prediction, event, url, status, number, at, took, response, error, exception) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
		g.w.lastAttempt, delivery, prediction, kind, a.URL, a.Status, a.Number, a.At.UnixMilli(), a.Took, a.Response, a.Error, a.Exception)
}

// undo returns to the lanes what a transaction that failed withdrew from them.
func (g *group) undo() {
	if len(g.withdrawn) == 0 {
		return
	}
	q := g.w.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, i := range g.withdrawn {
		q.put(i, i.goesTo())
	}
	q.signal() // ClaimDeliveries may have been called in between
}

// apply updates the memory after the commit.
func (g *group) apply() {
	if len(g.loaded) == 0 && len(g.boxes) == 0 && len(g.pages) == 0 {
		return
	}
	g.w.boxes.apply(g.boxes)
	due := len(g.accepted) > 0
	for _, e := range g.loaded {
		if !e.partial && g.w.polls.Update(&e.Prediction) {
			due = true
		}
	}
	q := g.w.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, p := range g.pages {
		q.addPage(p)
	}
	for _, i := range g.accepted {
		key := i.goesTo()
		if q.holdsBack(i, key) {
			q.startTail(key, g.boxes[i.fresh().Inbound.Scope].box.id, i.n)
		} else if q.items[i.n] == nil {
			q.add(i, key)
		}
	}
	for _, e := range g.loaded {
		for _, d := range e.Deliveries {
			if g.applyDelivery(e, d) {
				due = true
			}
		}
		if k := q.known[e.Ref]; k != nil {
			k.set(&e.Prediction)
		}
	}
	if due {
		q.signal()
	}
}

// end ends the claim on a delivery with its outcome, also where the delivery was
// postponed while that was committed. It reports whether the delivery may be due.
// The caller holds the queue's mutex.
func (g *group) end(i *item, d *delivery) bool {
	q := g.w.queue
	if d.Lane != (store.Lane{}) {
		i.sendTo(d.Lane)
	}
	key := i.goesTo()
	if i.claimed {
		q.unclaim(i)
	} else {
		q.unlane(i)
	}
	if d.State != store.DeliveryPending || i.canceled {
		q.remove(i)
		return false
	}
	i.attempts, i.due, i.yields = int32(d.Attempts), g.at, ledger.LetsOthersGo(d.Refusals)
	if d.Due == d.Row.due {
		i.due = d.Row.at
	}
	q.put(i, key)
	return true
}

// applyDelivery updates the queue. It reports whether the delivery may be due. The caller holds the queue's mutex.
func (g *group) applyDelivery(e *tracked, d *delivery) bool {
	q := g.w.queue
	i := q.items[d.N]
	switch {
	case d.Row.fresh && d.State == store.DeliveryPending:
		i = &item{n: d.N, due: g.at, prediction: e.Ref, event: d.Event, redelivery: d.Redelivery}
		if d.Row.stored != nil {
			i.extra = &extra{fresh: d.Row.stored}
		}
		q.add(i, d.Lane)
		return true
	case d.Row.changed.Has(ledger.Replayed):
		return g.replay(e, d, i)
	case i == nil:
	case d.Row.ended:
		return g.end(i, d)
	case d.State != store.DeliveryPending && d.Row.changed.Has(ledger.Outcome):
		q.cancel(i)
	case d.Row.changed.Has(ledger.Place):
		if d.Row.changed.Has(ledger.Outcome) {
			i.due = g.at
		}
		if i.claimed || i.held {
			i.sendTo(d.Lane)
		} else {
			q.unlane(i)
			q.put(i, d.Lane)
		}
		return true
	}
	return false
}
