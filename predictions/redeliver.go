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
	// redeliveriesPerMinute is the number of redeliveries that a caller may ask
	// for.
	redeliveriesPerMinute = 60
	redeliveryInterval    = time.Minute / redeliveriesPerMinute
	// maxLimiters is the number of callers whose limiters are kept.
	maxLimiters = 10_000
)

// limiters bound the redeliveries of each caller.
type limiters struct {
	byIdentity *lru.Cache[string, *rate.Limiter]
}

func newRedeliveries() *limiters {
	return &limiters{lru.New[string, *rate.Limiter](maxLimiters, 0)}
}

// wait takes a caller's turn at the given time. It returns how long the caller has
// to wait for it, 0 if it has it.
func (l *limiters) wait(caller string, now time.Time) time.Duration {
	limiter := l.byIdentity.GetOrAdd(caller, func() *rate.Limiter {
		return rate.NewLimiter(rate.Every(redeliveryInterval), redeliveriesPerMinute)
	})
	if limiter.AllowN(now, 1) {
		return 0
	}
	missing := 1 - limiter.TokensAt(now)
	return time.Duration(missing * float64(redeliveryInterval))
}

// redeliver handles a request to deliver the event of a row of the log again.
func (m *manager) redeliver(r *http.Request, rt route) (reply, error) {
	row, err := parseRow(rt.row)
	if err != nil {
		return reply{}, notFound("there is no such delivery")
	}
	p, err := m.find(r, rt.id)
	if err != nil {
		return reply{}, err
	}
	caller, err := m.client.Identify(r.Context(), m.api, r.Header)
	if err != nil {
		return reply{}, err
	}
	if wait := m.redeliveries.wait(caller.Identity, time.Now()); wait > 0 {
		return reply{}, &problem{
			status: http.StatusTooManyRequests, retry: int(math.Ceil(wait.Seconds())),
			detail: fmt.Sprintf("a caller may ask for %d redeliveries a minute", redeliveriesPerMinute),
		}
	}
	id, err := m.tracker.Redeliver(context.WithoutCancel(r.Context()), p, row)
	if errors.Is(err, store.ErrNotFound) {
		err = notFound("there is no such delivery")
	}
	body := ecmajson.AppendString([]byte(`{"id":`), id)
	return reply{http.StatusAccepted, append(body, '}', '\n')}, err
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
