package demo

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"sync"
)

// delivery is a request as the app saw it.
type delivery struct {
	// Event and Prediction are from the headers that the edge adds.
	Event, Prediction string
	// Verified is the scheme that the edge verified, empty without it.
	Verified string
	// Signed: the app's own check of the signature, as the webhook guide
	// has it, succeeds.
	Signed bool
	// EventID is that of an event from an inbox, and Attempt the number of the
	// attempt.
	EventID, Attempt string
	// Status is the status of the app's response.
	Status int
}

// app is the app behind the edge. It records what reaches it, and can be made
// to be down.
type app struct {
	secret []byte

	mu      sync.Mutex
	seen    []delivery
	down    map[string]int // requests to refuse, by event
	changed chan struct{}
}

func newApp(secret string) *app {
	return &app{secret: []byte(secret), down: make(map[string]int), changed: make(chan struct{})}
}

// FailNext has the app respond to the next n requests for an event with 503.
func (a *app) FailNext(event string, n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.down[event] += n
}

func (a *app) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	mac := hmac.New(sha256.New, a.secret)
	mac.Write(body)
	d := delivery{
		Event:      r.Header.Get("X-Replicate-Event"),
		Prediction: r.Header.Get("X-Replicate-Prediction-Id"),
		Verified:   r.Header.Get("X-Replicate-Verified"),
		Signed:     err == nil && r.Header.Get("X-Replicate-Signature") == hex.EncodeToString(mac.Sum(nil)),
		EventID:    r.Header.Get("X-Replicate-Event-Id"),
		Attempt:    r.Header.Get("X-Replicate-Attempt"),
		Status:     http.StatusOK,
	}
	a.mu.Lock()
	if a.down[d.Event] > 0 {
		a.down[d.Event]--
		d.Status = http.StatusServiceUnavailable
	}
	a.seen = append(a.seen, d)
	if len(a.seen) > maxSeen {
		a.seen = a.seen[len(a.seen)-maxSeen:]
	}
	close(a.changed)
	a.changed = make(chan struct{})
	a.mu.Unlock()
	if d.Status != http.StatusOK {
		http.Error(w, "the database is restarting", d.Status)
		return
	}
	_, _ = io.WriteString(w, "thanks")
}

// maxSeen bounds what is remembered.
const maxSeen = 1000

// Of returns the requests so far for a prediction.
func (a *app) Of(prediction string) []delivery {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.of(prediction)
}

func (a *app) of(prediction string) (found []delivery) {
	for _, d := range a.seen {
		if d.Prediction == prediction {
			found = append(found, d)
		}
	}
	return found
}

// Wait waits for the nth request about a prediction, from 0.
func (a *app) Wait(ctx context.Context, prediction string, n int) (delivery, error) {
	for {
		a.mu.Lock()
		found, changed := a.of(prediction), a.changed
		a.mu.Unlock()
		if len(found) > n {
			return found[n], nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return delivery{}, ctx.Err()
		}
	}
}
