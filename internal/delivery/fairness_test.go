package delivery

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// addFor queues a delivery of a client.
func (s *memStore) addFor(client, id, url string) {
	s.addAt(time.Now(), store.Delivery{
		ID: id, URL: url, Client: client, PredictionID: "p-" + id, Event: event.Completed, CreatedAt: time.Now(), Payload: []byte(`{}`),
	})
}

// path answers by path, and with 200 where nothing is said.
func path(answers map[string]roundTrip) roundTrip {
	return func(r *http.Request) (*http.Response, error) {
		if f := answers[r.URL.Path]; f != nil {
			return f(r)
		}
		return status(200), nil
	}
}

func answer503(*http.Request) (*http.Response, error) { return status(503), nil }

// attemptsOf gives the attempts at deliveries whose id begins so.
func attemptsOf(log []store.Outcome, prefix string) (out []store.Outcome) {
	for _, o := range log {
		if strings.HasPrefix(o.Delivery.ID, prefix) {
			out = append(out, o)
		}
	}
	return out
}

const shared = "https://hooks.example.com/"

func TestFailingResponsesOfOneClientHoldUpNoOther(t *testing.T) {
	for _, code := range []int{429, 500, 503, 404, 401, 302} {
		t.Run(strconv.Itoa(code), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newMemStore()
				var late []time.Duration
				s.ended = func(o *store.Outcome) {
					if o.Delivery.Client == "well" && o.Disposition == store.Delivered {
						late = append(late, time.Since(o.Delivery.CreatedAt))
					}
				}
				e := engine(t, s, path(map[string]roundTrip{"/ill": func(r *http.Request) (*http.Response, error) { return status(code), nil }}))
				for i := range 10_000 {
					s.addFor("ill", "ill"+strconv.Itoa(i), shared+"ill")
				}
				for i := range 1000 {
					s.addFor("well", "well"+strconv.Itoa(i), shared+"well")
					time.Sleep(50 * time.Millisecond)
				}
				synctest.Wait()
				if slices.Sort(late); len(late) != 1000 || late[999] > 100*time.Millisecond {
					t.Errorf("%d of 1000 delivered, the last after %v", len(late), late[len(late)-1])
				}
				// The breaker of the URL is open: ten attempts, and a probe
				// after each cooldown.
				ill := attemptsOf(s.outcomes(t), "ill")
				if len(ill) < 10 || len(ill) > 10+16+3 {
					t.Errorf("%d attempts at a URL that answers %d", len(ill), code)
				}
				if got := e.Endpoints()[0]; got.State != Closed || got.URLsOpen != 1 {
					t.Errorf("endpoint %+v", got)
				}
			})
		})
	}
}

func TestTheSlotsOfAnEndpointGoRoundItsClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStore()
		engine(t, s, after(100*time.Millisecond))
		for i := range 10_000 {
			s.addFor("large", "large"+strconv.Itoa(i), shared+"large")
		}
		time.Sleep(5 * time.Second)
		// Each of ten others has a few, and each of these is served at its
		// turn.
		for c := range 10 {
			for i := range 5 {
				s.addFor(fmt.Sprint("small", c), fmt.Sprintf("small%d-%d", c, i), shared+"small")
			}
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if n := len(attemptsOf(s.outcomes(t), "small")); n != 50 {
			t.Errorf("%d of 50 were delivered within a second", n)
		}
		before := len(attemptsOf(s.outcomes(t), "large"))
		time.Sleep(time.Second)
		synctest.Wait()
		if n := len(attemptsOf(s.outcomes(t), "large")) - before; n < 150 {
			t.Errorf("%d deliveries a second of the one that is left", n)
		}
	})
}

func TestEqualClientsGetEqualShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStore()
		engine(t, s, func(r *http.Request) (*http.Response, error) {
			if strings.HasSuffix(r.URL.Path, "slow") {
				return after(5 * time.Second)(r)
			}
			return after(100 * time.Millisecond)(r)
		})
		for i := range 3000 {
			s.addFor("slow", "slow"+strconv.Itoa(i), shared+"slow")
			s.addFor("quick", "quick"+strconv.Itoa(i), shared+"quick")
		}
		time.Sleep(20 * time.Second)
		synctest.Wait()
		// Half of sixteen slots, ten a second each, once the first attempt
		// of the slow one, which goes alone, is over.
		if n := len(attemptsOf(s.outcomes(t), "quick")); n < 300 {
			t.Errorf("%d deliveries in 20 s beside a client that is slow", n)
		}
	})
}

func TestAProbeIsNeverTwiceInARowTheSameClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStore()
		var mu sync.Mutex
		var clients []string
		engine(t, s, func(r *http.Request) (*http.Response, error) {
			mu.Lock()
			defer mu.Unlock()
			clients = append(clients, r.URL.Path)
			return nil, syscall.ECONNREFUSED
		}, func(c *Config) { c.Endpoint.Breaker = Breaker{Failures: 1, Cooldown: Duration(time.Second)} })
		for i := range 100 {
			s.addFor("one", "one"+strconv.Itoa(i), shared+"one")
		}
		s.addFor("two", "two", shared+"two")
		s.addFor("three", "three", shared+"three")
		time.Sleep(30 * time.Second)
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		// From the tenth on the others wait for their next try.
		for i := 2; i < 10; i++ {
			if clients[i] == clients[i-1] {
				t.Errorf("probe %d of %q is of the same client as the one before", i, clients)
			}
		}
		if len(clients) < 25 {
			t.Errorf("%d probes in 30 s", len(clients))
		}
	})
}

func TestRetryAfterDelaysItsOwnURLAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, net := newMemStore(), record(func(n int, r *http.Request) (*http.Response, error) {
			if n == 1 {
				return status(429, "Retry-After", "60"), nil
			}
			return status(200), nil
		})
		engine(t, s, net.trip)
		s.addFor("a", "first", shared+"a")
		synctest.Wait()
		for i := range 20 {
			s.addFor("a", "same"+strconv.Itoa(i), shared+"a")
		}
		s.addFor("a", "path", shared+"other")
		s.addFor("b", "client", shared+"a")
		time.Sleep(59 * time.Second)
		synctest.Wait()
		log := s.outcomes(t)
		if n := len(log); n != 3 || len(attemptsOf(log, "same")) != 0 {
			t.Fatalf("%d attempts before the URL is due", n)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if log := s.outcomes(t); count(log, store.Delivered) != 23 || len(log) != 24 {
			t.Errorf("%d of 23 delivered with %d attempts", count(log, store.Delivered), len(log))
		}
	})
}

func TestAConnectionFailureCountsForAllClientsOfTheEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, net := newMemStore(), record(func(int, *http.Request) (*http.Response, error) { return nil, syscall.ECONNREFUSED })
		e := engine(t, s, net.trip)
		for c := range 20 {
			s.addFor(fmt.Sprint("client", c), fmt.Sprint(c), shared+fmt.Sprint(c))
		}
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if got := e.Endpoints()[0]; got.State != Open || got.URLsOpen != 0 || got.Failures != 10 || got.Since.IsZero() {
			t.Errorf("endpoint %+v", got)
		}
		if n := len(net.times()); n != 10 {
			t.Errorf("%d attempts", n)
		}
	})
}
