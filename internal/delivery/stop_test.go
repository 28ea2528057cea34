package delivery

import (
	"context"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// On a reload the old engine's attempts finish and the new one takes the rest:
// none is cut off, none is made twice.
func TestHandover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStore()
		var mu sync.Mutex
		requests := map[string]int{}
		network := func(who string) roundTrip {
			return func(r *http.Request) (*http.Response, error) {
				mu.Lock()
				requests[r.Header.Get("X-Replicate-Delivery")]++
				requests[who]++
				mu.Unlock()
				return after(700 * time.Millisecond)(r)
			}
		}
		const n = 600
		for i := range n {
			s.add(strconv.Itoa(i), hostURL(i%10))
		}
		old := engine(t, s, network("old"))
		time.Sleep(1500 * time.Millisecond)
		engine(t, s, network("new")) // Caddy starts the new one first
		time.Sleep(100 * time.Millisecond)
		begun := time.Now()
		old.Stop()
		if took := time.Since(begun); took != 0 {
			t.Errorf("stopping took %v", took)
		}
		synctest.Wait()
		mu.Lock()
		atStop := requests["old"]
		mu.Unlock()
		select {
		case <-old.Done():
			t.Error("done with attempts in flight")
		default:
		}
		time.Sleep(time.Second)
		synctest.Wait()
		select {
		case <-old.Done():
		default:
			t.Error("not done with no attempts in flight")
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		log := s.outcomes(t)
		if len(log) != n || count(log, store.Delivered) != n {
			t.Errorf("%d attempts for %d deliveries", len(log), n)
		}
		for id, times := range requests {
			if times != 1 && id != "old" && id != "new" {
				t.Errorf("delivery %s was sent %d times", id, times)
			}
		}
		if requests["old"] != atStop || requests["old"] == 0 || requests["new"] == 0 {
			t.Errorf("old %d (%d when it was stopped), new %d", requests["old"], atStop, requests["new"])
		}
	})
}

// What the old engine would not have is asked for again when it goes.
func TestHandoverOfParkedEndpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, failing := newMemStore(), record(always(500))
		fresh := engine(t, s, record(always(200)).trip)
		fresh.Stop() // subscribed no more
		<-fresh.Done()
		old := engine(t, s, failing.trip, func(c *Config) {
			c.Retry.MaxAttempts, c.Endpoint.Breaker.Cooldown = -1, Duration(time.Hour)
		})
		for i := range 60 { // far more than can be in flight when it opens
			s.add(strconv.Itoa(i), hostURL(1))
		}
		synctest.Wait()
		tried := len(failing.times())
		if tried == 60 {
			t.Fatal("the breaker did not open")
		}
		net := record(always(200))
		engine(t, s, net.trip)
		old.Stop()
		synctest.Wait()
		if n := len(net.times()); n != 60-tried {
			t.Errorf("the new engine made %d attempts", n)
		}
	})
}

func TestWaitGivesUpCommitsAtExit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStore()
		s.complete = func(*store.Outcome) error { return store.ErrUnavailable }
		e := engine(t, s, record(always(200)).trip)
		s.add("d", hostURL(1))
		time.Sleep(time.Minute)
		begun := time.Now()
		if err := e.Wait(context.Background()); err != nil || time.Since(begun) > 0 {
			t.Errorf("waiting took %v: %v", time.Since(begun), err)
		}
	})
}

func TestWaitCutsOffWhenItsContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStore()
		e := engine(t, s, hang)
		s.add("d", hostURL(1))
		synctest.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		begun := time.Now()
		if err := e.Wait(ctx); err == nil || time.Since(begun) != 3*time.Second {
			t.Errorf("waiting took %v: %v", time.Since(begun), err)
		}
		<-e.Done()
		if log := s.outcomes(t); len(log) != 0 {
			t.Errorf("an attempt that was cut off was committed: %+v", log)
		}
	})
}

func TestWaitLetsAttemptsFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStore()
		e := engine(t, s, after(5*time.Second))
		s.add("d", hostURL(1))
		synctest.Wait()
		if err := e.Wait(context.Background()); err != nil {
			t.Error(err)
		}
		if log := s.outcomes(t); count(log, store.Delivered) != 1 {
			t.Errorf("outcomes %+v", log)
		}
	})
}
