package replicatewebhook

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-replicate/replicate-webhook/internal/clientip"
	"github.com/caddy-replicate/replicate-webhook/internal/directive"
	"github.com/caddy-replicate/replicate-webhook/internal/envelope"
	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/internal/exchange"
	"github.com/caddy-replicate/replicate-webhook/internal/metrics"
	"github.com/caddy-replicate/replicate-webhook/internal/secret"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
	"github.com/caddy-replicate/replicate-webhook/internal/webhook"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// Defaults of Edge.
const (
	DefaultTolerance       = 5 * time.Minute
	DefaultDedup           = 24 * time.Hour
	DefaultScope           = "default"
	DefaultInFlightWait    = 10 * time.Second
	DefaultMaxBody         = 8 << 20
	DefaultReadTimeout     = 10 * time.Second
	DefaultUpstreamTimeout = 60 * time.Second
)

// off is what tolerance and dedup hold in JSON when they are switched off.
const off = caddy.Duration(-1)

// Edge is the handler replicate_webhook. It verifies signed webhooks and passes
// each genuine event on once: everything else it answers itself.
//
// The app behind it gets exactly the bytes that were signed and these headers,
// which are removed from what comes from outside:
//
// Header | Value
// -------|------
// X-Replicate-Verified | replicate or standard, the scheme that verified; standard when both did
// X-Replicate-Event | the event; left out when there is none
// X-Replicate-Prediction-Id | the prediction's id
//
// Bytes of an event or id that are not visible ASCII are percent-encoded in the
// headers. A header whose value would be over 256 bytes is left out, and the log
// says so.
//
// Placeholders, also in the access log as fields of replicate_webhook:
//
// Placeholder | Description
// ------------|------------
// {http.replicate_webhook.event} | the event, such as prediction.completed
// {http.replicate_webhook.prediction_id} | the prediction's id
// {http.replicate_webhook.status} | the prediction's status
// {http.replicate_webhook.scheme} | replicate or standard
// {http.replicate_webhook.message_id} | the signed webhook-id, empty without the standard scheme
// {http.replicate_webhook.duplicate} | true when the event was accepted before
type Edge struct {
	// Secret holds the signing secrets, any of which may have signed. At
	// least one, each of at least 16 bytes. Placeholders are expanded when
	// the configuration is loaded.
	Secret []string `json:"secret,omitempty"`

	// Scheme is the signature scheme accepted: replicate for
	// X-Replicate-Signature, standard for Standard Webhooks. Default: both,
	// as far as the secrets can sign them.
	Scheme string `json:"scheme,omitempty"`

	// Tolerance is how far the signed time may be from now, either way.
	// Default: 5m. -1 switches the check off.
	Tolerance caddy.Duration `json:"tolerance,omitempty"`

	// Dedup is how long an accepted event is remembered, at least twice the
	// tolerance. Default: 24h. -1 switches deduplication off.
	Dedup caddy.Duration `json:"dedup,omitempty"`

	// DedupKey is what makes two webhooks the same: event (prediction and
	// event), prediction (the prediction alone) or message (webhook-id, or
	// the signed bytes). Default: event.
	DedupKey string `json:"dedup_key,omitempty"`

	// Scope keeps handlers' events apart. Default: default. Handlers that
	// share a scope must agree on everything that decides what a duplicate
	// is.
	Scope string `json:"scope,omitempty"`

	// InFlightWait is how long a request for an event that another request
	// holds waits for its outcome. Default: 10s.
	InFlightWait caddy.Duration `json:"in_flight_wait,omitempty"`

	// Events are the events passed on; others are answered 200. Default:
	// all.
	Events []string `json:"events,omitempty"`

	// MaxBody is the largest body in bytes. Default: 8 MiB.
	MaxBody int64 `json:"max_body,omitempty"`

	// ReadTimeout is the time for the whole body to arrive. Default: 10s.
	ReadTimeout caddy.Duration `json:"read_timeout,omitempty"`

	// UpstreamTimeout is how long the app may take until its answer begins. A
	// 2xx of up to 2048 bytes by its Content-Length must be whole by then, else
	// it is cut short, and the event counts as accepted. A sender that
	// disconnects does not cut it short. Default: 60s.
	UpstreamTimeout caddy.Duration `json:"upstream_timeout,omitempty"`

	// OnStoreError is reject, for 503 when the store can't be asked, or
	// pass, for passing the event on without deduplication. Default: reject.
	OnStoreError string `json:"on_store_error,omitempty"`

	app      *App
	logger   *zap.Logger
	secrets  *secret.List[signature.Secret]
	verifier webhook.Verifier // without secrets, which may change
	now      func() time.Time

	errorRoutes webhook.ErrorRoutes
}

// CaddyModule returns the Caddy module information.
func (Edge) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.replicate_webhook",
		New: func() caddy.Module { return new(Edge) },
	}
}

// Provision fills in the defaults, expands the secrets and joins the app.
func (e *Edge) Provision(ctx caddy.Context) error {
	e.logger = ctx.Logger()
	e.errorRoutes = webhook.FindErrorRoutes(ctx, e)
	if e.now == nil {
		e.now = time.Now
	}
	if err := e.setDefaults(); err != nil {
		return err
	}
	var err error
	if e.app, err = sharedApp(ctx); err != nil {
		return err
	}
	if e.secrets, err = secret.NewList(e.app.secrets, "secret", e.Secret, e.parseSecret); err != nil {
		return err
	}
	e.warn()
	e.verifier = webhook.Verifier{Selector: envelope.NewSelector()}
	if e.Tolerance != off {
		e.verifier.Tolerance = time.Duration(e.Tolerance)
	}
	return e.app.join(e)
}

// current returns what a request is verified by.
func (e *Edge) current() webhook.Verifier {
	v := e.verifier
	v.Secrets = e.secrets.Values()
	v.Accept = signature.Replicate
	switch {
	case e.Scheme == "standard":
		v.Accept = signature.Standard
	case e.Scheme == "" && slices.ContainsFunc(v.Secrets, signature.Secret.Standard):
		v.Accept |= signature.Standard
	}
	return v
}

// setDefaults checks what can be told from the options alone and fills in what
// was left out.
func (e *Edge) setDefaults() error {
	if len(e.Secret) == 0 {
		return errors.New("secret is missing: name the secret that the sender signs with, such as secret {env.WEBHOOK_SECRET}")
	}
	if err := directive.Check(e); err != nil {
		return err
	}
	for _, o := range []struct {
		name     string
		value    *caddy.Duration
		standard time.Duration
		canBeOff bool
	}{
		{"tolerance", &e.Tolerance, DefaultTolerance, true},
		{"dedup", &e.Dedup, DefaultDedup, true},
		{"in_flight_wait", &e.InFlightWait, DefaultInFlightWait, false},
		{"read_timeout", &e.ReadTimeout, DefaultReadTimeout, false},
		{"upstream_timeout", &e.UpstreamTimeout, DefaultUpstreamTimeout, false},
	} {
		switch {
		case *o.value == 0:
			*o.value = caddy.Duration(o.standard)
		case *o.value == off && o.canBeOff:
		case *o.value < 0:
			return fmt.Errorf("%s is %s: it must be positive", o.name, time.Duration(*o.value))
		}
	}
	if e.Dedup != off && e.Tolerance != off && e.Dedup < 2*e.Tolerance {
		return fmt.Errorf("dedup is %s, less than twice the tolerance of %s: a webhook could be forgotten while its signed time is still good, and be replayed; use dedup %s or more",
			time.Duration(e.Dedup), time.Duration(e.Tolerance), 2*time.Duration(e.Tolerance))
	}
	if e.MaxBody == 0 {
		e.MaxBody = DefaultMaxBody
	}
	if e.Scope == "" {
		e.Scope = DefaultScope
	}
	if e.DedupKey == "" {
		e.DedupKey = "event"
	}
	if e.OnStoreError == "" {
		e.OnStoreError = "reject"
	}
	for i, name := range e.Events {
		known, err := event.Parse(name)
		if err != nil {
			return fmt.Errorf("events: %w", err)
		}
		e.Events[i] = known.Name()
	}
	return errors.Join(
		oneOf("scheme", e.Scheme, "", "replicate", "standard"),
		oneOf("dedup_key", e.DedupKey, "event", "prediction", "message"),
		oneOf("on_store_error", e.OnStoreError, "reject", "pass"),
	)
}

// warn logs what is allowed and rarely meant.
func (e *Edge) warn() {
	names := slices.Clone(e.Events)
	slices.Sort(names)
	if e.DedupKey == "prediction" && len(slices.Compact(names)) != 1 {
		e.logger.Warn("dedup_key prediction counts all events of a prediction as one, so that only the first of them reaches the app: name a single event in events, or leave dedup_key at event",
			zap.String("scope", e.Scope))
	}
}

func oneOf(option, value string, allowed ...string) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	allowed = slices.DeleteFunc(allowed, func(s string) bool { return s == "" })
	return fmt.Errorf("%s is %q: use %s", option, value, strings.Join(allowed, " or "))
}

// parseSecret checks an expanded secret against the scheme.
func (e *Edge) parseSecret(value string) (signature.Secret, error) {
	if err := secret.CheckSigning(value); err != nil {
		return signature.Secret{}, err
	}
	s, err := signature.ParseSecret(value)
	if err == nil && e.Scheme == "standard" && !s.Standard() {
		err = errors.New("scheme standard takes secrets that begin with whsec_")
	}
	return s, err
}

// ServeHTTP takes a webhook through its checks, cheapest first.
func (e *Edge) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	outcome, err := e.serve(w, r, next)
	metrics.CountRequest(outcome)
	if err == nil {
		return nil
	}
	// Error routes get this request.
	webhook.Discard(r)
	var refused *webhook.Refusal
	if !errors.As(err, &refused) {
		return err
	}
	if c := e.logger.Check(zapcore.DebugLevel, "webhook refused"); c != nil {
		c.Write(zap.String("reason", refused.Reason), zap.Int("status", refused.Status),
			zap.String("client", clientip.Of(r)), zap.Error(refused.Cause))
	}
	if refused.Status != webhook.StatusClientGone {
		e.app.refusals.Add(refused, clientip.Of(r))
	}
	h := w.Header()
	for name, value := range refused.Header {
		h.Set(name, value)
	}
	// At DEBUG the server logs the error too, and from 500 at ERROR.
	if refused.Status < 500 && e.errorRoutes.None(r) && !e.logger.Core().Enabled(zapcore.DebugLevel) {
		w.WriteHeader(refused.Status)
		return nil
	}
	return caddyhttp.Error(refused.Status, refused.Cause)
}

func (e *Edge) serve(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) (string, error) {
	webhook.Scrub(r.Header)
	fail := func(f *webhook.Refusal) (string, error) { return f.Reason, f }
	verifier := e.current()
	claim, refused := e.admit(r, verifier.Accept)
	if refused != nil {
		webhook.Abandon(w, r)
		return fail(refused)
	}
	charge := e.app.budget.For(clientip.Of(r))
	defer charge.Return()
	raw, refused := webhook.ReadBody(w, r, e.MaxBody, time.Duration(e.ReadTimeout), charge)
	if refused != nil {
		return fail(refused)
	}
	start := time.Now()
	hook, refused := verifier.Verify(claim, raw, e.now())
	metrics.ObserveVerify(time.Since(start))
	if refused != nil {
		return fail(refused)
	}
	hook.Publish(r)
	if len(e.Events) > 0 && !slices.Contains(e.Events, hook.Name) {
		w.WriteHeader(http.StatusOK)
		return "filtered", nil
	}
	return e.deliver(w, r, next, hook)
}

// admit judges a request by what can be told without its body.
func (e *Edge) admit(r *http.Request, accept signature.Scheme) (*signature.Claim, *webhook.Refusal) {
	if r.Method != http.MethodPost {
		return nil, &webhook.Refusal{
			Status: http.StatusMethodNotAllowed, Reason: "method", Cause: fmt.Errorf("method %s", r.Method),
			Header: map[string]string{"Allow": http.MethodPost},
		}
	}
	claim, err := signature.ParseHeaders(r.Header, accept)
	if err != nil {
		return nil, e.badHeaders(err)
	}
	for _, encoding := range r.Header["Content-Encoding"] {
		if encoding != "" && !strings.EqualFold(encoding, "identity") {
			return nil, &webhook.Refusal{
				Status: http.StatusUnsupportedMediaType, Reason: "encoding",
				Cause: errors.New("the body has a content encoding"),
			}
		}
	}
	if r.ContentLength > e.MaxBody {
		return nil, webhook.TooLarge(e.MaxBody)
	}
	return claim, nil
}

// badHeaders returns the refusal of a request whose signature headers can't be
// used.
func (e *Edge) badHeaders(err error) *webhook.Refusal {
	var he *signature.HeaderError
	if !errors.As(err, &he) {
		return webhook.Unauthorized("headers", err)
	}
	if he.Reason() == signature.ReasonScheme && e.Scheme == "" {
		// Without the option, a scheme is left out for want of a secret.
		return webhook.Unauthorized("headers_secret",
			fmt.Errorf("%s is present, but no secret can check it: Standard Webhooks takes one that begins with whsec_", he.Header))
	}
	return webhook.Unauthorized("headers_"+he.Reason(), err)
}

// commitTimeout bounds the wait for a commit. A disk that takes longer answers
// later, to a retry.
const commitTimeout = 10 * time.Second

// deliver hands a verified webhook to the app, unless it has the event already.
func (e *Edge) deliver(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, hook *webhook.Webhook) (string, error) {
	if e.Dedup == off {
		return e.exchange(w, r, next, hook, nil)
	}
	ref, err := e.app.acquire()
	if err != nil {
		return e.storeFailed(w, r, next, hook, err)
	}
	// The request outlives its configuration's reference on a reload.
	defer func() { _ = ref.Release() }()
	claim, err := ref.Claim(r.Context(), store.Entry{
		Scope:    e.Scope,
		Keys:     hook.Keys(e.Scope, e.DedupKey),
		SignedAt: hook.JudgedAt, SignedUntil: hook.SignedUntil,
		Expires: e.now().Add(time.Duration(e.Dedup)),
	}, time.Duration(e.InFlightWait))
	switch {
	case err == nil:
	case errors.Is(err, store.ErrDuplicate):
		return duplicate(w, hook)
	case errors.Is(err, store.ErrReplayed):
		return "replayed", webhook.Unauthorized("replayed", err)
	case errors.Is(err, store.ErrInFlight):
		return "in_flight", &webhook.Refusal{
			Status: http.StatusServiceUnavailable, Reason: "in_flight", Cause: err,
			Header: map[string]string{"Retry-After": "1"},
		}
	case r.Context().Err() != nil:
		return "client_gone", webhook.ClientGone(err)
	default:
		return e.storeFailed(w, r, next, hook, err)
	}
	if !claim.Forwarded() {
		return e.exchange(w, r, next, hook, claim)
	}
	defer claim.Release()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), commitTimeout)
	defer cancel()
	if err := claim.Commit(ctx); err != nil {
		return "store", unavailable(err)
	}
	return duplicate(w, hook)
}

func duplicate(w http.ResponseWriter, hook *webhook.Webhook) (string, error) {
	hook.Duplicate = true
	w.Header().Set("X-Replicate-Duplicate", "true")
	w.WriteHeader(http.StatusOK)
	return "duplicate", nil
}

func unavailable(err error) *webhook.Refusal {
	return &webhook.Refusal{
		Status: http.StatusServiceUnavailable, Reason: "store", Cause: err,
		Header: map[string]string{"Retry-After": "5"},
	}
}

// storeFailed goes on without a store, if that is what was asked for.
func (e *Edge) storeFailed(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, hook *webhook.Webhook, err error) (string, error) {
	if e.OnStoreError != "pass" {
		return "store", unavailable(err)
	}
	e.logger.Error("passing an event on without deduplication", zap.Error(err))
	return e.exchange(w, r, next, hook, nil)
}

// exchange passes the request on, commits the claim on a 2xx before the answer
// leaves, and releases it on anything else. A nil claim is passed on alone.
//
// The exchange with the app runs to its end even if the sender disconnects:
// once the app has begun to work on an event, only its own answer can say
// whether it took it.
func (e *Edge) exchange(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, hook *webhook.Webhook, claim store.Claim) (string, error) {
	sender := r.Context()
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(sender))
	defer cancel(nil)
	timer := time.AfterFunc(time.Duration(e.UpstreamTimeout), func() { cancel(errUpstreamTimeout) })
	defer timer.Stop()

	unlink := func() bool { return false }
	x := exchange.NewWriter(w, func(whole bool) error {
		// The app's time ends with its answer, whose commit has its own.
		inTime := timer.Stop()
		if claim != nil {
			commit, done := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
			defer done()
			if err := claim.Commit(commit); err != nil && e.OnStoreError != "pass" {
				if inTime {
					// What is left of the answer is read, and dropped.
					timer.Reset(time.Duration(e.UpstreamTimeout))
				}
				return err
			} else if err != nil {
				e.logger.Error("passing an answer on without a commit", zap.Error(err))
			}
		}
		if !whole {
			// The answer belongs to the sender from here on: it may take
			// as long as the sender stays.
			unlink = context.AfterFunc(sender, func() { cancel(context.Cause(sender)) })
		}
		return nil
	})
	defer func() { unlink() }()
	if claim != nil {
		// Also when the app's handler panics, as a proxy does to abort.
		defer claim.Release()
	}
	r = r.WithContext(ctx)
	if omitted := hook.Prepare(r); len(omitted) > 0 {
		e.logger.Warn("passing an event on without headers whose values are over 256 bytes", zap.Strings("headers", omitted))
	}
	returned := false
	defer func() {
		if returned {
			return
		}
		// A panic is counted here, since ServeHTTP will not get to it: a
		// proxy aborts that way, too, when an answer is cut short.
		x.Finish(false)
		switch {
		case x.Accepted():
			metrics.CountRequest("accepted")
		default:
			metrics.CountRequest("panicked")
		}
	}()
	err := next.ServeHTTP(x, r)
	returned = true
	x.Finish(err == nil)
	noStatus := errors.Is(x.Err(), exchange.ErrNoStatus)
	switch {
	case x.Err() != nil && !noStatus:
		return "store", unavailable(x.Err())
	case x.Accepted():
		return "accepted", err
	case (err != nil || noStatus) && errors.Is(context.Cause(ctx), errUpstreamTimeout):
		return "upstream_timeout", caddyhttp.Error(http.StatusGatewayTimeout, errUpstreamTimeout)
	case noStatus:
		return "upstream_no_status", caddyhttp.Error(http.StatusBadGateway, x.Err())
	default:
		return "upstream_refused", err
	}
}

var errUpstreamTimeout = errors.New("the app did not answer in time: see upstream_timeout")

// Interface guards.
var (
	_ caddy.Provisioner           = (*Edge)(nil)
	_ caddyhttp.MiddlewareHandler = (*Edge)(nil)
)
