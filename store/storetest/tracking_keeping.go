package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
)

var keepingCases = []trackingCase{
	{"secret is made once", secretOnce},
	{"secret of concurrent makers is one", secretConcurrent},
	{"secret that can't be made", secretError},
	{"forgetting by age", forgetByAge},
	{"forgetting spares what is pending", forgetSparesPending},
	{"forgetting counts from the end of a delivery", forgetFromEnd},
	{"forgetting spares a payload that a redelivery shares", forgetSparesShared},
	{"forgetting predictions last", forgetPredictions},
	{"forgetting what was reserved in vain", forgetReserved},
	{"forgetting many", forgetMany},
	{"a row from the future hides none of the others", forgetBehindTheFuture},
	{"ready while open", readyWhileOpen},
	{"closed is unavailable", trackingClosed},
	{"cancelled context", trackingCancelled},
}

func (b *tracking) secret(name string, make func() ([]byte, error)) []byte {
	b.t.Helper()
	s, err := b.s.Secret(ctx, name, make)
	b.must(err)
	return s
}

func secretOnce(t *testing.T, b *tracking) {
	never := func() ([]byte, error) { return nil, errors.New("made again") }
	for _, name := range []string{"signing", "master"} {
		made := []byte("sealed " + name + "\x00\xff")
		got := b.secret(name, func() ([]byte, error) { return made, nil })
		if !bytes.Equal(got, made) || !bytes.Equal(b.secret(name, never), made) {
			t.Fatalf("secret %s is %q", name, got)
		}
		b.restart()
		if got := b.secret(name, never); !bytes.Equal(got, made) {
			t.Fatalf("secret %s is %q after reopening", name, got)
		}
	}
}

func secretConcurrent(t *testing.T, b *tracking) {
	const n = 20
	got := make(chan string, n)
	for i := range n {
		go func() {
			s, err := b.s.Secret(ctx, "signing", func() ([]byte, error) { return fmt.Append(nil, i), nil })
			if err != nil {
				t.Error(err)
			}
			got <- string(s)
		}()
	}
	first := <-got
	for range n - 1 {
		if s := <-got; s != first {
			t.Fatalf("one was told %q, another %q", first, s)
		}
	}
}

func secretError(t *testing.T, b *tracking) {
	failure := errors.New("no entropy")
	if _, err := b.s.Secret(ctx, "signing", func() ([]byte, error) { return nil, failure }); !errors.Is(err, failure) {
		t.Fatalf("got %v, want make's error", err)
	}
	b.secret("signing", func() ([]byte, error) { return []byte("x"), nil })
}

// forget forgets deliveries finished and predictions captured before the age.
func (b *tracking) forget(deliveries, predictions time.Duration) {
	b.t.Helper()
	b.must(b.s.Forget(ctx, store.Before{Deliveries: b.now().Add(-deliveries), Predictions: b.now().Add(-predictions)}))
}

func (b *tracking) forgotten(id string) {
	b.t.Helper()
	if _, err := b.s.Prediction(ctx, testAPI, id); !errors.Is(err, store.ErrNotFound) {
		b.t.Fatalf("finding %s: got %v, want not found", id, err)
	}
}

func forgetByAge(t *testing.T, b *tracking) {
	old := b.track("old", event.Started, event.Completed)
	b.finish()
	row := b.attempts(old)[0].ID
	b.advance(time.Hour)
	young := b.track("young", event.Started, event.Completed)
	b.finish()
	b.advance(time.Minute)
	b.forget(2*time.Hour, 2*time.Hour)
	b.logged(old, "completed 1 200", "started 1 200")
	b.forget(time.Hour, 2*time.Hour)
	b.logged(old)
	b.logged(young, "completed 1 200", "started 1 200")
	b.status("old", store.WebhookDelivered)
	if _, err := b.s.Redeliver(ctx, old.Ref, row); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("redelivering what was forgotten: got %v, want not found", err)
	}
	b.restart()
	b.logged(old)
	b.logged(young, "completed 1 200", "started 1 200")
}

func forgetSparesPending(t *testing.T, b *tracking) {
	waiting := b.track("waiting", event.Started)
	b.complete(b.one("waiting started"), store.Retry)
	b.track("claimed", event.Completed)
	claimed := b.one("claimed completed")
	b.track("running")
	b.advance(1000 * time.Hour)
	b.forget(time.Hour, time.Hour)
	b.find("running")
	b.logged(waiting, "started 1 500")
	d := b.one("waiting started")
	if string(d.Payload) != "waiting prediction.started" {
		t.Fatalf("payload is %q", d.Payload)
	}
	b.complete(claimed, store.Delivered)
	b.complete(d, store.Delivered)
	b.status("claimed", store.WebhookDelivered)
	b.observe(waiting, event.Completed)
	b.complete(b.one("waiting completed"), store.Delivered)
}

func forgetFromEnd(t *testing.T, b *tracking) {
	p := b.track("a", event.Started)
	d := b.one("a started")
	b.advance(48 * time.Hour)
	b.complete(d, store.Delivered)
	b.forget(time.Hour, 1000*time.Hour)
	b.logged(p, "started 1 200")
	b.advance(2 * time.Hour)
	b.forget(time.Hour, 1000*time.Hour)
	b.logged(p)
}

func forgetSparesShared(t *testing.T, b *tracking) {
	p := b.track("a", event.Completed)
	b.finish()
	first := b.attempts(p)[0]
	b.advance(2 * time.Hour)
	b.redeliver(p, first.ID)
	b.finish()
	second := b.attempts(p)[0]
	b.advance(2 * time.Hour)
	b.redeliver(p, second.ID)
	b.forget(3*time.Hour, 1000*time.Hour) // the first one
	b.logged(p, "completed 1 200")
	b.restart()
	d := b.one("a completed")
	if string(d.Payload) != "a prediction.completed" {
		t.Fatalf("payload is %q", d.Payload)
	}
	if _, err := b.s.Redeliver(ctx, p.Ref, first.ID); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("redelivering what was forgotten: got %v, want not found", err)
	}
	b.redeliver(p, second.ID)
	b.complete(d, store.Delivered)
	b.forget(time.Hour, 1000*time.Hour) // the second one
	if d := b.one("a completed"); string(d.Payload) != "a prediction.completed" {
		t.Fatalf("payload is %q", d.Payload)
	}
}

func forgetPredictions(t *testing.T, b *tracking) {
	b.track("ended", event.Started, event.Completed)
	b.track("running", event.Started)
	b.finish()
	silent := b.prediction("silent")
	silent.URL = ""
	b.trackAs(silent, event.Started, event.Failed)
	b.advance(2 * time.Hour)
	b.track("young", event.Started, event.Completed)
	b.finish()
	b.forget(1000*time.Hour, time.Hour)
	b.find("ended") // its deliveries are kept still
	b.forgotten("silent")
	b.forget(time.Hour, time.Hour)
	b.forgotten("ended")
	b.find("running")
	b.find("young")
	b.restart()
	b.forgotten("ended")
	p := b.track("ended", event.Started) // a stranger by now
	b.observe(p, event.Failed)
	b.due("ended started")
}

func forgetReserved(t *testing.T, b *tracking) {
	b.reserve("x")
	b.advance(2 * time.Hour)
	b.reserve("y")
	b.forget(time.Hour, time.Hour)
	b.noToken("x")
	b.byToken("y")
}

// forgetBehindTheFuture: a clock that was ahead for a while leaves rows from the
// future behind, which hide none of the others.
func forgetBehindTheFuture(t *testing.T, b *tracking) {
	ended := func(id string) {
		b.track(id, event.Started, event.Completed)
		b.finish()
	}
	ended("first")
	b.advance(1000 * time.Hour)
	ended("ahead")
	b.track("running ahead", event.Started)
	b.finish()
	b.advance(-1000 * time.Hour)
	for i := range 300 {
		ended(fmt.Sprint("p", i))
	}
	b.advance(2 * time.Hour)
	ended("young")
	b.forget(time.Hour, time.Hour)
	for i := range 300 {
		b.forgotten(fmt.Sprint("p", i))
	}
	b.forgotten("first")
	b.find("ahead")
	b.find("young")
	b.advance(1000 * time.Hour)
	b.forget(time.Hour, time.Hour)
	b.forgotten("ahead")
	b.forgotten("young")
	b.find("running ahead")
}

func forgetMany(t *testing.T, b *tracking) {
	const n = 600 // more than a store forgets in one transaction
	var last store.Prediction
	for i := range n {
		last = b.track(fmt.Sprint(i), event.Started, event.Completed)
		if i%10 == 0 {
			b.set(last, other) // takes another way
		}
	}
	kept := b.track("kept")
	b.finish()
	b.advance(time.Hour)
	b.forget(time.Minute, time.Minute)
	for i := range n {
		b.forgotten(fmt.Sprint(i))
	}
	b.logged(last)
	b.observe(kept, event.Started)
	b.due("kept started")
}

func readyWhileOpen(t *testing.T, b *tracking) {
	b.must(b.s.Ready())
	b.track("a", event.Started)
	b.must(b.s.Ready())
}

func trackingClosed(t *testing.T, b *tracking) {
	p := b.track("a", event.Started, event.Completed)
	d := b.one("a started")
	again := b.track("b", event.Started)
	b.must(b.s.Close())
	claimed, _, claiming := b.s.ClaimDeliveries(ctx, 10, plenty)
	polls, _, polling := b.s.ClaimPolls(ctx, 10)
	if len(claimed) != 0 || len(polls) != 0 {
		t.Fatalf("claimed %v and %v", claimed, polls)
	}
	for name, err := range map[string]error{
		"ready":            b.s.Ready(),
		"reserve":          second(b.s.Reserve(ctx, b.prediction(""))),
		"abandon":          b.s.Abandon(ctx, p.Ref),
		"track":            b.s.Track(ctx, &again, nil),
		"observe":          b.s.Observe(ctx, p.Ref, p.ID, happened(p.ID, event.Failed)),
		"set webhook":      b.s.SetWebhook(ctx, p.Ref, other, event.All),
		"prediction":       second(b.s.Prediction(ctx, testAPI, "a")),
		"by token":         second(b.s.ByToken(ctx, token("x"))),
		"attempts":         second(b.s.Attempts(ctx, p.Ref, 0, 10)),
		"redeliver":        second(b.s.Redeliver(ctx, p.Ref, 1)),
		"claim deliveries": claiming,
		"complete":         b.s.Complete(ctx, b.outcome(d, store.Delivered)),
		"claim polls":      polling,
		"secret":           second(b.s.Secret(ctx, "x", func() ([]byte, error) { return []byte("x"), nil })),
		"forget":           b.s.Forget(ctx, store.Before{Deliveries: b.now(), Predictions: b.now()}),
	} {
		if !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s: got %v, want unavailable", name, err)
		}
	}
	b.s.Resume(hookLane)
	_, stop := b.s.Changed()
	stop()
}

// trackingCancelled: whoever does not wait learns nothing, and harms nobody.
func trackingCancelled(t *testing.T, b *tracking) {
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	p := b.track("a", event.Started, event.Completed)
	d := b.one("a started")
	for range 20 {
		q := b.prediction("b")
		_ = b.s.Track(cancelled, &q, happened("b", event.Started))
		q.Ref = 0
		_ = b.s.Complete(cancelled, b.outcome(d, store.Delivered))
		_ = b.s.Postpone(ctx, d, b.now())
		_, _ = b.s.Reserve(cancelled, b.prediction(""))
		_ = b.s.SetWebhook(cancelled, p.Ref, other, event.All)
	}
	b.must(b.s.Ready())
	b.track("c", event.Started)
	b.finish()
	b.status("a", store.WebhookDelivered)
}
