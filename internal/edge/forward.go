package edge

import (
	"context"
	"errors"
	"net/http"
	"time"

	"go.uber.org/zap"
)

var errUpstreamTimeout = errors.New("the app did not respond in time: see upstream_timeout")

// exchange is a request to the app and its response.
//
// It runs to its end even if the sender disconnects: once the app has begun to
// work on an event, only its own response can say whether it took it.
type exchange struct {
	response
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	// unlink undoes the link from the sender's context, see commit.
	unlink func() bool
	// recording is of the event that is to be stored with the response, nil
	// without the option record.
	recording *recording
}

// forward sends the webhook to the app. Its response leaves once it is committed,
// if it is a 2xx.
func (q *request) forward() (Outcome, error) {
	x := new(exchange)
	x.ctx, x.cancel = context.WithCancelCause(context.WithoutCancel(q.r.Context()))
	x.timer = time.AfterFunc(q.UpstreamTimeout, func() { x.cancel(errUpstreamTimeout) })
	x.init(q.w, q)
	q.exchange = x
	if q.Record > 0 && q.claim != nil {
		x.recording = q.record()
	}
	r := q.r.WithContext(x.ctx)
	if omitted := q.hook.Prepare(r); len(omitted) > 0 {
		q.Logger.Warn("passing an event on without headers whose values are over 256 bytes", zap.Strings("headers", omitted))
	}
	err := q.app.ServeHTTP(&x.response, r)
	x.finish(err == nil)
	noStatus := errors.Is(x.err, errNoStatus)
	switch {
	case x.err != nil && !noStatus:
		return OutcomeStore, storeUnavailable(x.err)
	case x.accepted:
		return OutcomeAccepted, err
	case (err != nil || noStatus) && errors.Is(context.Cause(x.ctx), errUpstreamTimeout):
		return OutcomeUpstreamTimeout, &Refusal{Status: http.StatusGatewayTimeout, Outcome: OutcomeUpstreamTimeout, Cause: errUpstreamTimeout}
	case noStatus:
		return OutcomeUpstreamNoStatus, &Refusal{Status: http.StatusBadGateway, Outcome: OutcomeUpstreamNoStatus, Cause: errNoStatus}
	}
	return OutcomeUpstreamRefused, err
}

// commit commits the claim because a 2xx is about to leave. whole means that the
// app's handler has returned. It implements committer.
func (q *request) commit(whole bool, status int, held []byte) error {
	x := q.exchange
	// The app's time ends with its response; the commit has its own.
	inTime := x.timer.Stop()
	if q.claim != nil {
		err := q.commitClaim(x.ctx, x.recorded(q, status, held))
		switch {
		case err != nil && q.PassOnStoreError:
			q.Logger.Error("passing a response on without a commit", zap.Error(err))
		case err != nil:
			if inTime {
				// What is left of the response is read, and dropped.
				x.timer.Reset(q.UpstreamTimeout)
			}
			return err
		}
	}
	if !whole {
		// From here on the response may take as long as the sender stays.
		sender := q.r.Context()
		x.unlink = context.AfterFunc(sender, func() { x.cancel(context.Cause(sender)) })
	}
	return nil
}

// interrupted ends a response whose handler panicked, and reports whether its
// event was accepted.
func (x *exchange) interrupted() bool {
	x.finish(false)
	return x.accepted
}

// close ends the request to the app, which has been answered.
func (x *exchange) close() {
	if x.unlink != nil {
		x.unlink()
	}
	x.timer.Stop()
	x.cancel(nil)
}
