package sqlite

import (
	"math/rand/v2"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/rules"
)

// written is what a transaction has written that the memory does not know of
// before it is committed, for the ops that follow in the same transaction.
type written struct {
	predictions map[int64]*store.Prediction
	terminal    map[int64]*item // by prediction
	endings     map[*item]*ending
}

func set[K comparable, V any](m *map[K]V, k K, v V) {
	if *m == nil {
		*m = make(map[K]V)
	}
	(*m)[k] = v
}

// change is what a transaction means for the memory.
type change struct {
	prediction store.Prediction
	added      []*item
	// superseded items were taken out of their lanes while the transaction
	// was written, so that no attempt begins.
	superseded []*item
	// redirected deliveries go to the prediction's URL from now on, or
	// nowhere if it has none. They are due at the given time on the clock's scale,
	// if it is not 0.
	redirected []int64
	due        int64
}

// emit writes what is new among what happened to a prediction that is there.
func (g *group) emit(c *change, p *store.Prediction, happened []store.Happening) error {
	before := p.Happened
	wanted := rules.Advance(p, happened)
	if p.Happened != before {
		if p.Happened.Has(event.Terminal) && p.ID != "" {
			g.totals.tracked--
		}
		if p.Happened.Has(event.Terminal) && p.Webhook == store.WebhookPending && len(wanted) == 0 {
			var err error
			if p.Webhook, err = g.webhookByStarted(p.Ref); err != nil {
				return err
			}
		}
		if err := g.exec("UPDATE predictions SET happened = ?, webhook = ?, credential = ? WHERE ref = ?", p.Happened, p.Webhook, p.Credential, p.Ref); err != nil {
			return err
		}
	}
	return g.deliver(c, p, wanted)
}

// webhookByStarted is the webhook status of a prediction whose terminal event
// is not to be sent: that of its started event's delivery.
func (g *group) webhookByStarted(ref int64) (store.WebhookStatus, error) {
	rows, err := g.query("SELECT state FROM deliveries WHERE prediction = ? AND event = ? AND redelivery = 0", ref, event.Started)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	state := stateDelivered
	if rows.Next() {
		if err := rows.Scan(&state); err != nil {
			return 0, err
		}
	}
	switch state {
	case statePending:
		return store.WebhookPending, rows.Err()
	case stateFailed:
		return store.WebhookFailed, rows.Err()
	}
	return store.WebhookDelivered, rows.Err()
}

// deliver writes the deliveries of new events.
func (g *group) deliver(c *change, p *store.Prediction, wanted []store.Happening) error {
	c.prediction = *p
	set(&g.written.predictions, p.Ref, &c.prediction)
	if len(wanted) == 0 {
		return nil
	}
	key := store.LaneOf(p.Client, p.URL)
	for _, h := range wanted {
		if h.Event.Has(event.Terminal) {
			if err := g.supersede(c, p.Ref); err != nil {
				return err
			}
		}
		i, err := g.insertEvent(p, h.Event, h.Payload)
		if err != nil {
			return err
		}
		i.sendTo(key)
		if h.Event.Has(event.Terminal) {
			set(&g.written.terminal, p.Ref, i)
		}
		c.added = append(c.added, i)
	}
	return nil
}

// supersede gives up a started event that has failed, now that the terminal
// event is known. One that was not tried yet or is being tried is left alone.
func (g *group) supersede(c *change, prediction int64) error {
	q := g.w.queue
	q.mu.Lock()
	first := q.started[prediction]
	switch {
	case first == nil:
		q.mu.Unlock()
		return nil
	case first.claimed:
		q.mu.Unlock()
		// Its attempt may have failed earlier in this transaction.
		end := g.written.endings[first]
		if end == nil || end.state != statePending {
			return nil
		}
		end.state = stateSuperseded
	case first.attempts == 0:
		q.mu.Unlock()
		return nil
	default:
		first.sendTo(first.goesTo()) // for undo: it leaves its lane
		q.unlane(first)
		q.mu.Unlock()
		c.superseded = append(c.superseded, first)
	}
	n, err := g.changed("UPDATE deliveries SET state = ?, due = ? WHERE n = ? AND state = ?", stateSuperseded, g.now(), first.n, statePending)
	g.moved(statePending, stateSuperseded, n)
	return err
}

// now is the time in Unix milliseconds.
func (g *group) now() int64 { return g.w.opts.Now().UnixMilli() }

// insertEvent writes the delivery of an event and its payload.
func (g *group) insertEvent(p *store.Prediction, e event.Set, payload []byte) (*item, error) {
	i, d, err := g.insertDelivery(p, e, 0)
	if err != nil {
		return nil, err
	}
	d.Payload = payload
	i.aside = &aside{fresh: d}
	return i, g.exec("INSERT INTO payloads (n, body) VALUES (?, ?)", d.N, payload)
}

// insertDelivery writes a delivery. It is a redelivery if it shares a payload
// that is there.
func (g *group) insertDelivery(p *store.Prediction, e event.Set, shared int64) (*item, *store.Delivery, error) {
	g.w.lastDelivery++
	d := &store.Delivery{
		N: g.w.lastDelivery, Prediction: p.Ref, PredictionID: p.ID, Client: p.Client, URL: p.URL, Traceparent: p.Traceparent,
		Event: e, CreatedAt: timeOf(g.now()),
	}
	nonce := int64(rand.Uint64())
	d.ID = rules.DeliveryID(d.N, nonce)
	created := d.CreatedAt.UnixMilli()
	g.totals.deliveries[statePending]++
	i := &item{n: d.N, due: g.w.opts.clock.Now(), prediction: p.Ref, event: e, redelivery: shared != 0, last: rules.IsLast(e, p)}
	return i, d, g.exec("INSERT INTO deliveries (n, nonce, prediction, event, redelivery, state, attempts, due, created, payload) VALUES (?, ?, ?, ?, ?, ?, 0, ?, ?, ?)",
		d.N, nonce, p.Ref, e, i.redelivery, statePending, created, created, shared)
}

// redirect writes that a prediction's pending deliveries go to its URL, or
// nowhere if it has none. If it had another one before, they are due at once:
// what the old receiver has done to be left alone is nothing to the new one.
func (g *group) redirect(c *change, p *store.Prediction, before string) (err error) {
	c.prediction = *p
	set(&g.written.predictions, p.Ref, &c.prediction)
	switch p.URL {
	case "":
		c.redirected, err = g.cancelPending(p.Ref)
	case before:
		c.redirected, err = g.numbers("SELECT n FROM deliveries WHERE prediction = ? AND state = ?", p.Ref, statePending)
	default:
		c.due = g.w.opts.clock.Now()
		c.redirected, err = g.numbers("UPDATE deliveries SET due = ? WHERE prediction = ? AND state = ? RETURNING n", g.now(), p.Ref, statePending)
	}
	return err
}

// cancelPending cancels a prediction's pending deliveries and gives their
// numbers.
func (g *group) cancelPending(ref int64) ([]int64, error) {
	canceled, err := g.numbers("UPDATE deliveries SET state = ?, due = ? WHERE prediction = ? AND state = ? RETURNING n", stateCanceled, g.now(), ref, statePending)
	g.moved(statePending, stateCanceled, int64(len(canceled)))
	return canceled, err
}

func (g *group) numbers(query string, args ...any) (out []int64, err error) {
	rows, err := g.query(query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var n int64
		if err := rows.Scan(&n); err != nil {
			return nil, err
		}
		out = append(out, n)
	}
	return out, rows.Err()
}

// undo puts back what a transaction took out of the lanes, when it is written
// once more or failed.
func (c *change) undo(q *queue) {
	if c == nil || len(c.superseded) == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, i := range c.superseded {
		q.push(i, i.goesTo())
	}
	c.superseded = nil
}

// apply brings the memory up to a committed change.
func (s *Store) apply(c *change, err error) {
	if c == nil {
		return
	}
	if err != nil {
		c.undo(s.queue)
		return
	}
	polling := s.polls.Update(&c.prediction)
	q := s.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, i := range c.superseded {
		q.remove(i)
	}
	q.redirect(c)
	if first := q.started[c.prediction.Ref]; first != nil {
		first.last = rules.IsLast(first.event, &c.prediction)
	}
	for _, i := range c.added {
		q.add(i, i.goesTo())
	}
	if polling || len(c.added) > 0 || len(c.redirected) > 0 {
		q.signal()
	}
}

// redirect moves pending deliveries to a prediction's URL; an empty one cancels
// them. Those that are claimed follow when their attempt is over.
func (q *queue) redirect(c *change) {
	if len(c.redirected) == 0 {
		return
	}
	p := &c.prediction
	key := store.LaneOf(p.Client, p.URL)
	for _, n := range c.redirected {
		i := q.items[n]
		if i == nil {
			continue
		}
		if p.URL == "" {
			q.cancel(i)
			continue
		}
		q.dropFresh(i)
		i.last = rules.IsLast(i.event, p)
		if i.claimed {
			i.sendTo(key)
			continue
		}
		laned := i.lane != nil
		q.unlane(i)
		if c.due != 0 {
			i.due = c.due
		}
		if laned {
			q.push(i, key)
		} else {
			i.sendTo(key)
		}
	}
}
