package predictions

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/internal/clientip"
	"github.com/caddy-replicate/replicate-webhook/internal/conceal"
	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/internal/metrics"
	"github.com/caddy-replicate/replicate-webhook/internal/prediction"
	"github.com/caddy-replicate/replicate-webhook/internal/tracker"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// create handles a request to create a prediction or training. One without a
// webhook passes with the bytes it came with.
func (h *Handler) create(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, rt route) error {
	if len(r.Header[keyHeader]) > 0 && h.Idempotency > 0 {
		return h.createKeyed(w, r, next, rt)
	}
	if r.Body == nil || r.Body == http.NoBody {
		return next.ServeHTTP(w, r)
	}
	body, err := readBody(w, r, h.MaxBody, h.budget.For(clientip.Of(r)))
	if err != nil {
		return h.fail(w, r, err)
	}
	defer func() { _ = body.Close() }()
	r.Body = body
	if body.rest != nil {
		return h.createLarge(w, r, next, body)
	}
	return h.createBuffered(w, r, next, rt, body)
}

// createBuffered handles a create whose whole body was read.
func (h *Handler) createBuffered(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, rt route, body *buffered) error {
	if !asJSON(r.Header) {
		member, err := h.named(r.Header, body)
		if err == nil && member != "" {
			err = mediaProblem(member, r.Header)
		}
		if err != nil {
			return h.fail(w, r, err)
		}
		return next.ServeHTTP(w, r)
	}
	if !h.members.mentioned(body.data) {
		return next.ServeHTTP(w, r)
	}
	hook, err := h.members.readCreate(body.data, h.tracker.CheckURL, h.capturesAll)
	switch {
	case err != nil:
		return h.fail(w, r, err)
	case hook == nil:
		return next.ServeHTTP(w, r)
	case !hook.asked:
		return next.ServeHTTP(w, withBody(r.Context(), r, body, cutRequest(hook.doc, "")))
	case hook.test != testOff:
		if k := exchangeOf(next); k != nil {
			if err := k.begin(r); err != nil {
				return h.fail(w, r, err)
			}
		}
		return h.respond(w, r)(h.manager.createTest(r, hook))
	}
	return h.capture(w, r, next, rt, hook, body)
}

// capturesAll reports whether the events that a client wants of the API's own webhook
// can be delivered. Output and logs come with callbacks alone: without them, a create
// that names one is left to the API.
func (h *Handler) capturesAll(events event.Set) bool {
	if !events.Has(event.Progress) || h.tracker.CallbackBase() != "" {
		return true
	}
	said := "creates without a " + nativeEvents + " get completed alone, and not output: that needs the global option callback"
	if events.NamesProgress() {
		said = "creates whose " + nativeEvents + " names output or logs pass with their " + nativeURL + ", and the API sends all their webhooks itself: capturing them needs the global option callback"
	}
	if _, again := h.told.LoadOrStore(said, true); !again {
		h.logger.Warn(said, zap.String("api", h.upstream.URL))
	}
	return !events.NamesProgress()
}

// misspelledCreate passes a request on whose path only resembles a create's. An
// API that takes it would drop the webhook.
func (h *Handler) misspelledCreate(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if r.Body == nil || r.Body == http.NoBody {
		return h.passOn(w, r, next)
	}
	body, err := readBody(w, r, h.MaxBody, h.budget.For(clientip.Of(r)))
	if err != nil {
		return h.fail(w, r, err)
	}
	defer func() { _ = body.Close() }()
	r.Body = body
	member, err := h.named(r.Header, body)
	if err == nil && member != "" {
		err = &problem{status: http.StatusUnprocessableEntity, member: member, closing: body.rest != nil,
			detail: fmt.Sprintf("%s can't be acted on at %s %.128q: create with POST %s/predictions, in this spelling", member, r.Method, r.URL.EscapedPath(), h.prefix)}
	}
	if err != nil {
		return h.fail(w, r, err)
	}
	return h.passOn(w, r, next)
}

// asJSON reports whether a body is sent in the one way that is acted on.
func asJSON(h http.Header) bool {
	return len(h["Content-Type"]) <= 1 && isJSON(h.Get("Content-Type"), true) && identity(h)
}

// named returns the member of ours that a body names which is not sent as JSON,
// or empty. An encoded body is searched as far as max_body. Errors are *problem.
func (h *Handler) named(header http.Header, body *buffered) (string, error) {
	contentType := header.Get("Content-Type")
	if identity(header) {
		return h.members.namedIn(body.data, contentType), nil
	}
	list, known := codings(header)
	if !known {
		return "", nil
	}
	content, err := decode(bytes.NewReader(body.data), list)
	if err != nil {
		return "", nil
	}
	var text bytes.Buffer
	for content = io.LimitReader(content, h.MaxBody); ; {
		if !body.charge.Take(pooledBody) {
			return "", tooBusy()
		}
		if _, err := io.CopyN(&text, content, pooledBody); err != nil {
			// What breaks off is searched as far as it goes.
			return h.members.namedIn(text.Bytes(), contentType), nil
		}
	}
}

// createLarge passes a create on that is over max_body, and stops in the middle of
// one that turns out to name a member of ours: the API never sees it whole.
func (h *Handler) createLarge(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, body *buffered) error {
	refusal := func(member string) error {
		return h.fail(w, r, &problem{status: http.StatusRequestEntityTooLarge, closing: true, member: member,
			detail: "a request with a " + member + " may have at most " + strconv.FormatInt(h.MaxBody, 10) + " bytes"})
	}
	if !identity(r.Header) {
		member, err := h.named(r.Header, body)
		if err != nil {
			return h.fail(w, r, err)
		}
		if member != "" {
			return refusal(member)
		}
		return next.ServeHTTP(w, r)
	}
	if member := h.members.namedIn(body.data, r.Header.Get("Content-Type")); member != "" {
		return refusal(member)
	}
	body.watch = h.members.finder()
	_, _ = body.watch.Write(body.data)
	a := h.newResponse(w, r, nil)
	a.holds = nil
	err := next.ServeHTTP(a, r)
	if member := body.seen(); member != "" && a.status == 0 {
		return refusal(member)
	}
	return err
}

// withBody returns the request with another body, in a context.
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

// maxTraceparent leaves room for versions to come (W3C Trace Context).
const maxTraceparent = 256

// traceparent returns the trace context of a request, or empty.
func traceparent(h http.Header) string {
	if t := h.Get("Traceparent"); len(t) <= maxTraceparent {
		return t
	}
	return ""
}

// capture passes a create on and stores the prediction before the response is sent.
// All that can fail on our side is tried before the API is charged.
//
// The exchange runs to its end even if the client disconnects: what the API
// has begun to work on costs money, and its events are owed.
func (h *Handler) capture(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, rt route, hook *hook, body *buffered) error {
	if err := h.tracker.Ready(r.Context()); err != nil {
		return h.fail(w, r, err)
	}
	caller, err := h.client.Identify(r.Context(), h.upstream, r.Header)
	if err != nil {
		return h.fail(w, r, err)
	}
	c := &tracker.Capture{API: h.upstream, Caller: caller, URL: hook.url, Events: hook.events, Collection: rt.collection, Traceparent: traceparent(r.Header)}
	x := &captured{h: h, c: c, ctx: r.Context(), k: exchangeOf(next)}
	if x.k != nil {
		c.Exchange = x.k.x
	}
	if !hook.foreign {
		if x.callback, err = h.tracker.Reserve(r.Context(), c); err != nil {
			if x.k != nil {
				metrics.CountKeyedCreate(outcomeOf(err))
			}
			return h.fail(w, r, err)
		}
	}
	x.a = h.newResponse(w, r, h.callbackOf(x.callback))
	x.a.scan, x.a.passing = true, x.passing
	ctx, stop := outlive(r.Context(), afterClient)
	defer stop()
	r = withBody(ctx, r, body, hook.cut(x.callback))
	askReadable(r.Header)
	return x.a.run(next, r, x.settle)
}

// afterClient is the time for which an exchange may go on once its client is gone. The
// API's longest synchronous response takes a minute.
const afterClient = 10 * time.Minute

// outlive returns a context that ends the given time after its parent.
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

// captured is a create that was passed on, and its response.
type captured struct {
	h        *Handler
	c        *tracker.Capture
	ctx      context.Context
	a        *response
	callback string
	// k is the create's Idempotency-Key, or nil.
	k *keyed
	// status is the status of the webhook, empty until it is known.
	status string
	// trailer reports that the status follows the body.
	trailer bool
}

// callbackOf returns what the response to a create with that callback URL hides.
func (h *Handler) callbackOf(url string) *conceal.URL {
	if url == "" {
		return h.anyCallback()
	}
	at := strings.LastIndexByte(url, '/') + 1
	return &conceal.URL{Base: url[:at], Token: url[at:]}
}

// settle stores what the response says, and sends what of it was held.
func (x *captured) settle(complete bool) {
	switch x.a.mode {
	case holding:
		if complete {
			x.augment()
		} else {
			// It broke off, but it is a success.
			x.rescue("the response to a create broke off", false)
			x.a.letGo(false)
		}
	case trailing:
		x.store("the response to a create can't be held", complete)
		if x.trailer {
			x.a.Header().Set(statusHeader, x.status)
		}
		x.a.finish(complete)
	default:
		// A callback may still name what may have been created.
		if x.status == "" && !(x.k != nil && x.a.status == 0 && x.k.lost()) {
			x.h.tracker.Abandon(x.ctx, x.c)
		}
		x.a.finish(complete)
	}
}

// passing sets the status of the webhook in the header of a response that passes.
func (x *captured) passing(why reason) {
	switch why {
	case notObject:
		x.lost("the response to a create is not a JSON object", "")
	case tooLarge, noBudget:
		if prediction.ValidID(x.a.scanner.ID()) {
			x.store("the response to a create can't be held: "+string(why), true)
			break
		}
		// The id may follow, and then the status does.
		x.trailer = true
		x.a.Header().Del("Content-Length")
		x.a.Header().Add("Trailer", statusHeader)
		return
	}
	x.a.Header().Set(statusHeader, x.status)
}

// augment stores the prediction that was held and sends it with our members. A
// response that is not a prediction is sent as it came.
func (x *captured) augment() {
	mark, body := x.a.held()
	// The response is written for Answer in the store's transaction, where others wait.
	kept := x.k != nil && len(body) <= tracker.MaxAnswer
	if kept {
		mark, body = bytes.Clone(mark), bytes.Clone(body)
	}
	s, doc, err := prediction.ParseDocument(body)
	if err != nil {
		x.rescue("the response to a create can't be read as a prediction: "+err.Error(), true)
		x.a.letGo(true)
		return
	}
	f := fields{url: x.c.URL, events: x.c.Events, status: store.WebhookFailed, completed: true}
	ours := func(string) bool { return false }
	if callback := x.callback; callback != "" {
		ours = func(webhook string) bool { return webhook == callback }
	}
	switch status := x.a.status; {
	case kept:
		header, hidden := contentHeader(x.a.Header()), x.a.hidden
		hidden.ConcealHeader(header)
		x.c.Answer = func(p store.Prediction) *tracker.Answer {
			f := fieldsOf(&p)
			f.ours = ours
			text, _ := hidden.Conceal(append(mark[:len(mark):len(mark)], augment(doc, s.Webhook, f)...))
			a := &tracker.Answer{Status: status, Header: header, Body: text, ID: s.ID}
			a.IDOnly = len(text) > tracker.MaxAnswer
			return a
		}
	case x.k != nil:
		id := s.ID
		x.c.Answer = func(store.Prediction) *tracker.Answer { return &tracker.Answer{Status: status, ID: id, IDOnly: true} }
	}
	if !prediction.ValidID(s.ID) {
		x.lost("the response to a create has no id that can be tracked", s.ID)
	} else if p, err := x.h.tracker.Created(x.ctx, x.c, s); err != nil {
		// The API has accepted it: its client must not lose the response,
		// but it may know that no event will come.
		x.notStored(s.ID, err)
	} else {
		f = fieldsOf(&p)
	}
	f.ours = ours
	x.a.replace(append(mark[:len(mark):len(mark)], augment(doc, s.Webhook, f)...))
}

// rescue stores a held prediction that can't be read as JSON, or of which only a
// beginning came.
func (x *captured) rescue(why string, complete bool) {
	_, body := x.a.held()
	x.a.scanner = prediction.NewScanner()
	_, _ = x.a.scanner.Write(body)
	x.store(why, complete)
}

// store tracks a prediction of which nothing but its id is known, and says so.
func (x *captured) store(why string, complete bool) {
	id := x.a.scanner.ID()
	switch {
	case x.status != "":
		return
	case !prediction.ValidID(id) && !complete && id == "" && x.callback != "":
		// The API's webhook will have it.
		x.status = store.WebhookPending.String()
		x.log(why+" before its id came: it is tracked by its callback alone", "")
		return
	case !prediction.ValidID(id):
		x.lost(why+", and it has no id that can be tracked", id)
		return
	}
	if status := x.a.status; x.k != nil {
		x.c.Answer = func(store.Prediction) *tracker.Answer { return &tracker.Answer{Status: status, ID: id, IDOnly: true} }
	}
	p, err := x.h.tracker.CreatedWithoutBody(x.ctx, x.c, id, x.a.scanner.Status())
	if err != nil {
		x.status = store.WebhookFailed.String()
		x.notStored(id, err)
		return
	}
	x.status = p.Webhook.String()
	x.log(why+": it is tracked by its id, and passes without webhook_url", id)
}

func (x *captured) notStored(id string, err error) {
	x.h.logger.Error("storing a created prediction: its webhook is not tracked",
		zap.String("api", x.c.API.URL), zap.String("prediction", id), zap.Error(err))
}

// lost records that a webhook can't be tracked, and says so in the response.
func (x *captured) lost(why, id string) {
	x.status = store.WebhookFailed.String()
	x.log(why+": its webhook is not tracked", id)
	x.h.tracker.Abandon(x.ctx, x.c)
}

// log logs a response that is of no use to a tracker.
func (x *captured) log(message, id string) {
	x.h.logger.Warn(message, zap.String("api", x.c.API.URL), zap.Int("status", x.a.status), zap.String("prediction", shorten(id)),
		zap.String("content_type", x.a.Header().Get("Content-Type")),
		zap.String("content_encoding", x.a.Header().Get("Content-Encoding")))
}

// shorten cuts a text from outside for the log.
func shorten(s string) string { return s[:min(len(s), 128)] }
