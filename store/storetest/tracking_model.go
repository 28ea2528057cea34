package storetest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
)

const modelSteps = 250

// model does random things to up to three predictions and expects of the store
// what a few lines of plain code expect.
func model(t *testing.T, b *tracking, seed uint64) {
	m := &world{
		tracking:    b,
		history:     history{rand: rand.New(rand.NewPCG(seed, 0))},
		predictions: make(map[int64]*modelPrediction),
		held:        make(map[string]store.Delivery),
	}
	m.do(t, modelSteps, []operation{
		{4, m.stepTrack}, {14, m.stepObserve}, {5, m.stepSetWebhook}, {20, m.stepClaim}, {30, m.stepComplete},
		{4, m.stepPostpone}, {4, m.stepSetApart}, {8, m.stepAdvance}, {3, m.stepRedeliver}, {2, m.stepRestart},
	}, func(int) { m.check() })
	m.drain()
}

// world is what the store should hold.
type world struct {
	*tracking
	history
	predictions map[int64]*modelPrediction
	order       []*modelPrediction
	deliveries  []*modelDelivery
	held        map[string]store.Delivery
}

type modelPrediction struct {
	store.Prediction
	attempts int
}

type modelDelivery struct {
	id         string // once it is known
	of         *modelPrediction
	event      event.Set
	redelivery bool
	state      string
	attempts   int
	due        time.Time
	claimed    bool
}

func (m *world) fail(format string, args ...any) {
	m.t.Helper()
	m.t.Fatalf(format, args...)
}

// own finds the pending delivery of an event, redeliveries apart.
func (m *world) own(p *modelPrediction, events event.Set) *modelDelivery {
	for _, d := range m.deliveries {
		if d.of == p && d.state == "pending" && !d.redelivery && events.Has(d.event) {
			return d
		}
	}
	return nil
}

func (m *world) stepTrack() {
	if len(m.order) == 3 || len(m.order) > 0 && m.rand.IntN(3) == 0 {
		if p := m.any(); p != nil {
			m.step("track %s again", p.ID)
			again := m.prediction(p.ID)
			again.URL = m.url(5)
			m.must(m.s.Track(ctx, &again, nil))
			m.changeURL(p, again.URL)
			if !p.Seen.Has(event.Terminal) {
				p.Events = again.Events
			}
		}
		return
	}
	p := m.prediction(fmt.Sprintf("p%d", len(m.order)))
	p.Events = []event.Set{event.All, event.All, event.All, event.Started, event.Completed, event.Started | event.Failed}[m.rand.IntN(6)]
	events := m.events()
	m.step("track %s wanting %b: %b", p.ID, p.Events, events)
	mp := &modelPrediction{Prediction: p}
	p = m.trackAs(p, events...)
	mp.Ref = p.Ref
	m.predictions[p.Ref] = mp
	m.order = append(m.order, mp)
	m.happen(mp, events)
}

func (m *world) any() *modelPrediction {
	if len(m.order) == 0 {
		return nil
	}
	return m.order[m.rand.IntN(len(m.order))]
}

func (m *world) events() []event.Set {
	s, c, f := event.Started, event.Completed, event.Failed
	return [][]event.Set{nil, {s}, {s}, {s}, {s, c}, {s, f}, {c}, {f}, {s, s, c, f}}[m.rand.IntN(9)]
}

func (m *world) stepObserve() {
	if p := m.any(); p != nil {
		events := m.events()
		m.step("observe %s: %b", p.ID, events)
		m.observe(p.Prediction, events...)
		m.happen(p, events)
	}
}

func (m *world) happen(p *modelPrediction, events []event.Set) {
	for _, e := range events {
		if p.Seen.Has(event.Terminal) || p.Seen.Has(e) {
			continue
		}
		p.Seen |= e
		if p.URL == "" || !p.Events.Has(e) {
			continue
		}
		if first := m.own(p, event.Started); e != event.Started && first != nil && first.attempts > 0 && !first.claimed {
			first.state = "superseded"
		}
		m.deliveries = append(m.deliveries, &modelDelivery{of: p, event: e, state: "pending", due: m.now()})
	}
}

// url is one of two, or none once in a while.
func (m *world) url(oneIn int) string {
	if m.rand.IntN(oneIn) == 0 {
		return ""
	}
	return []string{hook, other}[m.rand.IntN(2)]
}

func (m *world) stepSetWebhook() {
	if p := m.any(); p != nil {
		url := m.url(3)
		m.step("set webhook of %s to %q", p.ID, url)
		m.set(p.Prediction, url)
		m.changeURL(p, url)
	}
}

func (m *world) changeURL(p *modelPrediction, url string) {
	moved := url != p.URL
	p.URL = url
	if url == "" {
		m.cancel(p)
		return
	}
	for _, d := range m.deliveries {
		if moved && d.of == p && d.state == "pending" && !d.claimed {
			d.due = m.now()
		}
	}
}

func (m *world) cancel(p *modelPrediction) {
	for _, d := range m.deliveries {
		if d.of == p && d.state == "pending" {
			d.state = "canceled"
		}
	}
}

// claimable reports whether a delivery is to be handed out now.
func (m *world) claimable(d *modelDelivery) bool {
	return d.state == "pending" && !d.claimed && !d.due.After(m.now()) && !m.waits(d)
}

// waits reports whether a terminal event waits for the started one. A canceled
// attempt that is still under way counts.
func (m *world) waits(d *modelDelivery) bool {
	if d.redelivery || d.event == event.Started {
		return false
	}
	for _, first := range m.deliveries {
		if first.of == d.of && first.event == event.Started && !first.redelivery && (first.state == "pending" || first.claimed) {
			return true
		}
	}
	return false
}

func (m *world) stepClaim() {
	limit, slots := 1000, 1000
	if m.rand.IntN(3) == 0 {
		limit, slots = m.rand.IntN(4), m.rand.IntN(3)
	}
	m.step("claim %d with %d slots", limit, slots)
	m.claim(limit, slots)
	for _, url := range []string{hook, other} {
		l := store.LaneOf(client, url)
		m.s.Resume(l, l.Only(url))
	}
}

func (m *world) claim(limit, slots int) int {
	claimed, next, err := m.s.ClaimDeliveries(ctx, limit, func(store.Lane) store.Slots { return store.Slots{N: slots} })
	m.must(err)
	m.step("got %q", names(claimed))
	if len(claimed) > limit {
		m.fail("claimed %d, limit %d", len(claimed), limit)
	}
	per := make(map[store.Lane]int)
	for _, c := range claimed {
		m.take(c)
		if !c.Lane.Takes(c.Client, c.URL) {
			m.fail("%s was claimed of %q", c.ID, c.Lane)
		}
		if per[c.Lane]++; per[c.Lane] > slots {
			m.fail("more than %d slots were taken", slots)
		}
	}
	if limit < 1000 {
		return len(claimed)
	}
	var first time.Time
	for _, d := range m.deliveries {
		if m.claimable(d) {
			m.fail("%s of %s was not handed out", d.event.Name(), d.of.ID)
		}
		if d.state == "pending" && !d.claimed && !m.waits(d) && (first.IsZero() || d.due.Before(first)) {
			first = d.due
		}
	}
	if !next.Equal(first) {
		m.fail("next is %v, want %v", next, first)
	}
	return len(claimed)
}

// take checks a delivery that was handed out.
func (m *world) take(c store.Delivery) {
	m.t.Helper()
	i := slices.IndexFunc(m.deliveries, func(d *modelDelivery) bool {
		return d.of.Ref == c.Prediction && d.event == c.Event && (d.id == c.ID || d.id == "" && m.claimable(d))
	})
	if i < 0 {
		m.fail("%+v was handed out and is not known", c)
	}
	d := m.deliveries[i]
	d.id = c.ID
	if !m.claimable(d) {
		m.fail("%s was handed out: %+v", c.ID, *d)
	}
	if c.URL != d.of.URL || c.Attempts != d.attempts || c.PredictionID != d.of.ID || c.Client != d.of.Client ||
		string(c.Payload) != string(payloadOf(d.of.ID, d.event)) {
		m.fail("%+v was handed out, want %+v of %+v", c, *d, d.of.Prediction)
	}
	d.claimed = true
	m.held[c.ID] = c
}

// anyHeld is a delivery that was claimed.
func (m *world) anyHeld() (store.Delivery, *modelDelivery) {
	var ids []string
	for id := range m.held {
		ids = append(ids, id)
	}
	if len(ids) == 0 {
		return store.Delivery{}, nil
	}
	slices.Sort(ids)
	c := m.held[ids[m.rand.IntN(len(ids))]]
	return c, m.byID(c.ID)
}

func (m *world) byID(id string) *modelDelivery {
	return m.deliveries[slices.IndexFunc(m.deliveries, func(d *modelDelivery) bool { return d.id == id })]
}

func (m *world) stepComplete() {
	c, d := m.anyHeld()
	if d == nil {
		return
	}
	v := store.Delivered
	switch n := m.rand.IntN(20); {
	case n < 8:
		v = store.Retry
	case n < 10:
		v = store.Exhausted
	case n < 11:
		v = store.Gone
	}
	m.step("complete %s %s of %s: %d", c.ID, c.Event.Name(), c.PredictionID, v)
	m.end(c, d, v)
}

func (m *world) end(c store.Delivery, d *modelDelivery, v store.Disposition) {
	o := m.outcome(c, v)
	o.Apart = m.rand.IntN(2) == 0
	m.must(m.s.Complete(ctx, o))
	delete(m.held, c.ID)
	d.claimed = false
	d.attempts++
	d.of.attempts++
	gone := v == store.Gone && c.URL == d.of.URL
	if gone {
		d.of.URL = ""
	}
	if v == store.Delivered {
		d.state = "delivered"
		return
	}
	terminal := m.own(d.of, event.Terminal)
	switch {
	case d.state == "canceled":
	case gone:
		d.state = "failed"
	case d.event == event.Started && !d.redelivery && terminal != nil:
		d.state = "superseded"
	case v == store.Exhausted:
		d.state = "failed"
	case v == store.Gone: // of a receiver that was replaced meanwhile
		d.due = m.now()
	case c.URL != d.of.URL:
		d.due = m.now()
	default:
		d.due = m.now().Add(time.Second)
	}
	if gone {
		m.cancel(d.of)
	}
}

func (m *world) stepPostpone() {
	if c, d := m.anyHeld(); d != nil {
		m.step("postpone %s", c.ID)
		d.due = m.now().Add(time.Duration(m.rand.IntN(5)) * time.Second)
		m.must(m.s.Postpone(ctx, c, d.due))
		delete(m.held, c.ID)
		d.claimed = false
	}
}

func (m *world) stepSetApart() {
	if c, d := m.anyHeld(); d != nil {
		m.step("set apart %s", c.ID)
		m.must(m.s.SetApart(ctx, c))
		delete(m.held, c.ID)
		d.claimed = false
	}
}

func (m *world) stepAdvance() {
	m.advance(time.Duration(m.rand.IntN(2500)) * time.Millisecond)
}

func (m *world) stepRedeliver() {
	p := m.any()
	if p == nil || p.URL == "" {
		return
	}
	rows := m.attempts(p.Prediction)
	if len(rows) == 0 {
		return
	}
	row := rows[m.rand.IntN(len(rows))]
	id := m.redeliver(p.Prediction, row.ID)
	m.step("redeliver %s of %s as %s", row.Event.Name(), p.ID, id)
	m.deliveries = append(m.deliveries, &modelDelivery{
		id: id, of: p, event: row.Event, redelivery: true, state: "pending", due: m.now(),
	})
}

// stepRestart waits until all is due: when a postponed delivery is due after a
// restart is not promised.
func (m *world) stepRestart() {
	m.step("restart")
	m.restart()
	clear(m.held)
	for _, d := range m.deliveries {
		d.claimed = false
		d.due = m.dueAfterRestart(d)
	}
}

func (m *world) dueAfterRestart(d *modelDelivery) time.Time {
	if d.state != "pending" || !d.due.After(m.now()) {
		return d.due
	}
	return m.now()
}
