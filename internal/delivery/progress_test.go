package delivery

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// updates are what a receiver got of predictions that run.
type updates struct {
	mu    sync.Mutex
	got   []string
	now   bool // may be sent
	later bool
	asked int
}

func (u *updates) network(r *http.Request) (*http.Response, error) {
	if err := connect(r); err != nil {
		return nil, err
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if r.Header.Get("X-Replicate-Signature") != "" || r.Header.Get("Webhook-Signature") == "" || r.Header.Get("X-Replicate-Attempt") != "1" {
		u.got = append(u.got, fmt.Sprint(r.Header))
	}
	u.got = append(u.got, r.Header.Get("X-Replicate-Event")+" "+string(body))
	return status(http.StatusInternalServerError), nil // which is not tried again
}

func (u *updates) may(context.Context) (now, later bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.asked++
	return u.now, u.later
}

func (u *updates) set(now, later bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.now, u.later = now, later
}

func (u *updates) of(prediction int64, e event.Set, text string) Update {
	return Update{May: u.may, Delivery: store.Delivery{
		ID: "prg_" + text, Prediction: prediction, Client: "client", URL: hostURL(1), Native: true, Event: e, Payload: []byte(text),
	}}
}

func (u *updates) want(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	u.mu.Lock()
	defer u.mu.Unlock()
	if !slices.Equal(u.got, want) {
		t.Fatalf("the receiver got %q, want %q", u.got, want)
	}
}

// TestProgressIsSentOnceInItsPlace: an update waits until it may be sent, gives its
// place to a newer one meanwhile, is sent once, and never once it may not be.
func TestProgressIsSentOnceInItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, u := newMemStore(), &updates{later: true}
		e := engine(t, s, u.network)
		e.Progress(u.of(1, event.Output, "a"))
		e.Progress(u.of(1, event.Logs, "b"))
		e.Progress(u.of(1, event.Output, "c"))
		time.Sleep(10 * time.Second)
		u.want(t)
		u.set(true, true)
		time.Sleep(longestLook)
		u.want(t, "output c", "logs b")
		e.Progress(u.of(1, event.Output, "d"))
		u.want(t, "output c", "logs b", "output d")

		// The prediction has ended.
		u.set(false, false)
		e.Progress(u.of(1, event.Output, "e"))
		// The event before it is not received for a long time.
		u.set(false, true)
		e.Progress(u.of(2, event.Output, "f"))
		time.Sleep(2 * progressPatience)
		u.set(true, true)
		time.Sleep(2 * progressPatience)
		u.want(t, "output c", "logs b", "output d")
		if log := s.outcomes(t); len(log) != 0 {
			t.Errorf("the log has %v", log)
		}
	})
}

// ends counts how deliveries ended.
type ends struct {
	noMetrics
	mu   sync.Mutex
	ends map[string]int
}

func (m *ends) CountDelivery(event string, f Final) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ends == nil {
		m.ends = make(map[string]int)
	}
	m.ends[event+" "+f.String()]++
}

// TestProgressIsBounded: what waits for many predictions is bounded, and ends with the
// engine.
func TestProgressIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, u, counted := newMemStore(), &updates{later: true}, new(ends)
		e := engine(t, s, u.network, func(c *Config) { c.Metrics = counted })
		for i := range maxProgress + 7 {
			up := u.of(int64(i), event.Output, "x")
			up.Delivery.Client = fmt.Sprint("client ", i%3)
			e.Progress(up)
		}
		synctest.Wait()
		if n := counted.ends["output failed"]; n != 7 {
			t.Errorf("%d updates had no room", n)
		}
		e.Stop()
		synctest.Wait()
		select {
		case <-e.Done():
		default:
			t.Error("updates that wait keep the engine")
		}
		e.Progress(u.of(1, event.Output, "late"))
		u.set(true, true)
		time.Sleep(time.Minute)
		u.want(t)
	})
}

// waiting returns the size of the bodies that wait.
func waiting(e *Engine) (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, l := range e.progress {
		n += l.bytes
	}
	return n
}

// TestProgressLeavesRoomForOtherClients: a client whose receiver does not respond takes
// no more than half of the room.
func TestProgressLeavesRoomForOtherClients(t *testing.T) {
	for name, size := range map[string]int{"small": 1, "large": maxProgressBytes / 4} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, u := newMemStore(), &updates{later: true}
				e := engine(t, s, u.network)
				for i := range maxProgress {
					up := u.of(int64(i), event.Output, "x")
					up.Delivery.Payload = make([]byte, size)
					e.Progress(up)
				}
				other := &updates{now: true, later: true}
				up := other.of(maxProgress, event.Output, "other")
				up.Delivery.Client, up.May = "another", other.may
				e.Progress(up)
				u.want(t, "output other")
				e.Stop()
			})
		})
	}
}

// TestProgressOfLargePredictionsIsBounded: the bodies that wait are bounded, and those
// that were sent, replaced or given up make room.
func TestProgressOfLargePredictionsIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, u, counted := newMemStore(), &updates{later: true}, new(ends)
		e := engine(t, s, u.network, func(c *Config) { c.Metrics = counted })
		large := func(prediction int64) {
			up := u.of(prediction, event.Output, "x")
			up.Delivery.Client = fmt.Sprint("client ", prediction%2)
			up.Delivery.Payload = make([]byte, maxProgressBytes/4)
			e.Progress(up)
		}
		for range 2 {
			for range 3 { // the later ones replace the first
				for i := range int64(4) {
					large(i)
				}
			}
			failed := counted.ends["output failed"]
			large(5)
			if n := counted.ends["output failed"] - failed; n != 1 || waiting(e) != maxProgressBytes {
				t.Fatalf("%d updates had no room, and %d bytes wait", n, waiting(e))
			}
			u.set(false, false) // given up
			time.Sleep(2 * longestLook)
			u.set(false, true)
			synctest.Wait()
			if waiting(e) != 0 {
				t.Fatalf("%d bytes wait", waiting(e))
			}
		}
		u.set(true, true)
		large(6)
		synctest.Wait()
		if waiting(e) != 0 || len(u.got) != 1 {
			t.Fatalf("%d bytes wait, %d were sent", waiting(e), len(u.got))
		}
	})
}
