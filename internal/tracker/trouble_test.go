package tracker

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/duration"
	"github.com/caddy-replicate/replicate-webhook/internal/upstream"
)

// Answers that are no prediction make no event, are asked for again at a
// bounded pace, and do not keep the prediction from its end.
func TestTroubleIsOutlived(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer func(http.ResponseWriter, *http.Request)
		most   int // polls in the first ten minutes
		log    string
	}{
		{"404", status(404), 30, "does not know"},
		{"401", status(401), 6, "refuses the token"},
		{"403", status(403), 6, "refuses the token"},
		{"429 without a time", status(429), 65, "limits polls"},
		{"500", status(500), 70, ""},
		{"503 with a time", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "100")
			w.WriteHeader(503)
		}, 7, ""},
		{"400", status(400), 70, "not the prediction"},
		{"204", status(204), 70, "not the prediction"},
		{"201", status(201), 70, "not the prediction"},
		{"redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://elsewhere.test/", http.StatusFound)
		}, 70, "not the prediction"},
		{"markup", text("<html>"), 70, "not the prediction"},
		{"cut short", text(`{"id":"p","status":"succeeded"`), 70, "not the prediction"},
		{"another one", text(body("q", "succeeded")), 70, "not the prediction"},
		{"no id", text(`{"status":"succeeded"}`), 70, "not the prediction"},
		{"wrong types", text(`{"id":7,"status":"succeeded"}`), 70, "not the prediction"},
		{"hangs", hang, 10, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, nil)
				w.start()
				defer w.end()
				w.api.answers(c.answer)
				w.track("p", "starting")
				time.Sleep(10 * time.Minute)
				n := len(w.api.requests())
				if n < 4 || n > c.most {
					t.Errorf("%d polls in ten minutes, not 4 to %d", n, c.most)
				}
				w.wantEvents("p", nil)
				if c.log != "" && w.logs.FilterMessageSnippet(c.log).Len() == 0 {
					t.Errorf("nothing of %q is logged: %v", c.log, w.logs.All())
				}
				if n := w.logs.Len(); n > 11 {
					t.Errorf("%d lines are logged", n)
				}
				for _, r := range w.api.requests() {
					if !strings.HasPrefix(r.url, apiURL+"/") {
						t.Errorf("%s was asked", r.url)
					}
				}
				w.api.answers(nil)
				w.api.set(path, body("p", "succeeded"))
				time.Sleep(16 * time.Minute)
				w.wantEvents("p", both)
			})
		})
	}
}

func status(code int) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

func text(s string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, s) }
}

func TestRetryAfterPausesThatAPI(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		const other = "https://other.test/v1"
		w.api.answers(func(rw http.ResponseWriter, r *http.Request) {
			if r.URL.Host == "api.test" {
				rw.Header().Set("Retry-After", "120")
				rw.WriteHeader(429)
				return
			}
			_, _ = io.WriteString(rw, body(r.URL.Path[len("/v1/predictions/"):], "processing"))
		})
		w.trackAt(up, "a", "starting")
		w.start()
		defer w.end()
		time.Sleep(600 * time.Millisecond)
		for i := range 5 {
			w.trackAt(up, fmt.Sprint("a", i), "starting")
		}
		w.trackAt(upstream.API{URL: other}, "b", "starting")
		time.Sleep(100 * time.Second)
		var limited, free int
		for _, r := range w.api.requests() {
			if strings.HasPrefix(r.url, other) {
				free++
			} else {
				limited++
			}
		}
		if limited != 1 || free < 10 {
			t.Errorf("%d polls of the API that limits them, %d of the other", limited, free)
		}
		w.api.answers(func(rw http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(rw, body(r.URL.Path[len("/v1/predictions/"):], "succeeded"))
		})
		time.Sleep(25 * time.Second)
		w.wantEvents("a", both)
		w.wantEvents("a4", both)
	})
}

func TestHangingAPILeavesSlotsToOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		const other = "https://other.test/v1"
		w.api.answers(func(rw http.ResponseWriter, r *http.Request) {
			if r.URL.Host == "api.test" {
				hang(rw, r)
				return
			}
			_, _ = io.WriteString(rw, body(r.URL.Path[len("/v1/predictions/"):], "succeeded"))
		})
		for i := range 500 {
			w.trackAt(up, fmt.Sprint("a", i), "starting")
		}
		w.start()
		defer w.end()
		time.Sleep(70 * time.Second)
		w.trackAt(upstream.API{URL: other}, "b", "starting")
		time.Sleep(70 * time.Second)
		w.wantEvents("b", both)
		w.api.mu.Lock()
		defer w.api.mu.Unlock()
		if w.api.most > concurrentPolls {
			t.Errorf("%d polls at once", w.api.most)
		}
	})
}

func TestGiveUp(t *testing.T) {
	for _, c := range []struct {
		name, why string
		api       string
		answer    func(http.ResponseWriter, *http.Request)
		late      time.Duration
	}{
		{"still running", `its status is still \"processing\"`, apiURL, text(body("p", "processing")), 0},
		{"unknown", "the API responded with 404", apiURL, status(404), 0},
		{"refused", "the API responded with 401", apiURL, status(401), 0},
		{"limited", "the API responded with 429", apiURL, status(429), 0},
		{"broken", "the API responded with 500", apiURL, status(500), 0},
		{"silent", "the API did not respond", apiURL, hang, 2 * time.Minute},
		{"nonsense", "the API's response was not the prediction", apiURL, text("?"), 0},
		{"no callback", "no callback told of one", "", nil, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, func(c *options) { c.Schedule.GiveUp = duration.Duration(2 * time.Hour) })
				w.start()
				defer w.end()
				w.api.answers(c.answer)
				w.trackAt(upstream.API{URL: c.api}, "p", "starting")
				time.Sleep(2*time.Hour - time.Second)
				if n := len(w.st.events("p")); n > 1 {
					t.Error("given up too early")
				}
				time.Sleep(2*time.Second + c.late)
				w.wantEvents("p", failed)
				got := w.st.payload("p")
				if want := `"error":"tracking was given up: no final status within 2h0m0s of creation (` + c.why + `)","status":"failed"`; !strings.Contains(got, want) {
					t.Errorf("got %s\nwant in it %s", got, want)
				}
				if strings.Contains(got, `"output"`) {
					t.Errorf("got %s", got)
				}
			})
		})
	}
}

// After a long time off, the API is asked before anything is given up.
func TestLongTimeOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.track("p", "starting")
		w.track("q", "starting")
		time.Sleep(48 * time.Hour)
		w.api.status(502)
		w.start()
		defer w.end()
		time.Sleep(15 * time.Second)
		w.api.answers(nil)
		w.api.set(path, body("p", "succeeded"))
		time.Sleep(time.Minute)
		w.wantEvents("p", both)
		w.api.set("/v1/predictions/q", body("q", "processing"))
		time.Sleep(time.Minute)
		w.wantEvents("q", failed)
	})
}
