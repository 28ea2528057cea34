package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// RunInbox runs the suite for inbound events. Each test gets a resource of its own
// from fresh.
func RunInbox(t *testing.T, fresh func(t *testing.T) Resource) {
	runGroups(t, fresh, func(b *bench) *inbox { return &inbox{&tracking{b}} }, []group[*inbox]{
		{"accept", acceptCases},
		{"bounds", boundCases},
		{"order", inboxOrderCases},
		{"outcomes", inboxOutcomeCases},
		{"operators", inboxOperatorCases},
		{"keeping", inboxKeepingCases},
		{"lists", inboxListCases},
		{"model", modelCases(inboxModel)},
	})
}

// inbox is one test's store and clock. Its events are told by their names, and are
// in the scope "default" unless a test says otherwise.
type inbox struct{ *tracking }

// inboxLane is where the events of the scope "default" wait.
var inboxLane = store.InboxLane("default")

// event returns an event, which is ordered if it is of a prediction.
func (b *inbox) event(name, prediction string) *store.Inbound {
	return &store.Inbound{
		Scope: "default", Name: name, PredictionID: prediction, Ordered: prediction != "",
		Head: []byte("head " + name), Body: []byte("body " + name),
	}
}

// accepted commits an event under its name as the key, and returns its ID.
func (b *inbox) accepted(ev *store.Inbound) string {
	b.t.Helper()
	return b.acceptedAs(b.entry(ev.Name), ev)
}

func (b *inbox) acceptedAs(e store.Entry, ev *store.Inbound) string {
	b.t.Helper()
	e.Scope = ev.Scope
	b.must(b.claim(e).CommitEvent(ctx, ev))
	if ev.ID == "" {
		b.t.Fatalf("event %s has no ID", ev.Name)
	}
	return ev.ID
}

// accept commits an event of each name, of a prediction or none.
func (b *inbox) accept(prediction string, names ...string) {
	b.t.Helper()
	for _, name := range names {
		b.accepted(b.event(name, prediction))
	}
}

// events asserts which events are due now, in this order, and claims them.
func (b *inbox) events(want ...string) []store.Delivery {
	b.t.Helper()
	claimed, _ := b.claimed()
	if got := eventNames(claimed); !slices.Equal(got, want) {
		b.t.Fatalf("due: %q, want %q", got, want)
	}
	return claimed
}

func (b *inbox) next(want string) store.Delivery {
	b.t.Helper()
	return b.events(want)[0]
}

func eventNames(deliveries []store.Delivery) (names []string) {
	for _, d := range deliveries {
		if d.Inbound == nil {
			names = append(names, "delivery "+d.ID)
			continue
		}
		names = append(names, d.Inbound.Name)
	}
	return names
}

// attempt completes an attempt. A retry is due a second later.
func (b *inbox) attempt(d store.Delivery, v store.Disposition, refused bool) {
	b.t.Helper()
	b.must(b.s.Complete(ctx, b.attempted(d, v, refused)))
}

func (b *inbox) attempted(d store.Delivery, v store.Disposition, refused bool) store.Outcome {
	o := b.outcome(d, v)
	o.Refused = refused
	if v == store.Retry && !refused {
		o.Attempt.Status, o.Attempt.Error = 0, "connection refused"
	}
	return o
}

func (b *inbox) succeed(d store.Delivery) { b.t.Helper(); b.attempt(d, store.Delivered, false) }
func (b *inbox) refuse(d store.Delivery)  { b.t.Helper(); b.attempt(d, store.Retry, true) }

// refuseOften has an event, which is the only one due, refused as many times as the
// later ones wait for.
func (b *inbox) refuseOften(name string) {
	b.t.Helper()
	for range store.MaxRefusals {
		b.refuse(b.next(name))
		b.advance(time.Second)
	}
}

// found returns what operators see of an event.
func (b *inbox) found(id string) store.DeliveryRow {
	b.t.Helper()
	r, _, err := b.s.FindDelivery(ctx, id)
	b.must(err)
	if r.ID != id || r.Inbound == nil || r.Inbound.ID != id {
		b.t.Fatalf("finding %s got %+v", id, r)
	}
	return r
}

func (b *inbox) state(id, want string) {
	b.t.Helper()
	if got := b.found(id).State.EventState(); got != want {
		b.t.Fatalf("%s is %s, want %s", id, got, want)
	}
}

// listed returns the names of the events that a filter selects, newest first.
func (b *inbox) listed(f store.DeliveryFilter) (names []string) {
	b.t.Helper()
	f.Inbound = true
	if f.Limit == 0 {
		f.Limit = 1000
	}
	for {
		rows, next, err := b.s.ListDeliveries(ctx, f)
		b.must(err)
		for _, r := range rows {
			if r.Inbound == nil || r.Payload != nil || r.Inbound.Head != nil || r.Inbound.Body != nil {
				b.t.Fatalf("%+v is listed", r)
			}
			names = append(names, r.Inbound.Name)
		}
		if f.Before = next; next == 0 {
			return names
		}
	}
}

// usage returns what operators see of a scope's inbox.
func (b *inbox) usage(scope string) store.InboxState {
	b.t.Helper()
	all, err := b.s.Inboxes(ctx)
	b.must(err)
	for _, s := range all {
		if s.Scope == scope {
			return s
		}
	}
	return store.InboxState{Scope: scope}
}

// refusedBy asserts the error of committing an event.
func (b *inbox) refusedBy(ev *store.Inbound, want error) {
	b.t.Helper()
	e := b.entry(ev.Name)
	e.Scope = ev.Scope
	if err := b.claim(e).CommitEvent(ctx, ev); !errors.Is(err, want) || ev.ID != "" {
		b.t.Fatalf("committing %s: got %v, ID %q, want %v", ev.Name, err, ev.ID, want)
	}
}

var acceptCases = []inboxCase{
	{"accepted event is handed out", acceptedIsHandedOut},
	{"accepted event survives reopening", acceptedSurvives},
	{"accepted event is a duplicate", acceptedIsDuplicate},
	{"event of a claim that was released is not stored", releasedIsNotStored},
	{"event without keys", acceptWithoutKeys},
	{"large event", acceptLarge},
	{"late commit stores the event once", lateCommitOnce},
	{"many commits at once", acceptMany},
	{"acceptance is signaled", acceptSignals},
	{"slots bound what is handed out", acceptSlots},
	{"entry lives as long as its event waits", entryOutlives},
	{"entry without an event that waits expires", entryExpires},
	{"closed is unavailable", inboxClosed},
}

func acceptedIsHandedOut(t *testing.T, b *inbox) {
	ev := b.event("prediction.completed", "p")
	ev.Body = []byte("\x00\xff body")
	id := b.accepted(ev)
	at := b.now()
	b.advance(time.Second)
	d := b.next("prediction.completed")
	in := d.Inbound
	if d.ID != id || in.ID != id || in.Scope != "default" || in.PredictionID != "p" || d.PredictionID != "p" || !in.Ordered ||
		string(in.Head) != "head prediction.completed" || string(d.Payload) != "\x00\xff body" || d.Lane != inboxLane || d.Attempts != 0 ||
		d.Refusals != 0 || d.Overtaken || d.Replay || !d.WaitingSince.Equal(at) || !d.CreatedAt.Equal(at) || !d.DueAt.Equal(at) || d.Client != "" || d.URL != "" {
		t.Fatalf("handed out %+v with %+v", d, in)
	}
	if !b.s.Holds(d) {
		t.Fatal("the claim is not held")
	}
	if r := b.found(id); !r.Claimed || !r.Replayable {
		t.Fatalf("during the attempt it is listed as %+v", r)
	}
	b.events()
	b.succeed(d)
	if r := b.found(id); r.Claimed || !r.Replayable {
		t.Fatalf("after the attempt it is listed as %+v", r)
	}
	if b.s.Holds(d) {
		t.Fatal("the claim is held after its outcome")
	}
	b.events()
	b.restart()
	b.events()
	b.state(id, "accepted")
}

func acceptedSurvives(t *testing.T, b *inbox) {
	b.accept("", "a", "b")
	b.refuse(b.events("a", "b")[0])
	b.restart()
	claimed, _ := b.claimed()
	names := eventNames(claimed)
	slices.Sort(names)
	if !slices.Equal(names, []string{"a", "b"}) {
		t.Fatalf("due: %q", names)
	}
	for _, d := range claimed {
		if string(d.Payload) != "body "+d.Inbound.Name || string(d.Inbound.Head) != "head "+d.Inbound.Name {
			t.Errorf("%s came with %q and %q", d.Inbound.Name, d.Inbound.Head, d.Payload)
		}
		want := 0
		if d.Inbound.Name == "a" {
			want = 1
		}
		if d.Attempts != want || d.Refusals != want {
			t.Errorf("%s has %d attempts and %d refusals, want %d", d.Inbound.Name, d.Attempts, d.Refusals, want)
		}
	}
}

func acceptedIsDuplicate(_ *testing.T, b *inbox) {
	b.accept("p", "a")
	b.refused(b.entry("a"), store.ErrDuplicate)
	b.restart()
	b.refused(b.entry("a"), store.ErrDuplicate)
	b.succeed(b.next("a"))
	b.refused(b.entry("a"), store.ErrDuplicate)
}

func releasedIsNotStored(_ *testing.T, b *inbox) {
	b.claim(b.entry("a")).Release()
	b.events()
	b.accept("", "a")
	b.next("a")
}

// acceptWithoutKeys: what is not deduplicated is stored as often as it comes.
func acceptWithoutKeys(t *testing.T, b *inbox) {
	for range 2 {
		b.acceptedAs(store.Entry{}, b.event("a", ""))
	}
	for _, d := range b.events("a", "a") {
		b.succeed(d)
	}
	counts, err := b.s.Counts(ctx)
	b.must(err)
	if counts.Entries != 0 {
		t.Errorf("%d entries are stored", counts.Entries)
	}
	b.restart()
	b.events()
	if n := len(b.listed(store.DeliveryFilter{})); n != 2 {
		t.Errorf("%d events are listed", n)
	}
}

func acceptLarge(t *testing.T, b *inbox) {
	ev := b.event("a", "")
	ev.Body = make([]byte, 5<<20)
	for i := range ev.Body {
		ev.Body[i] = byte(i * 7)
	}
	b.accepted(ev)
	b.restart()
	if d := b.next("a"); string(d.Payload) != string(ev.Body) {
		t.Error("the body is not as it was accepted")
	}
}

// lateCommitOnce: a commit whose caller has left may become durable or not. The
// sender's retry ends with the event stored once.
func lateCommitOnce(t *testing.T, b *inbox) {
	gone, leave := context.WithCancel(ctx)
	leave()
	const n = 40
	for i := range n {
		name := fmt.Sprint("e", i)
		c := b.claim(b.entry(name))
		ev := b.event(name, "p")
		err := c.CommitEvent(gone, ev)
		c.Release()
		if err == nil {
			continue
		}
		if ev.ID != "" {
			t.Fatalf("%s has the ID %s after %v", name, ev.ID, err)
		}
		again, err := b.s.Claim(ctx, b.entry(name), time.Minute)
		switch {
		case errors.Is(err, store.ErrDuplicate):
			continue
		case err != nil:
			t.Fatal(err)
		case !again.Forwarded():
			t.Fatal("the retry knows nothing of the commit")
		}
		ev = b.event(name, "p")
		b.must(again.CommitEvent(ctx, ev))
		if b.found(ev.ID).Inbound.Name != name {
			t.Fatalf("%s is another event", ev.ID)
		}
	}
	b.restart()
	if got := b.listed(store.DeliveryFilter{}); len(got) != n {
		t.Fatalf("%d events are stored, want %d", len(got), n)
	}
	for i := range n {
		b.succeed(b.next(fmt.Sprint("e", i)))
	}
	b.events()
}

func acceptMany(t *testing.T, b *inbox) {
	const n = 300
	errs := make(chan error, n)
	for i := range n {
		go func() {
			name := fmt.Sprint(i)
			c, err := b.s.Claim(ctx, b.entry(name), 0)
			if err == nil {
				err = c.CommitEvent(ctx, b.event(name, fmt.Sprint("p", i%100)))
			}
			errs <- err
		}()
	}
	for range n {
		b.must(<-errs)
	}
	total := 0
	for range 3 {
		claimed, _ := b.claimed()
		if len(claimed) != 100 {
			t.Fatalf("%d events are due, want one of each prediction", len(claimed))
		}
		total += len(claimed)
		for _, d := range claimed {
			b.succeed(d)
		}
	}
	b.events()
	if got := b.usage("default"); got.Events[store.DeliveryDelivered] != n || got.Events[store.DeliveryPending] != 0 {
		t.Errorf("%d were handed out, the inbox is %+v", total, got)
	}
}

func acceptSignals(_ *testing.T, b *inbox) {
	changed, stop := b.s.Changed()
	defer stop()
	b.accept("", "a")
	<-changed
}

func acceptSlots(t *testing.T, b *inbox) {
	b.accept("", "a", "b", "c")
	other := b.event("other", "")
	other.Scope = "other"
	b.accepted(other)
	claimed, _, err := b.s.ClaimDeliveries(ctx, 10, func(l store.Lane) store.Slots {
		if l == inboxLane {
			return store.Slots{N: 2}
		}
		return store.Slots{N: 10}
	})
	b.must(err)
	names := eventNames(claimed)
	slices.Sort(names)
	if !slices.Equal(names, []string{"a", "b", "other"}) {
		t.Fatalf("due: %q", names)
	}
	b.events() // the lane is not asked for again
	b.s.Resume(inboxLane)
	b.next("c")
}

// entryOutlives: the sender's retry is a duplicate for as long as the event waits.
func entryOutlives(_ *testing.T, b *inbox) {
	b.accept("", "a")
	b.advance(48 * time.Hour)
	for range 2 {
		b.purge()
		b.refused(b.entry("a"), store.ErrDuplicate)
		b.restart()
	}
	b.succeed(b.next("a"))
	b.purge()
	b.claim(b.entry("a")).Release()
}

// entryExpires: other entries expire while an event of a newer one waits.
func entryExpires(_ *testing.T, b *inbox) {
	old := b.entry("old")
	old.SignedAt = time.Time{}
	b.commit(old)
	b.advance(30 * time.Minute)
	b.accept("", "waits")
	b.advance(45 * time.Minute) // the old entry has expired, the new one has not
	b.purge()
	b.claim(old).Release()
	b.refused(b.entry("waits"), store.ErrDuplicate)
	b.advance(time.Hour)
	b.purge()
	b.refused(b.entry("waits"), store.ErrDuplicate)
}

func inboxClosed(t *testing.T, b *inbox) {
	b.accept("", "a", "b")
	claimed := b.events("a", "b")
	c := b.claim(b.entry("c"))
	in := b.s
	b.must(b.s.Close())
	_, claiming := b.s.Claim(ctx, b.entry("d"), 0)
	for name, err := range map[string]error{
		"claim":    claiming,
		"commit":   c.CommitEvent(ctx, b.event("c", "")),
		"complete": b.s.Complete(ctx, b.attempted(claimed[0], store.Delivered, false)),
		"pause":    in.SetPaused(ctx, "default", true),
		"inboxes":  second(in.Inboxes(ctx)),
		"retry":    in.RetryEvent(ctx, claimed[1].ID),
		"discard":  in.DiscardEvent(ctx, claimed[1].ID),
		"replay":   in.ReplayEvent(ctx, claimed[1].ID),
	} {
		if !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s: got %v, want unavailable", name, err)
		}
	}
}

var boundCases = []inboxCase{
	{"inbox of many events is full", boundEvents},
	{"bodies of ended events make room", boundBytes},
	{"waiting events are never deleted", boundSparesWaiting},
	{"usage survives reopening", boundReopened},
}

func boundEvents(t *testing.T, b *inbox) {
	bounded := func(name string) *store.Inbound {
		ev := b.event(name, "")
		ev.MaxEvents = 2
		return ev
	}
	b.accepted(bounded("a"))
	b.accepted(bounded("b"))
	b.refusedBy(bounded("c"), store.ErrInboxFull)
	other := bounded("other")
	other.Scope = "other"
	b.accepted(other) // has bounds of its own
	b.restart()
	b.refusedBy(bounded("c"), store.ErrInboxFull) // the claim of before was released
	claimed, _ := b.claimed()
	i := slices.IndexFunc(claimed, func(d store.Delivery) bool { return d.Inbound.Name == "a" })
	b.succeed(claimed[i])
	b.accepted(bounded("c"))
	b.refusedBy(bounded("d"), store.ErrInboxFull)
	if got := b.usage("default"); got.Events[store.DeliveryPending] != 2 || got.Events[store.DeliveryDelivered] != 1 {
		t.Errorf("the inbox is %+v", got)
	}
}

// sized returns an event of 100 bytes, of which max may be stored.
func (b *inbox) sized(name string, max int64) *store.Inbound {
	ev := b.event(name, "")
	ev.Head, ev.Body, ev.MaxBytes = make([]byte, 40), make([]byte, 60), max
	return ev
}

func boundBytes(t *testing.T, b *inbox) {
	var ids []string
	for _, name := range []string{"a", "b", "c"} {
		ids = append(ids, b.accepted(b.sized(name, 350)))
	}
	claimed := b.events("a", "b", "c")
	b.succeed(claimed[1]) // the first that ends
	b.advance(time.Second)
	b.succeed(claimed[0])
	if got := b.usage("default").Bytes; got != 300 {
		t.Fatalf("%d bytes are stored, want 300", got)
	}
	b.accepted(b.sized("d", 350))
	gone := func(want ...bool) {
		t.Helper()
		for i, id := range ids {
			if r := b.found(id); r.Replayable == want[i] || (r.Payload == nil) != want[i] || (r.Inbound.Head == nil) != want[i] {
				t.Fatalf("event %d has %d bytes of head and %d of body", i, len(r.Inbound.Head), len(r.Payload))
			}
		}
	}
	gone(false, true, false)
	if err := b.s.ReplayEvent(ctx, ids[1]); !errors.Is(err, store.ErrNoBody) {
		t.Fatalf("replaying it: %v", err)
	}
	b.accepted(b.sized("e", 350))
	gone(true, true, false)
	b.refusedBy(b.sized("f", 350), store.ErrInboxFull)
	b.refusedBy(b.sized("f", 99), store.ErrInboxFull)
	if got := b.usage("default"); got.Bytes != 300 || got.Events[store.DeliveryDelivered] != 2 || got.Events[store.DeliveryPending] != 3 {
		t.Errorf("the inbox is %+v", got)
	}
	b.succeed(claimed[2])
	b.accepted(b.sized("f", 350))
	gone(true, true, true)
}

func boundSparesWaiting(t *testing.T, b *inbox) {
	b.accepted(b.sized("a", 250))
	id := b.accepted(b.sized("b", 250))
	b.refusedBy(b.sized("c", 250), store.ErrInboxFull)
	claimed := b.events("a", "b")
	b.succeed(claimed[1])
	b.must(b.s.ReplayEvent(ctx, id)) // waits again
	b.refusedBy(b.sized("c", 250), store.ErrInboxFull)
	b.refuse(claimed[0])
	b.restart()
	for range 2 {
		b.refusedBy(b.sized("c", 250), store.ErrInboxFull)
	}
	again, _ := b.claimed()
	for _, d := range again {
		if len(d.Payload) != 60 || len(d.Inbound.Head) != 40 {
			t.Errorf("%s has lost its body", d.Inbound.Name)
		}
	}
}

func boundReopened(t *testing.T, b *inbox) {
	b.accept("p", "a", "b", "c")
	b.succeed(b.next("a"))
	b.attempt(b.next("b"), store.Exhausted, true)
	other := b.event("other", "")
	other.Scope = "other"
	b.accepted(other)
	before, err := b.s.Inboxes(ctx)
	b.must(err)
	b.reopen()
	after, err := b.s.Inboxes(ctx)
	b.must(err)
	if !slices.Equal(before, after) || len(after) != 2 {
		t.Errorf("inboxes are %+v, were %+v", after, before)
	}
	want := store.InboxState{Scope: "default", Bytes: 36, OldestWaiting: b.now()}
	want.Events[store.DeliveryPending], want.Events[store.DeliveryDelivered], want.Events[store.DeliveryFailed] = 1, 1, 1
	if got := after[0]; got != want {
		t.Errorf("the inbox is %+v, want %+v", got, want)
	}
}
