package dashrun

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/siterun"
	"github.com/caddy-replicate/replicate-webhook/internal/clock/clocktest"
	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/sqlite"
)

// Row is a prediction with its deliveries.
type Row struct {
	ID, URL string
	Event   event.Set // the terminal one
	Payload string    // default: of the guide's shape
	Age     time.Duration
	// Statuses are those of the terminal event's attempts, 0 for an attempt
	// without a response. If the last one is 2xx, the delivery is delivered,
	// else it has failed, or is pending if Pending is set.
	Statuses []int
	Pending  bool
	// Response is the body of the responses.
	Response string
	// Err is the error of the attempts. Default: the status.
	Err string
}

// Seed creates an SQLite store with the rows.
func Seed(t testing.TB, path string, rows []Row) {
	t.Helper()
	now := time.Now()
	clock := clocktest.At(now)
	s, err := sqlite.Open(sqlite.Options{Path: path, Now: clock.Now})
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
		clock.Set(now.Add(-row.Age))
		p := store.Prediction{API: "https://api.replicate.com/v1", ID: row.ID, Client: "user alice", URL: row.URL, Events: event.All, CreatedAt: clock.Now()}
		payload := row.Payload
		if payload == "" {
			payload = fmt.Sprintf(`{"event":%q,"prediction":{"id":%q,"version":"5c7d5dc6","input":{"prompt":"a serene landscape, golden hour","width":1024,"height":768},"output":["https://replicate.delivery/pbxt/landscape-0.webp"],"status":"succeeded","created_at":%q},"timestamp":%q}`,
				row.Event.Name(), row.ID, clock.Now().UTC().Format(time.RFC3339), clock.Now().UTC().Format(time.RFC3339))
		}
		fail(s.Track(t.Context(), &p, []store.Event{
			{Kind: event.Started, Payload: []byte(payload)}, {Kind: row.Event, Payload: []byte(payload)},
		}))
		tries := 0
		for {
			claimed, next, err := s.ClaimDeliveries(t.Context(), 10, func(store.Lane) store.Slots { return store.Slots{N: 10} })
			fail(err)
			if len(claimed) == 0 {
				if next.IsZero() || !next.Before(now.Add(time.Hour/2)) {
					break // what is left waits for later
				}
				clock.Set(next)
				continue
			}
			for _, d := range claimed {
				o := store.Outcome{Delivery: d, Disposition: store.Delivered, Attempt: store.Attempt{
					Delivery: d.ID, Event: d.Event, URL: d.URL, Status: http.StatusOK, Number: d.Attempts + 1,
					At: clock.Now(), Took: 83 * time.Millisecond, Response: "OK",
				}}
				if d.Event != event.Started {
					if tries == len(row.Statuses) { // never tried
						fail(s.Postpone(t.Context(), d, now.Add(time.Hour)))
						continue
					}
					o.Attempt.Status = row.Statuses[tries]
					tries++
					if o.Attempt.Status/100 != 2 {
						o.Attempt.Response, o.Attempt.Error = row.Response, row.Err
						switch {
						case o.Attempt.Status == 0:
							o.Attempt.Response, o.Attempt.Error = "", "connecting: connection refused"
						case row.Err == "":
							o.Attempt.Error = fmt.Sprint("status ", o.Attempt.Status)
						}
						o.Disposition, o.Due = store.Retry, clock.Add(time.Second<<(tries-1))
						switch {
						case tries < len(row.Statuses):
						case row.Pending:
							o.Due = now.Add(time.Hour)
						default:
							o.Disposition = store.Exhausted
						}
					}
				}
				clock.Add(120 * time.Millisecond)
				fail(s.Complete(t.Context(), o))
			}
		}
	}
	fail(s.Close())
}

// OneFailed returns a function for Start that seeds one delivery that failed.
func OneFailed(t testing.TB) func(path string) {
	return func(path string) {
		Seed(t, path, []Row{{
			ID: "pred_failed", URL: "https://hooks.example.com/in", Event: event.Completed, Age: time.Hour,
			Statuses: []int{500, 500, 500}, Response: "<b>boom</b>", Err: "status 500",
		}})
	}
}

// EventRow is an event that the edge has accepted.
type EventRow struct {
	Scope, Name, Prediction string
	Body                    string // default: that of siterun.Accept
	// Statuses are those of the app, 0 for an attempt without a response. If the
	// last one is 2xx, the event is accepted, else it has failed, or waits if
	// Waiting is set.
	Statuses []int
	Waiting  bool
	Response string // the body of the responses
}

// SeedEvents adds events to an SQLite store.
func SeedEvents(t testing.TB, path string, rows []EventRow) {
	t.Helper()
	s, err := sqlite.Open(sqlite.Options{Path: path})
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
		ev := store.Inbound{Scope: row.Scope, Name: row.Name, PredictionID: row.Prediction, Ordered: row.Prediction != ""}
		if row.Body != "" {
			ev.Body = []byte(row.Body)
		}
		siterun.Accept(t, s, ev)
		for i, status := range row.Statuses {
			// Of what was seeded before nothing is due.
			claimed, _, err := s.ClaimDeliveries(t.Context(), 1, func(l store.Lane) store.Slots {
				if l == store.InboxLane(row.Scope) {
					return store.Slots{N: 1}
				}
				return store.Slots{}
			})
			fail(err)
			if len(claimed) != 1 {
				t.Fatalf("claimed %d events", len(claimed))
			}
			d := claimed[0]
			o := store.Outcome{Delivery: d, Disposition: store.Retry, Due: time.Now(), Attempt: store.Attempt{
				Delivery: d.ID, Status: status, Number: d.Attempts + 1, At: time.Now(), Took: 12 * time.Millisecond, Response: row.Response,
			}}
			switch {
			case status == 0:
				o.Attempt.Error = "connecting: connection refused"
			case status/100 != 2:
				o.Attempt.Error = fmt.Sprint("status ", status)
			}
			if i == len(row.Statuses)-1 {
				switch {
				case status/100 == 2:
					o.Disposition = store.Delivered
				case row.Waiting:
					o.Due = time.Now().Add(time.Hour)
				default:
					o.Disposition = store.Exhausted
				}
			}
			fail(s.Complete(t.Context(), o))
		}
	}
	fail(s.Close())
}
