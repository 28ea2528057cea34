package tracker

import (
	"fmt"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/upstream"
)

// What package poller does by default.
const (
	pollMax         = 10 * time.Second
	concurrentPolls = 32
	shareWait       = time.Second
	probes          = 4
)

// trackFor has a client with its own token create a prediction.
func (w *world) trackFor(token, id string) {
	w.t.Helper()
	c := &Capture{API: up, Caller: upstream.Caller{Identity: "client " + token, Authorization: "Bearer " + token}, URL: hook}
	if _, err := w.Created(w.t.Context(), c, snapshot(w.t, id, "starting")); err != nil {
		w.t.Fatal(err)
	}
}

// An API that limits, fails or stalls one client's token keeps no other client
// waiting, however many predictions the first has.
func TestOneClientsTroubleAtTheAPIIsItsOwn(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer func(http.ResponseWriter, *http.Request)
		most   int // polls with the token in trouble, in ten minutes
	}{
		{"429 for an hour", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(429)
		}, concurrentPolls},
		{"429 for longer than any number", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "99999999999999999999999")
			w.WriteHeader(429)
		}, concurrentPolls},
		{"429 without a time", status(429), 500},
		{"503 for an hour", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(503)
		}, concurrentPolls},
		{"500", status(500), 500},
		{"401", status(401), 1500},
		{"stalls", hang, 500},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, nil)
				w.api.answers(func(rw http.ResponseWriter, r *http.Request) {
					if r.Header.Get("Authorization") == "Bearer busy" {
						c.answer(rw, r)
						return
					}
					_, _ = io.WriteString(rw, body(r.URL.Path[len("/v1/predictions/"):], "processing"))
				})
				for i := range 200 {
					w.trackFor("busy", fmt.Sprint("busy", i))
				}
				w.start()
				defer w.end()
				time.Sleep(2 * time.Second)
				w.trackFor("calm", "calm")
				start := time.Now()
				time.Sleep(10 * time.Minute)
				busy := 0
				last := start
				var longest time.Duration
				for _, r := range w.api.requests() {
					switch {
					case r.authorization == "Bearer busy":
						busy++
					default:
						longest = max(longest, r.at.Sub(last))
						last = r.at
					}
				}
				// The schedule's own interval, and the wait for a slot.
				if limit := pollMax + shareWait; longest > limit || time.Since(last) > limit {
					t.Errorf("the other client's prediction was not asked for in %s", max(longest, time.Since(last)))
				}
				if busy == 0 || busy > c.most {
					t.Errorf("%d polls with the token in trouble, want 1 to %d", busy, c.most)
				}
				w.wantEvents("calm", both[:1])
			})
		})
	}
}

// With the operator's token the allowance is shared, and so is its pause.
func TestTheOperatorsTokenIsPausedForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		operator := upstream.API{URL: apiURL, Token: "operator"}
		if err := w.client.Join(operator); err != nil {
			t.Fatal(err)
		}
		w.api.status(429, "Retry-After", "120")
		w.trackAt(operator, "a", "starting")
		w.start()
		defer w.end()
		time.Sleep(time.Second)
		w.trackAt(operator, "b", "starting")
		time.Sleep(100 * time.Second)
		if n := len(w.api.requests()); n != 1 {
			t.Errorf("%d polls while the operator's token is limited", n)
		}
		if w.logs.FilterMessageSnippet("limits polls").Len() != 1 {
			t.Errorf("logged: %v", w.logs.All())
		}
	})
}

// After a pause the token's predictions do not all come back at once.
func TestPollsGoOnWithAFewAfterAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.api.status(429, "Retry-After", "60")
		for i := range 100 {
			w.trackFor("busy", fmt.Sprint("p", i))
		}
		w.start()
		defer w.end()
		time.Sleep(30 * time.Second)
		before := len(w.api.requests())
		w.api.answers(hang)
		time.Sleep(60 * time.Second)
		if n := len(w.api.requests()) - before; n == 0 || n > probes {
			t.Errorf("%d polls wait for a response after the pause, want 1 to %d", n, probes)
		}
	})
}
