package predictions

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/caddy-replicate/replicate-webhook/internal/ecmajson"
	"github.com/caddy-replicate/replicate-webhook/store"
)

const (
	// redeliveriesPerMinute is how many redeliveries a caller may ask for.
	redeliveriesPerMinute = 60
	// maxLimiters bounds the callers that are remembered.
	maxLimiters = 10_000
)

// limiters bound how often each caller may ask for something. The zero value is
// ready.
type limiters struct {
	mu sync.Mutex
	m  map[string]*rate.Limiter
}

// take takes a caller's turn at the given time. It returns how long the caller
// has to wait for it, 0 if it has it.
func (l *limiters) take(caller string, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	limiter := l.m[caller]
	if limiter == nil {
		l.makeRoom(now)
		limiter = rate.NewLimiter(rate.Every(time.Minute/redeliveriesPerMinute), redeliveriesPerMinute)
		l.m[caller] = limiter
	}
	r := limiter.ReserveN(now, 1)
	wait := r.DelayFrom(now)
	if wait > 0 {
		r.CancelAt(now)
	}
	return wait
}

// makeRoom forgets callers that have their whole allowance again, and any other
// where that is not enough.
func (l *limiters) makeRoom(now time.Time) {
	if l.m == nil {
		l.m = make(map[string]*rate.Limiter)
	}
	if len(l.m) < maxLimiters {
		return
	}
	for caller, limiter := range l.m {
		if limiter.TokensAt(now) >= redeliveriesPerMinute {
			delete(l.m, caller)
		}
	}
	for caller := range l.m {
		if len(l.m) < maxLimiters {
			return
		}
		delete(l.m, caller)
	}
}

// redeliver answers a request to deliver the event of a row of the log again.
func (h *Handler) redeliver(w http.ResponseWriter, r *http.Request, rt route) error {
	row, err := parseRow(rt.row)
	if err != nil {
		return h.fail(w, r, notFound("there is no such delivery"))
	}
	p, err := h.find(r, rt.id)
	if err != nil {
		return h.fail(w, r, err)
	}
	caller, err := h.tracker.Caller(r.Context(), h.upstream, r.Header)
	if err != nil {
		return h.fail(w, r, err)
	}
	if wait := h.redeliveries.take(caller.Identity, time.Now()); wait > 0 {
		return h.fail(w, r, &problem{
			status: http.StatusTooManyRequests, retry: int(math.Ceil(wait.Seconds())),
			detail: fmt.Sprintf("a caller may ask for %d redeliveries a minute", redeliveriesPerMinute),
		})
	}
	id, err := h.tracker.Redeliver(context.WithoutCancel(r.Context()), p, row)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return h.fail(w, r, notFound("there is no such delivery"))
	case err != nil:
		return h.fail(w, r, err)
	}
	body := ecmajson.AppendString([]byte(`{"id":`), id)
	answerJSON(w, http.StatusAccepted, append(body, '}', '\n'))
	return nil
}

// parseRow reads the id of a row of the log, a positive number in its one
// spelling.
func parseRow(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err == nil && (n <= 0 || strconv.FormatInt(n, 10) != s) {
		err = strconv.ErrSyntax
	}
	return n, err
}
