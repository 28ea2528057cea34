// Package predictions is the part of the delivery half that clients and APIs
// meet: a handler that captures webhooks on a proxied prediction API, and one
// that takes the API's own webhooks.
package predictions

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/internal/app"
	"github.com/caddy-replicate/replicate-webhook/internal/body"
	"github.com/caddy-replicate/replicate-webhook/internal/directive"
	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/internal/loglimit"
	"github.com/caddy-replicate/replicate-webhook/internal/prediction"
	"github.com/caddy-replicate/replicate-webhook/internal/secret"
	"github.com/caddy-replicate/replicate-webhook/internal/signingkey"
	"github.com/caddy-replicate/replicate-webhook/internal/tracker"
	"github.com/caddy-replicate/replicate-webhook/internal/upstream"
	"github.com/caddy-replicate/replicate-webhook/store"
)

func init() {
	caddy.RegisterModule(Handler{})
	caddy.RegisterModule(Callback{})
}

// App is the part of the app module replicate_webhook that the handlers use.
type App interface {
	Upstream() *upstream.Client
	SigningKeys() *signingkey.Keys
	Tracker() *tracker.Tracker
	Budget() *body.Budget
	Secrets() *secret.Watcher
}

// client is the part of upstream.Client that the handler uses.
type client interface {
	Join(api upstream.API) error
	Renew(api upstream.API)
	Identify(ctx context.Context, api upstream.API, h http.Header) (upstream.Caller, error)
	CheckAccount(ctx context.Context, api upstream.API, h http.Header) error
}

// signingKeys is the part of signingkey.Keys that the handler uses.
type signingKeys interface {
	PerClient() bool
	Standard() bool
	SigningSecret(ctx context.Context, identity string) (string, error)
}

// tracking is the part of tracker.Tracker that the handler uses.
type tracking interface {
	Ready(ctx context.Context) error
	CheckURL(raw string) error
	CheckAccess(ctx context.Context, api upstream.API, h http.Header, id string) error
	Fetch(ctx context.Context, api upstream.API, h http.Header, id string, take func(bytes int) bool) (*prediction.Snapshot, error)
	Reserve(ctx context.Context, c *tracker.Capture) (callbackURL string, err error)
	Abandon(ctx context.Context, c *tracker.Capture)
	Created(ctx context.Context, c *tracker.Capture, s *prediction.Snapshot) (store.Prediction, error)
	CreatedWithoutBody(ctx context.Context, c *tracker.Capture, id, status string) (store.Prediction, error)
	TrackExisting(ctx context.Context, c *tracker.Capture, s *prediction.Snapshot) (store.Prediction, error)
	Lookup(ctx context.Context, api, id string) (store.Prediction, error)
	Observe(ctx context.Context, p store.Prediction, s *prediction.Snapshot) (store.Prediction, error)
	SetWebhook(ctx context.Context, p store.Prediction, url string, events event.Set) (store.Prediction, error)
	Log(ctx context.Context, p store.Prediction, before int64, limit int) ([]store.Attempt, error)
	Redeliver(ctx context.Context, p store.Prediction, attempt int64) (deliveryID string, err error)
	Test(ctx context.Context, c *tracker.Capture, fail bool, input []byte, version string) (store.Prediction, error)
	TestPrediction(ctx context.Context, api upstream.API, c upstream.Caller, id string) (store.Prediction, error)
	CallbackBase() string
	ClaimCreate(ctx context.Context, k *tracker.Keyed) (*tracker.Exchange, *tracker.Earlier, error)
}

// Handler is the handler replicate_predictions. It goes before a proxy to a
// Replicate-style prediction API and lets clients give a webhook_url with each
// prediction they create, whose lifecycle events are then delivered to it:
//
// Request below the prefix | What happens
// -------------------------|-------------
// `POST /predictions`, `/models/{o}/{n}/predictions`, `/deployments/{o}/{n}/predictions`, `/trainings`, `/models/{o}/{n}/versions/{v}/trainings` | `webhook_url`, `webhook_events` and `test_mode` are taken out of the JSON body and acted on. The response is sent once the prediction is stored, with `webhook_url`, `webhook_status` and `webhook_completed` added
// `GET /predictions/{id}`, `/trainings/{id}`; `POST …/cancel` | the API's response, with the three members added if the prediction is tracked
// `PATCH /predictions/{id}` | handled here: changes `webhook_url` (null disables) and `webhook_events`
// `GET /predictions/{id}/webhook_deliveries` | handled here: the delivery log, newest first
// `POST /predictions/{id}/webhook_deliveries/{row}/redeliver` | handled here: 202 and a new delivery of the same payload, up to 60 a minute for each caller
// `GET /webhooks/default/secret` | with ServeSigningSecret, the key is replaced by the caller's own signing secret
//
// Everything else passes untouched, and so do creates that name none of the
// members, whatever their body is. One that names a member and can't be acted on
// is refused before the API sees it: 415 where it is not sent as JSON, 413 over
// MaxBody, else 422. Who may see a prediction is asked of the API itself. Errors
// are {"title","detail","status"} as application/problem+json, like the API's own.
//
// With Capture, the API's own members webhook and webhook_events_filter are acted on
// in the same way, in place of these or beside them, so that clients which know
// nothing of this handler get their webhooks from here.
//
// Where the body of a response can't be changed, the header
// X-Replicate-Webhook-Status says what webhook_status would.
type Handler struct {
	// API is the base URL of the prediction API, such as
	// https://api.replicate.com/v1, which is polled and asked who a caller
	// is and what it may see; or off, when it can't be asked: then events
	// come by callback alone. Required. Placeholders are expanded when the
	// configuration is loaded.
	API string `json:"api,omitempty" arg:"the base URL of the prediction API, or off"`

	// APIToken is the token that authorizes polls. Default: the
	// Authorization of the client that created the prediction, which is
	// kept sealed until its end. Placeholders are expanded when the
	// configuration is loaded.
	APIToken string `json:"api_token,omitempty" arg:"a token, such as {env.REPLICATE_API_TOKEN}"`

	// Prefix begins the API's paths on this server. Default: /v1.
	// A single slash stands for none.
	Prefix string `json:"prefix,omitempty" default:"/v1" arg:"a path such as /v1"`

	// TestMode is on or off: whether clients may ask for test events.
	// Default: on.
	TestMode string `json:"test_mode,omitempty" default:"on" choice:"on off"`

	// MaxBody is the largest body in bytes that is read into memory, for
	// request and response each. Larger requests are refused if they name a
	// webhook, and pass otherwise; larger responses pass, without the three
	// members. Default: 16 MiB.
	MaxBody int64 `json:"max_body,omitempty" default:"16MiB"`

	// ServeSigningSecret puts the caller's signing secret into the API's
	// response to GET /webhooks/default/secret, where official clients look
	// for it. Needs signing per_client.
	ServeSigningSecret bool `json:"serve_signing_secret,omitempty"`

	// Capture names the webhooks that are captured: webhook_url, the
	// member that clients set for this server, webhook, the API's own,
	// which unchanged clients set, or both. Default: webhook_url.
	Capture []string `json:"capture,omitempty" default:"webhook_url" choice:"webhook_url webhook"`

	// Idempotency is how long the Idempotency-Key of a create is kept, or -1 for
	// off: keys are then passed to the API as they are. The first create with a
	// key is passed to the API, and others get its response. Default: 24h.
	Idempotency caddy.Duration `json:"idempotency,omitempty" default:"24h" off:"true"`

	upstream upstream.API
	// members are those of Capture.
	members memberSet
	prefix  string // Prefix without a slash at its end
	client  client
	keys    signingKeys
	tracker tracking
	budget  *body.Budget
	logger  *zap.Logger
	// refusals bounds the lines of the log about requests that are refused.
	refusals *loglimit.Limiter
	// told has what was logged that is logged once.
	told *sync.Map
	// manager handles what is not passed to the API.
	manager *manager
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.replicate_predictions",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision checks the options, expands the token and joins the app.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.logger = ctx.Logger()
	if err := h.check(); err != nil {
		return err
	}
	api, err := caddy.NewReplacer().ReplaceOrErr(h.API, true, true)
	if err != nil {
		return fmt.Errorf("api: %w", err)
	}
	if h.upstream.URL, err = parseAPI(api); err != nil {
		return err
	}
	app, err := app.Get[App](ctx)
	if err != nil {
		return err
	}
	if h.APIToken != "" {
		if err := app.Secrets().Use("api_token", "api_token", h.APIToken, h.useToken(app.Upstream())); err != nil {
			return fmt.Errorf("api_token: %w", err)
		}
	}
	return h.join(app.Upstream(), app.SigningKeys(), app.Tracker(), app.Budget())
}

// useToken returns a function that takes the operator's token, and later the token
// that has replaced it.
func (h *Handler) useToken(c client) func(string) error {
	return func(token string) error {
		if h.upstream.Token == "" {
			// Requests only ask whether there is one: it is not set again.
			h.upstream.Token = token
		} else {
			c.Renew(upstream.API{URL: h.upstream.URL, Token: token})
		}
		return nil
	}
}

// join makes the handler work with parts of the app.
func (h *Handler) join(c client, k signingKeys, t tracking, b *body.Budget) error {
	h.client, h.keys, h.tracker, h.budget = c, k, t, b
	h.refusals, h.told = new(loglimit.Limiter), new(sync.Map)
	h.manager = &manager{api: h.upstream, client: c, tracker: t, budget: b, testMode: h.TestMode != "off", redeliveries: newRedeliveries()}
	if h.ServeSigningSecret && !k.PerClient() {
		return errors.New("serve_signing_secret needs signing per_client: a shared secret given to one client would let it sign for all")
	}
	if h.members.has(nativeURL) {
		if !k.Standard() {
			return errors.New("capture webhook needs a signing secret that begins with whsec_, or signing per_client: the API's own webhooks are signed as Standard Webhooks alone")
		}
		if !h.ServeSigningSecret {
			h.logger.Warn("capture webhook without serve_signing_secret: clients that look the signing secret up at the API get the API's own, and reject the webhooks of this server",
				zap.String("api", h.upstream.URL))
		}
	}
	if err := b.Admits(h.MaxBody, "the max_body of replicate_predictions"); err != nil {
		return err
	}
	return c.Join(h.upstream)
}

// check sets the defaults and returns an error if the options are wrong, as far as
// their text alone shows it.
func (h *Handler) check() error {
	if err := directive.Check(h); err != nil {
		return err
	}
	if err := directive.SetDefaults(h); err != nil {
		return err
	}
	if h.API == "" {
		return errors.New("api is missing: name the base URL of the prediction API, such as api https://api.replicate.com/v1, or api off when it can't be asked")
	}
	if !strings.Contains(h.API, "{") {
		if _, err := parseAPI(h.API); err != nil {
			return err
		}
	}
	if h.API == apiOff && h.APIToken != "" {
		return errors.New("api_token is set, but api is off")
	}
	h.members = nil
	for _, m := range h.Capture {
		if m == nativeURL {
			h.members = append(h.members, nativeMembers...)
		} else {
			h.members = append(h.members, ownMembers...)
		}
	}
	h.prefix = strings.TrimSuffix(h.Prefix, "/")
	for i, segment := range strings.Split(h.prefix, "/") {
		if (i == 0) != (segment == "") || i > 0 && !plain(segment) {
			return fmt.Errorf("prefix is %q: it begins with a slash and holds letters, digits, '-', '_' and '.' between slashes", h.Prefix)
		}
	}
	return nil
}

const apiOff = "off"

// parseAPI returns the base URL without a slash at its end, or "" for off.
func parseAPI(s string) (string, error) {
	if s == apiOff {
		return "", nil
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return "", errors.New("api must be an absolute http or https URL, or off")
	}
	if u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return "", errors.New("api must be a URL without user name, query and fragment")
	}
	return strings.TrimRight(u.String(), "/"), nil
}

// ServeHTTP handles a request by its method and path.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	rt := h.routeOf(r)
	switch rt.action {
	case create:
		return h.create(w, r, next, rt)
	case look:
		if isTest(rt.id) {
			return h.respond(w, r)(h.manager.lookTest(r, rt))
		}
		return h.look(w, r, next, rt)
	case update:
		return h.respond(w, r)(h.manager.update(w, r, rt))
	case deliveries:
		return h.respond(w, r)(h.manager.deliveries(r, rt))
	case redeliver:
		return h.respond(w, r)(h.manager.redeliver(r, rt))
	case secretKey:
		if h.ServeSigningSecret {
			return h.secret(w, r, next)
		}
	}
	if rt.action == passOn && misspelled(r) {
		return h.misspelledCreate(w, r, next)
	}
	return h.passOn(w, r, next)
}

// Interface guards.
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
