package tracker

import (
	"net/http"
	"sync"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/retryafter"
)

const (
	// maxPause is the longest that an API's Retry-After holds polls up.
	maxPause = retryafter.Max
	// defaultPause follows a 429 without Retry-After.
	defaultPause = 10 * time.Second
	// failuresToPause is how many polls of one API, of whatever
	// predictions, have to fail in a row before all are held up. A hanging
	// API would otherwise take every slot from the others.
	failuresToPause = 16
	// minTrouble to maxTrouble is how long they are held up, twice as long
	// each time.
	minTrouble = 5 * time.Second
	maxTrouble = time.Minute
	// probes is how many polls may then wait for the API at once, until it
	// answers one.
	probes = 4
)

// apis is how the APIs that are polled are doing. There are as many as the
// operator has configured over time. The zero value is ready.
type apis struct {
	mu sync.Mutex
	m  map[string]*apiState
}

type apiState struct {
	pausedUntil time.Time
	running     int           // polls
	failures    int           // in a row
	trouble     time.Duration // the last pause for failures
}

// begin asks for leave to poll an API. It gives now, and then end has to be
// called, or else the later time at which to try again. force gets leave
// always.
func (a *apis) begin(api string, now time.Time, force bool) time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.state(api)
	// A pause longer than any comes from a clock that was set back.
	if left := s.pausedUntil.Sub(now); !force && left > 0 && left <= maxPause {
		return s.pausedUntil
	}
	if !force && s.trouble > 0 && s.running >= probes {
		return now.Add(s.trouble)
	}
	s.running++
	return now
}

// end follows begin.
func (a *apis) end(api string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.state(api).running--
}

// answered notes that an API works.
func (a *apis) answered(api string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s := a.m[api]; s != nil {
		s.failures, s.trouble = 0, 0
	}
}

// failed notes that an API did not answer, or with a 5xx, and pauses it when
// that is all it does. It reports the pause, 0 for none.
func (a *apis) failed(api string, now time.Time) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.state(api)
	if s.failures++; s.failures < failuresToPause {
		return 0
	}
	s.failures = 0
	s.trouble = min(max(2*s.trouble, minTrouble), maxTrouble)
	s.pause(now, s.trouble)
	return s.trouble
}

// pause holds an API's polls up.
func (a *apis) pause(api string, now time.Time, d time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.state(api).pause(now, d)
}

func (s *apiState) pause(now time.Time, d time.Duration) {
	if until := now.Add(d); until.After(s.pausedUntil) || s.pausedUntil.Sub(now) > maxPause {
		s.pausedUntil = until
	}
}

func (a *apis) state(api string) *apiState {
	if a.m == nil {
		a.m = make(map[string]*apiState)
	}
	s := a.m[api]
	if s == nil {
		s = new(apiState)
		a.m[api] = s
	}
	return s
}

// retryAfter returns the wait that a response's Retry-After asks for, at least
// 1 s, or 0 if it asks for none.
func retryAfter(h http.Header, now time.Time) time.Duration {
	wait, asked := retryafter.Wait(h, now)
	if !asked {
		return 0
	}
	return max(wait, time.Second)
}

// quiet keeps a log readable when thousands of predictions meet one trouble:
// it allows each key once a minute. The zero value is ready.
type quiet struct {
	mu   sync.Mutex
	last map[string]time.Time
}

const quietFor = time.Minute

func (q *quiet) allow(key string, now time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if d := now.Sub(q.last[key]); d >= 0 && d < quietFor {
		return false
	}
	if q.last == nil {
		q.last = make(map[string]time.Time)
	}
	q.last[key] = now
	return true
}
