package storetest

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
)

var findDeliveryCases = []trackingCase{
	{"with its payload and attempts", findDelivery},
	{"that is not there", findNoDelivery},
	{"redelivered", redeliverDelivery},
	{"redelivered that was never tried", redeliverUntried},
	{"redelivered to a disabled webhook", redeliverDeliveryDisabled},
	{"redelivered that is not there", redeliverNoDelivery},
}

func findDelivery(t *testing.T, b *tracking) {
	b.track("other", event.Started)
	b.finish()
	p := b.track("a", event.Started, event.Completed)
	b.complete(b.one("a started"), store.Delivered)
	d := b.one("a completed")
	find := func() (store.DeliveryRow, []store.Attempt) {
		t.Helper()
		row, attempts, err := b.s.FindDelivery(ctx, d.ID)
		b.must(err)
		return row, attempts
	}
	row, attempts := find()
	if row.ID != d.ID || string(row.Payload) != string(d.Payload) || row.State != store.DeliveryPending || row.PredictionID != "a" || len(attempts) != 0 {
		t.Fatalf("found %+v with %d attempts", row, len(attempts))
	}
	b.complete(d, store.Retry)
	b.advance(time.Second)
	b.complete(b.one("a completed"), store.Delivered)
	b.restart()
	row, attempts = find()
	if row.State != store.DeliveryDelivered || row.Attempts != 2 || len(attempts) != 2 {
		t.Fatalf("found %+v with %d attempts", row, len(attempts))
	}
	log := b.attempts(p) // newest first, started's among them
	for i, a := range attempts {
		if a != log[1-i] || a.Number != i+1 {
			t.Fatalf("attempt %d is\n%+v, want\n%+v", i, a, log[1-i])
		}
	}
}

func findNoDelivery(t *testing.T, b *tracking) {
	b.track("a", event.Started)
	id := b.one("a started").ID
	last := "0"
	if strings.HasSuffix(id, last) {
		last = "1"
	}
	for _, unknown := range []string{"", "dlv_", "dlv__", "a", "dlv_zzzzzzzzzzzzzzzz_0000000000000000", id + "0", " " + id,
		strings.ToUpper(id), id[:len(id)-1], id[:len(id)-1] + last, strings.Replace(id, "dlv", "dlw", 1), id + "\x00", "'; --", "\xff"} {
		if _, _, err := b.s.FindDelivery(ctx, unknown); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("finding %q: %v, want not found", unknown, err)
		}
	}
}

func (b *tracking) redeliverByID(id string) string {
	b.t.Helper()
	again, err := b.s.RedeliverDelivery(ctx, id)
	b.must(err)
	return again
}

func redeliverDelivery(t *testing.T, b *tracking) {
	b.track("a", event.Completed)
	old := b.one("a completed")
	b.complete(old, store.Exhausted)
	b.status("a", store.WebhookFailed)
	b.advance(time.Minute)
	id := b.redeliverByID(old.ID)
	d := b.one("a completed")
	if d.ID != id || id == old.ID || d.Attempts != 0 || string(d.Payload) != "a prediction.completed" || !d.CreatedAt.Equal(b.now()) {
		t.Fatalf("redelivery %s of %s is %+v", id, old.ID, d)
	}
	row, _, err := b.s.FindDelivery(ctx, id)
	b.must(err)
	if !row.Redelivery || row.State != store.DeliveryPending {
		t.Fatalf("redelivery is %+v", row)
	}
	b.counted(1, 0, 1, 0, 0)
	b.restart()
	b.complete(b.one("a completed"), store.Delivered)
	b.status("a", store.WebhookDelivered)
}

func redeliverUntried(t *testing.T, b *tracking) {
	p := b.track("a", event.Started)
	old := b.one("a started")
	b.set(p, "")
	b.complete(old, store.Exhausted) // canceled
	q := b.track("b", event.Started)
	b.set(q, "") // canceled before it was tried
	b.set(q, other)
	var untried store.DeliveryRow
	for _, r := range b.deliveries(store.DeliveryFilter{Prediction: "b"}, nil) {
		untried = r
	}
	id := b.redeliverByID(untried.ID)
	if d := b.one("b started"); d.ID != id || d.URL != other {
		t.Fatalf("redelivery is %+v", d)
	}
}

func redeliverDeliveryDisabled(t *testing.T, b *tracking) {
	p := b.track("a", event.Completed)
	d := b.one("a completed")
	b.complete(d, store.Delivered)
	b.set(p, "")
	id, err := b.s.RedeliverDelivery(ctx, d.ID)
	if id != "" || !errors.Is(err, store.ErrDisabled) {
		t.Fatalf("got %q, %v; want disabled", id, err)
	}
	b.due()
	b.counted(0, 1, 0, 0, 0)
}

func redeliverNoDelivery(t *testing.T, b *tracking) {
	b.track("a", event.Started)
	b.finish()
	for _, unknown := range []string{"", "dlv_1", "dlv_1_0000000000000000", "x"} {
		id, err := b.s.RedeliverDelivery(ctx, unknown)
		if id != "" || !errors.Is(err, store.ErrNotFound) {
			t.Errorf("redelivering %q: %q, %v; want not found", unknown, id, err)
		}
	}
	b.due()
}
