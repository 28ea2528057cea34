package storetest

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
)

var listDeliveryCases = []trackingCase{
	{"none", listNoDeliveries},
	{"newest first, as they are", listDeliveryFields},
	{"by each filter", listDeliveryFilters},
	{"by endpoint, however it is written", listByEndpoint},
	{"by client", listByClient},
	{"by the class of the last status", listByClass},
	{"by several filters", listManyFilters},
	{"page by page while rows are added", listDeliveryPages},
	{"page by page with gaps", listDeliveryGaps},
	{"what is rare among many", listRareDeliveries},
}

var listPredictionCases = []trackingCase{
	{"none", listNoPredictions},
	{"newest first, as they are", listPredictionFields},
	{"by status", listByStatus},
	{"by id, of each API", listByID},
	{"page by page while rows are added", listPredictionPages},
	{"without those that have no id", listReserved},
}

// maxPages is more than any list in these tests takes.
const maxPages = 1000

// deliveries lists all that match, page by page. After each page between is
// called.
func (b *tracking) deliveries(f store.DeliveryFilter, between func()) []store.DeliveryRow {
	b.t.Helper()
	return walk(b, &f.Limit, &f.Before, between, func() ([]store.DeliveryRow, int64, error) { return b.s.ListDeliveries(ctx, f) })
}

// predictionList is deliveries for predictions.
func (b *tracking) predictionList(f store.PredictionFilter, between func()) []store.Prediction {
	b.t.Helper()
	return walk(b, &f.Limit, &f.Before, between, func() ([]store.Prediction, int64, error) { return b.s.ListPredictions(ctx, f) })
}

// walk reads a list to its end. limit and before are those of the filter that
// page asks with.
func walk[R any](b *tracking, limit *int, before *int64, between func(), page func() ([]R, int64, error)) (all []R) {
	b.t.Helper()
	if *limit == 0 {
		*limit = 2
	}
	for range maxPages {
		rows, next, err := page()
		b.must(err)
		if len(rows) > *limit {
			b.t.Fatalf("%d rows, limit %d", len(rows), *limit)
		}
		all = append(all, rows...)
		if next == 0 {
			return all
		}
		if *before > 0 && next >= *before {
			b.t.Fatalf("the list goes on at %d after %d", next, *before)
		}
		*before = next
		if between != nil {
			between()
		}
	}
	b.t.Fatal("the list does not end")
	return nil
}

// listed asserts which deliveries match, newest first.
func (b *tracking) listed(f store.DeliveryFilter, want ...string) {
	b.t.Helper()
	var got []string
	for _, r := range b.deliveries(f, nil) {
		got = append(got, r.PredictionID+" "+strings.TrimPrefix(r.Event.Name(), "prediction."))
	}
	if !slices.Equal(got, want) {
		b.t.Fatalf("filter %+v lists %q, want %q", f, got, want)
	}
}

func of[T any](v T) *T { return &v }

func listNoDeliveries(t *testing.T, b *tracking) {
	b.listed(store.DeliveryFilter{})
	b.listed(store.DeliveryFilter{Prediction: "nobody's"})
	b.listed(store.DeliveryFilter{Before: 1})
	b.listed(store.DeliveryFilter{State: of(store.DeliveryFailed)})
}

func listDeliveryFields(t *testing.T, b *tracking) {
	p := b.track("a", event.Started, event.Completed)
	first := b.one("a started")
	b.advance(time.Second)
	b.complete(first, store.Retry)
	due := b.now().Add(time.Second)
	rows := b.deliveries(store.DeliveryFilter{}, nil)
	if len(rows) != 2 || rows[0].Event != event.Completed || rows[1].Event != event.Started {
		t.Fatalf("listed %+v", rows)
	}
	got := rows[1]
	if got.State != store.DeliverySuperseded { // the terminal event is known
		t.Fatalf("state is %v", got.State)
	}
	want := store.DeliveryRow{Delivery: first, State: got.State, Due: b.now()}
	want.Payload, want.Attempts, want.Lane, want.DueAt = nil, 1, store.Lane{}, time.Time{}
	if !got.Due.Equal(want.Due) || !got.CreatedAt.Equal(want.CreatedAt) {
		t.Fatalf("ended %v, committed %v; want %v, %v", got.Due, got.CreatedAt, want.Due, want.CreatedAt)
	}
	got.Due, got.CreatedAt = want.Due, want.CreatedAt
	made := b.outcome(first, store.Retry).Attempt
	made.ID, made.At = got.Last.ID, got.Last.At
	if want.Last = &made; !got.Last.At.Equal(b.now()) {
		t.Fatalf("the last attempt was at %v, want %v", got.Last.At, b.now())
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got\n%+v, want\n%+v", got, want)
	}
	d := b.one("a completed")
	b.complete(d, store.Retry)
	got = b.deliveries(store.DeliveryFilter{}, nil)[0]
	if got.State != store.DeliveryPending || !got.Due.Equal(due) || got.ID != d.ID || got.Redelivery {
		t.Fatalf("pending: %+v, want due %v", got, due)
	}
	// Where it goes is what its prediction says now.
	b.set(p, other)
	id := b.redeliver(p, b.attempts(p)[0].ID)
	got = b.deliveries(store.DeliveryFilter{}, nil)[0]
	if got.ID != id || !got.Redelivery || got.URL != other {
		t.Fatalf("redelivery: %+v", got)
	}
}

func listDeliveryFilters(t *testing.T, b *tracking) {
	everyState(b)
	b.listed(store.DeliveryFilter{}, "a started", "e started", "d completed", "d started", "c started", "b started")
	b.listed(store.DeliveryFilter{State: of(store.DeliveryPending)}, "a started")
	b.listed(store.DeliveryFilter{State: of(store.DeliveryDelivered)}, "d completed", "b started")
	b.listed(store.DeliveryFilter{State: of(store.DeliveryFailed)}, "c started")
	b.listed(store.DeliveryFilter{State: of(store.DeliverySuperseded)}, "d started")
	b.listed(store.DeliveryFilter{State: of(store.DeliveryCanceled)}, "e started")
	b.listed(store.DeliveryFilter{Event: event.Completed}, "d completed")
	b.listed(store.DeliveryFilter{Event: event.Failed})
	b.listed(store.DeliveryFilter{Event: event.Terminal}, "d completed")
	b.listed(store.DeliveryFilter{Event: event.All, Limit: 100}, "a started", "e started", "d completed", "d started", "c started", "b started")
	b.listed(store.DeliveryFilter{Prediction: "d"}, "d completed", "d started")
	b.listed(store.DeliveryFilter{Prediction: "d", Limit: 1}, "d completed", "d started")
	b.listed(store.DeliveryFilter{Prediction: "D"})
	b.advance(time.Minute)
	since := b.now()
	b.track("f", event.Started)
	b.listed(store.DeliveryFilter{Since: since}, "f started")
	b.listed(store.DeliveryFilter{Since: since.Add(time.Millisecond)})
	b.listed(store.DeliveryFilter{Since: since.Add(-time.Minute), State: of(store.DeliveryPending)}, "f started", "a started")
}

func listByEndpoint(t *testing.T, b *tracking) {
	for i, url := range []string{
		"https://a.example.com/x", "https://A.Example.COM:443/y?q=1", "https://a.example.com:8443/", "https://a.example.community/",
		"http://a.example.com/", "http://a.example.com:443/", "https://a_example.com/", "https://a.example.com",
	} {
		p := b.prediction(fmt.Sprint("p", i))
		p.URL = url
		b.trackAs(p, event.Started)
	}
	b.listed(store.DeliveryFilter{Endpoint: "https://a.example.com:443"}, "p7 started", "p1 started", "p0 started")
	b.listed(store.DeliveryFilter{Endpoint: "https://a.example.com:8443", Limit: 1}, "p2 started")
	b.listed(store.DeliveryFilter{Endpoint: "http://a.example.com:80", Limit: 1}, "p4 started")
	b.listed(store.DeliveryFilter{Endpoint: "http://a.example.com:443", Limit: 1}, "p5 started")
	b.listed(store.DeliveryFilter{Endpoint: "https://a_example.com:443"}, "p6 started")
	b.listed(store.DeliveryFilter{Endpoint: "https://a%.com:443"})
	b.listed(store.DeliveryFilter{Endpoint: "https://"})
}

func listByClient(t *testing.T, b *tracking) {
	for i, client := range []string{"user alice", "user bob", "user alice-staging", "token %_", ""} {
		p := b.prediction(fmt.Sprint("p", i))
		p.Client = client
		b.trackAs(p, event.Started)
	}
	b.listed(store.DeliveryFilter{Client: "alice"}, "p2 started", "p0 started")
	b.listed(store.DeliveryFilter{Client: "user bob"}, "p1 started")
	b.listed(store.DeliveryFilter{Client: "%_"}, "p3 started")
	b.listed(store.DeliveryFilter{Client: "Alice"})
	b.listed(store.DeliveryFilter{Client: "user", Endpoint: hookEnd, State: of(store.DeliveryPending), Limit: 1}, "p2 started", "p1 started", "p0 started")
	b.listed(store.DeliveryFilter{Client: "user", Prediction: "p1"}, "p1 started")
}

func listByClass(t *testing.T, b *tracking) {
	tried := func(id string, v store.Disposition, statuses ...int) {
		t.Helper()
		b.track(id, event.Started)
		for i, status := range statuses {
			o := b.outcome(b.one(id+" started"), store.Retry)
			if i == len(statuses)-1 {
				o.Disposition = v
			}
			o.Attempt.Status = status
			b.must(b.s.Complete(ctx, o))
			b.advance(2 * time.Second)
		}
	}
	tried("mended", store.Delivered, 500, 404, 204)
	tried("down", store.Exhausted, 404, 503)
	tried("refused", store.Exhausted, 503, 422)
	tried("moved", store.Exhausted, 302)
	tried("silent", store.Exhausted, 500, 0)
	b.track("new", event.Started)
	b.listed(store.DeliveryFilter{Class: of(1)})
	for class, want := range map[int]string{0: "silent started", 2: "mended started", 3: "moved started", 4: "refused started", 5: "down started"} {
		b.listed(store.DeliveryFilter{Class: &class}, want)
		b.listed(store.DeliveryFilter{Class: &class, State: of(store.DeliveryPending)})
	}
	b.listed(store.DeliveryFilter{Class: of(5), State: of(store.DeliveryFailed), Limit: 1, Client: client, Endpoint: hookEnd}, "down started")
	b.listed(store.DeliveryFilter{Class: of(5), Prediction: "down"}, "down started")
	b.listed(store.DeliveryFilter{Class: of(5), Prediction: "moved"})
}

func listManyFilters(t *testing.T, b *tracking) {
	everyState(b)
	b.listed(store.DeliveryFilter{State: of(store.DeliverySuperseded), Event: event.Completed})
	b.listed(store.DeliveryFilter{State: of(store.DeliverySuperseded), Event: event.Started, Prediction: "d", Endpoint: hookEnd, Since: b.now()}, "d started")
	b.listed(store.DeliveryFilter{State: of(store.DeliveryDelivered), Endpoint: hookEnd, Limit: 1}, "d completed", "b started")
	b.listed(store.DeliveryFilter{State: of(store.DeliveryCanceled), Endpoint: hookEnd}) // has no URL any more
	b.listed(store.DeliveryFilter{State: of(store.DeliveryFailed), Prediction: "b"})
}

func listDeliveryPages(t *testing.T, b *tracking) {
	for i := range 7 {
		b.track(fmt.Sprint("p", i), event.Started)
	}
	n := 0
	rows := b.deliveries(store.DeliveryFilter{}, func() {
		n++
		b.track(fmt.Sprint("later", n), event.Started)
	})
	var got []string
	for _, r := range rows {
		got = append(got, r.PredictionID)
	}
	if want := []string{"p6", "p5", "p4", "p3", "p2", "p1", "p0"}; !slices.Equal(got, want) {
		t.Fatalf("listed %q, want %q", got, want)
	}
}

func listDeliveryGaps(t *testing.T, b *tracking) {
	b.track("a", event.Started)
	for i := range 20 {
		b.track(fmt.Sprint("p", i), event.Completed)
	}
	claimed, _ := b.claimed()
	for _, d := range claimed {
		if d.PredictionID != "a" {
			b.complete(d, store.Delivered)
		}
	}
	b.advance(time.Hour)
	b.must(b.s.Forget(ctx, store.Before{Deliveries: b.now()}))
	b.track("b", event.Started)
	b.listed(store.DeliveryFilter{}, "b started", "a started")
	b.listed(store.DeliveryFilter{State: of(store.DeliveryPending), Limit: 1}, "b started", "a started")
}

// rareAmong is how many deliveries hide the ones that are looked for.
const rareAmong = 3000

func listRareDeliveries(t *testing.T, b *tracking) {
	x := b.prediction("first")
	x.URL = other
	b.trackAs(x, event.Failed)
	var clients sync.WaitGroup
	for c := range 50 {
		clients.Go(func() {
			for i := c; i < rareAmong; i += 50 {
				p := b.prediction(fmt.Sprint("p", i))
				p.PollPath, p.Credential = "", nil
				if err := b.s.Track(ctx, &p, happened(p.ID, event.Completed)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	clients.Wait()
	b.listed(store.DeliveryFilter{Event: event.Failed}, "first failed")
	b.listed(store.DeliveryFilter{Endpoint: store.EndpointOf(other)}, "first failed")
	b.listed(store.DeliveryFilter{Prediction: "first"}, "first failed")
	b.listed(store.DeliveryFilter{State: of(store.DeliveryCanceled)})
	if got := len(b.deliveries(store.DeliveryFilter{Limit: 700}, nil)); got != rareAmong+1 {
		t.Fatalf("%d deliveries in all, want %d", got, rareAmong+1)
	}
}

// predictionsListed asserts which predictions match, newest first.
func (b *tracking) predictionsListed(f store.PredictionFilter, want ...string) {
	b.t.Helper()
	var got []string
	for _, p := range b.predictionList(f, nil) {
		got = append(got, p.ID)
	}
	if !slices.Equal(got, want) {
		b.t.Fatalf("filter %+v lists %q, want %q", f, got, want)
	}
}

func listNoPredictions(t *testing.T, b *tracking) {
	b.predictionsListed(store.PredictionFilter{})
	b.predictionsListed(store.PredictionFilter{ID: "nobody's"})
	b.predictionsListed(store.PredictionFilter{Webhook: of(store.WebhookDisabled)})
}

func listPredictionFields(t *testing.T, b *tracking) {
	p := b.prediction("a")
	p.Token, p.Body, p.Test = []byte("token"), []byte("body"), true
	p = b.trackAs(p, event.Started)
	b.track("b", event.Completed)
	rows := b.predictionList(store.PredictionFilter{}, nil)
	if len(rows) != 2 || rows[0].ID != "b" {
		t.Fatalf("listed %+v", rows)
	}
	want := b.find("a")
	want.Credential, want.Token, want.Body = nil, nil, nil
	if got := rows[1]; !reflect.DeepEqual(got, want) || got.Ref != p.Ref {
		t.Fatalf("got\n%+v, want\n%+v", got, want)
	}
}

func listByStatus(t *testing.T, b *tracking) {
	b.track("pending", event.Started)
	b.one("pending started")
	b.track("delivered", event.Completed)
	b.complete(b.one("delivered completed"), store.Delivered)
	b.track("failed", event.Failed)
	b.complete(b.one("failed failed"), store.Exhausted)
	b.set(b.track("disabled"), "")
	b.track("waiting")
	for status, want := range map[store.WebhookStatus][]string{
		store.WebhookPending: {"waiting", "pending"}, store.WebhookDelivered: {"delivered"},
		store.WebhookFailed: {"failed"}, store.WebhookDisabled: {"disabled"},
	} {
		b.predictionsListed(store.PredictionFilter{Webhook: &status}, want...)
		b.predictionsListed(store.PredictionFilter{Webhook: &status, ID: want[0], Limit: 1}, want[0])
		b.predictionsListed(store.PredictionFilter{Webhook: &status, ID: "other"})
	}
	b.predictionsListed(store.PredictionFilter{Limit: 1}, "waiting", "disabled", "failed", "delivered", "pending")
}

func listByID(t *testing.T, b *tracking) {
	b.track("a")
	elsewhere := b.prediction("a")
	elsewhere.API = "https://other.example.com"
	elsewhere = b.trackAs(elsewhere, event.Started)
	b.track("b")
	b.predictionsListed(store.PredictionFilter{ID: "a"}, "a", "a")
	b.predictionsListed(store.PredictionFilter{ID: "a", Limit: 1}, "a", "a")
	if rows := b.predictionList(store.PredictionFilter{ID: "a"}, nil); rows[0].Ref != elsewhere.Ref || rows[0].API != elsewhere.API {
		t.Fatalf("listed %+v", rows)
	}
	b.listed(store.DeliveryFilter{Prediction: "a"}, "a started")
}

func listPredictionPages(t *testing.T, b *tracking) {
	for i := range 5 {
		b.track(fmt.Sprint("p", i))
	}
	n := 0
	rows := b.predictionList(store.PredictionFilter{}, func() {
		n++
		b.track(fmt.Sprint("later", n))
	})
	var got []string
	for _, p := range rows {
		got = append(got, p.ID)
	}
	if want := []string{"p4", "p3", "p2", "p1", "p0"}; !slices.Equal(got, want) {
		t.Fatalf("listed %q, want %q", got, want)
	}
}

func listReserved(t *testing.T, b *tracking) {
	r := b.prediction("")
	r.Token = []byte("token")
	ref, err := b.s.Reserve(ctx, r)
	b.must(err)
	b.predictionsListed(store.PredictionFilter{})
	b.must(b.s.Observe(ctx, ref, "a", nil))
	b.predictionsListed(store.PredictionFilter{}, "a")
	b.predictionsListed(store.PredictionFilter{ID: "a"}, "a")
}
