package tracker

import (
	"net/http"
	"sync"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/loglimit"
	"github.com/caddy-replicate/replicate-webhook/internal/retryafter"
)

const (
	// maxPause is the longest that an API's Retry-After holds polls up.
	maxPause = retryafter.Max
	// defaultPause follows a 429 without Retry-After.
	defaultPause = 10 * time.Second
	// failuresToPause is how many polls in a row have to fail before all
	// that share their API or credential are held up. A hanging API would
	// otherwise take every slot from the others.
	failuresToPause = 16
	// minTrouble to maxTrouble is how long they are held up, twice as long
	// each time.
	minTrouble = 5 * time.Second
	maxTrouble = time.Minute
	// probes is how many polls may then wait for a response at once, until
	// one arrives.
	probes = 4
	// tokenShare is how many polls with one token may wait for a response at
	// once while none has arrived within slowAfter, and apiShare how many of
	// one API with several tokens.
	tokenShare = concurrentPolls / 4
	apiShare   = 3 * tokenShare
	slowAfter  = 5 * time.Second
	// shareWait is when a poll beyond the share is tried again.
	shareWait = time.Second
)

// poller names whose allowance a poll uses up: that of one client's token at an
// API or, where the token is zero, that of the API's operator.
type poller struct {
	api   string
	token key
}

// apis is the health of the APIs that are polled, and of each client's own token
// at them: what an API says to one client's token is no reason to keep another
// client waiting. The zero value is ready.
type apis struct {
	mu sync.Mutex
	m  map[poller]*health
}

type health struct {
	pausedUntil time.Time
	answeredAt  time.Time     // when the last response arrived
	running     int           // polls
	failures    int           // in a row
	by          key           // whose the first of them was
	several     bool          // they are of more than one token
	trouble     time.Duration // the last pause for failures; cleared by a response
}

// maxIdle is how many entries are kept before idle ones are dropped.
const maxIdle = 10_000

// begin asks for leave to poll. It returns now, and then end has to be called,
// or else the later time at which to try again. force gets leave always.
func (a *apis) begin(p poller, now time.Time, force bool) time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	levels := a.levels(p, now)
	if !force {
		due := now
		for i, h := range levels {
			share := tokenShare
			if i < len(levels)-1 {
				share = apiShare
			}
			if at := h.admits(now, share); at.After(due) {
				due = at
			}
		}
		if due.After(now) {
			return due
		}
	}
	for _, h := range levels {
		h.running++
	}
	return now
}

// admits returns now if one more poll may run, else when to try again.
func (h *health) admits(now time.Time, share int) time.Time {
	// A pause longer than any comes from a clock that was set back.
	if left := h.pausedUntil.Sub(now); left > 0 && left <= maxPause {
		return h.pausedUntil
	}
	if h.trouble > 0 && h.running >= probes {
		return now.Add(h.trouble)
	}
	if h.running >= share && now.Sub(h.answeredAt) > slowAfter {
		return now.Add(shareWait)
	}
	return now
}

// end follows begin.
func (a *apis) end(p poller, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, h := range a.levels(p, now) {
		h.running--
	}
}

// answered notes that an API works for p.
func (a *apis) answered(p poller, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, h := range a.levels(p, now) {
		h.failures, h.trouble, h.answeredAt = 0, 0, now
	}
}

// failed notes that an API did not respond, or with a 5xx, and pauses what only
// fails: the client's token or, where several tokens do, the API. It returns the
// pause, 0 for none.
func (a *apis) failed(p poller, now time.Time) (pause time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	levels := a.levels(p, now)
	for i, h := range levels {
		if h.failures == 0 {
			h.by, h.several = p.token, false
		}
		h.failures++
		h.several = h.several || h.by != p.token
		// One client's failures do not pause the API for the others.
		shared := i == 0 && len(levels) > 1
		if h.failures < failuresToPause || shared && !h.several {
			continue
		}
		h.failures = 0
		h.trouble = min(max(2*h.trouble, minTrouble), maxTrouble)
		h.pause(now, h.trouble)
		pause = max(pause, h.trouble)
	}
	return pause
}

// limited holds p's polls up because the API asks for it. They go on with a few
// at first.
func (a *apis) limited(p poller, now time.Time, d time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	levels := a.levels(p, now)
	h := levels[len(levels)-1]
	h.pause(now, d)
	h.trouble = max(h.trouble, minTrouble)
}

func (h *health) pause(now time.Time, d time.Duration) {
	if until := now.Add(d); until.After(h.pausedUntil) || h.pausedUntil.Sub(now) > maxPause {
		h.pausedUntil = until
	}
}

// levels returns the health of p's API and, for a client's own token, that of
// the token after it.
func (a *apis) levels(p poller, now time.Time) []*health {
	api := a.health(poller{api: p.api}, now)
	if p.token == (key{}) {
		return []*health{api}
	}
	return []*health{api, a.health(p, now)}
}

func (a *apis) health(p poller, now time.Time) *health {
	h := a.m[p]
	if h != nil {
		return h
	}
	if a.m == nil {
		a.m = make(map[poller]*health)
	}
	if len(a.m) >= maxIdle {
		for k, h := range a.m {
			if h.running == 0 && !h.pausedUntil.After(now) && k.token != (key{}) {
				delete(a.m, k)
			}
		}
	}
	h = new(health)
	a.m[p] = h
	return h
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

// quiet allows each key a line in the log once a minute. The zero value is ready.
type quiet struct{ loglimit.Limiter }

func (q *quiet) allow(key string, now time.Time) bool {
	_, ok := q.Allow(key, now)
	return ok
}
