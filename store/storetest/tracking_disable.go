package storetest

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
)

func disableCancels(t *testing.T, b *tracking) {
	p := b.track("a", event.Started, event.Completed)
	b.set(p, "")
	b.due()
	b.status("a", store.WebhookDisabled)
	b.set(p, hook)
	b.due()
	b.restart()
	b.due()

	p = b.track("b", event.Started)
	b.complete(b.one("b started"), store.Retry)
	b.set(p, "")
	b.advance(time.Hour)
	b.due()
}

func disableClaimed(t *testing.T, b *tracking) {
	for _, v := range []store.Disposition{store.Retry, store.Exhausted, store.Gone} {
		id := fmt.Sprint(v)
		p := b.track(id, event.Started)
		d := b.one(id + " started")
		b.set(p, "")
		b.complete(d, v)
		b.advance(time.Hour)
		b.due()
		b.status(id, store.WebhookDisabled)
		if rows := b.attempts(p); len(rows) != 1 {
			t.Fatalf("log is %+v", rows)
		}
	}
	p := b.track("postponed", event.Started)
	d := b.one("postponed started")
	b.set(p, "")
	b.must(b.s.Postpone(ctx, d, b.now()))
	b.due()
	b.restart()
	b.due()
}

func disableClaimedDelivered(t *testing.T, b *tracking) {
	p := b.track("a", event.Completed)
	d := b.one("a completed")
	b.set(p, "")
	b.complete(d, store.Delivered)
	b.logged(p, "completed 1 200")
	b.status("a", store.WebhookDisabled)
}

func enableAgain(t *testing.T, b *tracking) {
	p := b.track("a")
	b.set(p, "")
	b.observe(p, event.Started)
	b.due()
	b.set(p, other)
	b.status("a", store.WebhookPending)
	b.observe(p, event.Completed)
	b.complete(b.to(other, "a completed"), store.Delivered)
	b.status("a", store.WebhookDelivered)
}

func enableAgainClaimed(t *testing.T, b *tracking) {
	for _, end := range []func(store.Delivery){
		func(d store.Delivery) { b.complete(d, store.Retry) },
		func(d store.Delivery) { b.complete(d, store.Delivered) },
		func(d store.Delivery) { b.must(b.s.Postpone(ctx, d, b.now())) },
	} {
		p := b.track(fmt.Sprint(b.now().UnixMilli()), event.Started)
		d := b.one(p.ID + " started")
		b.set(p, "")
		b.set(p, other)
		b.observe(p, event.Completed)
		b.due()
		end(d)
		b.complete(b.to(other, p.ID+" completed"), store.Delivered)
		b.advance(time.Hour)
		b.due()
		b.status(p.ID, store.WebhookDelivered)
	}
}

func deliveredStays(t *testing.T, b *tracking) {
	p := b.track("a", event.Started, event.Completed)
	b.finish()
	b.set(p, "")
	b.status("a", store.WebhookDelivered)
	b.set(p, other)
	b.status("a", store.WebhookDelivered)
	b.due()
	if err := b.s.SetWebhook(ctx, p.Ref+1000, other, event.All); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("got %v, want not found", err)
	}
}

func disableAndOutcome(t *testing.T, b *tracking) {
	b.together(100, event.All, store.Retry, func(p store.Prediction) error {
		return b.s.SetWebhook(ctx, p.Ref, "", event.All)
	})
	b.advance(time.Hour)
	b.due()
	b.restart()
	b.due()
}

func disableAndEvent(t *testing.T, b *tracking) {
	b.together(100, event.All, store.Delivered, func(p store.Prediction) error {
		var wg sync.WaitGroup
		var observed, disabled error
		wg.Go(func() { observed = b.s.Observe(ctx, p.Ref, p.ID, happened(p.ID, event.Completed)) })
		wg.Go(func() { disabled = b.s.SetWebhook(ctx, p.Ref, "", event.All) })
		wg.Wait()
		return errors.Join(observed, disabled)
	})
	b.due()
	b.restart()
	b.due()
	for i := range 100 {
		b.status(fmt.Sprint(i), store.WebhookDisabled)
	}
}
