package delivery

import (
	"time"

	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// NoticeClient is the client of notices to the operator. Their signing secret is
// that of this name. No client of an API has it, whose names begin with the API's
// URL.
const NoticeClient = "notices"

// NoticeEnd is how the sending of a notice ended.
type NoticeEnd uint8

// The ends of a notice.
const (
	NoticeSent    NoticeEnd = iota + 1 // the receiver responded with a 2xx
	NoticeFailed                       // the last retry failed
	NoticeStopped                      // the engine has stopped: another one may send it
)

// notice is what is known of a notice that is being sent.
type notice struct {
	attempts int
	due      time.Time
	flight   *attemptInFlight // the next attempt, once it may begin
	done     func(NoticeEnd)
}

// first reports whether no attempt was made.
func (n *notice) first() bool { return n != nil && n.attempts == 0 }

// Notify sends a body to a URL of the operator's, under an ID that its retries share.
// The attempts follow the schedule of deliveries, and the limits and breakers of the
// endpoint and the URL, as those of a delivery of NoticeClient do. They are in memory
// alone: done is told how they ended, from another goroutine. Notify reports false if
// the engine does not run.
func (e *Engine) Notify(id, url string, body []byte, done func(NoticeEnd)) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.started || e.stopped {
		return false
	}
	u := Update{notice: &notice{done: done, due: e.conf.Now()}, Delivery: store.Delivery{
		ID: id, Client: NoticeClient, URL: url, Lane: store.LaneOf(NoticeClient, url), Native: true, Payload: body,
	}}
	e.pending++
	// A line of its own: one that waits for its retry delays no other. No prediction
	// has the number 0.
	go e.sendProgress(0, &progressLine{client: NoticeClient, next: []Update{u}, bytes: len(body)})
	return true
}

// beginNotice begins an attempt of a notice if it is due and the limits and breakers of
// its receiver admit one. e.mu must be held.
func (e *Engine) beginNotice(u *Update) bool {
	n, a, now := u.notice, &e.admission, e.conf.Now()
	if now.Before(n.due) {
		return false
	}
	p := a.endpoint(u.Delivery.Lane.Endpoint, now)
	if a.allowed(p, now) == 0 {
		return false
	}
	if of := p.urls[urlLane(&u.Delivery)]; of != nil && of.blocked(now) {
		return false
	}
	n.flight = a.begin(u.Delivery, now)
	e.pending++
	return true
}

// sendNotice makes the attempt that has begun. It reports whether there is to be
// another one. begun is false when the engine has stopped.
func (e *Engine) sendNotice(u *Update, begun bool) (again bool) {
	n := u.notice
	if !begun {
		n.done(NoticeStopped)
		return false
	}
	n.attempts++
	f := n.flight
	r := e.client.attempt(&u.Delivery, n.attempts, e.conf.Now(), func() bool { return true })
	end := e.conf.Now()
	e.release(f, &r, end)
	e.forget(f)
	disposition, due := e.conf.Retry.disposition(&r, n.attempts, end)
	switch disposition {
	case store.Delivered:
		n.done(NoticeSent)
	case store.Retry:
		n.due = due
		e.conf.Logger.Info("a notice was not received: it is sent again", noticeFields(u, &r)...)
		return true
	default:
		e.conf.Logger.Error("a notice was given up", noticeFields(u, &r)...)
		n.done(NoticeFailed)
	}
	return false
}

// noticeFields says in a log how an attempt of a notice ended. The text of the failure
// is left out: that of a redirect may quote the URL, which may be a secret.
func noticeFields(u *Update, r *result) []zap.Field {
	return []zap.Field{
		zap.String("notice", u.Delivery.ID), zap.String("endpoint", u.Delivery.Lane.Endpoint),
		zap.Int("attempt", u.notice.attempts), zap.Int("status", r.status), zap.Stringer("outcome", r.outcome),
	}
}
