package delivery

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/store"
)

const (
	// minBlamed is how many events must have failed for the breaker of an app to
	// open.
	minBlamed = 3
	// appFailures opens it, and appCooldown is the time between two probes.
	appFailures = 10
	appCooldown = Duration(5 * time.Second)
	// maxProbeDelay is the longest time between two probes that an app can ask
	// for.
	maxProbeDelay = 5 * time.Minute
)

// Inbox is the app behind the edges of a scope, and how the events that the store
// keeps for it reach it.
type Inbox struct {
	// Scope is that of the events: see store.InboxLane.
	Scope string
	// RetryFor is how long an event is tried, from when it began to wait.
	RetryFor time.Duration
	// MaxDelay is the longest wait after an attempt. Waits are 1 s, 2 s, 4 s and
	// so on up to it.
	MaxDelay time.Duration
	// Concurrency is the number of events with the app at once.
	Concurrency int
	// App takes the events.
	App App

	limits Endpoint
	retry  Retry
}

// setDefaults checks the inbox and sets what follows from it.
func (i *Inbox) setDefaults() error {
	if i.App == nil || i.RetryFor <= 0 || i.MaxDelay <= 0 || i.Concurrency < 1 {
		return fmt.Errorf("configuring delivery: the inbox of scope %q lacks its app, a time or its concurrency", i.Scope)
	}
	i.limits = Endpoint{
		Concurrency: i.Concurrency,
		Breaker:     Breaker{Failures: appFailures, Cooldown: appCooldown, Hold: Duration(i.RetryFor)},
	}
	i.retry = Retry{InitialDelay: Duration(min(time.Second, i.MaxDelay)), MaxDelay: Duration(i.MaxDelay), BackoffFactor: 2}
	return nil
}

// follow returns what follows from an attempt. A refusal's wait is that of the
// event's refusals, since attempts also count while the app is down, and no wait is
// longer than those before it together: a replay begins with the first wait.
func (i *Inbox) follow(res *result, d *store.Delivery, attempt int, last bool, end time.Time) (store.Disposition, time.Time) {
	if res.refused {
		attempt = d.Refusals + 1
	}
	retry := i.retry
	waited := Duration(max(0, end.Sub(d.WaitingSince)))
	retry.MaxDelay = min(retry.MaxDelay, retry.InitialDelay+waited)
	return retry.follow(res, attempt, last, end)
}

// App takes the events of an inbox. Its method may be called concurrently.
type App interface {
	// Pass makes one attempt to hand an event to the app, and returns what
	// the app said. attempt counts from 1.
	Pass(ctx context.Context, d *store.Delivery, attempt int) AppResponse
}

// AppResponse is an app's response to an event.
type AppResponse struct {
	// Status is the first final status, 0 without one.
	Status int
	// RetryAfter is how long the app wants to be left alone, 0 if it did not
	// say.
	RetryAfter time.Duration
	// Body is the beginning of the response, at most 4 KiB.
	Body string
	// Err is why there is no status, or what the status of a handler's error
	// stands for. It is nil for a response of the app's own.
	Err error
	// Sent reports that the request reached the app: an attempt that times out
	// then is a refusal of the event, too.
	Sent bool
	// TimedOut reports that the app's time was over.
	TimedOut bool
}

// errNoStatus is why an attempt failed whose handlers returned neither a status nor
// an error.
var errNoStatus = errors.New("the inbox's handlers gave no final status")

// pass makes one attempt to hand an event to its app.
func (e *Engine) pass(inbox *Inbox, d *store.Delivery, number int) (r result) {
	defer func() {
		if v := recover(); v != nil {
			r = result{outcome: OutcomeInternal, text: "internal error", cause: fmt.Errorf("panic: %v", v), refused: true}
			e.conf.Logger.Error("panic while an event was with its app", zap.String("id", d.ID),
				zap.Any("panic", v), zap.ByteString("stack", debug.Stack()))
		}
	}()
	if !e.conf.Store.Holds(*d) {
		return result{outcome: OutcomeInternal, text: errClaimLost.Error(), cause: errClaimLost}
	}
	resp := inbox.App.Pass(e.life, d, number)
	if (resp.Status == 0 || resp.Err != nil && !ofStatus(resp.Status).success()) && e.isStopped() {
		// The handlers ended with their configuration.
		return result{outcome: OutcomeInternal, text: "the configuration was replaced", abandoned: true}
	}
	return resp.result()
}

func (e *Engine) isStopped() bool {
	select {
	case <-e.quit:
		return true
	default:
		return false
	}
}

// result returns what the response means for the event and for its app.
func (a *AppResponse) result() result {
	r := result{status: a.Status, response: Printable([]byte(a.Body), len(a.Body) >= maxKept), cause: a.Err, retryAfter: a.RetryAfter}
	switch a.Status {
	case 0:
		if a.TimedOut {
			r.outcome, r.text, r.refused = OutcomeTimeout, "timeout", a.Sent
			break
		}
		r.outcome, r.refused = OutcomeInternal, true
		if r.cause == nil {
			r.cause = errNoStatus
		}
		r.text = r.cause.Error()
		return r
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		r.outcome, r.refused = OutcomeUnavailable, a.TimedOut && a.Sent
	default:
		r.outcome = ofStatus(a.Status)
	}
	if r.outcome.success() {
		r.cause = nil
		return r
	}
	if a.Status != 0 {
		r.text = "status " + strconv.Itoa(a.Status)
	}
	if a.Err != nil {
		r.text += ": " + Printable([]byte(a.Err.Error()), false)
	}
	r.refused = r.refused || r.outcome.responded() && r.outcome != OutcomeGone
	return r
}
