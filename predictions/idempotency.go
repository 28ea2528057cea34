package predictions

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/internal/clientip"
	"github.com/caddy-replicate/replicate-webhook/internal/metrics"
	"github.com/caddy-replicate/replicate-webhook/internal/tracker"
	"github.com/caddy-replicate/replicate-webhook/store"
)

const (
	keyHeader      = "Idempotency-Key"
	replayedHeader = "Idempotent-Replayed"
)

// maxKey is the longest Idempotency-Key.
const maxKey = 255

// Retry-After of the refusals of an Idempotency-Key, in seconds.
const (
	inFlightRetry = 1
	callbackRetry = 5
	tooManyRetry  = 60
)

// createKeyed handles a create that carries an Idempotency-Key.
func (h *Handler) createKeyed(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, rt route) error {
	fail := func(outcome metrics.CreateOutcome, err error) error {
		metrics.CountKeyedCreate(outcome)
		return h.fail(w, r, err)
	}
	key, err := readKeyed(r)
	if err != nil {
		return fail(metrics.CreateInvalid, err)
	}
	key.API, key.Lifetime = h.upstream.URL, time.Duration(h.Idempotency)
	var body *buffered
	if r.Body != nil && r.Body != http.NoBody {
		if body, err = readBody(w, r, h.MaxBody, h.budget.For(clientip.Of(r))); err != nil {
			return fail(metrics.CreateInvalid, err)
		}
		defer func() { _ = body.Close() }()
		if body.rest != nil {
			return fail(metrics.CreateInvalid, &problem{status: http.StatusRequestEntityTooLarge, member: keyHeader, closing: true,
				detail: fmt.Sprintf("a create with an %s may have at most %d bytes", keyHeader, h.MaxBody)})
		}
		key.Digest = sha256.Sum256(body.data)
	} else {
		key.Digest = sha256.Sum256(nil)
	}
	x, earlier, err := h.tracker.ClaimCreate(r.Context(), key)
	switch {
	case err != nil:
		return fail(outcomeOf(err), err)
	case earlier != nil:
		return h.replay(w, r, next, rt, earlier)
	}
	defer x.End()
	k := &keyed{h: h, next: next, x: x, ctx: r.Context()}
	k.w = &keptResponse{ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w}, k: k, charge: h.budget.For(clientip.Of(r))}
	defer k.w.charge.Return()
	return k.run(func() error {
		if body == nil {
			return k.ServeHTTP(k.w, r)
		}
		r.Body = body
		return h.createBuffered(k.w, r, k, rt, body)
	})
}

// readKeyed reads the key of a request and whose it is. Errors are *problem.
func readKeyed(r *http.Request) (*tracker.Keyed, error) {
	invalid := func(detail string) (*tracker.Keyed, error) {
		return nil, &problem{status: http.StatusBadRequest, member: keyHeader, detail: detail, closing: true}
	}
	keys := r.Header[keyHeader]
	if len(keys) != 1 {
		return invalid(keyHeader + " is given " + strconv.Itoa(len(keys)) + " times: send it once")
	}
	if n := len(keys[0]); n < 1 || n > maxKey {
		return invalid(fmt.Sprintf("%s has %d characters: it has 1 to %d, such as a UUID", keyHeader, n, maxKey))
	}
	for i := range len(keys[0]) {
		if c := keys[0][i]; c < 0x21 || c > 0x7e {
			return invalid(fmt.Sprintf("%s has a character that is not allowed, at position %d: use visible ASCII without spaces, such as a UUID", keyHeader, i+1))
		}
	}
	k := &tracker.Keyed{Key: keys[0], Path: r.URL.EscapedPath()}
	if tokens := r.Header["Authorization"]; len(tokens) > 1 {
		return invalid("Authorization is given " + strconv.Itoa(len(tokens)) + " times: send it once with an " + keyHeader)
	} else if len(tokens) == 1 {
		k.Authorization = tokens[0]
	}
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		k.User, _ = repl.GetString("http.auth.user.id")
	}
	if k.Authorization == "" && k.User == "" {
		return invalid(keyHeader + " needs a caller: send your API token as Authorization")
	}
	return k, nil
}

// outcomeOf returns the outcome of a key that can't be claimed.
func outcomeOf(err error) metrics.CreateOutcome {
	switch {
	case errors.Is(err, store.ErrInFlight):
		return metrics.CreateInFlight
	case errors.Is(err, tracker.ErrOtherBody):
		return metrics.CreateOtherBody
	case errors.Is(err, store.ErrTooManyCreates):
		return metrics.CreateTooMany
	}
	return metrics.CreateUnavailable
}

// keyProblem returns the problem of an error of a key, or nil.
func keyProblem(err error) *problem {
	p := &problem{member: keyHeader, cause: err}
	switch {
	case errors.Is(err, store.ErrInFlight):
		p.status, p.retry, p.detail = http.StatusConflict, inFlightRetry, "the first create with this "+keyHeader+" is still running"
	case errors.Is(err, tracker.ErrOtherBody):
		p.status, p.detail = http.StatusUnprocessableEntity, keyHeader+" was used with another body: use a new key for each create, and send the same bytes again to repeat one"
	case errors.Is(err, store.ErrTooManyCreates):
		p.status, p.retry, p.detail = http.StatusTooManyRequests, tooManyRetry, fmt.Sprintf("there are %d live keys of yours: create without %s, or wait until some expire", store.MaxCreates, keyHeader)
	default:
		return nil
	}
	return p
}

// errUnknown is the cause of the refusal of a create whose earlier outcome is unknown.
var errUnknown = errors.New("an earlier create under the key was sent to the API, and its response was lost")

// unknownProblem is the refusal of a create whose earlier outcome is unknown.
func (h *Handler) unknownProblem(callback bool) *problem {
	p := &problem{status: http.StatusConflict, member: keyHeader, cause: errUnknown,
		detail: "a create with this " + keyHeader + " was sent to the API, and its response was lost: the API may have accepted it. " +
			"Look for it among your newest predictions, with GET " + h.prefix + "/predictions; if it is not there, create with another key"}
	if callback {
		p.retry = callbackRetry
		p.detail += ". If it was accepted, its first webhook will name it, and then this request returns it"
	}
	return p
}

// replay responds to a create that was made before.
func (h *Handler) replay(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, rt route, e *tracker.Earlier) error {
	a := e.Answer
	switch {
	case a == nil:
		metrics.CountKeyedCreate(metrics.CreateUnknown)
		return h.fail(w, r, h.unknownProblem(e.Callback))
	case a.IDOnly:
		metrics.CountKeyedCreate(metrics.CreateReplayed)
		return h.fetchAgain(w, r, next, rt, a)
	}
	metrics.CountKeyedCreate(metrics.CreateReplayed)
	header := w.Header()
	for name, values := range a.Header {
		header[name] = values
	}
	header.Set(replayedHeader, "true")
	if a.Status != http.StatusNoContent {
		header.Set("Content-Length", strconv.Itoa(len(a.Body)))
	}
	w.WriteHeader(a.Status)
	_, _ = w.Write(a.Body)
	return nil
}

// fetchAgain responds with a prediction of which only the id was kept, as the API
// shows it to the caller now.
func (h *Handler) fetchAgain(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, rt route, a *tracker.Answer) error {
	if isTest(a.ID) {
		return h.respond(w, r)(h.manager.lookTest(r, route{id: a.ID}))
	}
	r = r.Clone(r.Context())
	r.Method, r.Body, r.ContentLength, r.TransferEncoding = http.MethodGet, http.NoBody, 0, nil
	r.URL.Path, r.URL.RawPath, r.URL.RawQuery = h.prefix+rt.collection+"/"+a.ID, "", ""
	for _, name := range []string{keyHeader, "Content-Type", "Content-Length", "Content-Encoding", "Prefer", "Expect"} {
		r.Header.Del(name)
	}
	return h.look(&fetched{&caddyhttp.ResponseWriterWrapper{ResponseWriter: w}, a.Status}, r, next, route{action: look, collection: rt.collection, id: a.ID})
}

// fetched is the response to a GET that stands for the one to a create, whose status
// it has.
type fetched struct {
	*caddyhttp.ResponseWriterWrapper
	status int
}

func (f *fetched) WriteHeader(status int) {
	if status == http.StatusOK {
		f.Header().Set(replayedHeader, "true")
		if f.status != 0 {
			status = f.status
		}
	}
	f.ResponseWriterWrapper.WriteHeader(status)
}

// keyed is a create under an Idempotency-Key that holds the claim on the key. It is
// the next handler for the rest of the create, and passes its request to the API once
// it is committed that it is about to leave.
type keyed struct {
	h    *Handler
	next caddyhttp.Handler
	x    *tracker.Exchange
	w    *keptResponse
	ctx  context.Context

	// sending is set when a body is read that is not empty, and connected when
	// a transport has a connection.
	hasBody            bool
	sending, connected atomic.Bool
	// err is why the next handler has not responded.
	err error
}

// exchangeOf returns the create that the next handler stands for, or nil.
func exchangeOf(next caddyhttp.Handler) *keyed {
	k, _ := next.(*keyed)
	return k
}

// ServeHTTP passes the request to the API.
func (k *keyed) ServeHTTP(w http.ResponseWriter, r *http.Request) (err error) {
	if err := k.begin(r); err != nil {
		return k.h.fail(w, r, err)
	}
	defer func() { k.err = err }()
	ctx, stop := outlive(r.Context(), afterClient)
	defer stop()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { k.connected.Store(true) }})
	r = r.WithContext(ctx)
	r.Header = r.Header.Clone()
	// A transport repeats a request that has the header, or whose body it can
	// get again.
	r.Header.Del(keyHeader)
	r.GetBody = nil
	if r.Body != nil && r.Body != http.NoBody {
		k.hasBody = true
		r.Body = &watchedBody{r.Body, &k.sending}
	}
	if w != http.ResponseWriter(k.w) {
		return k.next.ServeHTTP(w, r)
	}
	// What is kept is decoded, and names no callback.
	askReadable(r.Header)
	a := k.h.newResponse(w, r, k.h.anyCallback())
	a.holds, a.decodes = nil, true
	return a.run(k.next, r, a.finish)
}

// begin commits that the request is about to leave.
func (k *keyed) begin(r *http.Request) error {
	if k.x.Open() {
		return nil
	}
	err := k.x.Begin(r.Context())
	if err != nil {
		metrics.CountKeyedCreate(outcomeOf(err))
	}
	return err
}

// watchedBody notes that a body is read.
type watchedBody struct {
	io.ReadCloser
	read *atomic.Bool
}

func (b *watchedBody) Read(p []byte) (int, error) {
	b.read.Store(true)
	return b.ReadCloser.Read(p)
}

// lost reports whether the API may have accepted the create although there is no
// response: something of the request may have been sent.
func (k *keyed) lost() bool {
	if k.hasBody && !k.sending.Load() {
		return false
	}
	var dial reverseproxy.DialError
	return k.connected.Load() || !errors.As(k.err, &dial)
}

// run runs the create, and then commits what is left of its response.
func (k *keyed) run(serve func() error) (err error) {
	returned := false
	defer func() { k.w.finish(returned && err == nil) }()
	err = serve()
	returned = true
	return err
}

// settle commits a response.
func (k *keyed) settle(a *tracker.Answer) {
	if err := k.x.Settle(k.ctx, a); err != nil {
		// The API has accepted the create: its client must not lose the
		// response. It is the repeats that are refused.
		k.h.logger.Error("storing the response to a create: repeats with its Idempotency-Key are refused, as its outcome is unknown",
			zap.String("api", k.h.upstream.URL), zap.String("key", k.x.Name()), zap.Int("status", a.Status), zap.String("prediction", shorten(a.ID)), zap.Error(err))
		return
	}
	metrics.CountKeyedCreate(metrics.CreateKept)
}

// release lets the next create with the key be passed to the API.
func (k *keyed) release() {
	if err := k.x.Release(k.ctx); err != nil {
		k.h.logger.Error("releasing an Idempotency-Key: repeats with it are refused",
			zap.String("api", k.h.upstream.URL), zap.String("key", k.x.Name()), zap.Error(err))
		return
	}
	metrics.CountKeyedCreate(metrics.CreateReleased)
}

// forget logs that the outcome of a create stays unknown.
func (k *keyed) forget(why string) {
	metrics.CountKeyedCreate(metrics.CreateLost)
	k.h.logger.Warn("the outcome of a create under an Idempotency-Key is unknown, and repeats are refused: "+why,
		zap.String("api", k.h.upstream.URL), zap.String("key", k.x.Name()), zap.Int("status", k.w.status), zap.Error(k.err))
}

// Interface guard.
var _ caddyhttp.Handler = (*keyed)(nil)
