package replicatewebhook

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-replicate/replicate-webhook/internal/app"
	"github.com/caddy-replicate/replicate-webhook/internal/clientip"
	"github.com/caddy-replicate/replicate-webhook/internal/delivery"
	"github.com/caddy-replicate/replicate-webhook/internal/directive"
	"github.com/caddy-replicate/replicate-webhook/internal/edge"
	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/internal/inbox/route"
	"github.com/caddy-replicate/replicate-webhook/internal/metrics"
	"github.com/caddy-replicate/replicate-webhook/internal/secret"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
)

// off is what tolerance and dedup hold in JSON when they are switched off.
const off = caddy.Duration(-1)

// Edge is the handler replicate_webhook. It verifies signed webhooks and forwards
// each genuine event once. It responds to everything else itself.
//
// The app behind it receives exactly the bytes that were signed and these headers,
// which are removed from what comes from outside:
//
// Header | Value
// -------|------
// X-Replicate-Verified | replicate or standard, the scheme that verified; standard when both did
// X-Replicate-Event | the event; left out when there is none
// X-Replicate-Prediction-Id | the prediction's id; left out when the body is about none
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
	// The tags of a field say what its option takes, and its default: see
	// internal/directive.

	// Secret holds the signing secrets, any of which may have signed. At
	// least one, each of at least 16 bytes. Placeholders are expanded when
	// the configuration is loaded.
	Secret []string `json:"secret,omitempty"`

	// Payload is what a body may be: prediction, a webhook about a prediction,
	// or any, any JSON object. Under any, the event is the member type, or else
	// event, and dedup_key is message. Default: prediction.
	Payload string `json:"payload,omitempty" default:"prediction" choice:"prediction any"`

	// Scheme is the signature scheme accepted: replicate for
	// X-Replicate-Signature, standard for Standard Webhooks. Under payload any
	// the default is standard. Default: both, as far as the secrets can sign
	// them.
	Scheme string `json:"scheme,omitempty" choice:"replicate standard"`

	// Tolerance is how far the signed time may be from now, either way.
	// Default: 5m. -1 disables the check.
	Tolerance caddy.Duration `json:"tolerance,omitempty" default:"5m" off:"true"`

	// Dedup is how long an accepted event is remembered, at least twice the
	// tolerance. Default: 24h. -1 disables deduplication.
	Dedup caddy.Duration `json:"dedup,omitempty" default:"24h" off:"true"`

	// DedupKey is what makes two webhooks the same: event (prediction and
	// event), prediction (the prediction alone) or message (webhook-id, or
	// the signed bytes). Under payload any it is message. Default: event.
	DedupKey string `json:"dedup_key,omitempty" default:"event" choice:"event prediction message"`

	// Scope keeps handlers' events apart. Default: default. Handlers that
	// share a scope must agree on everything that decides what a duplicate
	// is.
	Scope string `json:"scope,omitempty" default:"default" arg:"a name"`

	// InFlightWait is how long a request waits for the outcome of another
	// request that holds a claim on its event. Default: 10s.
	InFlightWait caddy.Duration `json:"in_flight_wait,omitempty" default:"10s"`

	// Events are the events forwarded; others get a response of 200. Under
	// payload any they are compared as sent. Default: all.
	Events []string `json:"events,omitempty"`

	// MaxBody is the largest body in bytes. Default: 8 MiB.
	MaxBody int64 `json:"max_body,omitempty" default:"8MiB"`

	// ReadTimeout is the time for the whole body to arrive. Default: 10s.
	ReadTimeout caddy.Duration `json:"read_timeout,omitempty" default:"10s"`

	// UpstreamTimeout is how long the app may take until its response begins. A
	// 2xx of up to 2048 bytes by its Content-Length must be whole by then, else
	// it is cut short, and the event counts as accepted. A sender that
	// disconnects does not cut it short. Default: 60s.
	UpstreamTimeout caddy.Duration `json:"upstream_timeout,omitempty" default:"60s"`

	// OnStoreError is reject, for 503 when the store is unavailable, or pass,
	// for forwarding the event without deduplication. Default: reject.
	OnStoreError string `json:"on_store_error,omitempty" default:"reject" choice:"reject pass"`

	// Inbox stores events, and passes them on to the app when it is there, in
	// place of forwarding them at once. Nothing after the handler in its route
	// is called for a webhook then. Default: none.
	Inbox *Inbox `json:"inbox,omitempty"`

	// Record is how long accepted events are kept with the app's response, to
	// be looked at. Without Inbox only. Default: not at all.
	Record caddy.Duration `json:"record,omitempty"`

	app *App
	// inboxForm is Inbox as it was configured, with its defaults.
	inboxForm string
	// nestable means that a request may come from the route of an inbox.
	nestable    bool
	logger      *zap.Logger
	secrets     *secret.List[signature.Secret]
	now         func() time.Time
	edge        *edge.Edge
	errorRoutes errorRoutes
}

// CaddyModule returns the Caddy module information.
func (Edge) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.replicate_webhook",
		New: func() caddy.Module { return new(Edge) },
	}
}

// Provision sets the defaults, expands the secrets and joins the app.
func (e *Edge) Provision(ctx caddy.Context) error {
	e.logger = ctx.Logger()
	if route.Inside(ctx) {
		return errNestedEdge
	}
	if server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		e.nestable = len(server.NamedRoutes) > 0
	}
	e.errorRoutes = findErrorRoutes(ctx, e)
	if e.now == nil {
		e.now = time.Now
	}
	if err := e.setDefaults(); err != nil {
		return err
	}
	var err error
	if e.app, err = app.Get[*App](ctx); err != nil {
		return err
	}
	if e.secrets, err = secret.NewList(e.app.secrets, "secret", e.Secret, e.parseSecret); err != nil {
		return err
	}
	e.warn()
	e.inboxForm = e.Inbox.form()
	if err := e.app.join(e); err != nil {
		return err
	}
	if err := e.provisionInbox(ctx); err != nil {
		return err
	}
	e.edge = edge.New(e.config())
	return nil
}

// config returns the configuration of the edge, without defaults.
func (e *Edge) config() edge.Config {
	return edge.Config{
		Secrets:          e.secrets.Values,
		Scheme:           signature.SchemeNamed(e.Scheme),
		Tolerance:        max(0, time.Duration(e.Tolerance)),
		Dedup:            max(0, time.Duration(e.Dedup)),
		DedupKey:         e.DedupKey,
		AnyPayload:       e.anyPayload(),
		Scope:            e.Scope,
		InFlightWait:     time.Duration(e.InFlightWait),
		Events:           e.Events,
		MaxBody:          e.MaxBody,
		ReadTimeout:      time.Duration(e.ReadTimeout),
		UpstreamTimeout:  time.Duration(e.UpstreamTimeout),
		PassOnStoreError: e.OnStoreError == "pass",
		Inbox:            e.edgeInbox(),
		Record:           time.Duration(e.Record),
		Received:         route.Received,
		Printable:        delivery.Printable,
		Acquire:          e.app.acquireForEdge,
		Budget:           e.app.budget,
		StatusOf:         statusOf,
		Verified:         verified,
		Ended:            func(o edge.Outcome) { metrics.CountRequest(string(o)) },
		Now:              e.now,
		Logger:           e.logger,
	}
}

// verified counts a verification, and publishes what was verified as placeholders
// and in the access log.
func verified(r *http.Request, hook *edge.Webhook, took time.Duration) {
	metrics.ObserveVerify(took)
	if hook == nil {
		return
	}
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Map(hook.Placeholder)
	}
	if extra, ok := r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
		extra.Set(zap.Object("replicate_webhook", hook))
	}
}

// statusOf returns the HTTP status of a handler's error, 0 if it has none.
func statusOf(err error) int {
	var he caddyhttp.HandlerError
	if errors.As(err, &he) {
		return he.StatusCode
	}
	return 0
}

// UnmarshalCaddyfile reads
//
//	replicate_webhook [<matcher>] {
//		secret           <secret...>
//		payload          prediction|any
//		scheme           replicate|standard
//		tolerance        <duration>|off
//		dedup            <ttl>|off
//		dedup_key        event|prediction|message
//		scope            <name>
//		in_flight_wait   <duration>
//		events           <event...>
//		max_body         <size>
//		read_timeout     <duration>
//		upstream_timeout <duration>
//		on_store_error   reject|pass
//		record           <duration>
//		inbox [<upstream...>] {
//			retry_for   <duration>
//			max_delay   <duration>
//			concurrency <n>
//			ordered     prediction|none
//			max_events  <n>
//			max_bytes   <size>
//			resign      on|off
//			handle {
//				<directives...>
//			}
//		}
//	}
//
// The option inbox needs the directive in a Caddyfile: its handlers are directives.
func (e *Edge) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { return e.parse(d, nil) }

// parse is UnmarshalCaddyfile with the helper of the directive.
func (e *Edge) parse(d *caddyfile.Dispenser, h *httpcaddyfile.Helper) error {
	d.Next() // the directive's name
	if d.NextArg() {
		return d.Errf("unexpected %q: %s takes a matcher and a block", d.Val(), appName)
	}
	o := directive.Options(d)
	var unknown error // of events, which payload any does not judge
	for o.Next() {
		if o.Name() == "inbox" {
			e.Inbox = parseInbox(o, d, h)
			continue
		}
		o.Field(e)
		if o.Name() != "events" {
			continue
		}
		for _, name := range e.Events {
			if _, err := event.Parse(name); err != nil {
				unknown = d.Errf("events: %v", err)
				break
			}
		}
	}
	if unknown != nil && !e.anyPayload() {
		o.Fail(unknown)
	}
	return o.Err()
}

func (e *Edge) anyPayload() bool { return e.Payload == "any" }

// setDefaults sets the defaults, and returns an error for options that are not valid
// whatever the rest of the configuration is.
func (e *Edge) setDefaults() error {
	if len(e.Secret) == 0 {
		return errors.New("secret is missing: name the secret that the sender signs with, such as secret {env.WEBHOOK_SECRET}")
	}
	if err := directive.Check(e); err != nil {
		return err
	}
	if e.anyPayload() {
		if err := e.setAnyPayload(); err != nil {
			return err
		}
	}
	if err := directive.SetDefaults(e); err != nil {
		return err
	}
	if e.Dedup != off && e.Tolerance != off && e.Dedup < 2*e.Tolerance {
		return fmt.Errorf("dedup is %s, less than twice the tolerance of %s: a webhook could be forgotten while its signed time is still good, and be replayed; use dedup %s or more",
			time.Duration(e.Dedup), time.Duration(e.Tolerance), 2*time.Duration(e.Tolerance))
	}
	if err := e.setInboxDefaults(); err != nil {
		return err
	}
	if e.anyPayload() {
		return nil
	}
	for i, name := range e.Events {
		known, err := event.Parse(name)
		if err != nil {
			return fmt.Errorf("events: %w", err)
		}
		e.Events[i] = known.Name()
	}
	return nil
}

// setAnyPayload sets the defaults that are others under payload any.
func (e *Edge) setAnyPayload() error {
	if e.Scheme == "" {
		e.Scheme = signature.Standard.String()
	}
	if e.DedupKey == "" {
		e.DedupKey = "message"
	}
	if e.DedupKey != "message" {
		return fmt.Errorf("dedup_key is %q, but under payload any a body need not name a prediction: use dedup_key message, which is the default then, or payload prediction", e.DedupKey)
	}
	if slices.Contains(e.Events, "") {
		return errors.New("events: an event's name is empty: name the events as the sender does in type or event, or leave events out")
	}
	return nil
}

// warn logs options that are valid and rarely meant.
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
	if scheme := signature.SchemeNamed(e.Scheme); err == nil && scheme != 0 && !s.Schemes().Has(scheme) {
		err = fmt.Errorf("scheme %s takes %s", scheme, scheme.Secrets())
		if e.anyPayload() {
			err = fmt.Errorf("%w, and is the default under payload any: put whsec_ before a secret that is base64 alone", err)
		}
	}
	return s, err
}

// ServeHTTP verifies a webhook and forwards it to next, unless next has it already.
func (e *Edge) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if e.nestable && route.Inside(r.Context()) {
		return caddyhttp.Error(http.StatusInternalServerError, errNestedEdge)
	}
	client := clientip.Of(r)
	err := e.edge.Serve(w, r, client, next)
	if err == nil {
		return nil
	}
	var refused *edge.Refusal
	if !errors.As(err, &refused) {
		edge.Discard(r)
		return err
	}
	if refused.Unread {
		abandon(w, r)
	}
	// Error routes get this request.
	edge.Discard(r)
	switch refused.Outcome {
	case edge.OutcomeUpstreamTimeout, edge.OutcomeUpstreamNoStatus:
		// An error of the app's, as those that a proxy returns.
		return caddyhttp.Error(refused.Status, refused.Cause)
	}
	return e.refuse(w, r, client, refused)
}

// refuse reports a refusal, and responds or has Caddy respond.
func (e *Edge) refuse(w http.ResponseWriter, r *http.Request, client string, refused *edge.Refusal) error {
	if c := e.logger.Check(zapcore.DebugLevel, "webhook refused"); c != nil {
		c.Write(zap.String("reason", string(refused.Outcome)), zap.Int("status", refused.Status),
			zap.String("client", client), zap.Error(refused.Cause))
	}
	if refused.Outcome != edge.OutcomeClientGone {
		e.app.refusals.Add(refused, client)
	}
	h := w.Header()
	for name, value := range refused.Header {
		h.Set(name, value)
	}
	// At DEBUG the server logs the error, too, and from 500 on at ERROR.
	if refused.Status < 500 && e.errorRoutes.none(r) && !e.logger.Core().Enabled(zapcore.DebugLevel) {
		w.WriteHeader(refused.Status)
		return nil
	}
	return caddyhttp.Error(refused.Status, refused.Cause)
}

// Interface guards.
var (
	_ caddy.Provisioner           = (*Edge)(nil)
	_ caddyhttp.MiddlewareHandler = (*Edge)(nil)
)
