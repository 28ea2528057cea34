package faults_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/delivery"
	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/sqlite"
)

// awayApp is an app that is down at first. It remembers the events that it has
// accepted.
type awayApp struct {
	mu   sync.Mutex
	up   bool
	last map[string]int // number of the last event, by prediction
	// n counts the accepted events, and wrong those out of order or once more.
	n, wrong int
	left     int
	done     chan struct{}
}

func (a *awayApp) Pass(_ context.Context, d *store.Delivery, _ int) delivery.AppResponse {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.up {
		return delivery.AppResponse{Status: 502, Err: fmt.Errorf("connection refused")}
	}
	var i int
	if _, err := fmt.Sscan(string(d.Payload), &i); err != nil || i != a.last[d.PredictionID]+1 {
		a.wrong++
	}
	a.last[d.PredictionID] = i
	a.n++
	if a.left--; a.left == 0 {
		close(a.done)
	}
	return delivery.AppResponse{Status: 200}
}

// startEngine starts an engine, and returns what ends it.
func startEngine(t *testing.T, conf delivery.Config) (stop func()) {
	t.Helper()
	engine, err := delivery.New(conf)
	if err != nil {
		t.Fatal(err)
	}
	engine.Start()
	return func() {
		engine.Stop()
		<-engine.Done()
	}
}

// TestAppAway: an app that is down for hours of fake time, in which 10 events a second
// come, has all of them when it is back, each once and those of a prediction in order.
func TestAppAway(t *testing.T) {
	const rate, events = 10, 4 // a second, and of a prediction
	path := filepath.Join(t.TempDir(), "webhook.db")
	began := time.Now()
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		s, err := sqlite.Open(sqlite.Options{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		seconds := int(*appAway / time.Second)
		total := seconds * rate
		app := &awayApp{last: make(map[string]int), left: total, done: make(chan struct{})}
		defer startEngine(t, delivery.Config{
			Store:   s,
			Secrets: func(context.Context, string) ([]signature.Secret, error) { return nil, nil },
			Inboxes: []delivery.Inbox{{Scope: "queue", RetryFor: 72 * time.Hour, MaxDelay: 5 * time.Minute, Concurrency: 16, App: app}},
			Pauses:  s.Pauses,
			Client:  http.DefaultClient, // there are no webhooks to send
		})()
		// Each second brings one event each of ten predictions, which have theirs
		// in as many seconds.
		for second := range seconds {
			var wg sync.WaitGroup
			for i := range rate {
				wg.Go(func() {
					name := fmt.Sprintf("p%d.%d", second/events, i)
					number := fmt.Sprint(second%events + 1)
					c, err := s.Claim(ctx, store.Entry{
						Scope: "queue", Keys: []store.Key{store.KeyOf("queue", "event", name+" "+number)},
						SignedAt: time.Now(), Expires: time.Now().Add(10 * time.Minute),
					}, 0)
					if err == nil {
						err = c.CommitEvent(ctx, &store.Inbound{Scope: "queue", Name: "prediction.output", PredictionID: name, Ordered: true, Body: []byte(number)})
					}
					if err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if t.Failed() {
				return
			}
			time.Sleep(time.Second)
		}
		app.mu.Lock()
		app.up = true
		if app.n != 0 {
			t.Errorf("the app had %d events while it was down", app.n)
		}
		app.mu.Unlock()
		back := time.Now()
		select {
		case <-app.done:
		case <-time.After(24 * time.Hour):
			t.Error("events are lost")
		}
		synctest.Wait()
		app.mu.Lock()
		defer app.mu.Unlock()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		t.Logf("%d events in %v, the app had %d, %d of them out of order, %v after it was back; %d MB from the system", total, *appAway, app.n, app.wrong, time.Since(back), m.Sys>>20)
		if app.n != total || app.wrong != 0 {
			t.Errorf("the app had %d of %d events, %d of them out of order", app.n, total, app.wrong)
		}
	})
	t.Logf("in %v", time.Since(began))
}

// awayReceiver is a receiver of webhooks that is down at first. It remembers what it
// has accepted.
type awayReceiver struct {
	mu       sync.Mutex
	up       bool
	attempts int // while it was down
	// running and most are the requests under way at a time.
	running, most int
	accepted      map[string]int
	left          int
	done          chan struct{}
}

// RoundTrip implements http.RoundTripper.
func (a *awayReceiver) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	if !a.up {
		a.attempts++
		a.mu.Unlock()
		return nil, errors.New("connection refused")
	}
	a.running++
	a.most = max(a.most, a.running)
	a.mu.Unlock()
	time.Sleep(10 * time.Millisecond)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.running--
	a.accepted[string(body)]++
	if a.left--; a.left == 0 {
		close(a.done)
	}
	return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody, Header: make(http.Header), Request: r}, nil
}

// TestReceiverAway: a receiver that is down for hours of fake time has each
// webhook once when it is back, and not more at a time than its endpoint admits. While
// they wait, the deliveries are not in memory.
func TestReceiverAway(t *testing.T) {
	const concurrency = 8
	total := count(queued, 400)
	path := filepath.Join(t.TempDir(), "webhook.db")
	began := time.Now()
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		s, err := sqlite.Open(sqlite.Options{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		secret, err := signature.ParseSecret("a-secret-of-the-tests-own-0123456789")
		if err != nil {
			t.Fatal(err)
		}
		receiver := &awayReceiver{accepted: make(map[string]int), left: total, done: make(chan struct{})}
		defer startEngine(t, delivery.Config{
			Store:   s,
			Secrets: func(context.Context, string) ([]signature.Secret, error) { return []signature.Secret{secret}, nil },
			Client:  &http.Client{Transport: receiver},
			Options: delivery.Options{
				Retry:    delivery.Retry{Then: slices.Repeat([]delivery.Duration{delivery.Duration(15 * time.Minute)}, 48)},
				Endpoint: delivery.Endpoint{Concurrency: concurrency},
			},
		})()
		before := heapInUse()
		const together = 20
		payload := strings.Repeat("x", 2000)
		for from := 0; from < total; from += together {
			var wg sync.WaitGroup
			for n := from; n < min(from+together, total); n++ {
				wg.Go(func() {
					p := store.Prediction{ID: fmt.Sprint("p", n), URL: "http://receiver.example/hook", Events: event.All, CreatedAt: time.Now()}
					if err := s.Track(ctx, &p, []store.Event{{Kind: event.Completed, Payload: fmt.Append(nil, n, payload)}}); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if t.Failed() {
				return
			}
			time.Sleep(*appAway * together / time.Duration(total))
		}
		grown := heapInUse() - before
		receiver.mu.Lock()
		receiver.up = true
		if len(receiver.accepted) != 0 {
			t.Errorf("it accepted %d webhooks while it was down", len(receiver.accepted))
		}
		receiver.mu.Unlock()
		back := time.Now()
		select {
		case <-receiver.done:
		case <-time.After(24 * time.Hour):
			t.Error("webhooks are lost")
		}
		took := time.Since(back)
		synctest.Wait()
		receiver.mu.Lock()
		defer receiver.mu.Unlock()
		t.Logf("%d deliveries, %d attempts in vain, all accepted %v after it was back, at most %d at a time; %d KiB of heap while they waited",
			total, receiver.attempts, took, receiver.most, grown>>10)
		for n := range total {
			if times := receiver.accepted[fmt.Sprint(n)+payload]; times != 1 {
				t.Fatalf("webhook %d was accepted %d times", n, times)
			}
		}
		if receiver.most > concurrency {
			t.Errorf("%d requests were under way at a time, want %d at most", receiver.most, concurrency)
		}
		if limit := int64(16<<20) + int64(total)*400; grown > limit {
			t.Errorf("the heap has grown by %d bytes while %d deliveries waited, want %d at most", grown, total, limit)
		}
	})
	t.Logf("in %v", time.Since(began))
}

// heapInUse returns the bytes of the objects that are in use.
func heapInUse() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
