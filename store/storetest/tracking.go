package storetest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// RunTracking runs the suite for predictions and deliveries. Each test gets a
// resource of its own from fresh.
func RunTracking(t *testing.T, fresh func(t *testing.T) Resource) {
	runGroups(t, fresh, newTracking, []group[*tracking]{
		{"events", eventCases},
		{"claims", claimCases},
		{"outages", outageCases},
		{"order", orderCases},
		{"webhook", webhookCases},
		{"log", logCases},
		{"polls", pollCases},
		{"signals", signalCases},
		{"keeping", keepingCases},
		{"rotations", rotationCases},
		{"sealed", sealedCases},
		{"model", modelCases(model)},
	})
}

// tracking is one test's store and clock. Its predictions are told by their
// ids, its events by "<id> <event>".
type tracking struct{ *bench }

func newTracking(b *bench) *tracking { return &tracking{b} }

const (
	testAPI = "https://api.example.com/v1"
	hook    = "https://a.example.com/hook"
	other   = "https://b.example.com/hook"
	hookEnd = "https://a.example.com:443"
	// client has all predictions unless a test says otherwise.
	client = "client"
	// lease is longer than a store may hold on to the claims of a process
	// that is gone.
	lease = time.Minute
)

var ctx = context.Background()

// hookLane is where deliveries to hook wait.
var hookLane = store.LaneOf(client, hook)

func (b *tracking) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// restart is what a crash and a new start leave: what was committed.
func (b *tracking) restart() {
	b.t.Helper()
	b.reopen()
	b.advance(lease)
}

func (b *tracking) prediction(id string) store.Prediction {
	return store.Prediction{
		API: testAPI, ID: id, Client: client, URL: hook, Events: event.All,
		PollPath: "/predictions/" + id, Credential: []byte("sealed " + id), Traceparent: "trace " + id,
		CreatedAt: b.now(), PollAt: b.now().Add(time.Second),
	}
}

// payloadOf is the payload of an event in these tests.
func payloadOf(id string, e event.Set) []byte { return []byte(id + " " + e.Name()) }

func happened(id string, events ...event.Set) []store.Event {
	var out []store.Event
	for _, e := range events {
		out = append(out, store.Event{Kind: e, Payload: payloadOf(id, e)})
	}
	return out
}

// track tracks a prediction with what has happened to it so far.
func (b *tracking) track(id string, events ...event.Set) store.Prediction {
	b.t.Helper()
	return b.trackAs(b.prediction(id), events...)
}

// wanting tracks a prediction whose client filters events.
func (b *tracking) wanting(id string, wanted event.Set, events ...event.Set) store.Prediction {
	b.t.Helper()
	p := b.prediction(id)
	p.Events = wanted
	return b.trackAs(p, events...)
}

func (b *tracking) trackAs(p store.Prediction, events ...event.Set) store.Prediction {
	b.t.Helper()
	b.must(b.s.Track(ctx, &p, happened(p.ID, events...)))
	if p.Ref == 0 {
		b.t.Fatal("tracked prediction has no ref")
	}
	return p
}

func (b *tracking) observe(p store.Prediction, events ...event.Set) {
	b.t.Helper()
	b.must(b.s.Observe(ctx, p.Ref, p.ID, happened(p.ID, events...)))
}

func (b *tracking) set(p store.Prediction, url string) {
	b.t.Helper()
	b.must(b.s.SetWebhook(ctx, p.Ref, url, p.Events))
}

func (b *tracking) find(id string) store.Prediction {
	b.t.Helper()
	p, err := b.s.Prediction(ctx, testAPI, id)
	if err != nil {
		b.t.Fatalf("finding %s: %v", id, err)
	}
	return p
}

func (b *tracking) status(id string, want store.WebhookStatus) {
	b.t.Helper()
	if p := b.find(id); p.Webhook != want || p.Done() != (want != store.WebhookPending) {
		b.t.Fatalf("webhook of %s is %v (done: %t), want %v", id, p.Webhook, p.Done(), want)
	}
}

func plenty(store.Lane) store.Slots { return store.Slots{N: 1000} }

// claimed asks for all that is due now.
func (b *tracking) claimed() ([]store.Delivery, time.Time) {
	b.t.Helper()
	claimed, next, err := b.s.ClaimDeliveries(ctx, 1000, plenty)
	if err != nil {
		b.t.Fatalf("claiming: %v", err)
	}
	return claimed, next
}

// due asserts what is due now, in this order, and claims it.
func (b *tracking) due(want ...string) []store.Delivery {
	b.t.Helper()
	claimed, _ := b.claimed()
	if got := names(claimed); !slices.Equal(got, want) {
		b.t.Fatalf("due: %q, want %q", got, want)
	}
	return claimed
}

// one claims the one delivery that is due.
func (b *tracking) one(want string) store.Delivery {
	b.t.Helper()
	return b.due(want)[0]
}

func names(deliveries []store.Delivery) []string {
	var out []string
	for _, d := range deliveries {
		out = append(out, d.PredictionID+" "+strings.TrimPrefix(d.Event.Name(), "prediction."))
	}
	return out
}

// outcome is an attempt at d. A retry is due a second later.
func (b *tracking) outcome(d store.Delivery, v store.Disposition) store.Outcome {
	o := store.Outcome{
		Delivery: d, Disposition: v,
		Attempt: store.Attempt{
			Delivery: d.ID, Event: d.Event, URL: d.URL, Status: 500, Number: d.Attempts + 1,
			At: b.now(), Took: time.Millisecond, Error: "status 500",
		},
	}
	switch v {
	case store.Retry:
		o.Due = b.now().Add(time.Second)
	case store.Delivered:
		o.Attempt.Status, o.Attempt.Error = 200, ""
	case store.Gone:
		o.Attempt.Status, o.Attempt.Error = 410, "status 410"
	}
	return o
}

func (b *tracking) complete(d store.Delivery, v store.Disposition) {
	b.t.Helper()
	b.must(b.s.Complete(ctx, b.outcome(d, v)))
}

// finish delivers all that is due, also what becomes due by that.
func (b *tracking) finish() {
	b.t.Helper()
	for {
		claimed, _ := b.claimed()
		if len(claimed) == 0 {
			return
		}
		for _, d := range claimed {
			b.complete(d, store.Delivered)
		}
	}
}

// attempts is a prediction's log, as "<event> <number> <status>", newest first.
func (b *tracking) attempts(p store.Prediction) []store.Attempt {
	b.t.Helper()
	rows, err := b.s.Attempts(ctx, p.Ref, 0, 1000)
	b.must(err)
	return rows
}

func (b *tracking) logged(p store.Prediction, want ...string) {
	b.t.Helper()
	var got []string
	for _, a := range b.attempts(p) {
		got = append(got, fmt.Sprintf("%s %d %d", strings.TrimPrefix(a.Event.Name(), "prediction."), a.Number, a.Status))
	}
	if !slices.Equal(got, want) {
		b.t.Fatalf("log of %s: %q, want %q", p.ID, got, want)
	}
}
