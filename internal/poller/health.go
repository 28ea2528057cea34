package poller

import (
	"crypto/sha256"
	"sync"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/retryafter"
)

const (
	// maxRetryAfter is the longest that an API's Retry-After pauses polls.
	maxRetryAfter = retryafter.Max
	// defaultRetryAfter follows a 429 without Retry-After.
	defaultRetryAfter = 10 * time.Second
	// failuresToPause is the number of failed polls in a row after which all polls
	// with their API or credential are paused. An API that hangs would otherwise
	// take all places.
	failuresToPause = 16
	// minFailurePause and maxFailurePause bound that pause, which is twice as
	// long each time.
	minFailurePause = 5 * time.Second
	maxFailurePause = time.Minute
	// probes is the number of polls that may wait for a response at once after
	// such a pause, until one arrives.
	probes = 4
	// tokenShare is the number of polls with one token that may wait for a
	// response at once while none has arrived within slowAfter, and apiShare
	// that of one API with several tokens.
	tokenShare = concurrentPolls / 4
	apiShare   = 3 * tokenShare
	slowAfter  = 5 * time.Second
	// shareWait is the delay before a poll beyond the share is tried again.
	shareWait = time.Second
	// maxEntries is the number of entries from which on idle ones are deleted.
	maxEntries = 10_000
)

// allowance names what a poll uses up: the allowance of one client's token at an
// API or, where the token is zero, that of the API's operator.
type allowance struct {
	api   string
	token [sha256.Size]byte // its hash
}

func newAllowance(api, authorization string) allowance {
	return allowance{api: api, token: sha256.Sum256([]byte(authorization))}
}

// shared reports whether the allowance is the operator's, which all clients share.
func (a allowance) shared() bool { return a.token == [sha256.Size]byte{} }

// String returns which polls are paused with the allowance, for the log.
func (a allowance) String() string {
	if a.shared() {
		return "all polls of it"
	}
	return "the polls with this client's token"
}

// apiHealth is the health of the APIs that are polled, and of each client's own
// token at them: what an API says to one client's token is no reason to keep
// another client waiting. The zero value is ready.
type apiHealth struct {
	mu      sync.Mutex
	entries map[allowance]*health
}

// health is that of one API, or of one token at it.
type health struct {
	pausedUntil time.Time
	respondedAt time.Time // when the last response arrived
	running     int       // polls
	failures    int       // in a row
	// first is the allowance of the first of them, and several reports that
	// another one failed too.
	first   allowance
	several bool
	pause   time.Duration // the last pause for failures; cleared by a response
}

// begin returns now if a poll may begin, and then end has to be called, or else
// the later time at which to try again. With force it may always.
func (a *apiHealth) begin(who allowance, now time.Time, force bool) time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	levels := a.levels(who, now)
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
	if due.After(now) && !force {
		return due
	}
	for _, h := range levels {
		h.running++
	}
	return now
}

// admits returns now if one more poll may run, else when to try again.
func (h *health) admits(now time.Time, share int) time.Time {
	switch {
	case h.paused(now):
		return h.pausedUntil
	case h.pause > 0 && h.running >= probes:
		return now.Add(h.pause)
	case h.running >= share && now.Sub(h.respondedAt) > slowAfter:
		return now.Add(shareWait)
	}
	return now
}

// paused reports whether polls wait. A pause that is longer than any comes from a
// clock that was set back.
func (h *health) paused(now time.Time) bool {
	left := h.pausedUntil.Sub(now)
	return left > 0 && left <= maxRetryAfter
}

// end follows begin.
func (a *apiHealth) end(who allowance, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, h := range a.levels(who, now) {
		h.running--
	}
}

// responded notes that an API works.
func (a *apiHealth) responded(who allowance, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, h := range a.levels(who, now) {
		h.failures, h.pause, h.respondedAt = 0, 0, now
	}
}

// failed notes that an API did not respond, or with a 5xx, and pauses what only
// fails: the client's token or, where several tokens do, the API. It returns the
// pause, 0 for none.
func (a *apiHealth) failed(who allowance, now time.Time) (pause time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	levels := a.levels(who, now)
	for i, h := range levels {
		if h.failures == 0 {
			h.first, h.several = who, false
		}
		h.failures++
		h.several = h.several || h.first != who
		// One client's failures do not pause the API for the others.
		shared := i == 0 && len(levels) > 1
		if h.failures < failuresToPause || shared && !h.several {
			continue
		}
		h.failures = 0
		h.pause = min(max(2*h.pause, minFailurePause), maxFailurePause)
		h.pauseUntil(now.Add(h.pause), now)
		pause = max(pause, h.pause)
	}
	return pause
}

// limited pauses polls because the API asks for it. They go on with a few at
// first.
func (a *apiHealth) limited(who allowance, now time.Time, d time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	levels := a.levels(who, now)
	h := levels[len(levels)-1]
	h.pauseUntil(now.Add(d), now)
	h.pause = max(h.pause, minFailurePause)
}

// pauseUntil never shortens a pause.
func (h *health) pauseUntil(until, now time.Time) {
	if until.After(h.pausedUntil) || !h.paused(now) {
		h.pausedUntil = until
	}
}

// levels returns the health of the API and, for a client's own token, that of the
// token after it.
func (a *apiHealth) levels(who allowance, now time.Time) []*health {
	api := a.entry(allowance{api: who.api}, now)
	if who.shared() {
		return []*health{api}
	}
	return []*health{api, a.entry(who, now)}
}

func (a *apiHealth) entry(who allowance, now time.Time) *health {
	h := a.entries[who]
	if h != nil {
		return h
	}
	if a.entries == nil {
		a.entries = make(map[allowance]*health)
	}
	if len(a.entries) >= maxEntries {
		for k, h := range a.entries {
			if h.running == 0 && !h.pausedUntil.After(now) && !k.shared() {
				delete(a.entries, k)
			}
		}
	}
	h = new(health)
	a.entries[who] = h
	return h
}
