package dashboard_test

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/sqlite"
)

// seeded is a prediction with deliveries that a store is given before Caddy
// starts.
type seeded struct {
	id, url string
	event   event.Set // the terminal one
	payload string
	age     time.Duration
	// answers are those of the terminal event's attempts, 0 for none. The
	// last one of 2xx makes it delivered; without it the delivery is given
	// up, or stays pending.
	answers  []int
	pending  bool
	response string
	err      string // default: what the status says
}

// seed fills a store.
func seed(t testing.TB, path string, rows []seeded) {
	t.Helper()
	now := time.Now()
	clock := now
	// The store asks for the time while it purges, too.
	var shared atomic.Pointer[time.Time]
	set := func(to time.Time) {
		clock = to
		shared.Store(&to)
	}
	set(now)
	s, err := sqlite.Open(sqlite.Options{Path: path, Now: func() time.Time { return *shared.Load() }})
	if err != nil {
		t.Fatal(err)
	}
	fail := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, row := range rows {
		set(now.Add(-row.age))
		p := store.Prediction{API: "https://api.replicate.com/v1", ID: row.id, Client: "user alice", URL: row.url, Events: event.All, CreatedAt: clock}
		payload := row.payload
		if payload == "" {
			payload = fmt.Sprintf(`{"event":%q,"prediction":{"id":%q,"version":"5c7d5dc6","input":{"prompt":"a serene landscape, golden hour","width":1024,"height":768},"output":["https://replicate.delivery/pbxt/landscape-0.webp"],"status":"succeeded","created_at":%q},"timestamp":%q}`,
				row.event.Name(), row.id, clock.UTC().Format(time.RFC3339), clock.UTC().Format(time.RFC3339))
		}
		fail(s.Track(t.Context(), &p, []store.Happening{
			{Event: event.Started, Payload: []byte(payload)}, {Event: row.event, Payload: []byte(payload)},
		}))
		tries := 0
		for {
			claimed, next, err := s.ClaimDeliveries(t.Context(), 10, func(store.Lane) store.Slots { return store.Slots{N: 10} })
			fail(err)
			if len(claimed) == 0 {
				if next.IsZero() || !next.Before(now.Add(time.Hour/2)) {
					break // what is left waits for later
				}
				set(next)
				continue
			}
			for _, d := range claimed {
				o := store.Outcome{Delivery: d, Verdict: store.Delivered, Attempt: store.Attempt{
					Delivery: d.ID, Event: d.Event, URL: d.URL, Status: http.StatusOK, Number: d.Attempts + 1,
					At: clock, Took: 83 * time.Millisecond, Response: "OK",
				}}
				if d.Event != event.Started {
					if tries == len(row.answers) { // never tried
						fail(s.Postpone(t.Context(), d, now.Add(time.Hour)))
						continue
					}
					o.Attempt.Status = row.answers[tries]
					tries++
					if o.Attempt.Status/100 != 2 {
						o.Attempt.Response, o.Attempt.Error = row.response, row.err
						switch {
						case o.Attempt.Status == 0:
							o.Attempt.Response, o.Attempt.Error = "", "connecting: connection refused"
						case row.err == "":
							o.Attempt.Error = fmt.Sprint("status ", o.Attempt.Status)
						}
						o.Verdict, o.Due = store.Retry, clock.Add(time.Second<<(tries-1))
						switch {
						case tries < len(row.answers):
						case row.pending:
							o.Due = now.Add(time.Hour)
						default:
							o.Verdict = store.Exhausted
						}
					}
				}
				set(clock.Add(120 * time.Millisecond))
				fail(s.Complete(t.Context(), o))
			}
		}
	}
	fail(s.Close())
}
