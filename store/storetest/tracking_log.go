package storetest

import (
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
)

var logCases = []trackingCase{
	{"rows are kept as they were given", rowsKept},
	{"newest first, page by page", logPages},
	{"of one prediction alone", logApart},
	{"delivery ids are stable and unique", deliveryIDs},
	{"redelivery is a delivery of its own", redelivery},
	{"redelivery survives reopening", redeliverySurvives},
	{"redelivery is apart from the order of events", redeliveryUnordered},
	{"redelivery that succeeds makes the webhook delivered", redeliveryUpgrades},
	{"redelivery that fails leaves the status", redeliveryFails},
	{"redelivery follows the webhook", redeliveryFollows},
	{"redelivery of what is not there", redeliveryNotFound},
	{"redelivery to a disabled webhook", redeliveryDisabled},
}

func rowsKept(t *testing.T, b *tracking) {
	p := b.track("a", event.Started)
	d := b.one("a started")
	o := b.outcome(d, store.Retry)
	o.Attempt = store.Attempt{
		Delivery: d.ID, Event: event.Started, URL: "https://a.example.com/häuser?q=%20", Status: 307, Number: 1,
		At: b.now(), Took: 1234567891 * time.Nanosecond, Response: "übel \u2028 \U0001f600 <&>\t'\"\\\n",
		Error: "redirect to https://elsewhere.example.com/\U0001f600 not followed", Exception: true,
	}
	b.must(b.s.Complete(ctx, o))
	b.restart()
	rows := b.attempts(p)
	if len(rows) != 1 || rows[0].ID <= 0 || !rows[0].At.Equal(o.Attempt.At) {
		t.Fatalf("log is %+v", rows)
	}
	got := rows[0]
	got.ID, got.At = 0, o.Attempt.At
	if !reflect.DeepEqual(got, o.Attempt) {
		t.Fatalf("got\n%+v, want\n%+v", got, o.Attempt)
	}
}

func logPages(t *testing.T, b *tracking) {
	p := b.track("a", event.Started)
	for range 7 {
		b.complete(b.one("a started"), store.Retry)
		b.advance(time.Second)
	}
	var numbers []int
	for before := int64(0); ; {
		page, err := b.s.Attempts(ctx, p.Ref, before, 3)
		b.must(err)
		if len(page) == 0 {
			break
		}
		for _, a := range page {
			numbers = append(numbers, a.Number)
			before = a.ID
		}
	}
	if want := []int{7, 6, 5, 4, 3, 2, 1}; !reflect.DeepEqual(numbers, want) {
		t.Fatalf("attempts %v, want %v", numbers, want)
	}
}

func logApart(t *testing.T, b *tracking) {
	x, y := b.track("x", event.Started), b.track("y", event.Failed)
	b.finish()
	b.logged(x, "started 1 200")
	b.logged(y, "failed 1 200")
	none := x
	none.Ref += 1000
	b.logged(none)
}

func deliveryIDs(t *testing.T, b *tracking) {
	seen := make(map[string]bool)
	for _, id := range []string{"a", "b", "c"} {
		p := b.track(id, event.Started)
		d := b.one(id + " started")
		if d.ID == "" || seen[d.ID] {
			t.Fatalf("delivery id %q is not new", d.ID)
		}
		seen[d.ID] = true
		b.complete(d, store.Retry)
		b.restart()
		again := b.one(id + " started")
		if again.ID != d.ID {
			t.Fatalf("delivery id was %s and is %s", d.ID, again.ID)
		}
		b.complete(again, store.Delivered)
		for _, a := range b.attempts(p) {
			if a.Delivery != d.ID {
				t.Fatalf("log says %s, want %s", a.Delivery, d.ID)
			}
		}
	}
}

// redeliver asks for another delivery of a row of the log.
func (b *tracking) redeliver(p store.Prediction, attempt int64) string {
	b.t.Helper()
	id, err := b.s.Redeliver(ctx, p.Ref, attempt)
	b.must(err)
	return id
}

func redelivery(t *testing.T, b *tracking) {
	p := b.track("a", event.Started, event.Completed)
	b.finish()
	row := b.attempts(p)[1]
	b.advance(time.Minute)
	id := b.redeliver(p, row.ID)
	d := b.one("a started")
	if d.ID != id || d.ID == row.Delivery || d.Attempts != 0 || string(d.Payload) != "a prediction.started" || !d.CreatedAt.Equal(b.now()) {
		t.Fatalf("redelivery %s of %s is %+v", id, row.Delivery, d)
	}
	b.complete(d, store.Retry)
	b.advance(time.Second)
	b.complete(b.one("a started"), store.Delivered)
	b.logged(p, "started 2 200", "started 1 500", "completed 1 200", "started 1 200")
	again := b.redeliver(p, b.attempts(p)[0].ID)
	if d := b.one("a started"); d.ID != again || string(d.Payload) != "a prediction.started" {
		t.Fatalf("redelivery of a redelivery is %+v", d)
	}
}

func redeliverySurvives(t *testing.T, b *tracking) {
	p := b.track("a", event.Started)
	b.finish()
	id := b.redeliver(p, b.attempts(p)[0].ID)
	b.restart()
	if d := b.one("a started"); d.ID != id || string(d.Payload) != "a prediction.started" {
		t.Fatalf("redelivery is %+v", d)
	}
}

func redeliveryUnordered(t *testing.T, b *tracking) {
	p := b.track("a", event.Started)
	first := b.one("a started")
	b.complete(first, store.Retry)
	b.redeliver(p, b.attempts(p)[0].ID)
	again := b.one("a started")
	if again.ID == first.ID {
		t.Fatal("retry is not due yet")
	}
	b.complete(again, store.Retry)
	b.observe(p, event.Completed)
	b.one("a completed") // and started's own delivery is superseded
	b.advance(time.Second)
	if d := b.one("a started"); d.ID != again.ID {
		t.Fatalf("due is %s, want the redelivery %s", d.ID, again.ID)
	}
}

func redeliveryUpgrades(t *testing.T, b *tracking) {
	p := b.track("a", event.Completed)
	b.complete(b.one("a completed"), store.Exhausted)
	b.status("a", store.WebhookFailed)
	b.redeliver(p, b.attempts(p)[0].ID)
	b.restart()
	b.complete(b.one("a completed"), store.Delivered)
	b.status("a", store.WebhookDelivered)

	p = b.track("b", event.Started, event.Failed)
	b.complete(b.one("b started"), store.Delivered)
	b.complete(b.one("b failed"), store.Exhausted)
	b.redeliver(p, b.attempts(p)[1].ID)
	b.complete(b.one("b started"), store.Delivered)
	b.status("b", store.WebhookFailed)
}

func redeliveryFails(t *testing.T, b *tracking) {
	p := b.track("a", event.Completed)
	b.finish()
	b.redeliver(p, b.attempts(p)[0].ID)
	b.complete(b.one("a completed"), store.Exhausted)
	b.status("a", store.WebhookDelivered)
	b.due()
}

func redeliveryFollows(t *testing.T, b *tracking) {
	p := b.track("a", event.Completed)
	b.finish()
	row := b.attempts(p)[0].ID
	b.redeliver(p, row)
	b.set(p, other)
	b.complete(b.to(other, "a completed"), store.Delivered)
	b.redeliver(p, row)
	b.set(p, "")
	b.due()
}

func redeliveryNotFound(t *testing.T, b *tracking) {
	p, q := b.track("a", event.Started), b.track("b", event.Started)
	b.finish()
	own, foreign := b.attempts(p)[0].ID, b.attempts(q)[0].ID
	for name, c := range map[string][2]int64{
		"another prediction's row": {p.Ref, foreign},
		"no row":                   {p.Ref, own + 1000},
		"no prediction":            {p.Ref + 1000, own},
	} {
		id, err := b.s.Redeliver(ctx, c[0], c[1])
		if id != "" || !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: got %q, %v; want not found", name, id, err)
		}
	}
	b.due()
}

func redeliveryDisabled(t *testing.T, b *tracking) {
	p := b.track("a", event.Completed)
	b.finish()
	b.set(p, "")
	id, err := b.s.Redeliver(ctx, p.Ref, b.attempts(p)[0].ID)
	if id != "" || !errors.Is(err, store.ErrDisabled) {
		t.Fatalf("got %q, %v; want disabled", id, err)
	}
	b.due()
}
