package security_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
)

// TestReplays captures webhooks that were accepted and sends them again, in
// every way that a holder of them has: as they are, under one scheme of two, in
// another spelling, to another listener of the same scope and to a route of
// another scope and secret; while the store is closed and opened again and its
// clock goes forth, beyond the time for which entries are kept, and back. None
// is passed on.
func TestReplays(t *testing.T) {
	t.Setenv("EDGE_TEST_SECRET", whsec)
	t.Setenv("OTHER_SECRET", unknown)
	app := caddyrun.NewApp(t)
	s := caddyrun.New(t)
	path := s.Path("clocked", "webhook.db")
	clock := caddyrun.NewClock(t, path)
	// On one node all but one of the listeners may be public.
	text := "{\n{$GLOBALS}\nreplicate_webhook {\nstore clocked " + path + "\n}\n}\n" +
		edgeSite("PORT1", route, "tolerance 1h\ndedup_key message", app.Addr()) +
		edgeSite("PORT2", "/other", "tolerance 1h\ndedup_key message", app.Addr()) +
		strings.ReplaceAll(edgeSite("PORT3", route, "tolerance 1h\nscope third", app.Addr()), "EDGE_TEST_SECRET", "OTHER_SECRET")
	e := &edge{s, t, app, text}
	s.Reload(text)
	e.quiet()

	now := time.Now()
	var captured []hook
	capture := func(w hook) { e.accepted(w); captured = append(captured, w) }
	for i := range 20 {
		id := fmt.Sprint("p", i)
		body := payload(id, now)
		w := both(t, whsec, "msg_"+id, body, now)
		switch i % 5 {
		case 0:
			capture(w)
		case 1: // first seen with one half alone
			e.accepted(w.onlyStandard())
			captured = append(captured, w)
		case 2:
			e.accepted(w.onlyReplicate())
			captured = append(captured, w)
		case 3: // signed as sent, which is not the ECMAScript form
			spaced := variants(t, body)["white space"]
			capture(both(t, whsec, "msg_"+id, spaced, now))
		case 4: // the form signed, another spelling sent
			capture(replicate(t, whsec, body).withBody(variants(t, body)["white space"]))
		}
	}
	accepted := app.Count()

	var passed, duplicates, refused atomic.Int64
	replay := func(r *rand.Rand) {
		w := captured[r.IntN(len(captured))]
		switch r.IntN(4) {
		case 0:
			w = w.onlyReplicate()
		case 1:
			w = w.onlyStandard()
		case 2:
			if v := variants(t, w.body); r.IntN(2) == 0 {
				w = w.withBody(v[slices.Sorted(maps.Keys(v))[r.IntN(len(v))]])
			}
		}
		url := e.URL("PORT1", route)
		switch r.IntN(6) {
		case 0:
			url = e.URL("PORT2", "/other")
		case 1:
			url = e.URL("PORT3", route)
		case 2:
			w = w.with("X-Forwarded-For", fmt.Sprint(r.Uint32()))
			url += "?" + fmt.Sprint(r.Uint32())
		}
		a, err := post(caddyrun.ThroughReloads(e.Client), url, w)
		switch {
		case err != nil:
			t.Error(err)
		case a.header.Get("X-Replicate-Duplicate") == "true":
			duplicates.Add(1)
		case a.status == http.StatusUnauthorized || a.status == http.StatusBadRequest:
			refused.Add(1)
		default:
			passed.Add(1)
			t.Errorf("a replay got %v", a)
		}
	}
	const rounds = 10
	for round := range rounds {
		var wg sync.WaitGroup
		for worker := range 4 {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(*seed, uint64(round*10+worker)))
				for range *replays / rounds / 4 {
					replay(r)
				}
			})
		}
		wg.Wait()
		switch round % 5 {
		case 0: // the store is opened anew
			s.Reload("{\n{$GLOBALS}\n}\n")
			e.quiet()
		case 1:
			clock.Ahead(25 * time.Hour)
			clock.Purge(t)
			clock.Ahead(0)
		case 2:
			clock.Ahead(-48 * time.Hour)
		case 3:
			s.Reload("{\n{$GLOBALS}\n}\n")
			clock.Ahead(72 * time.Hour)
			e.quiet()
			clock.Purge(t)
		case 4:
			clock.Ahead(0)
			e.quiet()
		}
	}
	t.Logf("%d replays: %d passed, %d duplicates, %d refused", passed.Load()+duplicates.Load()+refused.Load(), passed.Load(), duplicates.Load(), refused.Load())
	if n := app.Count() - accepted; n != 0 || passed.Load() != 0 {
		t.Errorf("%d replays reached the app", n)
	}
	if duplicates.Load() == 0 || refused.Load() == 0 {
		t.Error("not all kinds of answers were seen: the replays don't try what they should")
	}
	if time.Since(now) > time.Hour {
		t.Error("the webhooks have become too old to pass in any case: send fewer")
	}
}
