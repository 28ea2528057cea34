package predictions

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"golang.org/x/time/rate"

	"github.com/caddy-replicate/replicate-webhook/internal/ecmajson"
	"github.com/caddy-replicate/replicate-webhook/internal/lru"
	"github.com/caddy-replicate/replicate-webhook/store"
)

const (
	// redeliveriesPerMinute is how many redeliveries a caller may ask for.
	redeliveriesPerMinute = 60
	redeliveryInterval    = time.Minute / redeliveriesPerMinute
	// maxLimiters is how many callers' limiters are kept.
	maxLimiters = 10_000
)

// newRedeliveries returns the limiters of callers by their identities.
func newRedeliveries() *lru.Cache[string, *rate.Limiter] {
	return lru.New[string, *rate.Limiter](maxLimiters, 0)
}

// redeliveryWait takes a caller's turn at the given time. It returns how long the
// caller has to wait for it, 0 if it has it.
func (h *Handler) redeliveryWait(caller string, now time.Time) time.Duration {
	limiter := h.redeliveries.GetOrAdd(caller, func() *rate.Limiter {
		return rate.NewLimiter(rate.Every(redeliveryInterval), redeliveriesPerMinute)
	})
	if limiter.AllowN(now, 1) {
		return 0
	}
	missing := 1 - limiter.TokensAt(now)
	return time.Duration(missing * float64(redeliveryInterval))
}

// redeliver handles a request to deliver the event of a row of the log again.
func (h *Handler) redeliver(w http.ResponseWriter, r *http.Request, rt route) error {
	row, err := parseRow(rt.row)
	if err != nil {
		return h.fail(w, r, notFound("there is no such delivery"))
	}
	p, err := h.find(r, rt.id)
	if err != nil {
		return h.fail(w, r, err)
	}
	caller, err := h.client.Identify(r.Context(), h.upstream, r.Header)
	if err != nil {
		return h.fail(w, r, err)
	}
	if wait := h.redeliveryWait(caller.Identity, time.Now()); wait > 0 {
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
	writeJSON(w, http.StatusAccepted, append(body, '}', '\n'))
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
