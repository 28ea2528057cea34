package storetest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
)

var inboxOrderCases = []inboxCase{
	{"events of a prediction go one at a time", orderOneAtATime},
	{"events of different predictions and scopes do not wait for each other", orderApart},
	{"events that are not ordered go at once", orderNone},
	{"later event waits while the earlier one is retried", orderRetried},
	{"later event goes after ten refusals of the earlier one", orderOvertakes},
	{"ended event lets the next one go", orderEnded},
	{"order survives reopening", orderSurvives},
	{"postponed event keeps its place", orderPostponed},
	{"slots that go to one prediction", orderSlots},
}

func orderOneAtATime(t *testing.T, b *inbox) {
	b.accept("p", "a", "b", "c")
	d := b.next("a")
	b.events()
	b.accept("p", "d")
	b.events()
	for _, want := range []string{"b", "c", "d"} {
		changed, stop := b.s.Changed()
		b.succeed(d)
		<-changed
		stop()
		d = b.next(want)
	}
	b.succeed(d)
	if _, next := b.claimed(); !next.IsZero() {
		t.Errorf("next is %v", next)
	}
	b.accept("p", "e")
	b.next("e")
}

func orderApart(_ *testing.T, b *inbox) {
	b.accept("p", "a", "b")
	b.accept("q", "c")
	other := b.event("other", "p")
	other.Scope = "other"
	b.accepted(other)
	claimed, _ := b.claimed()
	if len(claimed) != 3 {
		b.t.Fatalf("due: %q", eventNames(claimed))
	}
}

func orderNone(_ *testing.T, b *inbox) {
	for _, name := range []string{"a", "b"} {
		ev := b.event(name, "p")
		ev.Ordered = false
		b.accepted(ev)
	}
	b.accept("p", "c")
	b.accept("", "d", "e")
	b.events("a", "b", "c", "d", "e")
}

func orderRetried(t *testing.T, b *inbox) {
	b.accept("p", "a", "b")
	for range 2 * store.MaxRefusals { // no connection is no refusal
		b.attempt(b.next("a"), store.Retry, false)
		if _, next := b.claimed(); !next.Equal(b.now().Add(time.Second)) {
			t.Fatalf("next is %v", next)
		}
		b.advance(time.Second)
	}
	b.succeed(b.next("a"))
	b.next("b")
}

func orderOvertakes(t *testing.T, b *inbox) {
	b.accept("p", "a", "b", "c")
	for range store.MaxRefusals {
		d := b.next("a")
		if d.Overtaken {
			t.Fatal("it is marked as overtaken before a later one went")
		}
		b.refuse(d)
		b.advance(500 * time.Millisecond)
		if len(b.listed(store.DeliveryFilter{})) != 3 {
			t.Fatal("events are lost")
		}
		if d.Refusals < store.MaxRefusals-1 {
			b.events()
			b.advance(500 * time.Millisecond)
		}
	}
	d := b.next("b") // at once, while the schedule of a goes on
	b.advance(500 * time.Millisecond)
	b.events() // a is due, and waits for the attempt
	b.attempt(d, store.Retry, false)
	d = b.next("a")
	if d.Overtaken || d.Refusals != store.MaxRefusals {
		t.Fatalf("it was handed out as %+v, and the app has not had the later one", d)
	}
	b.refuse(d)
	b.events()
	b.advance(time.Second)
	// Both are due. Whichever goes first, b goes and c waits for it.
	for {
		claimed, _ := b.claimed()
		if len(claimed) != 1 {
			t.Fatalf("due: %q", eventNames(claimed))
		}
		if d = claimed[0]; d.Inbound.Name == "b" {
			b.succeed(d)
			break
		}
		b.refuse(d)
	}
	b.restart()
	overtaken := 0
	for range 2 {
		claimed, _ := b.claimed()
		if len(claimed) != 1 {
			t.Fatalf("due: %q", eventNames(claimed))
		}
		d = claimed[0]
		if d.Overtaken != (d.Inbound.Name == "a") {
			t.Errorf("%s is marked as overtaken: %t", d.Inbound.Name, d.Overtaken)
		}
		if d.Overtaken {
			overtaken++
		}
		b.succeed(d)
	}
	b.events()
	if overtaken != 1 {
		t.Errorf("%d of two events came as overtaken", overtaken)
	}
}

func orderEnded(_ *testing.T, b *inbox) {
	b.accept("p", "a", "b", "c", "d")
	b.attempt(b.next("a"), store.Gone, true)
	b.attempt(b.next("b"), store.Exhausted, true)
	d := b.next("c")
	b.must(b.s.DiscardEvent(ctx, d.ID))
	b.events() // the attempt under way is its last
	b.refuse(d)
	b.succeed(b.next("d"))
	b.state(d.ID, "discarded")
}

func orderSurvives(t *testing.T, b *inbox) {
	id := b.accepted(b.event("first", "p"))
	b.accept("p", "a")
	b.succeed(b.next("first"))
	b.must(b.s.ReplayEvent(ctx, id)) // behind a
	b.accept("p", "b")
	b.accept("q", "x")
	b.restart()
	claimed, _ := b.claimed()
	for _, d := range claimed {
		if d.Inbound.Name == "x" {
			b.succeed(d)
		}
	}
	b.restart()
	for _, want := range []string{"a", "first", "b"} {
		d := b.next(want)
		if d.Replay != (want == "first") {
			t.Errorf("%s is a replay: %t", want, d.Replay)
		}
		b.succeed(d)
	}
	b.events()
}

func orderPostponed(_ *testing.T, b *inbox) {
	b.accept("p", "a", "b")
	b.must(b.s.Postpone(ctx, b.next("a"), b.now().Add(time.Second)))
	b.events()
	b.advance(time.Second)
	b.next("a")
}

func orderSlots(_ *testing.T, b *inbox) {
	for i := range 5 {
		b.accept("p", fmt.Sprint("p", i))
	}
	b.accept("", "z")
	claimed, _, err := b.s.ClaimDeliveries(ctx, 10, func(store.Lane) store.Slots { return store.Slots{N: 2} })
	b.must(err)
	if len(claimed) != 2 {
		b.t.Fatalf("due: %q, want one of the prediction and the other one", eventNames(claimed))
	}
}

var inboxOutcomeCases = []inboxCase{
	{"outcomes end events", outcomesEnd},
	{"attempts are logged", outcomesLogged},
	{"outcome of a claim that has ended", outcomeTwice},
	{"retry that was scheduled by a clock that was ahead", outcomeAhead},
}

func outcomesEnd(t *testing.T, b *inbox) {
	for want, v := range map[string]store.Disposition{
		"accepted": store.Delivered, "failed": store.Exhausted, "refused": store.Gone,
	} {
		id := b.accepted(b.event(want, ""))
		b.attempt(b.next(want), v, v != store.Delivered)
		b.state(id, want)
		b.events()
		b.restart()
		b.events()
		r := b.found(id)
		if r.State.EventState() != want || r.Attempts != 1 || string(r.Payload) != "body "+want || (r.Refusals == 1) != (v != store.Delivered) {
			t.Errorf("after %d: %+v", v, r)
		}
	}
	id := b.accepted(b.event("again", ""))
	b.refuse(b.next("again"))
	b.state(id, "waiting")
	if _, next := b.claimed(); !next.Equal(b.now().Add(time.Second)) {
		t.Errorf("next is %v", next)
	}
}

func outcomesLogged(t *testing.T, b *inbox) {
	id := b.accepted(b.event("a", "p"))
	other := b.accepted(b.event("b", ""))
	for _, d := range b.events("a", "b") {
		b.refuse(d)
	}
	b.advance(time.Second)
	claimed, _ := b.claimed()
	for _, d := range claimed {
		if d.ID == id {
			b.succeed(d)
		}
	}
	for want, id := range map[int]string{2: id, 1: other} {
		_, log, err := b.s.FindDelivery(ctx, id)
		b.must(err)
		if len(log) != want {
			t.Fatalf("%d attempts are logged, want %d", len(log), want)
		}
		for i, a := range log {
			if a.Delivery != id || a.Number != i+1 || a.ID == 0 || a.Took != time.Millisecond {
				t.Errorf("attempt %d is %+v", i, a)
			}
		}
		if log[0].Status != 500 || log[0].Error != "status 500" || want == 2 && log[1].Status != 200 {
			t.Errorf("the log is %+v", log)
		}
	}
}

func outcomeTwice(t *testing.T, b *inbox) {
	id := b.accepted(b.event("a", ""))
	d := b.next("a")
	b.succeed(d)
	b.attempt(d, store.Exhausted, true)
	b.must(b.s.Postpone(ctx, d, b.now()))
	b.state(id, "accepted")
	if _, log, err := b.s.FindDelivery(ctx, id); err != nil || len(log) != 1 {
		t.Errorf("%d attempts are logged, %v", len(log), err)
	}
	b.events()
}

// outcomeAhead: a clock that was ahead and is right again delays no event by more
// than its own wait.
func outcomeAhead(_ *testing.T, b *inbox) {
	b.advance(1000 * time.Hour)
	b.accept("", "a", "b")
	b.refuse(b.events("a", "b")[0])
	b.advance(-1000 * time.Hour)
	b.restart()
	b.advance(time.Minute)
	claimed, _ := b.claimed()
	if len(claimed) != 2 {
		b.t.Fatalf("due: %q", eventNames(claimed))
	}
}

var inboxOperatorCases = []inboxCase{
	{"paused scope hands out nothing", pauseHandsOutNothing},
	{"pause survives reopening", pauseSurvives},
	{"pauses are told", pausesTold},
	{"retry", operatorRetry},
	{"discard", operatorDiscard},
	{"discard during an attempt", operatorDiscardClaimed},
	{"replay", operatorReplay},
	{"replay keeps order", operatorReplayOrder},
	{"events that are not there", operatorNotFound},
	{"webhooks to clients are not events", operatorNotEvents},
}

func pauseHandsOutNothing(t *testing.T, b *inbox) {
	b.accept("p", "a", "b")
	other := b.event("other", "")
	other.Scope = "other"
	b.accepted(other)
	claimed, _ := b.claimed()
	if len(claimed) != 2 {
		t.Fatalf("due: %q", eventNames(claimed))
	}
	b.must(b.s.SetPaused(ctx, "default", true))
	if !b.s.Paused("default") || b.s.Paused("other") {
		t.Fatal("the wrong scope is paused")
	}
	if at := b.usage("default").PausedAt; !at.Equal(b.now()) {
		t.Fatalf("it is paused since %v", at)
	}
	for _, d := range claimed { // what was under way goes on
		if d.Inbound.Scope == "default" {
			b.refuse(d)
		} else {
			b.succeed(d)
		}
	}
	b.accept("", "c")
	b.advance(time.Hour)
	got, next, err := b.s.ClaimDeliveries(ctx, 10, func(l store.Lane) store.Slots {
		t.Errorf("lane %v is asked for", l)
		return store.Slots{N: 10}
	})
	b.must(err)
	if len(got) != 0 || !next.IsZero() {
		t.Fatalf("due: %q, next %v", eventNames(got), next)
	}
	b.s.Resume(inboxLane)
	if got, _ := b.claimed(); len(got) != 0 {
		t.Fatalf("due: %q", eventNames(got))
	}
	changed, stop := b.s.Changed()
	defer stop()
	b.must(b.s.SetPaused(ctx, "default", false))
	<-changed
	if b.s.Paused("default") || !b.usage("default").PausedAt.IsZero() {
		t.Fatal("it is paused")
	}
	got, _ = b.claimed()
	if len(got) != 2 {
		t.Fatalf("due: %q", eventNames(got))
	}
}

func pauseSurvives(t *testing.T, b *inbox) {
	b.must(b.s.SetPaused(ctx, "default", true)) // before it has an event
	b.must(b.s.SetPaused(ctx, "default", true))
	at := b.now()
	b.accept("", "a")
	b.restart()
	if !b.s.Paused("default") || !b.usage("default").PausedAt.Equal(at) {
		t.Fatalf("the inbox is %+v", b.usage("default"))
	}
	b.events()
	b.must(b.s.SetPaused(ctx, "default", false))
	b.next("a")
	b.restart()
	b.next("a")
}

func pausesTold(t *testing.T, b *inbox) {
	var want []store.Span
	for range 3 {
		began := b.now()
		b.must(b.s.SetPaused(ctx, "default", true))
		b.advance(time.Minute)
		if got := b.s.Pauses("default"); len(got) != len(want)+1 || !got[len(want)].Ended.IsZero() {
			t.Fatalf("pauses are %v", got)
		}
		b.must(b.s.SetPaused(ctx, "default", false))
		want = append(want, store.Span{Began: began, Ended: b.now()})
		b.advance(time.Minute)
	}
	for range 2 {
		got := b.s.Pauses("default")
		if len(got) != len(want) {
			t.Fatalf("pauses are %v, want %v", got, want)
		}
		for i, s := range got {
			if !s.Began.Equal(want[i].Began) || !s.Ended.Equal(want[i].Ended) {
				t.Fatalf("pauses are %v, want %v", got, want)
			}
		}
		b.restart()
	}
	if got := b.s.Pauses("other"); len(got) != 0 {
		t.Fatalf("pauses of another scope are %v", got)
	}
}

func (b *inbox) refusedTo(err, want error) {
	b.t.Helper()
	if !errors.Is(err, want) {
		b.t.Fatalf("got %v, want %v", err, want)
	}
}

func operatorRetry(_ *testing.T, b *inbox) {
	id := b.accepted(b.event("a", "p"))
	b.accept("p", "b")
	d := b.next("a")
	b.must(b.s.RetryEvent(ctx, id)) // it is under way
	b.events()
	b.refuse(d)
	b.events()
	changed, stop := b.s.Changed()
	defer stop()
	b.must(b.s.RetryEvent(ctx, id))
	<-changed
	b.succeed(b.next("a"))
	b.refusedTo(b.s.RetryEvent(ctx, id), store.ErrEnded)
}

func operatorDiscard(_ *testing.T, b *inbox) {
	first := b.accepted(b.event("a", "p"))
	second := b.accepted(b.event("b", "p"))
	third := b.accepted(b.event("c", "p"))
	b.accept("p", "d")
	b.must(b.s.DiscardEvent(ctx, second))
	b.must(b.s.DiscardEvent(ctx, first))
	b.must(b.s.DiscardEvent(ctx, third))
	b.refusedTo(b.s.DiscardEvent(ctx, first), store.ErrEnded)
	b.state(first, "discarded")
	b.next("d")
	b.restart()
	b.state(second, "discarded")
	b.next("d")
}

func operatorDiscardClaimed(t *testing.T, b *inbox) {
	for _, v := range []store.Disposition{store.Retry, store.Delivered, store.Exhausted, store.Gone} {
		name := fmt.Sprint("during ", v)
		id := b.accepted(b.event(name, ""))
		d := b.next(name)
		b.must(b.s.DiscardEvent(ctx, id))
		b.refusedTo(b.s.ReplayEvent(ctx, id), store.ErrWaiting)
		b.attempt(d, v, v != store.Delivered)
		want := "discarded"
		if v == store.Delivered {
			want = "accepted"
		}
		b.state(id, want)
		if _, log, err := b.s.FindDelivery(ctx, id); err != nil || len(log) != 1 {
			t.Errorf("%d attempts are logged, %v", len(log), err)
		}
		b.advance(time.Second)
		b.events()
	}
	b.restart()
	b.events()
}

func operatorReplay(t *testing.T, b *inbox) {
	id := b.accepted(b.event("a", "p"))
	created := b.now()
	b.refusedTo(b.s.ReplayEvent(ctx, id), store.ErrWaiting)
	b.refuseOften("a")
	b.attempt(b.next("a"), store.Gone, true)
	b.advance(time.Hour)
	b.must(b.s.ReplayEvent(ctx, id))
	since := b.now()
	b.restart()
	d := b.next("a")
	if !d.Replay || d.Attempts != store.MaxRefusals+1 || d.Refusals != 0 || d.Overtaken || !d.WaitingSince.Equal(since) || !d.CreatedAt.Equal(created) ||
		string(d.Payload) != "body a" || string(d.Inbound.Head) != "head a" {
		t.Fatalf("handed out %+v with %+v", d, d.Inbound)
	}
	b.succeed(d)
	_, log, err := b.s.FindDelivery(ctx, id)
	b.must(err)
	if len(log) != store.MaxRefusals+2 || log[len(log)-1].Number != len(log) {
		t.Fatalf("%d attempts are logged", len(log))
	}
	b.must(b.s.ReplayEvent(ctx, id)) // an accepted one, too
	b.must(b.s.DiscardEvent(ctx, id))
	b.must(b.s.ReplayEvent(ctx, id)) // and a discarded one
	b.next("a")
}

func operatorReplayOrder(_ *testing.T, b *inbox) {
	first := b.accepted(b.event("a", "p"))
	second := b.accepted(b.event("b", "p"))
	b.accept("p", "c", "d")
	b.succeed(b.next("a"))
	b.succeed(b.next("b"))
	b.must(b.s.ReplayEvent(ctx, second))
	b.must(b.s.ReplayEvent(ctx, first))
	b.accept("p", "e")
	for _, want := range []string{"c", "d", "b", "a", "e"} {
		b.succeed(b.next(want))
	}
}

func operatorNotFound(_ *testing.T, b *inbox) {
	id := b.accepted(b.event("a", ""))
	for _, id := range []string{"", "evt_1", "dlv_1_0000000000000000", id + "0", id[:len(id)-1] + "x", "evt_1_0000000000000000"} {
		in := b.s
		for _, err := range []error{in.RetryEvent(ctx, id), in.DiscardEvent(ctx, id), in.ReplayEvent(ctx, id), second(b.s.RedeliverDelivery(ctx, id))} {
			b.refusedTo(err, store.ErrNotFound)
		}
		_, _, err := b.s.FindDelivery(ctx, id)
		b.refusedTo(err, store.ErrNotFound)
	}
	b.refusedTo(second(b.s.RedeliverDelivery(ctx, id)), store.ErrNotFound)
}

func operatorNotEvents(_ *testing.T, b *inbox) {
	b.track("p", 1)
	d := b.one("p started")
	in := b.s
	for _, err := range []error{in.RetryEvent(ctx, d.ID), in.DiscardEvent(ctx, d.ID), in.ReplayEvent(ctx, d.ID)} {
		b.refusedTo(err, store.ErrNotFound)
	}
	b.complete(d, store.Delivered)
}
