package delivery

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
)

func refuse(*http.Request) (*http.Response, error) { return nil, syscall.ECONNREFUSED }

// hold is a breaker that opens at once.
func hold(d time.Duration) func(*Config) {
	return func(c *Config) {
		c.Endpoint.Breaker = Breaker{Failures: 1, Cooldown: Duration(30 * time.Second), Hold: Duration(d)}
		c.Retry.MaxAttempts = 2
	}
}

func TestEveryDeliveryEndsWhileItsReceiverIsDown(t *testing.T) {
	for name, receiver := range map[string]struct {
		answer roundTrip
		text   string
	}{
		"endpoint": {refuse, "endpoint down since 2000-01-01T00:00:00Z: connection refused"},
		"URL":      {answer503, "webhook_url failing since 2000-01-01T00:00:00Z: status 503"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newMemStore()
				engine(t, s, receiver.answer, hold(10*time.Minute))
				for i := range 500 {
					s.addFor(fmt.Sprint("client", i%3), strconv.Itoa(i), shared)
				}
				time.Sleep(9 * time.Minute)
				synctest.Wait()
				before := s.outcomes(t)
				if len(before) > 100 {
					t.Fatalf("%d tries before the hold is over", len(before))
				}
				time.Sleep(2 * time.Minute)
				synctest.Wait()
				for _, o := range s.outcomes(t)[len(before):] {
					if a := o.Attempt; a.Error == receiver.text && (a.Status != 0 || a.Took != 0 || a.Number != o.Delivery.Attempts+1 || o.Disposition != store.Retry) {
						t.Fatalf("held try is %+v", o)
					}
				}
				if n := len(s.outcomes(t)); n < 480 {
					t.Fatalf("%d of 500 were tried after the hold", n)
				}
				time.Sleep(25 * time.Minute)
				synctest.Wait()
				log := s.outcomes(t)
				if n := count(log, store.Exhausted); n != 500 {
					t.Errorf("%d of 500 deliveries ended", n)
				}
				held := 0
				for _, o := range log {
					if o.Attempt.Error == receiver.text {
						held++
					}
				}
				if held < 1200 {
					t.Errorf("%d of 1500 tries say %q; the first is %q", held, receiver.text, log[600].Attempt.Error)
				}
				s.mu.Lock()
				defer s.mu.Unlock()
				if n := len(s.claimed); n != 0 {
					t.Errorf("%d claims are left", n)
				}
			})
		})
	}
}

func TestPendingDeliveriesAreBoundedByTheHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStore()
		s.keep = false
		var pending, most atomic.Int64
		s.ended = func(o *store.Outcome) {
			if o.Disposition == store.Exhausted {
				pending.Add(-1)
			}
		}
		engine(t, s, refuse, hold(10*time.Minute))
		for i := range 6 * 3600 { // six hours of one a second
			s.addFor("client", strconv.Itoa(i), shared)
			most.Store(max(most.Load(), pending.Add(1)))
			time.Sleep(time.Second)
		}
		// Three tries of ten minutes each.
		if n := most.Load(); n > 3*600+100 {
			t.Errorf("%d deliveries were pending at once", n)
		}
	})
}

func TestADeliveryWaitsOnlySinceTheBreakerOpened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStore()
		s.addAt(time.Now().Add(-100*time.Hour), store.Delivery{ID: "old", URL: shared, Client: "a", Event: event.Completed})
		s.addAt(time.Now().Add(-100*time.Hour), store.Delivery{ID: "old2", URL: shared, Client: "b", Event: event.Completed})
		engine(t, s, refuse, hold(10*time.Minute))
		time.Sleep(9*time.Minute + 30*time.Second)
		synctest.Wait()
		for _, o := range s.outcomes(t) {
			if strings.HasPrefix(o.Attempt.Error, "endpoint down") {
				t.Errorf("held for too long already: %+v", o.Attempt)
			}
		}
	})
}

func TestTheHoldOutlivesTheEngine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStore()
		for i := range 5 { // five lives of three minutes, ten seconds apart
			e := engine(t, s, refuse, hold(10*time.Minute))
			if i == 0 {
				for n := range 50 {
					s.addFor("client", strconv.Itoa(n), shared)
				}
			}
			time.Sleep(3 * time.Minute)
			e.Stop()
			<-e.Done()
			time.Sleep(10 * time.Second)
			held := 0
			for _, o := range s.outcomes(t) {
				if strings.HasPrefix(o.Attempt.Error, "endpoint down since 2000-01-01T00:00:00Z") {
					held++
				}
			}
			if i == 2 && held > 0 || i == 3 && held < 20 {
				t.Errorf("after life %d: %d tries have ended", i+1, held)
			}
		}
	})
}

func TestTimeInWhichNobodyWasThereDoesNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStore()
		e := engine(t, s, refuse, hold(10*time.Minute))
		for n := range 50 {
			s.addFor("client", strconv.Itoa(n), shared)
		}
		time.Sleep(5 * time.Minute)
		e.Stop()
		<-e.Done()
		time.Sleep(10 * time.Hour)
		engine(t, s, refuse, hold(10*time.Minute))
		time.Sleep(4 * time.Minute)
		synctest.Wait()
		held := func() (n int) {
			for _, o := range s.outcomes(t) {
				if strings.HasPrefix(o.Attempt.Error, "endpoint down") {
					n++
				}
			}
			return n
		}
		if n := held(); n > 0 {
			t.Errorf("%d tries ended four minutes after a break of ten hours", n)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if n := held(); n < 20 {
			t.Errorf("%d tries ended after ten minutes in two parts", n)
		}
	})
}

func TestAStepOfTheClockIsNoTimeThatWasWaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStore()
		var step atomic.Int64
		e := engine(t, s, refuse, hold(time.Hour), func(c *Config) {
			c.Now = func() time.Time { return time.Now().Add(time.Duration(step.Load())) }
		})
		_ = e
		for n := range 50 {
			s.addFor("client", strconv.Itoa(n), shared)
		}
		time.Sleep(10 * time.Minute)
		step.Store(int64(5 * time.Hour))
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		for _, o := range s.outcomes(t) {
			if strings.HasPrefix(o.Attempt.Error, "endpoint down") {
				t.Fatalf("held for 20 minutes: %+v", o.Attempt)
			}
		}
	})
}

func TestAnOutageIsKnownAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStore()
		net := record(func(int, *http.Request) (*http.Response, error) { return nil, syscall.ECONNREFUSED })
		e := engine(t, s, net.trip, func(c *Config) { c.Endpoint.Breaker = Breaker{Failures: 5, Cooldown: Duration(30 * time.Second)} })
		for n := range 50 {
			s.addFor("client", strconv.Itoa(n), shared)
		}
		time.Sleep(10 * time.Second)
		e.Stop()
		<-e.Done()
		if n := len(net.times()); n != 5 || len(s.outages) != 1 {
			t.Fatalf("%d attempts, outages %+v", n, s.outages)
		}
		var o outage
		o.up.Store(true)
		again := record(o.answer)
		engine(t, s, again.trip, func(c *Config) { c.Endpoint.Breaker = Breaker{Failures: 5, Cooldown: Duration(30 * time.Second)} })
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if n := count(s.outcomes(t), store.Delivered); n != 50 || len(s.outages) != 0 {
			t.Errorf("%d delivered once it is up, outages %+v", n, s.outages)
		}
	})
}

func TestAnAttemptWhoseClaimWasLostIsNotMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, net := newMemStore(), record(always(200))
		s.lost = map[string]bool{"lost": true}
		// A fake network has no connections: the hook is what counts.
		engine(t, s, func(r *http.Request) (*http.Response, error) {
			if err := connect(r); err != nil {
				return nil, err
			}
			return net.trip(r)
		})
		s.add("lost", hostURL(1))
		s.add("own", hostURL(1))
		time.Sleep(time.Second)
		synctest.Wait()
		log := s.outcomes(t)
		if len(log) != 1 || log[0].Delivery.ID != "own" || len(net.times()) != 1 {
			t.Errorf("%d attempts, outcomes %+v", len(net.times()), log)
		}
	})
}
