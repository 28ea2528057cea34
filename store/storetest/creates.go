package storetest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// MaxCreates is the MaxCreates of the stores that RunCreates tests.
const MaxCreates = 20

// RunCreates runs the suite for creates with an Idempotency-Key. Each test gets a
// resource of its own from fresh, which opens stores with MaxCreates.
func RunCreates(t *testing.T, fresh func(t *testing.T) Resource) {
	runCases(t, fresh, newTracking, []trackingCase{
		{"a create that has begun is found, and survives reopening", createBegun},
		{"a key is used once", createKnown},
		{"of many that begin at once under one key, one does", createAtOnce},
		{"a response is kept, and survives reopening", createAnswered},
		{"a response is committed with its prediction", createTracked},
		{"a dropped create leaves its key free", createDropped},
		{"a callback names the prediction of a create", createNamed},
		{"an expired create leaves its key free", createExpired},
		{"purging spares live creates", createPurged},
		{"a caller has so many live creates and no more", createLimit},
		{"a claim is lost with its process, a create is not", createClaim},
		{"sealed responses are counted, listed and replaced", createSealed},
		{"closed is unavailable", createClosed},
	})
}

func (b *tracking) create(name string) store.Create {
	return store.Create{
		Key: store.KeyOf(store.CreateScope, "create", name), Caller: store.KeyOf(store.CreateScope, "caller", client),
		Digest: sha256.Sum256([]byte(name)), Expires: b.now().Add(time.Hour),
	}
}

func (b *tracking) begin(name string) store.Create {
	b.t.Helper()
	c := b.create(name)
	b.must(b.s.BeginCreate(ctx, &c, nil))
	return c
}

// created asserts what there is under the key of c.
func (b *tracking) created(c store.Create, want store.CreateAnswer) {
	b.t.Helper()
	got, err := b.s.Create(ctx, c.Key)
	b.must(err)
	if got.Key != c.Key || got.Caller != c.Caller || got.Digest != c.Digest || got.Nonce != c.Nonce || got.Ref != c.Ref || !got.Expires.Equal(c.Expires) {
		b.t.Fatalf("found %+v, want %+v", got, c)
	}
	if got.Status != want.Status || got.ID != want.ID || string(got.Sealed) != string(want.Sealed) || (got.Sealed == nil) != (want.Sealed == nil) {
		b.t.Fatalf("the response is %+v, want %+v", got.CreateAnswer, want)
	}
}

func (b *tracking) noCreate(key store.Key) {
	b.t.Helper()
	if c, err := b.s.Create(ctx, key); !errors.Is(err, store.ErrNotFound) {
		b.t.Fatalf("found %+v, %v", c, err)
	}
}

func createBegun(t *testing.T, b *tracking) {
	b.noCreate(b.create("a").Key)
	c := b.begin("a")
	b.noCreate(b.create("b").Key)
	for range 2 {
		b.created(c, store.CreateAnswer{})
		b.restart()
	}
}

func createKnown(t *testing.T, b *tracking) {
	c := b.begin("a")
	again := b.create("a")
	p := b.prediction("")
	p.Token = []byte("token")
	for _, reserve := range []*store.Prediction{nil, &p} {
		if err := b.s.BeginCreate(ctx, &again, reserve); !errors.Is(err, store.ErrCreateKnown) {
			t.Fatalf("got %v, want that the key is in use", err)
		}
	}
	if _, err := b.s.ByToken(ctx, p.Token); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("the prediction was reserved: %v", err)
	}
	b.must(b.s.AnswerCreate(ctx, &c, store.CreateAnswer{Status: 201, ID: "x", Sealed: []byte("s")}))
	b.created(c, store.CreateAnswer{Status: 201, ID: "x", Sealed: []byte("s")})
}

func createAtOnce(t *testing.T, b *tracking) {
	var began atomic.Int64
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			c := b.create("a")
			switch err := b.s.BeginCreate(ctx, &c, nil); {
			case err == nil:
				began.Add(1)
			case !errors.Is(err, store.ErrCreateKnown):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := began.Load(); n != 1 {
		t.Fatalf("%d began", n)
	}
}

func createAnswered(t *testing.T, b *tracking) {
	small, large, refused := b.begin("small"), b.begin("large"), b.begin("refused")
	answers := []store.CreateAnswer{{Status: 201, ID: "p\x00\xff", Sealed: []byte("sealed\x00\xff")}, {Status: 201, ID: "q"}, {Status: 422, Sealed: []byte("refused")}}
	for i, c := range []*store.Create{&small, &large, &refused} {
		b.must(b.s.AnswerCreate(ctx, c, answers[i]))
	}
	for range 2 {
		for i, c := range []store.Create{small, large, refused} {
			b.created(c, answers[i])
		}
		b.restart()
	}
}

func createTracked(t *testing.T, b *tracking) {
	c := b.create("a")
	reserved := b.prediction("")
	reserved.Token = []byte("token")
	b.must(b.s.BeginCreate(ctx, &c, &reserved))
	if c.Ref == 0 || c.Ref != reserved.Ref {
		t.Fatalf("refs are %d and %d", c.Ref, reserved.Ref)
	}
	p := b.prediction("p")
	p.Ref, p.Token = reserved.Ref, reserved.Token
	b.must(b.s.TrackCreate(ctx, &p, happened("p", event.Started, event.Completed), &c, func(now store.Prediction) store.CreateAnswer {
		return store.CreateAnswer{Status: 201, ID: now.ID, Sealed: []byte(now.Webhook.String())}
	}))
	if p.Seen != event.Started|event.Completed {
		t.Fatalf("the prediction is %+v", p)
	}
	for range 2 {
		b.created(c, store.CreateAnswer{Status: 201, ID: "p", Sealed: []byte("pending")})
		if got := b.find("p"); got.Ref != c.Ref || got.Seen != p.Seen {
			t.Fatalf("tracked %+v", got)
		}
		b.restart()
	}
	// Without a reservation, and with nothing to send.
	c = b.begin("b")
	p = b.prediction("q")
	p.Events = event.Started
	b.must(b.s.TrackCreate(ctx, &p, happened("q", event.Completed), &c, func(now store.Prediction) store.CreateAnswer {
		return store.CreateAnswer{Status: 201, ID: now.ID, Sealed: []byte(now.Webhook.String())}
	}))
	b.created(c, store.CreateAnswer{Status: 201, ID: "q", Sealed: []byte(p.Webhook.String())})
}

func createDropped(t *testing.T, b *tracking) {
	c := b.begin("a")
	b.must(b.s.DropCreate(ctx, &c))
	b.noCreate(c.Key)
	b.must(b.s.AnswerCreate(ctx, &c, store.CreateAnswer{Status: 201}))
	b.noCreate(c.Key)
	again := b.begin("a")
	b.must(b.s.DropCreate(ctx, &c)) // the one before
	b.created(again, store.CreateAnswer{})
}

func createNamed(t *testing.T, b *tracking) {
	c := b.create("a")
	p := b.prediction("")
	p.Token = []byte("token")
	b.must(b.s.BeginCreate(ctx, &c, &p))
	b.created(c, store.CreateAnswer{})
	b.restart()
	found, err := b.s.ByToken(ctx, p.Token)
	b.must(err)
	b.must(b.s.Observe(ctx, found.Ref, "p", nil))
	for range 2 {
		b.created(c, store.CreateAnswer{ID: "p"})
		b.restart()
	}
}

func createExpired(t *testing.T, b *tracking) {
	old := b.begin("a")
	b.must(b.s.AnswerCreate(ctx, &old, store.CreateAnswer{Status: 201, ID: "p", Sealed: []byte("old")}))
	b.advance(time.Hour - time.Second)
	b.created(old, store.CreateAnswer{Status: 201, ID: "p", Sealed: []byte("old")})
	b.advance(time.Second)
	b.noCreate(old.Key)
	c := b.begin("a")
	b.created(c, store.CreateAnswer{})
	b.must(b.s.AnswerCreate(ctx, &old, store.CreateAnswer{Status: 500}))
	b.must(b.s.DropCreate(ctx, &old))
	b.created(c, store.CreateAnswer{})
}

func createPurged(t *testing.T, b *tracking) {
	for i := range 10 {
		b.begin(fmt.Sprint("old ", i))
	}
	b.advance(30 * time.Minute)
	live := b.begin("live")
	b.advance(30 * time.Minute)
	b.purge()
	// What expired is gone also by a clock that was set back.
	b.advance(-10 * time.Minute)
	b.created(live, store.CreateAnswer{})
	for i := range 10 {
		b.noCreate(b.create(fmt.Sprint("old ", i)).Key)
	}
}

func createLimit(t *testing.T, b *tracking) {
	full := func() {
		t.Helper()
		c := b.create("one more")
		if err := b.s.BeginCreate(ctx, &c, nil); !errors.Is(err, store.ErrTooManyCreates) {
			t.Fatalf("got %v, want too many", err)
		}
	}
	var c store.Create
	for i := range MaxCreates {
		c = b.begin(fmt.Sprint(i))
	}
	full()
	other := b.create("another's")
	other.Caller = store.KeyOf(store.CreateScope, "caller", "another")
	b.must(b.s.BeginCreate(ctx, &other, nil))
	b.restart()
	full()
	b.must(b.s.DropCreate(ctx, &c))
	b.begin("in its place")
	full()
	b.advance(time.Hour)
	for i := range MaxCreates {
		b.begin(fmt.Sprint(i))
	}
	full()
}

func createClaim(t *testing.T, b *tracking) {
	entry := store.Entry{Scope: store.CreateScope, Keys: []store.Key{b.create("a").Key}, Expires: b.now().Add(time.Hour), Lock: true}
	b.claim(entry)
	c := b.begin("a")
	b.refused(entry, store.ErrInFlight)
	b.restart()
	claim := b.claim(entry)
	b.created(c, store.CreateAnswer{})
	claim.Release()
	b.claim(entry).Release()
}

func createSealed(t *testing.T, b *tracking) {
	b.sealedAs("p", "old p")
	b.sealedSecret("x", "old x")
	for i := range 5 {
		c := b.begin(fmt.Sprint(i))
		b.must(b.s.AnswerCreate(ctx, &c, store.CreateAnswer{Status: 201, ID: fmt.Sprint(i), Sealed: fmt.Append(nil, "old ", i)}))
	}
	large := b.begin("large")
	b.must(b.s.AnswerCreate(ctx, &large, store.CreateAnswer{Status: 201, ID: "large"}))
	b.begin("running")
	b.sealedBy(map[string]int{"old": 7})
	for _, limit := range []int{1, 2, 5, 100} {
		all := make(map[string]bool)
		for after, pages := int64(0), 0; ; pages++ {
			page, next, err := b.s.ListSealed(ctx, []byte("new"), after, limit)
			b.must(err)
			for _, v := range page {
				all[fmt.Sprint(v.Name, v.ID, v.Create != store.Key{}, string(v.Sealed))] = true
			}
			if after = next; next == 0 {
				break
			}
			if pages > 20 {
				t.Fatal("the list has no end")
			}
		}
		if len(all) != 7 {
			t.Fatalf("with %d to a page: %v", limit, all)
		}
	}
	var values []store.Resealed
	for after := int64(0); ; {
		page, next, err := b.s.ListSealed(ctx, []byte("new"), after, 2)
		b.must(err)
		for _, v := range page {
			values = append(values, store.Resealed{SealedValue: v, New: []byte(strings.Replace(string(v.Sealed), "old", "new", 1))})
		}
		if after = next; next == 0 {
			break
		}
	}
	b.must(b.s.Reseal(ctx, values))
	b.sealedBy(map[string]int{"new": 7})
	if got, err := b.s.Create(ctx, b.create("3").Key); err != nil || string(got.Sealed) != "new 3" {
		t.Fatalf("found %+v, %v", got, err)
	}
	counts, err := b.s.CountSealed(ctx, 3)
	if b.must(err); !maps.Equal(counts, map[string]int{"new": 7}) {
		t.Fatal(counts)
	}
}

func createClosed(t *testing.T, b *tracking) {
	c := b.begin("a")
	p := b.prediction("p")
	b.must(b.s.Close())
	_, reading := b.s.Create(ctx, c.Key)
	other := b.create("b")
	for name, err := range map[string]error{
		"read": reading, "begin": b.s.BeginCreate(ctx, &other, nil), "answer": b.s.AnswerCreate(ctx, &c, store.CreateAnswer{Status: 201}),
		"drop":  b.s.DropCreate(ctx, &c),
		"track": b.s.TrackCreate(ctx, &p, nil, &c, func(store.Prediction) store.CreateAnswer { return store.CreateAnswer{} }),
	} {
		if !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s: got %v, want unavailable", name, err)
		}
	}
}
