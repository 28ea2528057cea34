package faults_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/internal/delivery"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/sqlite"
)

// TestClockStepsFireNoRetryStorm: deliveries that wait for their retry are made
// at most once more when the clock steps forward, and not at all when it steps
// back.
func TestClockStepsFireNoRetryStorm(t *testing.T) {
	const waiting = 30
	var ahead atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	s, err := sqlite.Open(sqlite.Options{Path: filepath.Join(t.TempDir(), "webhook.db"), Now: now})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()

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
		p := store.Prediction{API: "https://api.example.com/v1", ID: fmt.Sprint("p", i), URL: receiver.URL, Events: store.AllEvents, CreatedAt: now()}
		if err := s.Track(context.Background(), &p, []store.Happening{{Event: store.Completed, Payload: []byte("{}")}}); err != nil {
			t.Fatal(err)
		}
	}
	key, err := signature.ParseSecret(secret)
	if err != nil {
		t.Fatal(err)
	}
	engine, err := delivery.New(delivery.Config{
		Store:    s,
		Secrets:  func(context.Context, string) ([]signature.Secret, error) { return []signature.Secret{key}, nil },
		Client:   receiver.Client(),
		Retry:    delivery.Retry{MaxAttempts: 5, InitialDelay: 5 * time.Minute, MaxDelay: time.Hour, BackoffFactor: 2},
		Endpoint: delivery.Endpoint{Breaker: delivery.Breaker{Failures: -1}},
		Now:      now,
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
			claimed, next, err := s.ClaimDeliveries(context.Background(), 1, func(string) int { return 1 })
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
			if total == waiting*each && committed == waiting && len(claimed) == 0 && next.After(now()) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: there were %d attempts, want %d for each of %d", step, total, each, waiting)
			}
			s.Resume(store.EndpointOf(receiver.URL)) // a timer does not see a step
			time.Sleep(10 * time.Millisecond)
		}
	}
	settled("at first", 1) // due again after 5 minutes
	for _, c := range []struct {
		step string
		to   time.Duration
		each int
	}{
		{"back", -10 * time.Minute, 1},
		{"forward to where it was", 0, 1},
		{"forward", 10 * time.Minute, 2}, // due again after 10 more
		{"back to where it was", 0, 2},
		{"forward again", 10 * time.Minute, 2},
		{"further", 21 * time.Minute, 3},
	} {
		ahead.Store(int64(c.to))
		settled(c.step, c.each)
	}
}
