package lifecycle

import (
	"crypto/sha256"
	"strings"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/internal/prediction"
	"github.com/caddy-replicate/replicate-webhook/store"
)

var statuses = []string{"starting", "processing", "succeeded", "failed", "canceled", "aborted", "", "queued"}

// Whatever is observed, in whatever order, there is at most one started event,
// then at most one terminal one, which is that of the first final status.
func TestEveryOrderOfObservations(t *testing.T) {
	const longest = 6
	count := 0
	var walk func(seen []string, happened event.Set, events []event.Set)
	walk = func(seen []string, happened event.Set, events []event.Set) {
		count++
		check(t, seen, events)
		if len(seen) == longest || t.Failed() {
			return
		}
		for _, s := range statuses {
			now, all := happened, events[:len(events):len(events)]
			for _, e := range Next(happened, s) {
				now |= e
				all = append(all, e)
			}
			walk(append(seen[:len(seen):len(seen)], s), now, all)
		}
	}
	walk(nil, 0, nil)
	if count < 1<<18 {
		t.Errorf("only %d sequences", count)
	}
}

func check(t *testing.T, seen []string, events []event.Set) {
	var want []event.Set
	for _, s := range seen {
		if s == "processing" && want == nil {
			want = []event.Set{event.Started}
		}
		terminal := map[string]event.Set{"succeeded": event.Completed, "failed": event.Failed, "canceled": event.Failed, "aborted": event.Failed}[s]
		if terminal != 0 {
			want = []event.Set{event.Started, terminal}
			break
		}
	}
	equal := len(want) == len(events)
	for i := range want {
		equal = equal && want[i] == events[i]
	}
	if !equal {
		t.Errorf("after %v: %v, want %v", seen, events, want)
	}
}

// Next stands on what the store says has happened, which may be more than this
// process has seen.
func TestNextFromEveryState(t *testing.T) {
	for happened := event.Set(0); happened <= event.All; happened++ {
		for _, s := range statuses {
			for _, e := range Next(happened, s) {
				if happened.Has(e) || happened.Has(event.Terminal) {
					t.Errorf("Next(%b, %q) gives %s again", happened, s, e.Name())
				}
			}
		}
	}
}

func TestEvents(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	p := &store.Prediction{ID: "p", CreatedAt: at.Add(-time.Minute)}
	got := Events(p, &prediction.Snapshot{Status: "canceled", Output: []byte(`1`)}, at, "")
	if len(got) != 2 || got[0].Kind != event.Started || got[1].Kind != event.Failed {
		t.Fatalf("got %v", got)
	}
	for i, want := range []string{
		`{"event":"prediction.started","prediction":{"id":"p","version":"","input":{},"status":"processing","created_at":"2026-01-02T03:03:05.000Z"},"timestamp":"2026-01-02T03:04:05.000Z"}`,
		`{"event":"prediction.failed","prediction":{"id":"p","version":"","input":{},"output":1,"status":"canceled","created_at":"2026-01-02T03:03:05.000Z"},"timestamp":"2026-01-02T03:04:05.000Z"}`,
	} {
		if string(got[i].Payload) != want {
			t.Errorf("got  %s\nwant %s", got[i].Payload, want)
		}
	}
	p.Seen = event.Started
	got = Events(p, &prediction.Snapshot{ID: "p", Status: "succeeded", CreatedAt: "then"}, at, "")
	if len(got) != 1 || got[0].Kind != event.Completed || !strings.Contains(string(got[0].Payload), `"created_at":"then"`) {
		t.Errorf("got %v", got)
	}
	p.Seen |= event.Completed
	if got := Events(p, &prediction.Snapshot{ID: "p", Status: "failed"}, at, ""); got != nil {
		t.Errorf("a second terminal event: %v", got)
	}
}

// A client that wants the API's own webhooks has a start with the first state that was
// seen before the end, and none where there was none.
func TestNativeEvents(t *testing.T) {
	native, err := event.ForFilter([]string{"completed", "start"})
	if err != nil {
		t.Fatal(err)
	}
	const url = "https://r.example/hook"
	for _, c := range []struct {
		seen   event.Set
		status string
		want   event.Set
	}{
		{0, "starting", event.Started},
		{0, "processing", event.Started},
		{0, "queued", event.Started},
		{0, "", 0},
		{0, "succeeded", event.Completed},
		{0, "canceled", event.Failed},
		{event.Started, "processing", 0},
		{event.Started, "aborted", event.Failed},
		{event.Completed, "processing", 0},
		{event.Failed, "succeeded", 0},
	} {
		body := `{ "id":"p", "status":"` + c.status + `","webhook":"https://ours/callback/x","n":1.0,"webhook_events_filter" : ["start","completed"] }` + "\n"
		s, err := prediction.Parse([]byte(body))
		if err != nil {
			t.Fatal(err)
		}
		p := &store.Prediction{ID: "p", URL: url, Events: native, Seen: c.seen}
		got := Events(p, s, time.Now(), "")
		if c.want == 0 {
			if got != nil {
				t.Errorf("%b, then %q: %v", c.seen, c.status, got)
			}
			continue
		}
		want := `{ "id":"p", "status":"` + c.status + `","webhook":"` + url + `","n":1.0,"webhook_events_filter" : ["completed","start"] }` + "\n"
		if len(got) != 1 || got[0].Kind != c.want || string(got[0].Payload) != want {
			t.Errorf("%b, then %q: %v\ngot  %s\nwant %s", c.seen, c.status, got, got[0].Payload, want)
		}
	}

	// What the API never said is said in its form, and what the client has not set
	// is not there.
	native, err = event.ForFilter(nil)
	if err != nil {
		t.Fatal(err)
	}
	p := &store.Prediction{ID: "p", Events: native}
	got := Events(p, &prediction.Snapshot{ID: "p", Status: "failed", Error: []byte(`"lost"`)}, time.Now(), "")
	if want := `{"id":"p","version":null,"input":null,"output":null,"error":"lost","status":"failed","created_at":null,"started_at":null,"completed_at":null}`; string(got[0].Payload) != want {
		t.Errorf("got %s", got[0].Payload)
	}
	// A callback URL is nowhere in it, and no token without its URL.
	token := "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"
	sum := sha256.Sum256([]byte(token))
	p.Token = sum[:]
	s, _ := prediction.Parse([]byte(`{"id":"p","status":"failed","urls":{"webhook":"https:\/\/ours/cb/` + token + `","other":"https://elsewhere/` + token + `"}}`))
	if got := string(Events(p, s, time.Now(), "https://ours/cb")[0].Payload); strings.Contains(got, token) || strings.Contains(got, "ours") {
		t.Errorf("got %s", got)
	}
	s, _ = prediction.Parse([]byte(`{"id":"p","status":"failed","webhook":"x","webhook_events_filter":["start"]}`))
	if got := Events(p, s, time.Now(), ""); string(got[0].Payload) != `{"id":"p","status":"failed","webhook":null}` {
		t.Errorf("got %s", got[0].Payload)
	}
}

func TestTerminal(t *testing.T) {
	for _, s := range statuses {
		want := s == "succeeded" || s == "failed" || s == "canceled" || s == "aborted"
		if event.IsTerminal(s) != want {
			t.Errorf("IsTerminal(%q) = %v", s, !want)
		}
	}
}
