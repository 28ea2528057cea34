package storetest

import (
	"slices"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
)

var pollCases = []trackingCase{
	{"first poll is due when it says", firstPoll},
	{"in order of due time, up to the limit", pollOrder},
	{"poll comes again when it says", pollAgain},
	{"failures are kept until told otherwise", pollFailures},
	{"prediction is not polled after its end", pollEnds},
	{"what has no poll path is never polled", neverPolled},
	{"reserved is polled once it is tracked", reservedPolled},
	{"all are due after reopening", pollsAfterReopen},
	{"tracking again does not poll sooner", pollTrackedAgain},
}

var signalCases = []trackingCase{
	{"of a new delivery", signalDelivery},
	{"of a new poll", signalPoll},
	{"of a poll that is due sooner", signalPollAgain},
	{"of a delivery given back", signalPostpone},
	{"of an outcome", signalComplete},
	{"of a resumed endpoint", signalResume},
	{"of a new URL", signalURL},
	{"of a redelivery", signalRedelivery},
	{"every subscriber is signalled", signalAll},
	{"new subscriber is asked for every endpoint", signalUnparks},
}

// polls asserts what is due for polling, in this order, and claims it.
func (b *tracking) polls(want ...string) []store.Prediction {
	b.t.Helper()
	claimed, _, err := b.s.ClaimPolls(ctx, 1000)
	b.must(err)
	var got []string
	for _, p := range claimed {
		got = append(got, p.ID)
	}
	if !slices.Equal(got, want) {
		b.t.Fatalf("polls due: %q, want %q", got, want)
	}
	return claimed
}

func (b *tracking) nextPoll(want time.Time) {
	b.t.Helper()
	_, next, err := b.s.ClaimPolls(ctx, 0)
	b.must(err)
	if !next.Equal(want) {
		b.t.Fatalf("next poll is %v, want %v", next, want)
	}
}

func firstPoll(t *testing.T, b *tracking) {
	b.polls()
	b.nextPoll(time.Time{})
	p := b.track("a", event.Started)
	b.polls()
	b.nextPoll(b.now().Add(time.Second))
	b.advance(time.Second)
	got := b.polls("a")[0]
	p.PollAt, p.Watched = time.Time{}, time.Second
	b.same(got, p)
	b.polls()
	b.nextPoll(time.Time{})
}

func pollOrder(t *testing.T, b *tracking) {
	for i, id := range []string{"c", "a", "b"} {
		p := b.prediction(id)
		p.PollAt = b.now().Add([]time.Duration{3, 1, 2}[i] * time.Second)
		b.trackAs(p)
	}
	b.advance(2 * time.Second)
	claimed, next, err := b.s.ClaimPolls(ctx, 1)
	b.must(err)
	if len(claimed) != 1 || claimed[0].ID != "a" || !next.Equal(b.now()) {
		t.Fatalf("claimed %+v, next %v", claimed, next)
	}
	b.polls("b")
	b.nextPoll(b.now().Add(time.Second))
	b.advance(time.Second)
	b.polls("c")
}

func pollAgain(t *testing.T, b *tracking) {
	b.track("a")
	b.advance(time.Second)
	p := b.polls("a")[0]
	b.must(b.s.PollAgain(ctx, p, b.now().Add(time.Minute)))
	b.polls()
	b.nextPoll(b.now().Add(time.Minute))
	b.advance(time.Minute)
	b.polls("a")
}

func pollFailures(t *testing.T, b *tracking) {
	b.track("a")
	b.advance(time.Second)
	for _, failures := range []int{1, 2, 0} {
		p := b.polls("a")[0]
		p.PollFailures = failures
		b.must(b.s.PollAgain(ctx, p, b.now()))
		p = b.polls("a")[0]
		if p.PollFailures != failures {
			t.Fatalf("%d failures, want %d", p.PollFailures, failures)
		}
		b.must(b.s.PollAgain(ctx, p, b.now()))
	}
}

func pollEnds(t *testing.T, b *tracking) {
	waiting, claimed := b.track("waiting"), b.prediction("claimed")
	claimed.PollAt = b.now()
	claimed = b.trackAs(claimed)
	polled := b.polls("claimed")[0]
	b.observe(claimed, event.Started, event.Completed)
	b.observe(waiting, event.Failed)
	b.track("ended", event.Started, event.Completed)
	b.must(b.s.PollAgain(ctx, polled, b.now()))
	b.advance(time.Hour)
	b.polls()
	b.restart()
	b.polls()
}

func neverPolled(t *testing.T, b *tracking) {
	p := b.prediction("a")
	p.PollPath = ""
	b.trackAs(p)
	b.reserve("x")
	b.advance(time.Hour)
	b.polls()
	b.restart()
	b.polls()
}

func reservedPolled(t *testing.T, b *tracking) {
	p := b.prediction("a")
	p.Ref, p.Token = b.reserve("x"), token("x")
	b.trackAs(p)
	b.polls()
	b.advance(time.Second)
	b.polls("a")
}

func pollsAfterReopen(t *testing.T, b *tracking) {
	waiting, claimed := b.prediction("waiting"), b.prediction("claimed")
	waiting.PollAt, claimed.PollAt = b.now().Add(time.Hour), b.now()
	b.trackAs(waiting)
	b.trackAs(claimed)
	b.polls("claimed")
	b.restart()
	got, next, err := b.s.ClaimPolls(ctx, 10)
	b.must(err)
	if len(got) != 2 || got[0].PollFailures != 0 || !next.IsZero() {
		t.Fatalf("claimed %+v, next %v", got, next)
	}
}

func pollTrackedAgain(t *testing.T, b *tracking) {
	b.track("a")
	again := b.prediction("a")
	again.PollAt = time.Time{}
	b.trackAs(again)
	b.polls()
	b.advance(time.Second)
	b.polls("a")
}

// signalled does f and waits for the signal of it. What was signalled before
// counts for nothing.
func (b *tracking) signalled(f func()) {
	b.t.Helper()
	changed, stop := b.s.Changed()
	defer stop()
	for drained := false; !drained; {
		select {
		case <-changed:
		default:
			drained = true
		}
	}
	f()
	b.signal(changed)
}

func (b *tracking) signal(changed <-chan struct{}) {
	b.t.Helper()
	select {
	case <-changed:
	case <-time.After(10 * time.Second):
		b.t.Fatal("no signal")
	}
}

func signalDelivery(t *testing.T, b *tracking) {
	p := b.prediction("a")
	p.PollPath = ""
	b.signalled(func() { p = b.trackAs(p, event.Started) })
	b.signalled(func() { b.observe(p, event.Completed) })
}

func signalPoll(t *testing.T, b *tracking) {
	b.signalled(func() { b.track("a") })
}

func signalPollAgain(t *testing.T, b *tracking) {
	b.track("a")
	b.advance(time.Second)
	p := b.polls("a")[0]
	b.signalled(func() { b.must(b.s.PollAgain(ctx, p, b.now().Add(time.Second))) })
}

func signalPostpone(t *testing.T, b *tracking) {
	b.track("a", event.Started)
	d := b.one("a started")
	b.signalled(func() { b.must(b.s.Postpone(ctx, d, b.now().Add(time.Second))) })
}

func signalComplete(t *testing.T, b *tracking) {
	b.track("a", event.Started, event.Completed)
	d := b.one("a started")
	b.signalled(func() { b.complete(d, store.Retry) })
}

func signalResume(t *testing.T, b *tracking) {
	b.track("a", event.Started)
	b.ask(0)
	b.signalled(func() { b.s.Resume(hookLane) })
}

func signalURL(t *testing.T, b *tracking) {
	p := b.track("a", event.Started)
	b.ask(0)
	b.signalled(func() { b.set(p, other) })
}

func signalRedelivery(t *testing.T, b *tracking) {
	p := b.track("a", event.Started)
	b.finish()
	row := b.attempts(p)[0].ID
	b.signalled(func() { b.redeliver(p, row) })
}

func signalAll(t *testing.T, b *tracking) {
	first, stopFirst := b.s.Changed()
	second, stopSecond := b.s.Changed()
	gone, stopGone := b.s.Changed()
	defer stopFirst()
	stopGone()
	b.track("a", event.Started)
	b.signal(first)
	b.signal(second)
	stopSecond()
	select {
	case <-gone:
		t.Fatal("signalled after unsubscribing")
	default:
	}
	b.track("b", event.Started)
	b.signal(first)
	stopSecond() // once more does no harm
}

func signalUnparks(t *testing.T, b *tracking) {
	b.track("a", event.Started)
	b.ask(0)
	b.due()
	_, stop := b.s.Changed()
	defer stop()
	b.due("a started")
}
