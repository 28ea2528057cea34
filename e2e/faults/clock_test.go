package faults_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/internal/clock/clocktest"
	"github.com/caddy-replicate/replicate-webhook/internal/delivery"
	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/sqlite"
)

// TestClockStepsMoveNoDelivery: deliveries that wait for their retry wait as long
// as they would have, whichever way the clock is set: none is made early, and none
// late.
func TestClockStepsMoveNoDelivery(t *testing.T) {
	const waiting = 30
	wall := new(clocktest.Wall)
	now := wall.Now
	path := filepath.Join(t.TempDir(), "webhook.db")
	s, err := sqlite.Open(sqlite.Options{Path: path, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()

	var mu sync.Mutex
	attempts := make(map[string]int)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		attempts[r.Header.Get("X-Replicate-Delivery")]++
		w.WriteHeader(http.StatusInternalServerError)
	}))
	defer receiver.Close()
	for i := range waiting {
		p := store.Prediction{API: "https://api.example.com/v1", ID: fmt.Sprint("p", i), URL: receiver.URL, Events: event.All, CreatedAt: now()}
		if err := s.Track(context.Background(), &p, []store.Event{{Kind: event.Completed, Payload: []byte("{}")}}); err != nil {
			t.Fatal(err)
		}
	}
	key, err := signature.ParseSecret(secret)
	if err != nil {
		t.Fatal(err)
	}
	engine, err := delivery.New(delivery.Config{
		Store:   s,
		Secrets: func(context.Context, string) ([]signature.Secret, error) { return []signature.Secret{key}, nil },
		Client:  receiver.Client(),
		Options: delivery.Options{
			Retry:    delivery.Retry{MaxAttempts: 5, InitialDelay: delivery.Duration(5 * time.Minute), MaxDelay: delivery.Duration(time.Hour), BackoffFactor: 2},
			Endpoint: delivery.Endpoint{Breaker: delivery.Breaker{Failures: -1}},
		},
		Now: now,
	})
	if err != nil {
		t.Fatal(err)
	}
	engine.Start()
	defer func() {
		engine.Stop()
		<-engine.Done()
	}()
	// settled waits until every delivery had so many attempts and waits for
	// the next.
	settled := func(step string, each int) {
		t.Helper()
		deadline := time.Now().Add(2 * caddyrun.Patience)
		for {
			mu.Lock()
			total := 0
			for id, n := range attempts {
				if total += n; n > each {
					t.Fatalf("%s: delivery %s had %d attempts, want %d", step, id, n, each)
				}
			}
			mu.Unlock()
			claimed, next, err := s.ClaimDeliveries(context.Background(), 1, func(store.Lane) store.Slots { return store.Slots{N: 1} })
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range claimed { // the engine's, which it is to have
				if err := s.Postpone(context.Background(), d, now()); err != nil {
					t.Fatal(err)
				}
			}
			rows, _, err := s.ListDeliveries(context.Background(), store.DeliveryFilter{Limit: 2 * waiting})
			if err != nil {
				t.Fatal(err)
			}
			// An attempt under way would be timed by the next step's clock.
			committed := 0
			for _, row := range rows {
				if row.Attempts == each {
					committed++
				}
			}
			if total == waiting*each && committed == waiting && len(claimed) == 0 && next.After(now()) && next.Sub(now()) <= 5*time.Minute {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: there were %d attempts, want %d for each of %d", step, total, each, waiting)
			}
			s.Resume(store.LaneOf("", receiver.URL)) // a timer does not see a step
			time.Sleep(10 * time.Millisecond)
		}
	}
	settled("at first", 1) // due again after 5 minutes
	for _, c := range []struct {
		step string
		to   time.Duration
	}{
		{"back", -10 * time.Minute},
		{"forward to where it was", 0},
		{"forward", 10 * time.Minute},
		{"far forward", 1000 * time.Hour},
		{"far back", -1000 * time.Hour},
	} {
		wall.Set(c.to)
		settled(c.step, 1)
	}
}

// TestDueTimesOfAWrongClockHoldNothingUp: a delivery whose retry was timed by a
// clock that was ahead is made, after a restart by the right clock, as long after
// its attempt as the schedule says, and one that was never tried is made at once.
func TestDueTimesOfAWrongClockHoldNothingUp(t *testing.T) {
	wall := new(clocktest.Wall)
	path := filepath.Join(t.TempDir(), "webhook.db")
	open := func() *sqlite.Store {
		t.Helper()
		s, err := sqlite.Open(sqlite.Options{Path: path, Now: wall.Now})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	ctx := context.Background()
	one := func(store.Lane) store.Slots { return store.Slots{N: 1} }
	wall.Set(1000 * time.Hour)
	s := open()
	for _, host := range []string{"tried", "new"} {
		p := store.Prediction{API: "https://api.example.com/v1", ID: host, URL: "https://" + host + ".example.com", Events: event.All, CreatedAt: wall.Now()}
		if err := s.Track(ctx, &p, []store.Event{{Kind: event.Completed, Payload: []byte("{}")}}); err != nil {
			t.Fatal(err)
		}
	}
	claimed, _, err := s.ClaimDeliveries(ctx, 10, one)
	if err != nil || len(claimed) != 2 {
		t.Fatalf("claimed %v, %v", claimed, err)
	}
	for _, d := range claimed {
		if d.PredictionID != "tried" {
			continue
		}
		o := store.Outcome{Delivery: d, Disposition: store.Retry, Due: wall.Now().Add(time.Minute),
			Attempt: store.Attempt{Delivery: d.ID, Event: d.Event, URL: d.URL, Number: 1, At: wall.Now(), Error: "status 500"}}
		if err := s.Complete(ctx, o); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	wall.Set(0)
	s = open()
	defer s.Close()
	claimed, next, err := s.ClaimDeliveries(ctx, 10, one)
	if err != nil || len(claimed) != 1 || claimed[0].PredictionID != "new" {
		t.Fatalf("claimed %v, %v", claimed, err)
	}
	if wait := next.Sub(wall.Now()); wait > time.Minute {
		t.Errorf("the next is due in %s", wait)
	}
}

// TestClockThatIsAheadForSecondsForgetsNoEvent: after it was set right what was
// accepted is still a duplicate, and what was signed meanwhile is taken.
func TestClockThatIsAheadForSecondsForgetsNoEvent(t *testing.T) {
	wall := new(clocktest.Wall)
	s, err := sqlite.Open(sqlite.Options{Path: filepath.Join(t.TempDir(), "webhook.db"), Now: wall.Now})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	entry := func(name string) store.Entry {
		return store.Entry{
			Scope: "default", Keys: []store.Key{store.KeyOf("default", "event", name)},
			SignedAt: wall.Now(), Expires: wall.Now().Add(24 * time.Hour),
		}
	}
	ctx := context.Background()
	accepted := entry("accepted")
	c, err := s.Claim(ctx, accepted, 0)
	if err == nil {
		err = c.Commit(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	late := entry("late") // signed before the step, and sent after it
	wall.Set(25 * time.Hour)
	if err := s.Purge(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Claim(ctx, accepted, 0); !errors.Is(err, store.ErrDuplicate) {
		t.Errorf("while the clock is ahead: %v", err)
	}
	wall.Set(0)
	if err := s.Purge(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Claim(ctx, accepted, 0); !errors.Is(err, store.ErrDuplicate) {
		t.Errorf("afterwards: %v", err)
	}
	if c, err := s.Claim(ctx, late, 0); err != nil {
		t.Errorf("a genuine webhook is refused: %v", err)
	} else {
		c.Release()
	}
}
