package ledger

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// queue is a line in a test, with all events that were ever in it.
type queue struct {
	line Line[struct{}]
	all  []*Delivery[struct{}]
	tx   Tx[struct{}]
	t    *testing.T
}

func newQueue(t *testing.T, events int) *queue {
	q := &queue{t: t, tx: Tx[struct{}]{Now: now, Withdraw: func(d *Delivery[struct{}]) bool { return !d.Claimed }}}
	for range events {
		q.accept()
	}
	return q
}

func (q *queue) accept() {
	q.all = append(q.all, q.line.Accept(&q.tx, &store.Inbound{Scope: "s"}))
}

// claim begins an attempt.
func (q *queue) claim(i int) {
	q.t.Helper()
	if d := q.all[i]; d.State != store.DeliveryPending || d.Claimed || d.Held {
		q.t.Fatalf("event %d can't be claimed: %+v", i, d)
	}
	q.all[i].Claimed = true
	q.line.Settle()
}

// end ends an attempt with the status of the app's response, 0 for none.
func (q *queue) end(i int, v store.Disposition, status int, refused bool) {
	d := q.all[i]
	q.line.Complete(&q.tx, d, &store.Outcome{
		Disposition: v, Refused: refused, Attempt: store.Attempt{Number: d.Attempts + 1, Status: status},
	}, later)
}

// refuse makes attempts that the app refuses.
func (q *queue) refuse(i, times int) {
	q.t.Helper()
	for range times {
		q.claim(i)
		q.end(i, store.Retry, 500, true)
	}
}

// String says of each event whether it is held (h), free (f), claimed (c) or has
// ended, and whether it was overtaken (o).
func (q *queue) String() string {
	var out []string
	for _, d := range q.all {
		s := "f"
		switch {
		case d.Claimed:
			s = "c"
		case d.State != store.DeliveryPending:
			s = d.State.EventState()
		case d.Held:
			s = "h"
		}
		if d.Overtaken {
			s += "o"
		}
		out = append(out, s)
	}
	return strings.Join(out, " ")
}

func (q *queue) want(want string) {
	q.t.Helper()
	if got := q.String(); got != want {
		q.t.Fatalf("events are %q, want %q", got, want)
	}
}

func TestOrderedEventsGoOneAtATime(t *testing.T) {
	q := newQueue(t, 3)
	q.want("f h h")
	q.claim(0)
	q.want("c h h")
	q.end(0, store.Retry, 0, false)
	q.want("f h h")
	q.claim(0)
	q.end(0, store.Delivered, 200, false)
	q.want("accepted f h")
	q.claim(1)
	q.accept()
	q.want("accepted c h h")
	q.end(1, store.Gone, 410, true)
	q.want("accepted refused f h")
	q.claim(2)
	q.end(2, store.Exhausted, 500, true)
	q.want("accepted refused failed f")
}

func TestLaterEventGoesAfterTenRefusals(t *testing.T) {
	q := newQueue(t, 3)
	q.refuse(0, store.MaxRefusals-1)
	q.want("f h h")
	q.claim(0)
	q.end(0, store.Retry, 0, false) // no connection is no refusal
	q.want("f h h")
	q.refuse(0, 1)
	q.want("f f h")
	q.claim(0)
	q.want("c h h") // still one at a time
	q.end(0, store.Retry, 500, true)
	q.claim(1)
	q.want("h c h")
	q.end(1, store.Retry, 0, false)
	q.want("f f h") // the app has not had the later one
	q.claim(1)
	q.end(1, store.Delivered, 200, false)
	q.want("fo accepted f")
	q.refuse(2, store.MaxRefusals)
	q.accept()
	q.want("fo accepted f f")
	q.claim(3)
	q.end(3, store.Retry, 0, true) // timed out after it was sent
	q.want("fo accepted fo f")
	q.claim(0)
	q.end(0, store.Delivered, 200, false)
	q.want("acceptedo accepted fo f")
}

func TestEventOfManyRefusalsKeepsItsSchedule(t *testing.T) {
	q := newQueue(t, 2)
	q.refuse(0, store.MaxRefusals)
	q.claim(1)
	q.end(1, store.Delivered, 200, false)
	if d := q.all[0]; d.Due != later || d.Refusals != store.MaxRefusals || d.Attempts != store.MaxRefusals || !d.Changed.Has(Mark) {
		t.Errorf("the overtaken event is %+v", d)
	}
	if q.all[1].Overtaken {
		t.Error("the event that went before is marked as overtaken")
	}
}

func TestOutcomesOfEvents(t *testing.T) {
	for _, c := range []struct {
		disposition store.Disposition
		refused     bool
		discarded   bool // during the attempt
		state       string
		due         int64
	}{
		{store.Retry, false, false, "waiting", later},
		{store.Retry, true, false, "waiting", later},
		{store.Delivered, false, false, "accepted", now},
		{store.Exhausted, true, false, "failed", now},
		{store.Gone, true, false, "refused", now},
		{store.Retry, true, true, "discarded", now},
		{store.Delivered, false, true, "accepted", now},
		{store.Exhausted, false, true, "discarded", now},
		{store.Gone, true, true, "discarded", now},
	} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			q := newQueue(t, 2)
			d := q.all[0]
			q.claim(0)
			if c.discarded {
				if err := q.line.Discard(&q.tx, d); err != nil {
					t.Fatal(err)
				}
				q.want("c h") // the attempt under way is its last
			}
			q.end(0, c.disposition, 500, c.refused)
			refusals := 0
			if c.refused {
				refusals = 1
			}
			if d.State.EventState() != c.state || d.Due != c.due || d.Attempts != 1 || d.Refusals != refusals || d.Claimed || !d.Changed.Has(Outcome) {
				t.Errorf("the event is %s: %+v", d.State.EventState(), d)
			}
			if free := !q.all[1].Held; free != (c.state != "waiting") {
				t.Errorf("the next one is free: %t", free)
			}
		})
	}
}

func TestOperatorsOnEvents(t *testing.T) {
	q := newQueue(t, 3)
	refused := func(err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Fatalf("got %v, want %v", err, want)
		}
	}
	q.claim(0)
	q.end(0, store.Retry, 500, true)
	refused(q.line.Retry(&q.tx, q.all[0]), nil)
	if q.all[0].Due != now {
		t.Errorf("the event is due at %d", q.all[0].Due)
	}
	refused(q.line.Replay(&q.tx, q.all[0], true), store.ErrWaiting)
	refused(q.line.Discard(&q.tx, q.all[1]), nil)
	q.want("f discarded h")
	refused(q.line.Discard(&q.tx, q.all[0]), nil)
	q.want("discarded discarded f")
	refused(q.line.Retry(&q.tx, q.all[0]), store.ErrEnded)
	refused(q.line.Discard(&q.tx, q.all[0]), store.ErrEnded)
	refused(q.line.Replay(&q.tx, q.all[0], false), store.ErrNoBody)
	q.tx.Now = later
	refused(q.line.Replay(&q.tx, q.all[0], true), nil)
	q.want("h discarded f") // behind the one that waits
	if d := q.all[0]; d.Attempts != 1 || d.Refusals != 0 || !d.Redelivery || d.Since != later || d.Due != later || !d.Changed.Has(Replayed) {
		t.Errorf("the replayed event is %+v", d)
	}
	q.claim(2)
	refused(q.line.Discard(&q.tx, q.all[2]), nil)
	refused(q.line.Replay(&q.tx, q.all[2], true), store.ErrWaiting) // its last attempt is under way
	q.end(2, store.Retry, 0, false)
	q.want("f discarded discarded")
}

func TestRecordedEventHasEnded(t *testing.T) {
	for status, want := range map[int]string{200: "accepted", 204: "accepted", 410: "refused", 500: "failed", 302: "failed"} {
		q := newQueue(t, 0)
		d := q.line.Accept(&q.tx, &store.Inbound{Scope: "s", Recorded: &store.Attempt{Status: status, Number: 1}})
		if d.State.EventState() != want || d.Attempts != 1 || len(q.line) != 0 {
			t.Errorf("with status %d: %+v, %d events wait", status, d, len(q.line))
		}
	}
}

func TestRoomForAnEvent(t *testing.T) {
	ev := func(events, bytes int64) *store.Inbound {
		return &store.Inbound{MaxEvents: events, MaxBytes: bytes, Head: make([]byte, 10), Body: make([]byte, 90)}
	}
	recorded := func(ev *store.Inbound) *store.Inbound {
		ev.Recorded = &store.Attempt{Status: 200}
		return ev
	}
	full := store.ErrInboxFull
	for _, c := range []struct {
		name  string
		usage Usage
		ev    *store.Inbound
		free  int64
		err   error
	}{
		{"no bounds", Usage{1000, 1e9, 0}, ev(0, 0), 0, nil},
		{"room", Usage{9, 900, 0}, ev(10, 1000), 0, nil},
		{"too many", Usage{10, 0, 0}, ev(10, 1000), 0, full},
		{"too large", Usage{0, 0, 0}, ev(10, 99), 0, full},
		{"ended ones make room", Usage{9, 901, 1}, ev(10, 1000), 1, nil},
		{"waiting ones do not", Usage{9, 950, 49}, ev(10, 1000), 0, full},
		{"recorded does not wait", Usage{10, 0, 0}, recorded(ev(10, 0)), 0, nil},
		{"recorded is never refused", Usage{0, 950, 49}, recorded(ev(0, 1000)), 49, nil},
	} {
		if free, err := c.usage.Room(c.ev); free != c.free || !errors.Is(err, c.err) {
			t.Errorf("%s: %d bytes to free, %v, want %d, %v", c.name, free, err, c.free, c.err)
		}
	}
}

func TestOrderNumbers(t *testing.T) {
	a := OrderNumber("s", "p", true)
	for name, n := range map[string]int64{
		"another prediction": OrderNumber("s", "q", true), "another scope": OrderNumber("t", "p", true),
		"not ordered": OrderNumber("s", "p", false), "alone": LoneNumber(1), "the next one alone": LoneNumber(2),
	} {
		if n == a || !IsInbound(n) {
			t.Errorf("the number of %s is %d, that of the first %d", name, n, a)
		}
	}
	if OrderNumber("s", "p", true) != a || !IsOrdered(a) || IsOrdered(OrderNumber("s", "p", false)) || IsOrdered(LoneNumber(1)) || IsOrdered(1) || IsInbound(1) {
		t.Error("order numbers do not say what is ordered")
	}
	if OrderNumber("s", "", true) != 0 {
		t.Error("events without a prediction are ordered")
	}
}

func TestEventIDs(t *testing.T) {
	id := EventID(12345, -6)
	if n, nonce, ok := ParseEventID(id); !ok || n != 12345 || nonce != -6 {
		t.Errorf("%s is read as %d and %d, %t", id, n, nonce, ok)
	}
	if _, _, ok := ParseDeliveryID(id); ok {
		t.Errorf("%s is taken for the ID of a delivery", id)
	}
	if IDOf(1, 2, LoneNumber(1)) != EventID(1, 2) || IDOf(1, 2, 7) != DeliveryID(1, 2) {
		t.Error("IDs do not tell events from deliveries")
	}
}

// TestRoomForSeveralEvents: each takes from what is left by those before it.
func TestRoomForSeveralEvents(t *testing.T) {
	event := func(size int) *store.Inbound {
		return &store.Inbound{Body: make([]byte, size), MaxEvents: 10, MaxBytes: 100}
	}
	for name, c := range map[string]struct {
		Usage
		events []*store.Inbound
		free   int64
		full   bool
	}{
		"none":                  {Usage{10, 100, 0}, nil, 0, false},
		"both fit":              {Usage{8, 80, 0}, []*store.Inbound{event(10), event(10)}, 0, false},
		"one event too many":    {Usage{9, 0, 0}, []*store.Inbound{event(1), event(1)}, 0, true},
		"ended ones make room":  {Usage{1, 90, 50}, []*store.Inbound{event(20), event(30)}, 40, false},
		"too few ended ones":    {Usage{1, 90, 30}, []*store.Inbound{event(20), event(30)}, 0, true},
		"the first has no room": {Usage{1, 90, 0}, []*store.Inbound{event(20), event(1)}, 0, true},
	} {
		free, err := c.RoomFor(c.events)
		if free != c.free || errors.Is(err, store.ErrInboxFull) != c.full || (err != nil) != c.full {
			t.Errorf("%s: %d bytes are to be deleted, %v", name, free, err)
		}
	}
}
