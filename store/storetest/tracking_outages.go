package storetest

import (
	"slices"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
)

var outageCases = []trackingCase{
	{"outages are kept until they end", outagesKept},
	{"an outage keeps its beginning", outageBegins},
	{"presence of a process", presence},
	{"a clock that was wrong leaves no presence", presenceClock},
}

func (b *tracking) outages() []store.Outage {
	b.t.Helper()
	out, err := b.s.Outages(ctx)
	b.must(err)
	slices.SortFunc(out, func(x, y store.Outage) int { return x.Since.Compare(y.Since) })
	return out
}

func outagesKept(t *testing.T, b *tracking) {
	endpoint := store.Lane{Endpoint: hookEnd}
	odd := store.Lane{Endpoint: hookEnd, Client: "https://api.example.com account/a\x00b\xff"}.Only(hook)
	if odd != store.ParseLane(odd.String()) {
		t.Fatalf("lane %q is read as %q", odd, store.ParseLane(odd.String()))
	}
	var want []store.Outage
	for _, lane := range []store.Lane{endpoint, odd, hookLane.Only(hook), hookLane.Only(other)} {
		o := store.Outage{Lane: lane, Since: b.now(), Reason: "connection refused \x00"}
		b.must(b.s.BeginOutage(ctx, o))
		want = append(want, o)
		b.advance(time.Second)
	}
	b.must(b.s.EndOutage(ctx, hookLane.Only(other)))
	b.must(b.s.EndOutage(ctx, hookLane)) // there is none
	for range 2 {
		if got := b.outages(); !slices.EqualFunc(got, want[:3], func(x, y store.Outage) bool {
			return x.Lane == y.Lane && x.Since.Equal(y.Since) && x.Reason == y.Reason
		}) {
			t.Fatalf("outages %+v, want %+v", got, want[:3])
		}
		b.restart()
	}
}

func outageBegins(t *testing.T, b *tracking) {
	o := store.Outage{Lane: store.Lane{Endpoint: hookEnd}, Since: b.now(), Reason: "first"}
	b.must(b.s.BeginOutage(ctx, o))
	b.must(b.s.BeginOutage(ctx, store.Outage{Lane: o.Lane, Since: b.now().Add(time.Hour), Reason: "second"}))
	if got := b.outages(); len(got) != 1 || !got[0].Since.Equal(o.Since) {
		t.Fatalf("outages %+v", got)
	}
}

func (b *tracking) witness(want ...store.Span) {
	b.t.Helper()
	got, err := b.s.Witness(ctx, time.Minute)
	b.must(err)
	if !slices.EqualFunc(got, want, func(x, y store.Span) bool { return x.Began.Equal(y.Began) && x.Ended.Equal(y.Ended) }) {
		b.t.Fatalf("presence %v, want %v", got, want)
	}
}

func presence(t *testing.T, b *tracking) {
	begun := b.now()
	b.witness(store.Span{Began: begun, Ended: begun})
	for range 3 {
		b.advance(time.Minute)
		b.witness(store.Span{Began: begun, Ended: b.now()})
	}
	first := store.Span{Began: begun, Ended: b.now()}
	b.reopen()
	b.advance(time.Minute + time.Second)
	second := b.now()
	b.witness(first, store.Span{Began: second, Ended: second})
	b.advance(30 * time.Second)
	b.reopen()
	b.witness(first, store.Span{Began: second, Ended: b.now()})
}

func presenceClock(t *testing.T, b *tracking) {
	begun := b.now()
	b.witness(store.Span{Began: begun, Ended: begun})
	b.advance(1000 * time.Hour)
	ahead := b.now()
	b.witness(store.Span{Began: begun, Ended: begun}, store.Span{Began: ahead, Ended: ahead})
	b.advance(-1000*time.Hour + time.Second)
	b.witness(store.Span{Began: begun, Ended: b.now()})
	b.witness(store.Span{Began: begun, Ended: b.now()})
}
