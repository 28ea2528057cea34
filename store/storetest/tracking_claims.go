package storetest

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
)

var claimCases = []trackingCase{
	{"in order of due time", dueOrder},
	{"no more than the limit", claimLimit},
	{"next is when the first of the others is due", nextDue},
	{"no more than a lane's slots", slotsRespected},
	{"one full lane does not hold up another", fullEndpointAside},
	{"full lane is asked again after resuming", resumed},
	{"full lane is asked again after completing", resumedByComplete},
	{"full lane is asked again after postponing", resumedByPostpone},
	{"each client of an endpoint has a lane", clientLanes},
	{"only what is due by a time", dueBy},
	{"set apart into the lane of the URL", setApart},
	{"retry waits in the lane of the URL", retryApart},
	{"what was set apart follows a new URL", apartFollows},
	{"claims are held until they are given back", holdsClaims},
	{"delivery says where and since when it waited", labelled},
	{"resuming while slots are asked is not lost", resumedMeanwhile},
	{"concurrent claims are apart", concurrentClaims},
	{"claims come back after reopening", claimsComeBack},
	{"retry is due when it says", retryDue},
	{"postponing takes no attempt", postponed},
	{"completing twice counts once", completedTwice},
	{"completing twice at the same time counts once", completedTwiceAtOnce},
	{"endpoint is scheme, host and port", endpoints},
}

func dueOrder(t *testing.T, b *tracking) {
	for _, id := range []string{"a", "b", "c"} {
		b.track(id, event.Started)
		b.advance(time.Millisecond)
	}
	for i, d := range b.due("a started", "b started", "c started") {
		o := b.outcome(d, store.Retry)
		o.Due = b.now().Add(time.Duration(10-i) * time.Second)
		b.must(b.s.Complete(ctx, o))
	}
	b.advance(10 * time.Second)
	b.track("d", event.Started)
	b.due("c started", "b started", "a started", "d started")
}

func claimLimit(t *testing.T, b *tracking) {
	for i := range 5 {
		b.track(fmt.Sprint(i), event.Started)
		b.advance(time.Millisecond)
	}
	var got []string
	for _, want := range []int{2, 2, 1, 0} {
		claimed, next, err := b.s.ClaimDeliveries(ctx, 2, plenty)
		b.must(err)
		if len(claimed) != want {
			t.Fatalf("claimed %d, want %d", len(claimed), want)
		}
		got = append(got, names(claimed)...)
		if more := len(got) < 5; more != !next.IsZero() || next.After(b.now()) {
			t.Fatalf("after %d of 5 the next is due at %v", len(got), next)
		}
	}
	slices.Sort(got)
	if want := []string{"0 started", "1 started", "2 started", "3 started", "4 started"}; !slices.Equal(got, want) {
		t.Fatalf("claimed %q", got)
	}
}

func nextDue(t *testing.T, b *tracking) {
	if _, next := b.claimed(); !next.IsZero() {
		t.Fatalf("next is %v for an empty store", next)
	}
	b.track("a", event.Started)
	p := b.prediction("b")
	p.URL = other
	b.trackAs(p, event.Started)
	claimed, next := b.claimed()
	if len(claimed) != 2 || !next.IsZero() {
		t.Fatalf("claimed %q, next %v", names(claimed), next)
	}
	for i, d := range claimed {
		o := b.outcome(d, store.Retry)
		o.Due = b.now().Add(time.Duration(i+1) * time.Minute)
		b.must(b.s.Complete(ctx, o))
	}
	if _, next := b.claimed(); !next.Equal(b.now().Add(time.Minute)) {
		t.Fatalf("next is %v", next)
	}
	b.advance(time.Minute)
	if claimed, next := b.claimed(); len(claimed) != 1 || !next.Equal(b.now().Add(time.Minute)) {
		t.Fatalf("claimed %q, next %v", names(claimed), next)
	}
}

// ask claims with the given slots for every endpoint and counts the questions.
func (b *tracking) ask(slots int) (claimed []store.Delivery, asked int) {
	b.t.Helper()
	claimed, _, err := b.s.ClaimDeliveries(ctx, 1000, func(lane store.Lane) store.Slots {
		asked++
		return store.Slots{N: slots}
	})
	b.must(err)
	return claimed, asked
}

func (b *tracking) trackMany(n int) {
	b.t.Helper()
	for i := range n {
		b.track(fmt.Sprint(i), event.Started)
	}
}

func slotsRespected(t *testing.T, b *tracking) {
	b.trackMany(10)
	if claimed, asked := b.ask(3); len(claimed) != 3 || asked != 1 {
		t.Fatalf("claimed %d of 3, asked %d times", len(claimed), asked)
	}
	claimed, next, err := b.s.ClaimDeliveries(ctx, 1000, func(lane store.Lane) store.Slots {
		t.Errorf("%q is asked for again", lane)
		return store.Slots{N: 1}
	})
	b.must(err)
	if len(claimed) != 0 || !next.IsZero() {
		t.Fatalf("claimed %q, next %v", names(claimed), next)
	}
}

func fullEndpointAside(t *testing.T, b *tracking) {
	b.trackMany(5)
	p := b.prediction("x")
	p.URL = other
	b.trackAs(p, event.Started)
	claimed, _, err := b.s.ClaimDeliveries(ctx, 1000, func(lane store.Lane) store.Slots {
		if lane == hookLane {
			return store.Slots{}
		}
		return store.Slots{N: 1}
	})
	b.must(err)
	if got := names(claimed); !slices.Equal(got, []string{"x started"}) {
		t.Fatalf("claimed %q", got)
	}
}

func resumed(t *testing.T, b *tracking) {
	b.trackMany(5)
	if claimed, _ := b.ask(0); len(claimed) != 0 {
		t.Fatalf("claimed %q without slots", names(claimed))
	}
	b.track("new", event.Started)
	if claimed, asked := b.ask(9); len(claimed) != 0 || asked != 0 {
		t.Fatalf("claimed %q, asked %d times", names(claimed), asked)
	}
	b.s.Resume(store.LaneOf(client, other), store.LaneOf("another", hook), hookLane.Only(hook))
	if claimed, _ := b.ask(9); len(claimed) != 0 {
		t.Fatalf("claimed %q after other lanes were resumed", names(claimed))
	}
	b.s.Resume(hookLane)
	if claimed, _ := b.ask(9); len(claimed) != 6 {
		t.Fatalf("claimed %q", names(claimed))
	}
}

func resumedByComplete(t *testing.T, b *tracking) {
	b.trackMany(5)
	claimed, _ := b.ask(2)
	for range 3 {
		b.complete(claimed[0], store.Delivered)
		if claimed, _ = b.ask(1); len(claimed) != 1 {
			t.Fatalf("claimed %q", names(claimed))
		}
	}
}

func resumedByPostpone(t *testing.T, b *tracking) {
	b.trackMany(2)
	claimed, _ := b.ask(1)
	b.must(b.s.Postpone(ctx, claimed[0], b.now().Add(time.Hour)))
	if again, _ := b.ask(1); len(again) != 1 || again[0].ID == claimed[0].ID {
		t.Fatalf("claimed %q", names(again))
	}
}

func resumedMeanwhile(t *testing.T, b *tracking) {
	b.trackMany(1)
	claimed, next, err := b.s.ClaimDeliveries(ctx, 10, func(lane store.Lane) store.Slots {
		b.s.Resume(lane)
		return store.Slots{}
	})
	b.must(err)
	if len(claimed) != 0 || next.IsZero() {
		t.Fatalf("claimed %q, next %v", names(claimed), next)
	}
	b.due("0 started")
}

func concurrentClaims(t *testing.T, b *tracking) {
	const n = 300
	var mu sync.Mutex
	got := make(map[string]int)
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range n {
			p := b.prediction(fmt.Sprint(i))
			if i%2 == 0 {
				p.URL = other
			}
			if err := b.s.Track(ctx, &p, happened(p.ID, event.Started, event.Completed)); err != nil {
				t.Error(err)
			}
		}
	})
	completed := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(got)
	}
	for range 2 {
		wg.Go(func() {
			changed, stop := b.s.Changed()
			defer stop()
			for completed() < 2*n && !t.Failed() {
				claimed, next, err := b.s.ClaimDeliveries(ctx, 7, func(store.Lane) store.Slots { return store.Slots{N: 5} })
				if err != nil {
					t.Error(err)
					return
				}
				for _, d := range claimed {
					mu.Lock()
					got[d.ID]++
					mu.Unlock()
					if err := b.s.Complete(ctx, b.outcome(d, store.Delivered)); err != nil {
						t.Error(err)
					}
				}
				if len(claimed) == 0 && next.IsZero() && completed() < 2*n {
					select {
					case <-changed:
					case <-time.After(30 * time.Second):
						t.Error("no signal")
						return
					}
				}
			}
		})
	}
	wg.Wait()
	for id, times := range got {
		if times != 1 {
			t.Errorf("%s was claimed %d times", id, times)
		}
	}
}

func claimsComeBack(t *testing.T, b *tracking) {
	b.track("a", event.Started)
	d := b.one("a started")
	b.due()
	b.restart()
	again := b.one("a started")
	if again.ID != d.ID || again.Attempts != 0 || string(again.Payload) != string(d.Payload) || !again.CreatedAt.Equal(d.CreatedAt) {
		t.Fatalf("got %+v, want %+v", again, d)
	}
	b.complete(again, store.Retry)
	b.restart()
	if again := b.one("a started"); again.ID != d.ID || again.Attempts != 1 {
		t.Fatalf("got %+v, want %+v after one attempt", again, d)
	}
}

func retryDue(t *testing.T, b *tracking) {
	b.track("a", event.Started)
	d := b.one("a started")
	for n := 1; n <= 3; n++ {
		b.complete(d, store.Retry)
		b.advance(time.Second - time.Millisecond)
		b.due()
		b.advance(time.Millisecond)
		again := b.one("a started")
		if again.Attempts != n || again.ID != d.ID || string(again.Payload) != string(d.Payload) {
			t.Fatalf("retry %d is %+v", n, again)
		}
		d = again
	}
}

func postponed(t *testing.T, b *tracking) {
	p := b.track("a", event.Started)
	d := b.one("a started")
	b.must(b.s.Postpone(ctx, d, b.now().Add(time.Minute)))
	b.due()
	if _, next := b.claimed(); !next.Equal(b.now().Add(time.Minute)) {
		t.Fatalf("next is %v", next)
	}
	b.advance(time.Minute)
	again := b.one("a started")
	if again.Attempts != 0 || again.ID != d.ID || string(again.Payload) != string(d.Payload) {
		t.Fatalf("postponed is %+v", again)
	}
	b.logged(p)
}

func completedTwice(t *testing.T, b *tracking) {
	p := b.track("a", event.Started)
	d := b.one("a started")
	b.complete(d, store.Delivered)
	b.complete(d, store.Retry)
	b.must(b.s.Postpone(ctx, d, b.now()))
	b.advance(time.Second)
	b.due()
	b.logged(p, "started 1 200")
}

// completedTwiceAtOnce completes each of many deliveries with two outcomes at the
// same time, so that a store commits both of many of them together.
func completedTwiceAtOnce(t *testing.T, b *tracking) {
	const n = 100
	predictions := make(map[string]store.Prediction)
	for i := range n {
		p := b.track(fmt.Sprint(i), event.Started)
		predictions[p.ID] = p
	}
	claimed, _ := b.claimed()
	if len(claimed) != n {
		t.Fatalf("claimed %d", len(claimed))
	}
	begin := make(chan struct{})
	var wg sync.WaitGroup
	for _, d := range claimed {
		for _, v := range []store.Disposition{store.Delivered, store.Retry} {
			o := b.outcome(d, v)
			wg.Go(func() {
				<-begin
				if err := b.s.Complete(ctx, o); err != nil {
					t.Error(err)
				}
			})
		}
	}
	close(begin)
	wg.Wait()
	b.advance(time.Second)
	claimed, _ = b.claimed()
	again := make(map[string]bool)
	for _, d := range claimed {
		if again[d.PredictionID] = true; d.Attempts != 1 {
			t.Errorf("%s has %d attempts", d.PredictionID, d.Attempts)
		}
	}
	for id, p := range predictions {
		if again[id] {
			b.logged(p, "started 1 500")
		} else {
			b.logged(p, "started 1 200")
		}
	}
}

func endpoints(t *testing.T, b *tracking) {
	want := map[string]int{hookEnd: 3, "https://a.example.com:8443": 1, "http://a.example.com:80": 1, "https://[::1]:443": 1}
	for i, url := range []string{
		hook, "HTTPS://A.example.com:443/other?x=1", "https://user@a.example.com#f",
		"https://a.example.com:8443/hook", "http://a.example.com/hook", "https://[::1]/",
	} {
		p := b.prediction(fmt.Sprint(i))
		p.URL = url
		b.trackAs(p, event.Started)
	}
	asked := make(map[string]int)
	claimed, _, err := b.s.ClaimDeliveries(ctx, 100, func(lane store.Lane) store.Slots {
		asked[lane.Endpoint]++
		return store.Slots{N: want[lane.Endpoint]}
	})
	b.must(err)
	if len(claimed) != 6 || len(asked) != len(want) {
		t.Fatalf("claimed %d, asked for %v", len(claimed), asked)
	}
}

func clientLanes(t *testing.T, b *tracking) {
	for i := range 6 {
		p := b.prediction(fmt.Sprint(i))
		p.Client = fmt.Sprint("client", i%3)
		b.trackAs(p, event.Started)
		b.advance(time.Millisecond)
	}
	asked := make(map[store.Lane]int)
	claimed, _, err := b.s.ClaimDeliveries(ctx, 100, func(l store.Lane) store.Slots {
		asked[l]++
		if l.Client == "client1" {
			return store.Slots{}
		}
		return store.Slots{N: 1}
	})
	b.must(err)
	for i := range 3 {
		if l := store.LaneOf(fmt.Sprint("client", i), hook); asked[l] != 1 || l.Endpoint != hookEnd {
			t.Errorf("%q is asked for %d times", l, asked[l])
		}
	}
	if got := names(claimed); len(asked) != 3 || !slices.Equal(got, []string{"0 started", "2 started"}) {
		t.Fatalf("claimed %q of %v", got, asked)
	}
	b.s.Resume(store.LaneOf("client1", hook))
	b.due("1 started", "4 started")
}

// claimDueBy claims what of a lane was due by a time.
func (b *tracking) claimDueBy(by time.Time) []string {
	b.t.Helper()
	claimed, _, err := b.s.ClaimDeliveries(ctx, 100, func(store.Lane) store.Slots { return store.Slots{N: 100, DueBy: by} })
	b.must(err)
	return names(claimed)
}

func dueBy(t *testing.T, b *tracking) {
	begun := b.now()
	for _, id := range []string{"a", "b", "c"} {
		b.track(id, event.Started)
		b.advance(time.Minute)
	}
	if got := b.claimDueBy(begun.Add(time.Minute)); !slices.Equal(got, []string{"a started", "b started"}) {
		t.Fatalf("claimed %q", got)
	}
	b.due() // the lane had no slots for the third
	b.s.Resume(hookLane)
	if got := b.claimDueBy(begun.Add(-time.Hour)); len(got) != 0 {
		t.Fatalf("claimed %q", got)
	}
	b.s.Resume(hookLane)
	if got := b.claimDueBy(begun.Add(1000 * time.Hour)); !slices.Equal(got, []string{"c started"}) {
		t.Fatalf("claimed %q", got)
	}
	b.s.Resume(hookLane)
	b.track("later", event.Started)
	b.complete(b.one("later started"), store.Retry)
	if got := b.claimDueBy(begun.Add(1000 * time.Hour)); len(got) != 0 {
		t.Fatalf("claimed what is not due: %q", got)
	}
}

// lanesAsked claims all that is due, and gives the lanes that were asked for.
func (b *tracking) lanesAsked() (claimed []store.Delivery, lanes []store.Lane) {
	b.t.Helper()
	claimed, _, err := b.s.ClaimDeliveries(ctx, 1000, func(l store.Lane) store.Slots {
		lanes = append(lanes, l)
		return store.Slots{N: 1000}
	})
	b.must(err)
	return claimed, lanes
}

func setApart(t *testing.T, b *tracking) {
	b.trackMany(3)
	claimed, _ := b.claimed()
	due := claimed[0].DueAt
	b.advance(time.Minute)
	for _, d := range claimed[:2] {
		b.must(b.s.SetApart(ctx, d))
	}
	again, lanes := b.lanesAsked()
	if len(again) != 2 || len(lanes) != 1 || lanes[0] != hookLane.Only(hook) {
		t.Fatalf("claimed %q of %q", names(again), lanes)
	}
	if d := again[0]; !d.DueAt.Equal(due) || d.Attempts != 0 || d.Lane != lanes[0] || string(d.Payload) != string(payloadOf(d.PredictionID, d.Event)) {
		t.Fatalf("set apart is %+v, was due at %v", d, due)
	}
	// A retry is with the others again.
	b.complete(again[0], store.Retry)
	b.complete(again[1], store.Delivered)
	b.advance(time.Second)
	if again, lanes := b.lanesAsked(); len(again) != 1 || len(lanes) != 1 || lanes[0] != hookLane {
		t.Fatalf("claimed %q of %q", names(again), lanes)
	}
}

func retryApart(t *testing.T, b *tracking) {
	b.trackMany(1)
	o := b.outcome(b.one("0 started"), store.Retry)
	o.Apart = true
	b.must(b.s.Complete(ctx, o))
	b.due()
	b.advance(time.Second)
	claimed, lanes := b.lanesAsked()
	if len(claimed) != 1 || lanes[0] != hookLane.Only(hook) || claimed[0].Attempts != 1 {
		t.Fatalf("claimed %+v of %q", claimed, lanes)
	}
	o = b.outcome(claimed[0], store.Retry)
	o.Apart = true
	b.must(b.s.Complete(ctx, o))
	b.restart()
	b.complete(b.one("0 started"), store.Delivered)
}

func apartFollows(t *testing.T, b *tracking) {
	p, q := b.track("p", event.Started), b.track("q", event.Started)
	claimed := b.due("p started", "q started")
	b.must(b.s.SetApart(ctx, claimed[0]))
	b.set(p, other)
	b.set(q, other)
	b.must(b.s.SetApart(ctx, claimed[1]))
	again, lanes := b.lanesAsked()
	if len(again) != 2 || len(lanes) != 1 || lanes[0] != store.LaneOf(client, other) || again[0].URL != other || again[1].URL != other {
		t.Fatalf("claimed %+v of %q", again, lanes)
	}
}

func holdsClaims(t *testing.T, b *tracking) {
	b.trackMany(3)
	claimed, _ := b.claimed()
	for _, d := range claimed {
		if !b.s.Holds(d) {
			t.Errorf("claim on %s is not held", d.ID)
		}
	}
	b.complete(claimed[0], store.Delivered)
	b.must(b.s.Postpone(ctx, claimed[1], b.now().Add(time.Hour)))
	b.must(b.s.SetApart(ctx, claimed[2]))
	for _, d := range claimed {
		if b.s.Holds(d) {
			t.Errorf("claim on %s is held after it was given back", d.ID)
		}
	}
}

func labelled(t *testing.T, b *tracking) {
	b.track("a", event.Started)
	begun := b.now()
	b.advance(time.Minute)
	d := b.one("a started")
	if d.Lane != hookLane || !d.DueAt.Equal(begun) {
		t.Fatalf("claimed of %q, due %v", d.Lane, d.DueAt)
	}
	b.complete(d, store.Retry)
	due := b.now().Add(time.Second)
	b.restart()
	if d := b.one("a started"); d.Lane != hookLane || !d.DueAt.Equal(due) {
		t.Fatalf("claimed of %q, due %v; want %v", d.Lane, d.DueAt, due)
	}
}
