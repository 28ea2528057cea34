package storetest

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// RunInspector runs the suite for what operators ask of a store. Each test gets
// a resource of its own from fresh.
func RunInspector(t *testing.T, fresh func(t *testing.T) Resource) {
	runGroups(t, fresh, newTracking, []group[*tracking]{
		{"counts", countCases},
		{"deliveries", listDeliveryCases},
		{"predictions", listPredictionCases},
		{"one delivery", findDeliveryCases},
		{"search", searchCases},
	})
}

func (b *tracking) counts() store.Counts {
	b.t.Helper()
	c, err := b.s.Counts(ctx)
	b.must(err)
	return c
}

// counted asserts the counts of deliveries by state, in the states' order.
func (b *tracking) counted(want ...int) {
	b.t.Helper()
	got := b.counts().Deliveries
	if !slices.Equal(got[:], want) {
		b.t.Fatalf("deliveries by state: %v, want %v", got, want)
	}
}

var countCases = []trackingCase{
	{"of nothing", countNothing},
	{"follow every change", countChanges},
	{"survive reopening", countsSurvive},
	{"follow what is forgotten", countForgotten},
	{"of what is tracked", countTracked},
	{"of what dedup remembers", countEntries},
	{"oldest pending", countOldest},
	{"closed is unavailable", countClosed},
}

func countNothing(t *testing.T, b *tracking) {
	if got := b.counts(); got != (store.Counts{}) {
		t.Fatalf("got %+v", got)
	}
}

// everyState leaves one delivery in each state, in their order, of the
// predictions a to e.
func everyState(b *tracking) {
	b.t.Helper()
	b.track("b", event.Started)
	b.complete(b.one("b started"), store.Delivered)
	b.track("c", event.Started)
	b.complete(b.one("c started"), store.Exhausted)
	d := b.track("d", event.Started)
	b.complete(b.one("d started"), store.Retry)
	b.observe(d, event.Completed)
	b.complete(b.one("d completed"), store.Delivered)
	e := b.track("e", event.Started)
	b.set(e, "")
	b.track("a", event.Started)
}

func countChanges(t *testing.T, b *tracking) {
	b.counted(0, 0, 0, 0, 0)
	everyState(b)
	b.counted(1, 2, 1, 1, 1)
	b.complete(b.one("a started"), store.Gone)
	b.counted(0, 2, 2, 1, 1)
	// Canceled while it was under way, and delivered nonetheless.
	f := b.track("f", event.Started)
	d := b.one("f started")
	b.set(f, "")
	b.counted(0, 2, 2, 1, 2)
	b.complete(d, store.Delivered)
	b.counted(0, 3, 2, 1, 1)
	// Canceled while it was under way, and failed.
	g := b.track("g", event.Started)
	d = b.one("g started")
	b.set(g, "")
	b.complete(d, store.Exhausted)
	b.counted(0, 3, 2, 1, 2)
}

func countsSurvive(t *testing.T, b *tracking) {
	everyState(b)
	before := b.counts()
	b.restart()
	if got := b.counts(); !reflect.DeepEqual(got, before) {
		t.Fatalf("counts were %+v and are %+v", before, got)
	}
}

func countForgotten(t *testing.T, b *tracking) {
	everyState(b)
	b.advance(time.Hour)
	b.must(b.s.Forget(ctx, store.Before{Deliveries: b.now()}))
	b.counted(1, 0, 0, 0, 0)
}

func countTracked(t *testing.T, b *tracking) {
	tracked := func(want int) {
		t.Helper()
		if got := b.counts().Tracked; got != want {
			t.Fatalf("%d are tracked, want %d", got, want)
		}
	}
	p := b.track("a")
	b.track("a")
	b.track("b", event.Started)
	b.track("c", event.Started, event.Failed)
	tracked(2)
	b.observe(p, event.Completed)
	b.observe(p, event.Failed)
	tracked(1)
	// Reserved ones count once their id is known.
	reserve := func(id string) store.Prediction {
		t.Helper()
		r := b.prediction(id)
		r.Token = []byte("token of " + id)
		ref, err := b.s.Reserve(ctx, r)
		b.must(err)
		r.Ref = ref
		return r
	}
	named, early, over, gone := reserve("d"), reserve("e"), reserve("f"), reserve("g")
	tracked(1)
	b.trackAs(named)
	tracked(2)
	b.must(b.s.Observe(ctx, early.Ref, "e", nil))
	tracked(3)
	b.trackAs(early)
	tracked(3)
	b.must(b.s.Observe(ctx, over.Ref, "f", happened("f", event.Completed)))
	tracked(3)
	b.trackAs(over)
	b.must(b.s.Abandon(ctx, gone.Ref))
	tracked(3)
	b.restart()
	tracked(3)
}

func countEntries(t *testing.T, b *tracking) {
	for i := range 3 {
		b.commit(b.entry(fmt.Sprint(i)))
	}
	b.claim(b.entry("open")).Release()
	if got := b.counts().Entries; got != 3 {
		t.Fatalf("%d entries, want 3", got)
	}
	b.reopen()
	b.advance(2 * time.Hour)
	b.purge()
	if got := b.counts().Entries; got != 0 {
		t.Fatalf("%d entries are left, want none", got)
	}
}

func countOldest(t *testing.T, b *tracking) {
	oldest := func(want time.Time) {
		t.Helper()
		if got := b.counts().OldestPending; !got.Equal(want) {
			t.Fatalf("oldest pending is of %v, want %v", got, want)
		}
	}
	oldest(time.Time{})
	first := b.now()
	b.track("a", event.Started)
	d := b.one("a started")
	b.advance(time.Minute)
	second := b.now()
	b.track("b", event.Started)
	oldest(first)
	b.complete(d, store.Retry)
	oldest(first)
	b.advance(time.Minute)
	b.must(b.s.SetWebhook(ctx, d.Prediction, "", event.All))
	oldest(second)
	b.finish()
	oldest(time.Time{})
}

func countClosed(t *testing.T, b *tracking) {
	o := b.s
	b.must(b.s.Close())
	if _, err := o.Counts(ctx); !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("counting: %v", err)
	}
	if _, _, err := o.ListDeliveries(ctx, store.DeliveryFilter{Limit: 1}); !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("listing deliveries: %v", err)
	}
	if _, _, err := o.ListPredictions(ctx, store.PredictionFilter{Limit: 1}); !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("listing predictions: %v", err)
	}
	if _, err := o.RedeliverDelivery(ctx, "dlv_1"); !errors.Is(err, store.ErrUnavailable) && !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("redelivering: %v", err)
	}
}
