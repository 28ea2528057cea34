package storetest

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
)

var orderCases = []trackingCase{
	{"terminal event waits for started's first outcome", terminalWaits},
	{"terminal event is due once started is delivered", terminalAfterDelivered},
	{"started that fails is superseded", startedFailsSuperseded},
	{"started that waits for a retry is superseded", waitingSuperseded},
	{"started in flight holds up the terminal event", inFlightHolds},
	{"started postponed holds up the terminal event", postponedHolds},
	{"started given up leaves the webhook pending", startedExhausted},
	{"terminal event still waits after reopening", waitsAfterReopen},
	{"superseded stays so after reopening", supersededSurvives},
	{"outcome and terminal event at once", outcomeAndTerminal},
}

func terminalWaits(t *testing.T, b *tracking) {
	p := b.track("a", event.Started)
	b.observe(p, event.Completed)
	d := b.one("a started")
	b.advance(time.Hour)
	b.due()
	b.complete(d, store.Delivered)
	b.due("a completed")
}

func terminalAfterDelivered(t *testing.T, b *tracking) {
	p := b.track("a", event.Started)
	b.complete(b.one("a started"), store.Delivered)
	b.observe(p, event.Failed)
	b.due("a failed")
}

func startedFailsSuperseded(t *testing.T, b *tracking) {
	for _, c := range []struct {
		id          string
		disposition store.Disposition
	}{{"retry", store.Retry}, {"exhausted", store.Exhausted}} {
		p := b.track(c.id, event.Started, event.Completed)
		b.complete(b.one(c.id+" started"), c.disposition)
		d := b.one(c.id + " completed")
		b.advance(time.Hour)
		b.due()
		b.complete(d, store.Delivered)
		b.restart()
		b.due()
		b.status(c.id, store.WebhookDelivered)
		b.logged(p, "completed 1 200", "started 1 500")
	}
}

func waitingSuperseded(t *testing.T, b *tracking) {
	p := b.track("a", event.Started)
	b.complete(b.one("a started"), store.Retry)
	b.observe(p, event.Completed)
	b.complete(b.one("a completed"), store.Delivered)
	b.advance(time.Hour)
	b.due()
	b.status("a", store.WebhookDelivered)
}

func inFlightHolds(t *testing.T, b *tracking) {
	p := b.track("a", event.Started)
	b.complete(b.one("a started"), store.Retry)
	b.advance(time.Second)
	d := b.one("a started") // the second attempt
	b.observe(p, event.Completed)
	b.due()
	b.complete(d, store.Retry)
	b.due("a completed")
	b.advance(time.Hour)
	b.due()
}

func postponedHolds(t *testing.T, b *tracking) {
	p := b.track("a", event.Started)
	b.must(b.s.Postpone(ctx, b.one("a started"), b.now().Add(time.Minute)))
	b.observe(p, event.Completed)
	b.due()
	b.advance(time.Minute)
	b.complete(b.one("a started"), store.Delivered)
	b.due("a completed")
}

func startedExhausted(t *testing.T, b *tracking) {
	p := b.track("a", event.Started)
	b.complete(b.one("a started"), store.Exhausted)
	b.due()
	b.status("a", store.WebhookPending)
	b.restart()
	b.due()
	b.observe(p, event.Completed)
	b.complete(b.one("a completed"), store.Delivered)
	b.status("a", store.WebhookDelivered)
}

func waitsAfterReopen(t *testing.T, b *tracking) {
	b.track("a", event.Started, event.Completed)
	b.restart()
	d := b.one("a started")
	b.due()
	b.complete(d, store.Delivered)
	b.due("a completed")
	b.restart()
	b.due("a completed")
}

func supersededSurvives(t *testing.T, b *tracking) {
	p := b.track("a", event.Started)
	b.complete(b.one("a started"), store.Retry)
	b.observe(p, event.Failed)
	b.restart()
	b.due("a failed")
}

// outcomeAndTerminal lets an attempt's outcome and the terminal event come
// together, so that they share a transaction in one order or the other.
func outcomeAndTerminal(t *testing.T, b *tracking) {
	const n = 100
	tracked := make(map[string]store.Prediction)
	for i := range n {
		p := b.track(fmt.Sprint(i), event.Started)
		tracked[p.ID] = p
	}
	claimed, _ := b.claimed()
	var wg sync.WaitGroup
	for _, d := range claimed {
		p := tracked[d.PredictionID]
		wg.Go(func() {
			if err := b.s.Complete(ctx, b.outcome(d, store.Retry)); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if err := b.s.Observe(ctx, p.Ref, p.ID, happened(p.ID, event.Completed)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	claimed, next := b.claimed()
	if len(claimed) != n || !next.IsZero() {
		t.Fatalf("%d are due, want the terminal events of %d alone; next %v", len(claimed), n, next)
	}
	for _, d := range claimed {
		if d.Event != event.Completed {
			t.Fatalf("due: %q", names(claimed))
		}
	}
	b.restart()
	if claimed, _ := b.claimed(); len(claimed) != n {
		t.Fatalf("%d are due after reopening, want %d", len(claimed), n)
	}
}
