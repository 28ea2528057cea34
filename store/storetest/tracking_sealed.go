package storetest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
)

var sealedCases = []trackingCase{
	{"sealed values are counted by how they begin", countSealed},
	{"sealed values are listed in pages", listSealed},
	{"sealed values are replaced", reseal},
	{"changed sealed values are not replaced", resealChanged},
	{"replaced sealed values survive reopening", resealSurvives},
	{"sealed values of a closed store are unavailable", sealedClosed},
}

// sealedAs tracks a prediction with a credential.
func (b *tracking) sealedAs(id, credential string, events ...event.Set) store.Prediction {
	b.t.Helper()
	p := b.prediction(id)
	p.Credential = []byte(credential)
	return b.trackAs(p, events...)
}

func (b *tracking) sealedSecret(name, sealed string) {
	b.t.Helper()
	got, err := b.s.Secret(ctx, name, func() ([]byte, error) { return []byte(sealed), nil })
	if err != nil || string(got) != sealed {
		b.t.Fatalf("secret %s is %q, %v", name, got, err)
	}
}

func (b *tracking) sealedBy(want map[string]int) {
	b.t.Helper()
	got, err := b.s.CountSealed(ctx, 3)
	if err != nil || !maps.Equal(got, want) {
		b.t.Fatalf("counted %v, %v; want %v", got, err, want)
	}
}

// unsealed lists what does not begin with a prefix, in pages, as "name value".
func (b *tracking) unsealed(prefix string, limit int) (values []store.SealedValue, texts []string) {
	b.t.Helper()
	for after, pages := int64(0), 0; ; pages++ {
		page, next, err := b.s.ListSealed(ctx, []byte(prefix), after, limit)
		if err != nil {
			b.t.Fatal(err)
		}
		credentials := 0
		for _, v := range page {
			if v.Ref != 0 {
				credentials++
			}
			if (v.Ref == 0) != (v.Name != "") || v.Ref != 0 && v.API != testAPI {
				b.t.Fatalf("listed %+v", v)
			}
			values, texts = append(values, v), append(texts, v.Name+v.ID+" "+string(v.Sealed))
		}
		if credentials > limit || pages > 100 {
			b.t.Fatalf("page %d has %d credentials", pages, credentials)
		}
		if after = next; next == 0 {
			return values, texts
		}
	}
}

func (b *tracking) reseal(values []store.SealedValue) {
	b.t.Helper()
	var changes []store.Resealed
	for _, v := range values {
		changes = append(changes, store.Resealed{SealedValue: v, New: []byte(strings.Replace(string(v.Sealed), "old", "new", 1))})
	}
	b.must(b.s.Reseal(ctx, changes))
}

func countSealed(t *testing.T, b *tracking) {
	b.sealedBy(map[string]int{})
	b.sealedAs("a", "old a")
	b.sealedAs("b", "old b", event.Started)
	b.sealedAs("c", "new c")
	b.sealedAs("ended", "old ended", event.Started, event.Completed)
	none := b.prediction("none")
	none.Credential = nil
	b.trackAs(none)
	b.sealedSecret("x", "old x")
	b.sealedSecret("y", "s")
	b.sealedSecret(store.MarkerPrefix+"old", "1")
	b.sealedBy(map[string]int{"old": 3, "new": 1, "s": 1})
	b.observe(b.find("a"), event.Failed)
	b.sealedBy(map[string]int{"old": 2, "new": 1, "s": 1})
}

func listSealed(t *testing.T, b *tracking) {
	var want []string
	for i := range 7 {
		id := fmt.Sprint("p", i)
		if i == 3 {
			b.sealedAs(id, "new "+id)
			continue
		}
		b.sealedAs(id, "old "+id)
		want = append(want, id+" old "+id)
	}
	b.sealedAs("ended", "old ended", event.Failed)
	b.sealedSecret("x", "old x")
	b.sealedSecret("y", "new y")
	b.sealedSecret(store.MarkerPrefix+"old", "1")
	want = append([]string{"x old x"}, want...)
	for _, limit := range []int{1, 2, 3, 6, 7, 100} {
		if _, got := b.unsealed("new", limit); !slices.Equal(got, want) {
			t.Errorf("with %d to a page: %q, want %q", limit, got, want)
		}
	}
}

func reseal(t *testing.T, b *tracking) {
	for i := range 5 {
		b.sealedAs(fmt.Sprint("p", i), "old")
	}
	b.sealedSecret("x", "old x")
	values, _ := b.unsealed("new", 2)
	b.reseal(values)
	b.sealedBy(map[string]int{"new": 6})
	b.sealedSecret("x", "new x")
	if p := b.find("p3"); string(p.Credential) != "new" {
		t.Errorf("credential is %q", p.Credential)
	}
	// The rest of a row is as it was, and its events follow.
	b.observe(b.find("p3"), event.Started)
	b.due("p3 started")
	b.must(b.s.Reseal(ctx, nil))
}

func resealChanged(t *testing.T, b *tracking) {
	b.sealedAs("a", "old a")
	b.sealedSecret("x", "old x")
	values, _ := b.unsealed("new", 10)
	stale := slices.Clone(values)
	for i := range stale {
		stale[i].Sealed = []byte("another")
	}
	b.reseal(stale)
	b.sealedBy(map[string]int{"old": 2})
	b.observe(b.find("a"), event.Completed)
	gone := store.SealedValue{Ref: 1 << 40, API: testAPI, ID: "nobody", Sealed: []byte("old")}
	b.reseal(append(values, gone))
	b.sealedBy(map[string]int{"new": 1})
	if p := b.find("a"); p.Credential != nil {
		t.Errorf("an erased credential came back: %q", p.Credential)
	}
}

func resealSurvives(t *testing.T, b *tracking) {
	b.sealedAs("a", "old a")
	b.sealedSecret("x", "old x")
	values, _ := b.unsealed("new", 10)
	b.reseal(values)
	b.restart()
	b.sealedBy(map[string]int{"new": 2})
	if claimed, _, err := b.s.ClaimPolls(ctx, 10); err != nil || len(claimed) != 1 || string(claimed[0].Credential) != "new a" {
		t.Errorf("polled with %v, %v", claimed, err)
	}
}

func sealedClosed(t *testing.T, b *tracking) {
	b.must(b.s.Close())
	_, counting := b.s.CountSealed(ctx, 1)
	_, _, listing := b.s.ListSealed(ctx, []byte("x"), 0, 1)
	for name, err := range map[string]error{
		"count": counting, "list": listing,
		"reseal": b.s.Reseal(ctx, []store.Resealed{{SealedValue: store.SealedValue{Name: "x"}, New: []byte("y")}}),
	} {
		if err == nil || !strings.Contains(err.Error(), store.ErrUnavailable.Error()) {
			t.Errorf("%s: got %v, want unavailable", name, err)
		}
	}
}
