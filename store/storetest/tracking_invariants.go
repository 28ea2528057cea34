package storetest

import (
	"slices"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// check compares what the store says of every prediction.
func (m *world) check() {
	m.t.Helper()
	m.checkCounts()
	for _, p := range m.order {
		got := m.find(p.ID)
		if got.Seen != p.Seen || got.URL != p.URL {
			m.fail("%s: happened %b to %q, want %b to %q", p.ID, got.Seen, got.URL, p.Seen, p.URL)
		}
		if got.Webhook == store.WebhookPending && p.Seen.Has(event.Terminal) && m.own(p, event.All) == nil {
			m.fail("%s is over and its webhook still pending", p.ID)
		}
		if last := m.own(p, event.Terminal); last != nil && got.Webhook != store.WebhookPending && !m.redelivered(p) {
			m.fail("terminal event of %s is pending and its webhook %v", p.ID, got.Webhook)
		}
	}
}

// checkCounts compares what the store counts and lists for operators.
func (m *world) checkCounts() {
	m.t.Helper()
	got, err := m.s.Counts(ctx)
	m.must(err)
	var want store.Counts
	for _, d := range m.deliveries {
		state, _ := store.ParseDeliveryState(d.state)
		want.Deliveries[state]++
	}
	for _, p := range m.order {
		if !p.Seen.Has(event.Terminal) {
			want.Tracked++
		}
	}
	if want.OldestPending = got.OldestPending; got != want || got.OldestPending.IsZero() != (want.Deliveries[store.DeliveryPending] == 0) {
		m.fail("counts are %+v, want %+v", got, want)
	}
	for state, n := range want.Deliveries {
		rows, next, err := m.s.ListDeliveries(ctx, store.DeliveryFilter{State: of(store.DeliveryState(state)), Limit: 10_000})
		m.must(err)
		if len(rows) != n || next != 0 {
			m.fail("%d %s deliveries are listed, want %d", len(rows), store.DeliveryState(state), n)
		}
	}
}

// redelivered reports whether a redelivery may have spoken for the terminal
// event.
func (m *world) redelivered(p *modelPrediction) bool {
	return slices.ContainsFunc(m.deliveries, func(d *modelDelivery) bool { return d.of == p && d.redelivery })
}

// drain delivers all there is. Nothing may be left, or lost.
func (m *world) drain() {
	m.t.Helper()
	for id, c := range m.held {
		m.end(c, m.byID(id), store.Delivered)
	}
	for range 100 {
		m.advance(10 * time.Second)
		m.step("drain")
		if m.claim(1000, 1000) == 0 {
			break
		}
		for id, c := range m.held {
			m.end(c, m.byID(id), store.Delivered)
		}
	}
	m.check()
	for _, d := range m.deliveries {
		if d.state == "pending" || d.claimed {
			m.fail("%s of %s is left: %+v", d.event.Name(), d.of.ID, *d)
		}
	}
	for _, p := range m.order {
		rows := m.attempts(p.Prediction)
		if len(rows) != p.attempts {
			m.fail("%s has %d attempts in its log, want %d", p.ID, len(rows), p.attempts)
		}
		last := make(map[string]int)
		for _, a := range slices.Backward(rows) {
			if last[a.Delivery]++; a.Number != last[a.Delivery] {
				m.fail("attempt %d of %s came as %d", a.Number, a.Delivery, last[a.Delivery])
			}
		}
		for id, n := range last {
			if d := m.byID(id); d.attempts != n {
				m.fail("%s has %d attempts in the log, want %d", id, n, d.attempts)
			}
		}
		for _, e := range []event.Set{event.Started, event.Terminal} {
			own := slices.DeleteFunc(slices.Clone(m.deliveries), func(d *modelDelivery) bool {
				return d.of != p || d.redelivery || !e.Has(d.event)
			})
			if len(own) > 1 {
				m.fail("%s has %d deliveries of one event", p.ID, len(own))
			}
		}
	}
}
