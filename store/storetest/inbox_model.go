package storetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
)

const inboxModelSteps = 300

// inboxModel does random things to events of a few predictions in two scopes, and
// expects of the store what a few lines of plain code expect.
func inboxModel(t *testing.T, b *inbox, seed uint64) {
	m := &inboxWorld{
		inbox:   b,
		history: history{rand: rand.New(rand.NewPCG(seed, 1))},
		held:    make(map[string]store.Delivery),
		paused:  make(map[string]bool),
	}
	m.do(t, inboxModelSteps, []operation{
		{14, m.stepAccept}, {20, m.stepClaim}, {34, m.stepComplete}, {4, m.stepPostpone}, {10, m.stepAdvance},
		{3, m.stepPause}, {4, m.stepRetry}, {4, m.stepDiscard}, {5, m.stepReplay}, {2, m.stepForget}, {2, m.stepRestart},
	}, func(i int) {
		if i%5 == 0 {
			m.check()
		}
	})
	m.drain()
}

// inboxWorld is what the store should hold.
type inboxWorld struct {
	*inbox
	history
	events []*modelEvent // those of one line in its order
	held   map[string]store.Delivery
	paused map[string]bool
	names  int
}

type modelEvent struct {
	store.Inbound
	state               store.DeliveryState
	attempts, refusals  int
	overtaken, replayed bool
	claimed             bool
	due, ended          time.Time
}

func (m *inboxWorld) fail(format string, args ...any) {
	m.t.Helper()
	m.t.Fatalf(format, args...)
}

func (m *inboxWorld) scope() string { return []string{"default", "other"}[m.rand.IntN(2)] }

// any returns an event for which want is true, or nil.
func (m *inboxWorld) any(want func(*modelEvent) bool) *modelEvent {
	var found []*modelEvent
	for _, e := range m.events {
		if want(e) {
			found = append(found, e)
		}
	}
	if len(found) == 0 {
		return nil
	}
	return found[m.rand.IntN(len(found))]
}

func (m *inboxWorld) stepAccept() {
	m.names++
	ev := m.event(fmt.Sprint("e", m.names), []string{"p", "p", "q", ""}[m.rand.IntN(4)])
	ev.Scope, ev.Ordered = m.scope(), ev.PredictionID != "" && m.rand.IntN(5) > 0
	e := &modelEvent{Inbound: *ev, due: m.now()}
	if m.rand.IntN(8) == 0 {
		ev.Recorded = &store.Attempt{Status: 200, Number: 1, At: m.now()}
		e.Recorded, e.state, e.attempts, e.ended = ev.Recorded, store.DeliveryDelivered, 1, m.now()
	}
	e.ID = m.accepted(ev)
	m.step("accept %s of %q in %s, ordered %t, ended %t", e.Name, e.PredictionID, e.Scope, e.Ordered, e.Recorded != nil)
	m.events = append(m.events, e)
}

// waits reports whether others of its line keep an event from being handed out.
func (m *inboxWorld) waits(e *modelEvent) bool {
	if !e.Ordered {
		return false
	}
	before := true
	for _, o := range m.events {
		switch {
		case o == e:
			before = false
		case o.Scope != e.Scope || o.PredictionID != e.PredictionID || !o.Ordered:
		case o.claimed, before && o.state == store.DeliveryPending && o.refusals < store.MaxRefusals:
			return true
		}
	}
	return false
}

// free reports whether an event is to be handed out when it is due.
func (m *inboxWorld) free(e *modelEvent) bool {
	return e.state == store.DeliveryPending && !e.claimed && !m.paused[e.Scope] && !m.waits(e)
}

func (m *inboxWorld) stepClaim() {
	limit, slots := 1000, 1000
	if m.rand.IntN(3) == 0 {
		limit, slots = m.rand.IntN(4), m.rand.IntN(3)
	}
	m.step("claim %d with %d slots", limit, slots)
	m.claim(limit, slots)
	m.s.Resume(store.InboxLane("default"), store.InboxLane("other"))
}

func (m *inboxWorld) claim(limit, slots int) int {
	claimed, next, err := m.s.ClaimDeliveries(ctx, limit, func(store.Lane) store.Slots { return store.Slots{N: slots} })
	m.must(err)
	m.step("got %q", eventNames(claimed))
	per := make(map[store.Lane]int)
	for _, c := range claimed {
		m.take(c)
		if per[c.Lane]++; per[c.Lane] > slots || len(claimed) > limit {
			m.fail("claimed %d of %d, limit %d", len(claimed), slots, limit)
		}
	}
	if limit < 1000 {
		return len(claimed)
	}
	var first time.Time
	for _, e := range m.events {
		switch {
		case !m.free(e):
		case !e.due.After(m.now()):
			m.fail("%s was not handed out", e.Name)
		case first.IsZero() || e.due.Before(first):
			first = e.due
		}
	}
	if !next.Equal(first) {
		m.fail("next is %v, want %v", next, first)
	}
	return len(claimed)
}

// take checks an event that was handed out.
func (m *inboxWorld) take(c store.Delivery) {
	m.t.Helper()
	e := m.byID(c.ID)
	if !m.free(e) || e.due.After(m.now()) {
		m.fail("%s was handed out: %+v", e.Name, *e)
	}
	if c.Attempts != e.attempts || c.Refusals != e.refusals || c.Overtaken != e.overtaken || c.Replay != e.replayed ||
		c.PredictionID != e.PredictionID || c.Inbound.Scope != e.Scope || c.Lane != store.InboxLane(e.Scope) || string(c.Payload) != string(e.Body) {
		m.fail("%+v was handed out, want %+v", c, *e)
	}
	e.claimed = true
	m.held[c.ID] = c
}

func (m *inboxWorld) byID(id string) *modelEvent {
	i := slices.IndexFunc(m.events, func(e *modelEvent) bool { return e.ID == id })
	if i < 0 {
		m.fail("%s is not known", id)
	}
	return m.events[i]
}

func (m *inboxWorld) anyHeld() (store.Delivery, *modelEvent) {
	e := m.any(func(e *modelEvent) bool { return e.claimed })
	if e == nil {
		return store.Delivery{}, nil
	}
	return m.held[e.ID], e
}

func (m *inboxWorld) stepComplete() {
	c, e := m.anyHeld()
	if e == nil {
		return
	}
	v, refused := store.Delivered, false
	switch n := m.rand.IntN(20); {
	case n < 10:
		v, refused = store.Retry, true
	case n < 12:
		v = store.Retry
	case n < 13:
		v, refused = store.Exhausted, true
	case n < 14:
		v, refused = store.Gone, true
	}
	m.end(c, e, v, refused)
}

func (m *inboxWorld) end(c store.Delivery, e *modelEvent, v store.Disposition, refused bool) {
	m.step("complete %s: %d, refused %t", e.Name, v, refused)
	o := m.attempted(c, v, refused)
	o.Due = m.now().Add(time.Duration(m.rand.IntN(4)) * 500 * time.Millisecond)
	m.must(m.s.Complete(ctx, o))
	delete(m.held, c.ID)
	e.claimed = false
	e.attempts++
	if refused {
		e.refusals++
	}
	if e.state == store.DeliveryPending || v == store.Delivered {
		e.state = []store.DeliveryState{store.Retry: store.DeliveryPending, store.Delivered: store.DeliveryDelivered, store.Exhausted: store.DeliveryFailed, store.Gone: store.DeliveryRefused}[v]
	}
	e.due, e.ended = o.Due, m.now()
	if !e.Ordered || o.Attempt.Status == 0 && !refused {
		return
	}
	for _, earlier := range m.events {
		if earlier == e {
			return
		}
		if earlier.Ordered && earlier.Scope == e.Scope && earlier.PredictionID == e.PredictionID && earlier.state == store.DeliveryPending {
			earlier.overtaken = true
		}
	}
}

func (m *inboxWorld) stepPostpone() {
	if c, e := m.anyHeld(); e != nil {
		m.step("postpone %s", e.Name)
		e.due = m.now().Add(time.Duration(m.rand.IntN(5)) * time.Second)
		m.must(m.s.Postpone(ctx, c, e.due))
		delete(m.held, c.ID)
		e.claimed = false
	}
}

func (m *inboxWorld) stepAdvance() { m.advance(time.Duration(m.rand.IntN(2500)) * time.Millisecond) }

func (m *inboxWorld) stepPause() {
	scope := m.scope()
	m.paused[scope] = !m.paused[scope]
	m.step("pause %s: %t", scope, m.paused[scope])
	m.must(m.s.SetPaused(ctx, scope, m.paused[scope]))
}

func (m *inboxWorld) stepRetry() {
	e := m.any(func(*modelEvent) bool { return true })
	if e == nil {
		return
	}
	m.step("retry %s", e.Name)
	want := error(store.ErrEnded)
	if e.state == store.DeliveryPending {
		want = nil
		if !e.claimed && e.due.After(m.now()) {
			e.due = m.now()
		}
	}
	if err := m.s.RetryEvent(ctx, e.ID); !errors.Is(err, want) {
		m.fail("retrying %s: %v, want %v", e.Name, err, want)
	}
}

func (m *inboxWorld) stepDiscard() {
	e := m.any(func(e *modelEvent) bool { return e.state == store.DeliveryPending })
	if e == nil {
		return
	}
	m.step("discard %s", e.Name)
	m.must(m.s.DiscardEvent(ctx, e.ID))
	e.state, e.ended = store.DeliveryCanceled, m.now()
}

func (m *inboxWorld) stepReplay() {
	e := m.any(func(e *modelEvent) bool { return e.state != store.DeliveryPending })
	if e == nil {
		return
	}
	m.step("replay %s", e.Name)
	want := error(nil)
	switch {
	case e.claimed:
		want = store.ErrWaiting
	case e.Recorded != nil:
		want = store.ErrNoBody
	}
	if err := m.s.ReplayEvent(ctx, e.ID); !errors.Is(err, want) {
		m.fail("replaying %s: %v, want %v", e.Name, err, want)
	}
	if want != nil {
		return
	}
	e.state, e.due, e.refusals, e.overtaken, e.replayed = store.DeliveryPending, m.now(), 0, false, true
	m.events = append(slices.DeleteFunc(m.events, func(o *modelEvent) bool { return o == e }), e)
}

// stepForget deletes no event that is claimed: whether one that was discarded
// during its attempt may be deleted before the end of that is not promised.
func (m *inboxWorld) stepForget() {
	if m.any(func(e *modelEvent) bool { return e.claimed }) != nil {
		return
	}
	m.step("forget")
	m.forgetEvents(5 * time.Second)
	before := m.now().Add(-5 * time.Second)
	m.events = slices.DeleteFunc(m.events, func(e *modelEvent) bool { return e.state != store.DeliveryPending && e.ended.Before(before) })
}

// stepRestart waits until all is due: when a postponed event is due after a restart
// is not promised.
func (m *inboxWorld) stepRestart() {
	m.step("restart")
	m.restart()
	clear(m.held)
	for _, e := range m.events {
		e.claimed = false
		if e.due.After(m.now()) {
			e.due = m.now()
		}
	}
}

// check compares what operators see of every event and inbox.
func (m *inboxWorld) check() {
	m.t.Helper()
	want := make(map[string]*store.InboxState)
	for _, e := range m.events {
		s := want[e.Scope]
		if s == nil {
			s = &store.InboxState{Scope: e.Scope}
			want[e.Scope] = s
		}
		s.Events[e.state]++
		s.Bytes += int64(len(e.Head) + len(e.Body))
	}
	all, err := m.s.Inboxes(ctx)
	m.must(err)
	for _, got := range all {
		if m.paused[got.Scope] == got.PausedAt.IsZero() {
			m.fail("%s is paused since %v", got.Scope, got.PausedAt)
		}
		s := want[got.Scope]
		delete(want, got.Scope)
		if s == nil {
			s = &store.InboxState{Scope: got.Scope}
		}
		if got.OldestWaiting.IsZero() != (s.Events[store.DeliveryPending] == 0) {
			m.fail("the oldest of %s is of %v", got.Scope, got.OldestWaiting)
		}
		got.PausedAt, got.OldestWaiting = time.Time{}, time.Time{}
		if got != *s {
			m.fail("inbox is %+v, want %+v", got, *s)
		}
	}
	if len(want) > 0 {
		m.fail("inboxes are %+v, without %v", all, want)
	}
	rows, next, err := m.s.ListDeliveries(ctx, store.DeliveryFilter{Inbound: true, Limit: 10_000})
	m.must(err)
	if len(rows) != len(m.events) || next != 0 {
		m.fail("%d events are listed, want %d", len(rows), len(m.events))
	}
	for _, r := range rows {
		e := m.byID(r.ID)
		if r.State != e.state || r.Attempts != e.attempts || r.Refusals != e.refusals || r.Overtaken != e.overtaken || r.Replay != e.replayed || r.Inbound.Name != e.Name {
			m.fail("%+v is listed, want %+v", r, *e)
		}
	}
}

// drain has everything accepted. Nothing may be left, or lost.
func (m *inboxWorld) drain() {
	m.t.Helper()
	for scope := range m.paused {
		m.paused[scope] = false
		m.must(m.s.SetPaused(ctx, scope, false))
	}
	for id, c := range m.held {
		m.end(c, m.byID(id), store.Delivered, false)
	}
	for range 200 {
		m.advance(10 * time.Second)
		if m.claim(1000, 1000) == 0 {
			break
		}
		for id, c := range m.held {
			m.end(c, m.byID(id), store.Delivered, false)
		}
	}
	m.check()
	for _, e := range m.events {
		if e.state == store.DeliveryPending || e.claimed {
			m.fail("%s is left: %+v", e.Name, *e)
		}
		_, log, err := m.s.FindDelivery(ctx, e.ID)
		m.must(err)
		if len(log) != e.attempts {
			m.fail("%s has %d attempts in the log, want %d", e.Name, len(log), e.attempts)
		}
		for i, a := range log {
			if a.Number != i+1 {
				m.fail("attempt %d of %s has the number %d", i+1, e.Name, a.Number)
			}
		}
	}
}
