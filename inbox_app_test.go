package replicatewebhook_test

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
)

// stored sends and wants to hear that the event is stored. It returns its ID.
func (e *edge) stored(w webhook) string {
	e.t.Helper()
	a := e.send(w)
	id := a.header.Get("X-Replicate-Inbox")
	if a.status != http.StatusOK || id == "" || a.duplicate() || a.body != "" {
		e.t.Fatalf("got %v, want 200 with the event's ID", a)
	}
	return id
}

// TestInboxSurvivesTheApp: events that come while the app is down, through reloads and
// a restart, reach it once it is back: each once, the events of a prediction in order,
// with what was signed and the headers that the app would have got at once.
func TestInboxSurvivesTheApp(t *testing.T) {
	const predictions = 20
	type got struct{ body, event, id, request, cookie, uri string }
	var (
		mu      sync.Mutex
		up      bool
		total   int
		arrived = make(map[string][]got) // by prediction
		done    = make(chan struct{})
	)
	e := newEdge(t, "")
	e.app.Answer(func(w http.ResponseWriter, r *caddyrun.Request) {
		mu.Lock()
		defer mu.Unlock()
		if !up {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		p := r.Header.Get("X-Replicate-Prediction-Id")
		if n, err := strconv.Atoi(r.Header.Get("X-Replicate-Attempt")); err != nil || n < 1 {
			t.Errorf("attempt %q", r.Header.Get("X-Replicate-Attempt"))
		}
		arrived[p] = append(arrived[p], got{string(r.Got), r.Header.Get("X-Replicate-Event"), r.Header.Get("X-Replicate-Event-Id"),
			r.Header.Get("X-Request-Id"), r.Header.Get("Cookie"), r.RequestURI})
		if total++; total == 2*predictions {
			close(done)
		}
	})
	options := "inbox " + e.app.Addr() + " {\nmax_delay 1s\n}"
	e.reload(options)
	ids := make(map[string]string) // of events by prediction and event
	send := func(from, to int, event string) {
		for i := from; i < to; i++ {
			w := replicate(whsec, guideBody(fmt.Sprint("p", i), event)).with("X-Request-Id", fmt.Sprint("r", i)).with("Cookie", "session")
			ids[fmt.Sprint("p", i, " ", event)] = e.stored(w)
			if a := e.send(w); a.status != http.StatusOK || !a.duplicate() || a.header.Get("X-Replicate-Inbox") != "" {
				t.Fatalf("sent again: %v, want a duplicate", a)
			}
		}
	}
	send(0, predictions/2, "prediction.started")
	e.reload(options)
	send(predictions/2, predictions, "prediction.started")
	send(0, predictions/2, "prediction.completed")
	e.Reload("{\n{$GLOBALS}\n}\n") // the store is opened anew
	e.reload(options)
	send(predictions/2, predictions, "prediction.completed")

	mu.Lock()
	up = true
	mu.Unlock()
	select {
	case <-done:
	case <-time.After(caddyrun.Patience):
	}
	e.app.WaitIdle()
	mu.Lock()
	defer mu.Unlock()
	if len(arrived) != predictions {
		t.Errorf("events of %d predictions arrived", len(arrived))
	}
	for p, list := range arrived {
		if len(list) != 2 || list[0].event != "prediction.started" || list[1].event != "prediction.completed" {
			t.Errorf("%s: %+v", p, list)
			continue
		}
		for _, g := range list {
			if g.id != ids[p+" "+g.event] || g.request != "r"+p[1:] || g.cookie != "" || g.uri != route || !strings.Contains(g.body, strconv.Quote(p)) {
				t.Errorf("%s: %+v, want the event %s", p, g, ids[p+" "+g.event])
			}
		}
	}
	if total != 2*predictions {
		t.Errorf("the app accepted %d events, want %d", total, 2*predictions)
	}
}

// TestInboxThatIsFull: what can't be kept gets 503 with Retry-After, is kept when it
// is sent again, and nothing that was accepted is dropped for it.
func TestInboxThatIsFull(t *testing.T) {
	e := newEdge(t, "")
	e.app.AnswerStatus(http.StatusServiceUnavailable)
	e.reload("inbox " + e.app.Addr() + " {\nmax_events 3\nmax_delay 1s\n}")
	for i := range 3 {
		e.stored(completed(fmt.Sprint("p", i)))
	}
	late := completed("late")
	if a := e.send(late); a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" {
		t.Fatalf("got %v, want 503 with Retry-After", a)
	}
	e.app.AnswerStatus(http.StatusOK)
	deadline := time.Now().Add(caddyrun.Patience)
	for e.send(late).status != http.StatusOK {
		if time.Now().After(deadline) {
			t.Fatal("there is no room although the app is back")
		}
	}
	for {
		n := 0
		for _, r := range e.app.Seen() {
			if r.Header.Get("X-Replicate-Prediction-Id") == "late" {
				n++
			}
		}
		if n == 1 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the late event reached the app %d times", n)
		}
		e.app.Wait(e.app.Count())
	}
}
