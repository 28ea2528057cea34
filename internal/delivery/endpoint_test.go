package delivery

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// gauge follows how many requests are under way, per host and in all.
type gauge struct {
	mu   sync.Mutex
	now  map[string]int
	most map[string]int
}

func newGauge() *gauge { return &gauge{now: map[string]int{}, most: map[string]int{}} }

func (g *gauge) max(host string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.most[host]
}

func (g *gauge) around(network roundTrip) roundTrip {
	count := func(host string, by int) {
		g.mu.Lock()
		defer g.mu.Unlock()
		for _, k := range []string{host, "all"} {
			g.now[k] += by
			g.most[k] = max(g.most[k], g.now[k])
		}
	}
	return func(r *http.Request) (*http.Response, error) {
		count(r.URL.Host, 1)
		defer count(r.URL.Host, -1)
		return network(r)
	}
}

// after answers 200 after a while.
func after(d time.Duration) roundTrip {
	return func(r *http.Request) (*http.Response, error) {
		select {
		case <-time.After(d):
			return status(200), nil
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
}

func TestEndpointConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, g := newMemStore(), newGauge()
		engine(t, s, g.around(after(2*time.Second)))
		for i := range 200 {
			s.add(strconv.Itoa(i), hostURL(i%2))
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(s.outcomes(t)); n != 200 {
			t.Fatalf("%d deliveries", n)
		}
		for _, host := range []string{"host0.example", "host1.example"} {
			if most := g.max(host); most != 16 {
				t.Errorf("%s had %d at once, want 16", host, most)
			}
		}
		// The first alone, then sixteen at a time.
		if took := s.log[199].Attempt.At.Add(2 * time.Second).Sub(s.log[0].Attempt.At); took > 18*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

func TestWorkersAreSharedInHalves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, g := newMemStore(), newGauge()
		engine(t, s, g.around(after(50*time.Millisecond)), func(c *Config) { c.Workers, c.Endpoint.Concurrency = 64, 1000 })
		for i := range 5000 {
			s.add("many"+strconv.Itoa(i), hostURL(1))
		}
		time.Sleep(500 * time.Millisecond)
		synctest.Wait()
		s.add("one", hostURL(2))
		time.Sleep(50 * time.Millisecond)
		synctest.Wait()
		if log := s.outcomes(t); !slices.ContainsFunc(log, func(o store.Outcome) bool { return o.Delivery.ID == "one" }) {
			t.Error("a delivery waits behind the backlog of another endpoint")
		}
		if most := g.max("host1.example"); most != 32 {
			t.Errorf("one endpoint had %d of 64 workers", most)
		}
	})
}

func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, net := newMemStore(), record(always(200))
		engine(t, s, net.trip, func(c *Config) { c.Endpoint.Rate = Rate{Count: 4, Per: Duration(2 * time.Second)} })
		for i := range 12 {
			s.add(strconv.Itoa(i), hostURL(1))
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		times := net.times()
		if len(times) != 12 {
			t.Fatalf("%d attempts", len(times))
		}
		for i, at := range times {
			want := max(0, time.Duration(i-3)*500*time.Millisecond)
			if at < want || at > want+time.Millisecond {
				t.Errorf("attempt %d at %v, want %v", i, at, want)
			}
		}
	})
}

func TestRateHoldsWhileAttemptsHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, net := newMemStore(), record(func(n int, r *http.Request) (*http.Response, error) {
			if n == 1 {
				return status(200), nil
			}
			return after(800 * time.Millisecond)(r)
		})
		engine(t, s, net.trip, func(c *Config) { c.Endpoint.Rate = Rate{Count: 1, Per: Duration(100 * time.Millisecond)} })
		for i := range 5 {
			s.add(strconv.Itoa(i), hostURL(1))
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		for i, at := range net.times() {
			want := time.Duration(i) * 100 * time.Millisecond
			if at < want || at > want+time.Millisecond {
				t.Errorf("attempt %d at %v, want %v", i, at, want)
			}
		}
	})
}

// outage is a network that is down until it is said to be up.
type outage struct{ up atomic.Bool }

func (o *outage) answer(int, *http.Request) (*http.Response, error) {
	if o.up.Load() {
		return status(200), nil
	}
	return nil, fmt.Errorf("dialling: %w", syscall.ECONNREFUSED)
}

func TestBreakerWaitsThenOneProbeGoesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o outage
		var mu sync.Mutex
		var events []string
		event := func(format string, a ...any) {
			mu.Lock()
			defer mu.Unlock()
			events = append(events, fmt.Sprintf(format, a...))
		}
		g, s, net := newGauge(), newMemStore(), record(o.answer)
		slow := func(r *http.Request) (*http.Response, error) { // so that more than one could be seen
			time.Sleep(20 * time.Millisecond)
			return net.trip(r)
		}
		e := engine(t, s, g.around(slow), func(c *Config) {
			c.Endpoint.Breaker = Breaker{Failures: 5, Cooldown: Duration(30 * time.Second)}
			c.Retry.InitialDelay, c.Retry.BackoffFactor = Duration(10*time.Second), 1
			c.OnEndpointOpen = func(r EndpointReport) { event("open %s %d %s", r.Endpoint, r.Failures, r.Error) }
			c.OnEndpointClosed = func(r EndpointReport) { event("closed %s", r.Endpoint) }
		})
		for i := range 40 {
			s.add(strconv.Itoa(i), hostURL(1))
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if n := len(net.times()); n != 5 {
			t.Fatalf("%d attempts before it opened", n)
		}
		if list := e.Endpoints(); len(list) != 1 || list[0].State != Open || list[0].Failures != 5 || list[0].Error != "connection refused" {
			t.Errorf("endpoints %+v", list)
		}
		// Cooldown over at 30.1 s, the probe fails: one more attempt.
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if n := len(net.times()); n != 6 {
			t.Fatalf("%d attempts after a probe", n)
		}
		o.up.Store(true)
		time.Sleep(24 * time.Second)
		synctest.Wait()
		if n := len(net.times()); n != 6 {
			t.Fatalf("%d attempts in the second cooldown", n)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		log := s.outcomes(t)
		if delivered := count(log, store.Delivered); delivered != 40 || len(log) != 46 {
			t.Errorf("%d delivered with %d attempts", delivered, len(log))
		}
		if probe, rest := log[6].Attempt, log[7].Attempt; rest.At.Before(probe.At.Add(probe.Took)) {
			t.Errorf("probe ended at %v, the next attempt began at %v", probe.At.Add(probe.Took), rest.At)
		}
		for _, o := range log {
			if o.Attempt.Number > 3 {
				t.Errorf("waiting for the breaker used up attempts: %+v", o.Attempt)
			}
		}
		want := []string{"open https://host1.example:443 5 connection refused", "closed https://host1.example:443"}
		mu.Lock()
		defer mu.Unlock()
		if !slices.Equal(events, want) {
			t.Errorf("events %q", events)
		}
	})
}

func count(log []store.Outcome, v store.Disposition) (n int) {
	for _, o := range log {
		if o.Disposition == v {
			n++
		}
	}
	return n
}

func TestResponsesCountAgainstTheURLAlone(t *testing.T) {
	for code, opens := range map[int]bool{401: true, 404: true, 400: true, 302: true, 410: false, 429: true, 500: true, 503: true} {
		synctest.Test(t, func(t *testing.T) {
			s := newMemStore()
			e := engine(t, s, record(always(code)).trip, func(c *Config) { c.Retry.MaxAttempts = -1 })
			for i := range 30 {
				s.add(strconv.Itoa(i), hostURL(1))
			}
			time.Sleep(time.Second)
			synctest.Wait()
			got := e.Endpoints()[0]
			if got.State != Closed || got.Failures != 0 {
				t.Errorf("status %d: the endpoint is %+v", code, got)
			}
			if (got.URLsOpen == 1) != opens || opens && (len(got.URLs) != 1 || got.URLs[0].Client != "client" || got.URLs[0].State != Open || got.URLs[0].Failures < 10) {
				t.Errorf("status %d: URLs %+v", code, got.URLs)
			}
		})
	}
}

func TestResetOfAnEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o outage
		s := newMemStore()
		closed := 0
		e := engine(t, s, record(o.answer).trip, func(c *Config) {
			c.Retry.MaxAttempts = -1
			c.Endpoint.Breaker.Cooldown = Duration(time.Hour)
			c.OnEndpointClosed = func(EndpointReport) { closed++ }
		})
		for i := range 20 {
			s.add(strconv.Itoa(i), hostURL(1))
		}
		synctest.Wait()
		o.up.Store(true)
		if !e.Reset("https://host1.example:443") || e.Reset("https://host2.example:443") {
			t.Error("wrong endpoints are known")
		}
		synctest.Wait()
		if n := count(s.outcomes(t), store.Delivered); n != 10 || closed != 1 {
			t.Errorf("%d delivered after a reset, closed %d times", n, closed)
		}
	})
}

func TestManyEndpointsAreForgotten(t *testing.T) {
	const many = 100_000
	synctest.Test(t, func(t *testing.T) {
		s := newMemStore()
		s.keep = false
		delivered := 0
		s.ended = func(*store.Outcome) { delivered++ }
		e := engine(t, s, func(*http.Request) (*http.Response, error) { return status(200), nil })
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		for i := range many {
			s.add(strconv.Itoa(i), hostURL(i))
		}
		time.Sleep(time.Second)
		synctest.Wait()
		s.lanes = map[store.Lane]*memLane{}
		runtime.GC()
		runtime.ReadMemStats(&after)
		known := e.Status().Endpoints
		if each := int64(after.HeapAlloc-before.HeapAlloc) / many; known != many || delivered != many || each > 900 {
			t.Errorf("%d endpoints known after %d deliveries, %d bytes each", known, delivered, each)
		}
		time.Sleep(2 * idleAfter)
		synctest.Wait()
		if n := e.Status().Endpoints; n != 0 {
			t.Errorf("%d endpoints are known after a pause", n)
		}
	})
}

func TestHangingReceiversDoNotDelayTheOthers(t *testing.T) {
	const hanging, each, good = 1000, 6, 20
	synctest.Test(t, func(t *testing.T) {
		s, g := newMemStore(), newGauge()
		var late []time.Duration
		s.ended = func(o *store.Outcome) {
			if o.Disposition == store.Delivered {
				late = append(late, time.Since(o.Delivery.CreatedAt))
			}
		}
		engine(t, s, g.around(func(r *http.Request) (*http.Response, error) {
			var n int
			fmt.Sscanf(r.URL.Host, "host%d.", &n)
			if n < hanging {
				return hang(r)
			}
			return after(time.Duration(5+rand.IntN(20)) * time.Millisecond)(r)
		}))
		// All at once, and for the first time.
		for n := range each {
			for i := range hanging {
				s.add(fmt.Sprintf("hang%d-%d", i, n), hostURL(i))
			}
		}
		sent := 0
		for range 3000 { // a minute's worth
			for range 4 {
				s.add(fmt.Sprintf("good%d", sent), hostURL(hanging+sent%good))
				sent++
			}
			time.Sleep(20 * time.Millisecond)
			synctest.Wait()
		}
		time.Sleep(time.Second)
		synctest.Wait()
		s.mu.Lock()
		defer s.mu.Unlock()
		slices.Sort(late)
		if len(late) != sent {
			t.Fatalf("%d of %d delivered", len(late), sent)
		}
		t.Logf("lag p50 %v, p99 %v, max %v; in flight at most %d", late[sent/2], late[sent*99/100], late[sent-1], g.max("all"))
		if p99 := late[sent*99/100]; p99 >= time.Second {
			t.Errorf("p99 of the others is %v", p99)
		}
		if most := g.max("host3.example"); most != 1 {
			t.Errorf("a hanging endpoint had %d attempts at once", most)
		}
	})
}

func TestReceiversThatBeginToHangDoNotDelayTheOthers(t *testing.T) {
	const turning, good = 150, 5
	synctest.Test(t, func(t *testing.T) {
		s, g := newMemStore(), newGauge()
		var down atomic.Bool
		var late []time.Duration
		s.ended = func(o *store.Outcome) {
			if o.Disposition == store.Delivered && o.Delivery.ID[0] == 'g' {
				late = append(late, time.Since(o.Delivery.CreatedAt))
			}
		}
		engine(t, s, g.around(func(r *http.Request) (*http.Response, error) {
			if down.Load() && len(r.URL.Host) < len("host900.example") {
				return hang(r)
			}
			return after(10 * time.Millisecond)(r)
		}))
		sent := 0
		for tick := range 600 {
			down.Store(tick > 50)
			for i := range turning {
				if tick%5 == 0 {
					s.add(fmt.Sprintf("t%d-%d", tick, i), hostURL(i%99))
				}
			}
			for i := range good {
				s.add(fmt.Sprintf("g%d-%d", tick, i), hostURL(900+i))
				sent++
			}
			time.Sleep(20 * time.Millisecond)
			synctest.Wait()
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		s.mu.Lock()
		defer s.mu.Unlock()
		slices.Sort(late)
		if len(late) != sent {
			t.Fatalf("%d of %d delivered", len(late), sent)
		}
		t.Logf("lag p50 %v, p99 %v, max %v; in flight at most %d", late[sent/2], late[sent*99/100], late[sent-1], g.max("all"))
		if p99 := late[sent*99/100]; p99 >= time.Second {
			t.Errorf("p99 of the others is %v", p99)
		}
	})
}

// More receivers hang than there is room for: those who answer still get
// through, and what is in flight stays bounded.
func TestFullWaitingRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, g := newMemStore(), newGauge()
		const workers = 8
		engine(t, s, g.around(func(r *http.Request) (*http.Response, error) {
			if r.URL.Host == "host9999.example" {
				return after(10 * time.Millisecond)(r)
			}
			return hang(r)
		}), func(c *Config) { c.Workers = workers })
		s.add("first", hostURL(9999))
		synctest.Wait()
		for i := range 1000 {
			s.add(fmt.Sprintf("hang%d", i), hostURL(i))
		}
		for i := range 100 {
			s.add(fmt.Sprintf("good%d", i), hostURL(9999))
			time.Sleep(100 * time.Millisecond)
		}
		synctest.Wait()
		if n := count(s.outcomes(t), store.Delivered); n != 101 {
			t.Errorf("%d of 101 delivered", n)
		}
		if most := g.max("all"); most > workers*(overflowPerWorker+1) {
			t.Errorf("%d in flight", most)
		}
		// In the end every one of them has had its turn.
		time.Sleep(time.Hour)
		synctest.Wait()
		tried := map[string]bool{}
		for _, o := range s.outcomes(t) {
			tried[o.Delivery.ID] = true
		}
		if len(tried) != 1101 {
			t.Errorf("%d of 1101 tried", len(tried))
		}
	})
}

func TestPayloadsInMemoryAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, g := newMemStore(), newGauge()
		e := engine(t, s, g.around(after(time.Second)))
		payload := make([]byte, 8<<20)
		for i := range 120 {
			s.addAt(time.Now(), store.Delivery{ID: strconv.Itoa(i), URL: hostURL(i), Event: event.Completed, Payload: payload})
			if i == 0 {
				// The first one shows how large they are.
				time.Sleep(2 * time.Second)
				synctest.Wait()
			}
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if most := g.max("all"); most > maxPayloads/len(payload) {
			t.Errorf("%d payloads of 8 MiB at once", most)
		}
		if n := count(s.outcomes(t), store.Delivered); n != 120 {
			t.Errorf("%d delivered", n)
		}
		if e.admission.backlog.payloads != 0 {
			t.Errorf("%d bytes are still accounted for", e.admission.backlog.payloads)
		}
	})
}

var errNetwork = errors.New("network")

// Whatever happens, in whatever order, everything is delivered in the end and
// all that was taken is given back.
func TestNothingIsLostInChaos(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			var mu sync.Mutex
			roll := func(n int) int {
				mu.Lock()
				defer mu.Unlock()
				return rng.IntN(n)
			}
			s := newMemStore()
			s.complete = func(*store.Outcome) error {
				if roll(10) == 0 {
					return store.ErrUnavailable
				}
				return nil
			}
			e := engine(t, s, func(r *http.Request) (*http.Response, error) {
				time.Sleep(time.Duration(roll(300)) * time.Millisecond)
				switch roll(6) {
				case 0:
					return nil, errNetwork
				case 1:
					return hang(r)
				case 2:
					return status(500, "Retry-After", strconv.Itoa(roll(20))), nil
				case 3:
					panic("boom")
				}
				return status(200), nil
			}, func(c *Config) {
				c.Workers, c.Endpoint.Concurrency = 1+roll(6), 1+roll(4)
				c.Endpoint.Breaker = Breaker{Failures: 3, Cooldown: Duration(time.Second)}
				c.Retry.MaxAttempts = 1000
				if roll(2) == 0 {
					c.Endpoint.Rate = Rate{Count: 1 + roll(20), Per: Duration(time.Second)}
				}
			})
			for i := range 300 {
				s.add(strconv.Itoa(i), hostURL(roll(40)))
				time.Sleep(time.Duration(roll(30)) * time.Millisecond)
			}
			time.Sleep(10 * time.Hour)
			synctest.Wait()
			if n := count(s.outcomes(t), store.Delivered); n != 300 {
				t.Errorf("seed %d: %d of 300 delivered", seed, n)
			}
			a := &e.admission
			w, b := &a.workers, &a.backlog
			if w.overflow != 0 || w.busy.Len() != 0 || len(w.waiting) != 0 || b.committing != 0 || b.payloads != 0 || len(a.endpoints) != 0 || len(a.timers) != 0 || a.urls != 0 {
				t.Errorf("seed %d: left over: %+v, %d hold a worker", seed, e.Status(), w.busy.Len())
			}
		})
	}
}
