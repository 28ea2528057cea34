package storetest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
)

var eventCases = []trackingCase{
	{"what is tracked is found again", trackedIsFound},
	{"started is delivered before the terminal event", startedBeforeTerminal},
	{"only wanted events are delivered", onlyWanted},
	{"events happen once", eventsOnce},
	{"there is one terminal event", oneTerminal},
	{"started after the terminal event is ignored", startedTooLate},
	{"concurrent observers make one event", concurrentObservers},
	{"tracking again replaces the webhook alone", trackAgain},
	{"pending deliveries follow tracking again", trackAgainPending},
	{"tracking again keeps what happened", trackAgainHappened},
	{"tracking again without the terminal event", trackAgainNarrowed},
	{"reserved is found by its token", reservedByToken},
	{"reserved survives reopening", reservedSurvives},
	{"reserved hears of events before it is tracked", reservedObserved},
	{"reserved whose receiver is gone stays disabled", reservedGone},
	{"reserved for what is tracked already", reservedTwice},
	{"id of another prediction is refused", idTaken},
	{"abandoning deletes what has no id", abandoned},
	{"credential is erased at the terminal event", credentialErased},
	{"unknown predictions are not found", unknownPredictions},
	{"test prediction keeps its body", testPrediction},
}

// same compares what a store keeps of a prediction.
func (b *tracking) same(got, want store.Prediction) {
	b.t.Helper()
	got.PollAt, want.PollAt = time.Time{}, time.Time{}
	got.PollFailures, want.PollFailures = 0, 0
	if !got.CreatedAt.Equal(want.CreatedAt) {
		b.t.Fatalf("created at %v, want %v", got.CreatedAt, want.CreatedAt)
	}
	got.CreatedAt = want.CreatedAt
	if !reflect.DeepEqual(got, want) {
		b.t.Fatalf("got prediction\n%+v, want\n%+v", got, want)
	}
}

func trackedIsFound(t *testing.T, b *tracking) {
	want := b.prediction("a")
	p := b.track("a", event.Started)
	want.Ref, want.Seen = p.Ref, event.Started
	b.same(p, want)
	b.same(b.find("a"), want)
	b.restart()
	b.same(b.find("a"), want)
}

func startedBeforeTerminal(t *testing.T, b *tracking) {
	p := b.track("a", event.Started, event.Completed)
	d := b.one("a started")
	if d.ID == "" || d.Prediction != p.Ref || d.Client != p.Client || d.URL != p.URL || d.Traceparent != p.Traceparent ||
		d.Attempts != 0 || !d.CreatedAt.Equal(b.now()) || !bytes.Equal(d.Payload, payloadOf("a", event.Started)) {
		t.Fatalf("delivery is %+v", d)
	}
	b.due()
	b.complete(d, store.Delivered)
	d = b.one("a completed")
	if !bytes.Equal(d.Payload, payloadOf("a", event.Completed)) {
		t.Fatalf("payload is %s", d.Payload)
	}
	b.complete(d, store.Delivered)
	b.due()
	b.restart()
	b.due()
}

func onlyWanted(t *testing.T, b *tracking) {
	for _, c := range []struct {
		name   string
		wanted event.Set
		events []event.Set
		due    []string
	}{
		{"started", event.Started, []event.Set{event.Started, event.Completed}, []string{"started started"}},
		{"completed", event.Completed, []event.Set{event.Started, event.Completed}, []string{"completed completed"}},
		{"failed", event.Failed, []event.Set{event.Started, event.Failed}, []string{"failed failed"}},
		{"notfailed", event.Started | event.Completed, []event.Set{event.Started, event.Failed}, []string{"notfailed started"}},
		{"nothing", event.Failed, []event.Set{event.Started, event.Completed}, nil},
	} {
		b.wanting(c.name, c.wanted, c.events...)
		for _, d := range b.due(c.due...) {
			b.complete(d, store.Delivered)
		}
		b.due()
	}
}

func eventsOnce(t *testing.T, b *tracking) {
	p := b.track("a", event.Started, event.Started)
	b.observe(p, event.Started)
	b.observe(p)
	b.complete(b.one("a started"), store.Delivered)
	b.observe(p, event.Started, event.Completed)
	b.complete(b.one("a completed"), store.Delivered)
	b.observe(p, event.Started, event.Completed)
	b.restart()
	b.observe(p, event.Completed)
	b.due()
}

func oneTerminal(t *testing.T, b *tracking) {
	p := b.track("a", event.Started, event.Failed)
	b.observe(p, event.Completed)
	b.finish()
	b.observe(p, event.Completed)
	b.due()
	b.logged(p, "failed 1 200", "started 1 200")
	if got := b.find("a").Seen; got != event.Started|event.Failed {
		t.Fatalf("happened: %b", got)
	}
}

func startedTooLate(t *testing.T, b *tracking) {
	p := b.track("a", event.Completed)
	b.observe(p, event.Started)
	b.complete(b.one("a completed"), store.Delivered)
	b.due()
	b.status("a", store.WebhookDelivered)
}

func concurrentObservers(t *testing.T, b *tracking) {
	p := b.track("a")
	done := make(chan error)
	const n = 20
	for i := range n {
		terminal := []event.Set{event.Completed, event.Failed}[i%2]
		go func() { done <- b.s.Observe(ctx, p.Ref, p.ID, happened("a", event.Started, terminal)) }()
	}
	for range n {
		b.must(<-done)
	}
	b.finish()
	if rows := b.attempts(p); len(rows) != 2 || rows[1].Event != event.Started || !event.Terminal.Has(rows[0].Event) {
		t.Fatalf("log is %+v", rows)
	}
}

func trackAgain(t *testing.T, b *tracking) {
	want := b.track("a", event.Started)
	b.advance(time.Minute)
	again := b.prediction("a")
	again.Client, again.PollPath, again.Credential, again.Traceparent = "another", "/elsewhere", nil, ""
	again.URL, again.Events = other, event.Started|event.Completed
	want.URL, want.Events = again.URL, again.Events
	b.same(b.trackAs(again), want)
	b.same(b.find("a"), want)
	b.restart()
	b.same(b.find("a"), want)
}

func trackAgainPending(t *testing.T, b *tracking) {
	b.track("a", event.Started)
	again := b.prediction("a")
	again.URL = other
	b.trackAs(again, event.Started, event.Completed)
	d := b.one("a started")
	if d.URL != other {
		t.Fatalf("goes to %s", d.URL)
	}
	b.complete(d, store.Delivered)
	if d := b.one("a completed"); d.URL != other {
		t.Fatalf("goes to %s", d.URL)
	}
}

func trackAgainHappened(t *testing.T, b *tracking) {
	b.track("a", event.Started, event.Completed)
	b.finish()
	b.track("a", event.Started, event.Failed)
	b.due()
	b.status("a", store.WebhookDelivered)
}

// trackAgainNarrowed: the terminal event comes with a filter that leaves it out.
// The webhook status is that of the started event, which was given up before.
func trackAgainNarrowed(t *testing.T, b *tracking) {
	b.track("a", event.Started)
	b.complete(b.one("a started"), store.Exhausted)
	b.status("a", store.WebhookPending)
	b.wanting("a", event.Started, event.Completed)
	b.due()
	b.status("a", store.WebhookFailed)
}

func token(name string) []byte {
	sum := sha256.Sum256([]byte(name))
	return sum[:]
}

func (b *tracking) reserve(name string) int64 {
	b.t.Helper()
	p := b.prediction("")
	p.PollPath, p.Credential, p.Token = "", nil, token(name)
	ref, err := b.s.Reserve(ctx, p)
	b.must(err)
	if ref == 0 {
		b.t.Fatal("reserved prediction has no ref")
	}
	return ref
}

func (b *tracking) byToken(name string) store.Prediction {
	b.t.Helper()
	p, err := b.s.ByToken(ctx, token(name))
	b.must(err)
	return p
}

func (b *tracking) noToken(name string) {
	b.t.Helper()
	if p, err := b.s.ByToken(ctx, token(name)); !errors.Is(err, store.ErrNotFound) {
		b.t.Fatalf("by token: got %+v, %v; want not found", p, err)
	}
}

func reservedByToken(t *testing.T, b *tracking) {
	ref := b.reserve("x")
	if p := b.byToken("x"); p.Ref != ref || p.ID != "" || p.Webhook != store.WebhookPending {
		t.Fatalf("reserved is %+v", p)
	}
	b.noToken("y")
	p := b.prediction("a")
	p.Ref, p.Token = ref, token("x")
	p = b.trackAs(p, event.Started)
	if p.Ref != ref {
		t.Fatalf("ref became %d, want %d", p.Ref, ref)
	}
	b.same(b.byToken("x"), p)
	b.same(b.find("a"), p)
	b.due("a started")
}

func reservedSurvives(t *testing.T, b *tracking) {
	ref := b.reserve("x")
	b.restart()
	if p := b.byToken("x"); p.Ref != ref {
		t.Fatalf("reserved is %+v", p)
	}
	second := b.reserve("y")
	if second == ref {
		t.Fatal("ref was given twice")
	}
}

func reservedObserved(t *testing.T, b *tracking) {
	ref := b.reserve("x")
	b.must(b.s.Observe(ctx, ref, "a", happened("a", event.Started)))
	if p := b.byToken("x"); p.ID != "a" || p.Seen != event.Started {
		t.Fatalf("observed is %+v", p)
	}
	d := b.one("a started")
	p := b.prediction("a")
	p.Ref, p.Token = ref, token("x")
	p = b.trackAs(p, event.Started, event.Completed)
	b.same(b.find("a"), p)
	b.same(b.byToken("x"), p)
	b.due()
	b.complete(d, store.Delivered)
	b.complete(b.one("a completed"), store.Delivered)
	b.status("a", store.WebhookDelivered)
}

func reservedGone(t *testing.T, b *tracking) {
	ref := b.reserve("x")
	b.must(b.s.Observe(ctx, ref, "a", happened("a", event.Started)))
	b.complete(b.one("a started"), store.Gone)
	p := b.prediction("a")
	p.Ref, p.Token = ref, token("x")
	b.trackAs(p, event.Completed)
	b.due()
	b.status("a", store.WebhookDisabled)
}

func reservedTwice(t *testing.T, b *tracking) {
	first := b.track("a", event.Started)
	again := b.prediction("a")
	again.Ref, again.Token, again.URL = b.reserve("x"), token("x"), other
	again = b.trackAs(again, event.Started)
	if again.Ref != first.Ref {
		t.Fatalf("ref became %d, want %d", again.Ref, first.Ref)
	}
	if p := b.byToken("x"); p.Ref != first.Ref || p.URL != other {
		t.Fatalf("token names %+v", p)
	}
	b.due("a started")
	b.must(b.s.Ready())
}

func idTaken(t *testing.T, b *tracking) {
	b.track("a", event.Started)
	ref := b.reserve("x")
	if err := b.s.Observe(ctx, ref, "a", happened("a", event.Completed)); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("got %v, want not found", err)
	}
	b.must(b.s.Ready())
	b.due("a started")
	if p := b.byToken("x"); p.ID != "" || p.Seen != 0 {
		t.Fatalf("reserved is %+v", p)
	}
}

func abandoned(t *testing.T, b *tracking) {
	b.must(b.s.Abandon(ctx, b.reserve("x")))
	b.noToken("x")
	known := b.reserve("y")
	b.must(b.s.Observe(ctx, known, "a", nil))
	b.must(b.s.Abandon(ctx, known))
	if p := b.byToken("y"); p.Ref != known || p.ID != "a" {
		t.Fatalf("abandoned with an id is %+v", p)
	}
	b.restart()
	b.noToken("x")
	b.find("a")
}

func credentialErased(t *testing.T, b *tracking) {
	p := b.track("a", event.Started)
	if got := b.find("a").Credential; !bytes.Equal(got, p.Credential) {
		t.Fatalf("credential is %q", got)
	}
	b.observe(p, event.Failed)
	b.track("b", event.Started, event.Completed)
	b.track("a") // brings one, but it is not needed
	for _, id := range []string{"a", "b"} {
		if got := b.find(id).Credential; got != nil {
			t.Fatalf("credential of %s is %q", id, got)
		}
	}
}

func unknownPredictions(t *testing.T, b *tracking) {
	p := b.track("a")
	for name, err := range map[string]error{
		"by id":       second(b.s.Prediction(ctx, testAPI, "b")),
		"by API":      second(b.s.Prediction(ctx, "https://other.example.com", "a")),
		"without id":  second(b.s.Prediction(ctx, testAPI, "")),
		"by no token": second(b.s.ByToken(ctx, nil)),
		"observing":   b.s.Observe(ctx, p.Ref+1000, "x", happened("x", event.Started)),
		"setting":     b.s.SetWebhook(ctx, p.Ref+1000, hook, event.All),
	} {
		if !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: got %v, want not found", name, err)
		}
	}
	b.must(b.s.Ready())
}

func second[T any](_ T, err error) error { return err }

func testPrediction(t *testing.T, b *tracking) {
	p := b.prediction("test_1")
	p.PollPath, p.Credential, p.Test, p.Body = "", nil, true, []byte(`{"id":"test_1"}`)
	p = b.trackAs(p, event.Started, event.Completed)
	b.restart()
	b.same(b.find("test_1"), p)
	b.due("test_1 started")
}
