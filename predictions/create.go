package predictions

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/internal/prediction"
	"github.com/caddy-replicate/replicate-webhook/internal/tracker"
	"github.com/caddy-replicate/replicate-webhook/internal/webhook"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// create handles a request to create a prediction or training. One without a
// webhook passes with the bytes it came with.
func (h *Handler) create(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, rt route) error {
	if r.Body == nil || r.Body == http.NoBody || !isJSON(r.Header.Get("Content-Type"), true) || !identity(r.Header) {
		return next.ServeHTTP(w, r)
	}
	body, err := readBody(w, r, h.maxBody, h.budget.For(webhook.ClientAddress(r)))
	if err != nil {
		return h.fail(w, r, err)
	}
	defer func() { _ = body.Close() }()
	r.Body = body
	if body.rest != nil {
		if names(body.data) {
			return h.fail(w, r, &problem{status: http.StatusRequestEntityTooLarge, closing: true,
				detail: "a request with a webhook_url may have at most " + strconv.FormatInt(h.maxBody, 10) + " bytes"})
		}
		return next.ServeHTTP(w, r)
	}
	if !mentions(body.data) {
		return next.ServeHTTP(w, r)
	}
	hook, err := readCreate(body.data, h.tracker.CheckURL)
	switch {
	case err != nil:
		return h.fail(w, r, err)
	case hook == nil:
		return next.ServeHTTP(w, r)
	case !hook.asked:
		return next.ServeHTTP(w, withBody(r.Context(), r, body, cutRequest(body.data, hook.doc, "")))
	case hook.test != testOff:
		return h.createTest(w, r, hook)
	}
	return h.capture(w, r, next, rt, hook, body)
}

// withBody is the request with another body, in a context.
func withBody(ctx context.Context, r *http.Request, body *buffered, data []byte) *http.Request {
	body.replace(data)
	r = r.WithContext(ctx)
	r.Header = r.Header.Clone()
	r.Body = body
	r.ContentLength = int64(len(data))
	r.TransferEncoding = nil
	r.Header.Set("Content-Length", strconv.Itoa(len(data)))
	// Nothing is left to wait for, and digests of the old body are wrong.
	for _, name := range []string{"Expect", "Content-Digest", "Repr-Digest", "Digest", "Content-Md5"} {
		r.Header.Del(name)
	}
	return r
}

// newCapture names the webhook and who asks for it.
func (h *Handler) newCapture(r *http.Request, url string, events store.EventSet, collection string) (*tracker.Capture, error) {
	caller, err := h.tracker.Caller(r.Context(), h.upstream, r.Header)
	if err != nil {
		return nil, err
	}
	c := &tracker.Capture{Upstream: h.upstream, Caller: caller, URL: url, Events: events, Collection: collection}
	if t := r.Header.Get("Traceparent"); len(t) <= maxTraceparent {
		c.Traceparent = t
	}
	return c, nil
}

// maxTraceparent leaves room for versions to come (W3C Trace Context).
const maxTraceparent = 256

// capture passes a create on and stores the prediction before its answer
// leaves. All that can fail on our side is tried before the API is charged.
//
// The exchange runs to its end even if the client disconnects: what the API
// has begun to work on costs money, and its events are owed.
func (h *Handler) capture(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, rt route, hook *hook, body *buffered) error {
	if err := h.tracker.Ready(r.Context()); err != nil {
		return h.fail(w, r, err)
	}
	c, err := h.newCapture(r, hook.url, hook.events, rt.collection)
	if err != nil {
		return h.fail(w, r, err)
	}
	x := &captured{h: h, c: c, ctx: r.Context(), a: h.newAnswer(w, true)}
	if !hook.native {
		if x.callback, err = h.tracker.Reserve(r.Context(), c); err != nil {
			return h.fail(w, r, err)
		}
	}
	ctx, stop := outlive(r.Context(), afterClient)
	defer stop()
	r = withBody(ctx, r, body, cutRequest(body.data, hook.doc, x.callback))
	r.Header.Set("Accept-Encoding", "identity")

	// Also when the next handler panics, as a proxy does to abort an answer
	// that broke off.
	defer x.settle()
	x.err = next.ServeHTTP(x.a, r)
	x.returned = true
	return x.err
}

// afterClient is how long an exchange may go on once its client is gone. The
// API's longest synchronous answer takes a minute.
const afterClient = 10 * time.Minute

// outlive is a context that ends the given time after its parent.
func outlive(parent context.Context, after time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(parent))
	unlink := context.AfterFunc(parent, func() {
		timer := time.NewTimer(after)
		defer timer.Stop()
		select {
		case <-timer.C:
			cancel()
		case <-ctx.Done():
		}
	})
	return ctx, func() { unlink(); cancel() }
}

// captured is a create that was passed on, and its answer.
type captured struct {
	h        *Handler
	c        *tracker.Capture
	ctx      context.Context
	a        *answer
	callback string
	err      error
	returned bool // the next handler did, and did not panic
}

// settle stores what the answer says, and sends what of it was held. It is
// called once, when nothing more will come.
func (x *captured) settle() {
	complete := x.returned && x.err == nil
	switch x.a.mode {
	case holding:
		if complete {
			x.augment()
			return
		}
		// It broke off, but it is a success.
		x.rescue(x.a.buf.Bytes(), "the answer to a create broke off")
		x.a.pass()
		if !x.returned {
			_ = x.a.FlushError()
		}
	case trailing:
		x.store(x.a.scanner.ID(), x.a.scanner.Status(), "the answer to a create is over max_body")
		if complete {
			_ = x.a.finish()
		}
	case streaming:
		if x.a.status >= 200 && x.a.status <= 299 {
			x.log("the answer to a create is not JSON: its webhook is not tracked", nil)
			return
		}
		x.h.tracker.Abandon(x.ctx, x.c)
	case undecided:
		x.h.tracker.Abandon(x.ctx, x.c)
	}
}

// augment stores the prediction that was held and sends it with our members.
// An answer that is no prediction is sent as it came.
func (x *captured) augment() {
	body, err := decode(x.a.Header(), x.a.buf.Bytes(), x.a.limit)
	if errors.Is(err, errDecoded) {
		x.rescueEncoded()
		x.a.pass()
		return
	}
	if err != nil {
		x.log("the answer to a create can't be decoded: its webhook is not tracked", err)
		x.a.pass()
		return
	}
	s, err := prediction.Parse(body)
	if err != nil {
		x.rescue(body, "the answer to a create is not a JSON object")
		x.a.pass()
		return
	}
	if !prediction.ValidID(s.ID) {
		x.log("the answer to a create has no id: its webhook is not tracked", nil)
		x.a.pass()
		return
	}
	f := fields{url: x.c.URL, status: store.WebhookFailed, completed: true}
	if p, err := x.h.tracker.Created(x.ctx, x.c, s); err != nil {
		// The API has accepted it: its client must not lose the answer,
		// but it may know that no event will come.
		x.h.logger.Error("storing a created prediction: its webhook is not tracked",
			zap.String("prediction", s.ID), zap.Error(err))
	} else {
		f = fieldsOf(&p)
	}
	if x.callback != "" {
		f.ours = func(webhook string) bool { return webhook == x.callback }
	}
	x.a.send(augment(body, f))
}

// rescue stores a prediction of which only a beginning can be read.
func (x *captured) rescue(body []byte, why string) {
	var scan prediction.Scanner
	if plain, err := decode(x.a.Header(), body, x.a.limit); err == nil || errors.Is(err, errDecoded) {
		_, _ = scan.Write(plain)
	}
	x.store(scan.ID(), scan.Status(), why)
}

// maxScanned bounds the bytes of a decoded answer that are searched for an id.
const maxScanned = 256 << 20

// rescueEncoded does so for an answer that is too large only once decoded.
func (x *captured) rescueEncoded() {
	var scan prediction.Scanner
	if r, err := decoder(x.a.Header(), x.a.buf.Bytes()); err == nil {
		_, _ = io.Copy(&scan, io.LimitReader(r, maxScanned))
		_ = r.Close()
	}
	x.store(scan.ID(), scan.Status(), "the answer to a create is over max_body")
}

// store tracks a prediction of which nothing but its id is known, and says so.
func (x *captured) store(id, status, why string) {
	if !prediction.ValidID(id) {
		x.log(why+", and its id can't be read: its webhook is not tracked", nil)
		return
	}
	if _, err := x.h.tracker.CreatedWithoutBody(x.ctx, x.c, id, status); err != nil {
		x.h.logger.Error("storing a created prediction: its webhook is not tracked",
			zap.String("prediction", id), zap.Error(err))
		return
	}
	x.h.logger.Warn(why+": it is tracked by its id, and passed without webhook_url",
		zap.String("prediction", id))
}

// log tells the operator of an answer that is no use to a tracker.
func (x *captured) log(message string, err error) {
	x.h.logger.Warn(message, zap.Int("status", x.a.status),
		zap.String("content_type", x.a.Header().Get("Content-Type")), zap.Error(err))
}
