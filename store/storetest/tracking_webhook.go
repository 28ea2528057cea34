package storetest

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
)

var webhookCases = []trackingCase{
	{"status follows from the last wanted event", statusByLast},
	{"status when started is sent after the prediction's end", statusByLateStarted},
	{"filter changed while started is on its way", filterChanged},
	{"filter widened after the last wanted event", filterWidened},
	{"filter changed after the end", filterAfterEnd},
	{"filter and outcome at once", filterAndOutcome},
	{"what a native client wants is kept", nativeKept},
	{"gone disables", goneDisables},
	{"gone of a receiver that was replaced", goneReplaced},
	{"new URL takes what is pending", newURL},
	{"new URL takes what waits for a retry", newURLRetry},
	{"new URL takes what is claimed at its next attempt", newURLClaimed},
	{"new URL takes what is postponed", newURLPostponed},
	{"new URL takes the terminal event that waits", newURLWaiting},
	{"disabling cancels what is pending", disableCancels},
	{"disabling ends what is claimed", disableClaimed},
	{"disabling logs what was claimed and succeeds", disableClaimedDelivered},
	{"enabling again before the end", enableAgain},
	{"enabling again while an attempt goes on", enableAgainClaimed},
	{"delivered stays delivered", deliveredStays},
	{"disabling and an outcome at once", disableAndOutcome},
	{"disabling and an event at once", disableAndEvent},
}

// nativeKept: what a client wants of the API's own webhooks comes with each of its
// deliveries, and with no other client's.
func nativeKept(t *testing.T, b *tracking) {
	wanted, err := event.ForFilter([]string{"completed", "start"})
	b.must(err)
	b.wanting("native", wanted, event.Started)
	b.track("other", event.Started)
	claimed := func() map[string]bool {
		t.Helper()
		all, _ := b.claimed()
		native := make(map[string]bool)
		for _, d := range all {
			native[d.PredictionID] = d.Native
		}
		return native
	}
	if got := claimed(); len(got) != 2 || !got["native"] || got["other"] {
		t.Fatalf("claimed %v", got)
	}
	b.restart()
	if got := claimed(); len(got) != 2 || !got["native"] || got["other"] {
		t.Fatalf("claimed after a restart: %v", got)
	}
	if p := b.find("native"); p.Events != wanted {
		t.Fatalf("it wants %b, not %b", p.Events, wanted)
	}
	// Without a started event there is nothing for the terminal one to wait for.
	b.wanting("at once", wanted, event.Completed)
	b.one("at once completed")
	// All that can be wanted can be kept.
	most := wanted | event.All | event.Native
	for _, filter := range [][]string{nil, {"completed", "logs", "output", "start"}} {
		s, err := event.ForFilter(filter)
		b.must(err)
		most = max(most, s|event.All)
	}
	b.wanting("most", most)
	if p := b.find("most"); p.Events != most {
		t.Fatalf("it wants %b, not %b", p.Events, most)
	}
}

func statusByLast(t *testing.T, b *tracking) {
	started, completed, failed := event.Started, event.Completed, event.Failed
	for _, c := range []struct {
		name     string
		wanted   event.Set
		events   []event.Set
		verdicts []store.Disposition
		want     store.WebhookStatus
	}{
		{"nothing yet", event.All, nil, nil, store.WebhookPending},
		{"started sent", event.All, []event.Set{started}, []store.Disposition{store.Delivered}, store.WebhookPending},
		{"all sent", event.All, []event.Set{started, completed}, []store.Disposition{store.Delivered, store.Delivered}, store.WebhookDelivered},
		{"failure sent", event.All, []event.Set{started, failed}, []store.Disposition{store.Delivered, store.Delivered}, store.WebhookDelivered},
		{"terminal given up", event.All, []event.Set{started, completed}, []store.Disposition{store.Delivered, store.Exhausted}, store.WebhookFailed},
		{"terminal waits for a retry", event.All, []event.Set{started, completed}, []store.Disposition{store.Delivered, store.Retry}, store.WebhookPending},
		{"started superseded", event.All, []event.Set{started, completed}, []store.Disposition{store.Exhausted, store.Delivered}, store.WebhookDelivered},
		{"only started, sent", started, []event.Set{started}, []store.Disposition{store.Delivered}, store.WebhookDelivered},
		{"only started, given up", started, []event.Set{started}, []store.Disposition{store.Exhausted}, store.WebhookFailed},
		{"only started, given up, then the end", started, []event.Set{started, completed}, []store.Disposition{store.Exhausted}, store.WebhookFailed},
		{"only failed, running", failed, []event.Set{started}, nil, store.WebhookPending},
		{"only failed, and it succeeded", failed, []event.Set{started, completed}, nil, store.WebhookDelivered},
		{"only failed, and it did", failed, []event.Set{started, failed}, []store.Disposition{store.Delivered}, store.WebhookDelivered},
		{"all but failed, and it failed", started | completed, []event.Set{started, failed}, []store.Disposition{store.Delivered}, store.WebhookDelivered},
		{"all but failed, and so did all", started | completed, []event.Set{started, failed}, []store.Disposition{store.Exhausted}, store.WebhookFailed},
	} {
		// What happened before tracking and what is observed one by one
		// come to the same.
		for _, way := range []string{"at once", "observed"} {
			id := fmt.Sprintf("%s (%s)", c.name, way)
			var p store.Prediction
			if way == "at once" {
				p = b.wanting(id, c.wanted, c.events...)
			} else {
				p = b.wanting(id, c.wanted)
				for _, e := range c.events {
					b.observe(p, e)
				}
			}
			for _, v := range c.verdicts {
				claimed, _ := b.claimed()
				if len(claimed) != 1 {
					t.Fatalf("%s: due: %q", id, names(claimed))
				}
				b.complete(claimed[0], v)
			}
			b.due()
			b.status(id, c.want)
			if c.want == store.WebhookPending {
				b.set(p, "") // out of the way of the others
			}
		}
	}
}

func statusByLateStarted(t *testing.T, b *tracking) {
	for _, c := range []struct {
		id          string
		disposition store.Disposition
		want        store.WebhookStatus
	}{
		{"delivered", store.Delivered, store.WebhookDelivered},
		{"exhausted", store.Exhausted, store.WebhookFailed},
	} {
		p := b.wanting(c.id, event.Started|event.Completed, event.Started)
		b.complete(b.one(c.id+" started"), store.Retry)
		b.observe(p, event.Failed)
		b.status(c.id, store.WebhookPending)
		b.restart()
		b.complete(b.one(c.id+" started"), c.disposition)
		b.status(c.id, c.want)

		id := c.id + " before"
		p = b.wanting(id, event.Started|event.Completed, event.Started)
		b.complete(b.one(id+" started"), c.disposition)
		b.status(id, store.WebhookPending)
		b.observe(p, event.Failed)
		b.status(id, c.want)
	}
}

func filterChanged(t *testing.T, b *tracking) {
	p := b.wanting("a", event.Started, event.Started)
	d := b.one("a started")
	b.must(b.s.SetWebhook(ctx, p.Ref, hook, event.All))
	b.complete(d, store.Delivered)
	b.status("a", store.WebhookPending)
	b.observe(p, event.Completed)
	b.complete(b.one("a completed"), store.Exhausted)
	b.status("a", store.WebhookFailed)

	p = b.wanting("b", event.All, event.Started)
	b.must(b.s.SetWebhook(ctx, p.Ref, hook, event.Started))
	b.complete(b.one("b started"), store.Delivered)
	b.status("b", store.WebhookDelivered)
	b.observe(p, event.Completed)
	b.due()
}

func filterWidened(t *testing.T, b *tracking) {
	p := b.wanting("a", event.Started, event.Started)
	b.complete(b.one("a started"), store.Delivered)
	b.status("a", store.WebhookDelivered)
	b.must(b.s.SetWebhook(ctx, p.Ref, hook, event.All))
	b.status("a", store.WebhookPending)
	b.observe(p, event.Completed)
	b.complete(b.one("a completed"), store.Delivered)
	b.status("a", store.WebhookDelivered)
}

func filterAfterEnd(t *testing.T, b *tracking) {
	p := b.wanting("a", event.Started, event.Started, event.Completed)
	d := b.one("a started")
	b.must(b.s.SetWebhook(ctx, p.Ref, hook, event.All))
	b.complete(d, store.Delivered)
	b.due()
	b.status("a", store.WebhookDelivered)

	p = b.wanting("b", event.All, event.Started, event.Completed)
	b.must(b.s.SetWebhook(ctx, p.Ref, hook, event.Started))
	b.restart()
	b.complete(b.one("b started"), store.Delivered)
	b.status("b", store.WebhookPending)
	b.complete(b.one("b completed"), store.Exhausted)
	b.status("b", store.WebhookFailed)
}

// filterAndOutcome ends predictions that want no such end while their started
// event is on its way: whichever comes first, the status is known in the end.
func filterAndOutcome(t *testing.T, b *tracking) {
	b.together(100, event.Started|event.Completed, store.Delivered, func(p store.Prediction) error {
		return b.s.Observe(ctx, p.Ref, p.ID, happened(p.ID, event.Failed))
	})
	b.due()
	for i := range 100 {
		b.status(fmt.Sprint(i), store.WebhookDelivered)
	}
}

// together completes the started events of n predictions while f is done to
// each of them.
func (b *tracking) together(n int, wanted event.Set, v store.Disposition, f func(store.Prediction) error) {
	b.t.Helper()
	tracked := make(map[int64]store.Prediction)
	for i := range n {
		p := b.wanting(fmt.Sprint(i), wanted, event.Started)
		tracked[p.Ref] = p
	}
	claimed, _ := b.claimed()
	var wg sync.WaitGroup
	for _, d := range claimed {
		wg.Go(func() {
			if err := f(tracked[d.Prediction]); err != nil {
				b.t.Error(err)
			}
		})
		wg.Go(func() {
			if err := b.s.Complete(ctx, b.outcome(d, v)); err != nil {
				b.t.Error(err)
			}
		})
	}
	wg.Wait()
}

func goneDisables(t *testing.T, b *tracking) {
	p := b.track("a", event.Started, event.Completed)
	b.complete(b.one("a started"), store.Gone)
	b.due()
	b.status("a", store.WebhookDisabled)
	if got := b.find("a").URL; got != "" {
		t.Fatalf("URL is %s", got)
	}
	b.restart()
	b.due()
	b.status("a", store.WebhookDisabled)
	b.logged(p, "started 1 410")

	p = b.track("b", event.Started)
	b.complete(b.one("b started"), store.Gone)
	b.observe(p, event.Completed)
	b.due()
	b.status("b", store.WebhookDisabled)
}

func goneReplaced(t *testing.T, b *tracking) {
	p := b.track("a", event.Started)
	d := b.one("a started")
	b.set(p, other)
	b.complete(d, store.Gone)
	d = b.one("a started")
	if d.URL != other || d.Attempts != 1 {
		t.Fatalf("goes on as %+v", d)
	}
	b.complete(d, store.Delivered)
	b.status("a", store.WebhookPending)
}

// to asserts where the one delivery that is due goes.
func (b *tracking) to(url, want string) store.Delivery {
	b.t.Helper()
	var asked []string
	claimed, _, err := b.s.ClaimDeliveries(ctx, 1000, func(lane store.Lane) store.Slots {
		asked = append(asked, lane.Endpoint)
		return store.Slots{N: 10}
	})
	b.must(err)
	if len(claimed) != 1 || names(claimed)[0] != want || claimed[0].URL != url || len(asked) != 1 || asked[0] != store.EndpointOf(url) {
		b.t.Fatalf("due: %+v with slots of %q, want %s to %s", claimed, asked, want, url)
	}
	return claimed[0]
}

func newURL(t *testing.T, b *tracking) {
	p := b.track("a", event.Started, event.Completed)
	b.set(p, other)
	b.complete(b.to(other, "a started"), store.Delivered)
	b.complete(b.to(other, "a completed"), store.Delivered)
	b.status("a", store.WebhookDelivered)
	if rows := b.attempts(p); rows[0].URL != other {
		t.Fatalf("log says %s", rows[0].URL)
	}
}

func newURLRetry(t *testing.T, b *tracking) {
	p := b.track("a", event.Started)
	o := b.outcome(b.one("a started"), store.Retry)
	o.Due = b.now().Add(time.Hour) // the old receiver has asked for it
	b.must(b.s.Complete(ctx, o))
	b.set(p, hook) // no change
	b.due()
	b.set(p, other)
	b.complete(b.to(other, "a started"), store.Retry)
	b.restart()
	o = b.outcome(b.to(other, "a started"), store.Retry)
	o.Due = b.now().Add(time.Hour)
	b.must(b.s.Complete(ctx, o))
	b.set(p, hook)
	b.restart()
	b.to(hook, "a started")
}

func newURLClaimed(t *testing.T, b *tracking) {
	p := b.track("a", event.Started)
	d := b.one("a started")
	b.set(p, other)
	o := b.outcome(d, store.Retry)
	o.Due = b.now().Add(time.Hour)
	b.must(b.s.Complete(ctx, o))
	b.to(other, "a started")
}

func newURLPostponed(t *testing.T, b *tracking) {
	p := b.track("a", event.Started)
	d := b.one("a started")
	b.set(p, other)
	b.must(b.s.Postpone(ctx, d, b.now().Add(time.Second)))
	b.advance(time.Second)
	d = b.to(other, "a started")
	b.must(b.s.Postpone(ctx, d, b.now().Add(time.Second)))
	b.set(p, hook)
	b.advance(time.Second)
	b.to(hook, "a started")
}

func newURLWaiting(t *testing.T, b *tracking) {
	p := b.track("a", event.Started, event.Completed)
	d := b.one("a started")
	b.set(p, other)
	b.complete(d, store.Delivered)
	b.to(other, "a completed")
}
