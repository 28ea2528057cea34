// Package replicatewebhook puts both halves of Replicate-style webhooks into
// Caddy.
//
// The edge, the handler replicate_webhook, verifies signed webhooks and passes
// each genuine event on to the app behind it once. The app module of the same
// name owns what handlers share: the store and the budget of buffered bytes.
package replicatewebhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"go.uber.org/zap"

	_ "github.com/caddy-replicate/replicate-webhook/admin"     // registers its module
	_ "github.com/caddy-replicate/replicate-webhook/command"   // registers the command
	_ "github.com/caddy-replicate/replicate-webhook/dashboard" // registers its handler
	"github.com/caddy-replicate/replicate-webhook/internal/body"
	"github.com/caddy-replicate/replicate-webhook/internal/directive"
	"github.com/caddy-replicate/replicate-webhook/internal/edge"
	"github.com/caddy-replicate/replicate-webhook/internal/metrics"
	"github.com/caddy-replicate/replicate-webhook/internal/operate"
	"github.com/caddy-replicate/replicate-webhook/internal/secret"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
	"github.com/caddy-replicate/replicate-webhook/internal/spans"
	_ "github.com/caddy-replicate/replicate-webhook/predictions" // registers its handlers
	"github.com/caddy-replicate/replicate-webhook/store"
	_ "github.com/caddy-replicate/replicate-webhook/store/postgres" // registers its module
	"github.com/caddy-replicate/replicate-webhook/store/shared"
	"github.com/caddy-replicate/replicate-webhook/store/sqlite"
)

func init() {
	caddy.RegisterModule(new(App))
	caddy.RegisterModule(Edge{})
}

const appName = "replicate_webhook"

// DefaultBodyBudget is the number of bytes that may be buffered at once.
const DefaultBodyBudget = 256 << 20

// App is the app module replicate_webhook. Handlers work without it being
// configured: it is then provisioned with its defaults.
type App struct {
	// StoreRaw is the store, by its module name. Default: sqlite, in
	// replicate_webhook/webhook.db under Caddy's data directory.
	StoreRaw json.RawMessage `json:"store,omitempty" caddy:"namespace=replicate_webhook.stores inline_key=module"`

	// BodyBudget is the bytes of requests and responses buffered at once, all
	// handlers together. Beyond it requests get a 503, and responses pass
	// unchanged. One client address may hold an eighth of it. Default:
	// 256 MiB.
	BodyBudget int64 `json:"body_budget,omitempty"`

	Delivery

	logger *zap.Logger
	opener store.Opener
	budget *body.Budget
	// secrets reads those of the app and of its handlers.
	secrets *secret.Watcher
	ref     *shared.Ref
	edges   []*Edge
	sender  sender

	operate  *operate.Service
	ctx      caddy.Context
	events   *caddyevents.App
	refusals *edge.Digests
	spans    *spans.Tracer
}

// CaddyModule returns the Caddy module information. Its receiver is a pointer
// because emitting an event asks for it, while the app stops.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: appName, New: func() caddy.Module { return new(App) }}
}

// Provision prepares the app. It opens nothing, so that a configuration can be
// validated beside a server that is running.
func (a *App) Provision(ctx caddy.Context) error {
	a.logger = ctx.Logger()
	a.secrets = secret.NewWatcher(a.logger)
	if err := a.provisionNotices(ctx); err != nil {
		return err
	}
	if err := directive.Check(a); err != nil {
		return err
	}
	if a.BodyBudget == 0 {
		a.BodyBudget = DefaultBodyBudget
	}
	a.budget = body.NewBudget(a.BodyBudget)
	a.opener = new(sqlite.Module)
	if len(a.StoreRaw) > 0 {
		mod, err := ctx.LoadModule(a, "StoreRaw")
		if err != nil {
			return fmt.Errorf("loading store: %w", err)
		}
		a.opener = mod.(store.Opener)
	} else if err := a.opener.(*sqlite.Module).Provision(ctx); err != nil {
		return fmt.Errorf("preparing store: %w", err)
	}
	if err := a.provisionSender(ctx); err != nil {
		return err
	}
	a.provisionOperate()
	return errors.Join(
		metrics.Register(ctx.GetMetricsRegistry(), a.held),
		metrics.RegisterSecrets(ctx.GetMetricsRegistry(), a.secrets.Ages),
	)
}

// provisionNotices prepares what tells others of what happens.
func (a *App) provisionNotices(ctx caddy.Context) error {
	events, err := ctx.App("events")
	if err != nil {
		return fmt.Errorf("getting the events app: %w", err)
	}
	a.ctx, a.events = ctx, events.(*caddyevents.App)
	a.refusals = edge.NewDigests(a.refused)
	a.spans = new(spans.Tracer)
	if old := activeApp(); old != nil {
		// The traced request may have been one of the configuration before.
		a.spans = old.spans
	}
	return nil
}

// activeApp is the app of the configuration that runs now, if it has one.
func activeApp() *App {
	mod, err := caddy.ActiveContext().AppIfConfigured(appName)
	if err != nil {
		return nil
	}
	app, _ := mod.(*App)
	return app
}

// emit tells who has subscribed to the event. It must not be called on a
// request's path: handlers may take their time. What happens after its
// configuration was replaced is told to the subscribers of the new one.
func (a *App) emit(name string, data map[string]any) {
	if a.ctx.Err() != nil {
		if a = activeApp(); a == nil || a.ctx.Err() != nil {
			return
		}
	}
	a.events.Emit(a.ctx, name, data)
}

// refused tells of requests that the edge refused.
func (a *App) refused(d edge.Digest) {
	a.logger.Info("webhooks rejected", zap.String("reason", string(d.Outcome)), zap.Int("count", d.Count),
		zap.Int("status", d.Status), zap.String("client", d.Client))
	a.emit("replicate_webhook_rejected", map[string]any{
		"reason": string(d.Outcome), "count": d.Count, "status": d.Status, "client": d.Client,
	})
}

// held counts what the store holds, as long as the app has it open: a scrape is
// no reason to open it.
func (a *App) held(ctx context.Context) (store.Counts, error) {
	if a.sender.running.Load() == nil {
		return store.Counts{}, store.ErrUnavailable
	}
	return a.operate.Counts(ctx)
}

// provisionOperate prepares what operators see.
func (a *App) provisionOperate() {
	a.operate = operate.New(operate.Config{
		Version: version(),
		Store:   a.opener.(caddy.Module).CaddyModule().ID.Name(),
		Acquire: a.acquire,
		Engine: func() operate.Engine {
			if e := a.sender.running.Load(); e != nil {
				return e
			}
			return nil
		},
		Poller:  a.sender.poller,
		Keys:    a.sender.keys,
		Sealing: a.sender.keeper,
	})
}

// Operate is what the admin API and the dashboard show and do.
func (a *App) Operate() *operate.Service { return a.operate }

// Start opens the store, so that one which can't be opened fails the
// configuration and not the first event, and begins to deliver.
func (a *App) Start() error {
	var err error
	if a.ref, err = a.acquire(); err != nil {
		return err
	}
	if clocked, ok := a.ref.Store.(store.Clocked); ok {
		clocked.SetMaxClockError(a.maxClockError())
	}
	if err := a.startSender(); err != nil {
		return err
	}
	a.secrets.Start()
	return nil
}

// maxClockError is half the smallest tolerance of the app's edges, 0 where none
// has any.
func (a *App) maxClockError() time.Duration {
	var least time.Duration
	for _, e := range a.edges {
		if t := time.Duration(e.Tolerance); e.Tolerance != off && (least == 0 || t < least) {
			least = t
		}
	}
	return least / 2
}

// Stop ends polling and delivery. On a reload the attempts that are under way
// go on by themselves; on exit they are waited for.
func (a *App) Stop() error {
	a.stopSender()
	a.secrets.Stop()
	return nil
}

// Cleanup gives the app's reference to the store back. Requests that are still
// running hold their own. On exit the store is waited for: closing makes the last
// commits durable, and tells other nodes that this one is gone.
func (a *App) Cleanup() error {
	a.stopSender()
	a.secrets.Stop()
	if a.refusals != nil {
		a.refusals.Close()
	}
	if err := a.ref.Release(); err != nil || !caddy.Exiting() {
		return err
	}
	within := time.NewTimer(time.Duration(a.Timeout))
	defer within.Stop()
	select {
	case <-a.ref.Closed():
	case <-within.C:
		a.logger.Warn("ending while requests or attempts still use the store: what they hold goes on once this process is missed")
	}
	return nil
}

// acquireForEdge is acquire for handlers of the edge.
func (a *App) acquireForEdge() (edge.Store, error) {
	ref, err := a.acquire()
	if err != nil {
		return nil, err
	}
	return ref, nil
}

// acquire takes a reference to the store, opening it if need be: requests may
// come before Start, and outlive Cleanup.
func (a *App) acquire() (*shared.Ref, error) { return shared.Acquire(a.opener) }

// join enters an edge handler. Handlers of one scope see each other's events,
// so they must agree on what makes an event and for how long.
func (a *App) join(e *Edge) error {
	if err := a.budget.Admits(e.MaxBody, "the max_body of replicate_webhook with the scope "+strconv.Quote(e.Scope)); err != nil {
		return err
	}
	for i, other := range a.edges {
		if other.Scope != e.Scope {
			if e.sharesSecret(other) {
				a.logger.Warn("two scopes accept one secret: a webhook that was sent to the one can be replayed, once, at the other; give each a secret of its own, or let them share a scope",
					zap.Strings("scopes", []string{other.Scope, e.Scope}))
			}
			continue
		}
		if option := e.differsFrom(other); option != "" {
			return fmt.Errorf("scope %q is shared by replicate_webhook handlers number %d and %d of the configuration, which differ in %s: make them equal, or give each a scope of its own",
				e.Scope, i+1, len(a.edges)+1, option)
		}
	}
	a.edges = append(a.edges, e)
	return nil
}

// differsFrom names the first option that handlers of one scope must share but
// these two do not, or is empty.
func (e *Edge) differsFrom(o *Edge) string {
	switch {
	case !sameSecrets(e, o):
		return "secret"
	case e.Scheme != o.Scheme:
		return "scheme"
	case e.Tolerance != o.Tolerance:
		return "tolerance"
	case e.Dedup != o.Dedup:
		return "dedup"
	case e.DedupKey != o.DedupKey:
		return "dedup_key"
	case !slices.Equal(e.Events, o.Events):
		return "events"
	}
	return ""
}

func (e *Edge) sharesSecret(o *Edge) bool {
	others := o.secrets.Values()
	return slices.ContainsFunc(e.secrets.Values(), func(s signature.Secret) bool { return slices.ContainsFunc(others, s.Equal) })
}

func sameSecrets(e, o *Edge) bool {
	if e.secrets == nil {
		// Before provisioning there are only the configured texts.
		return slices.Equal(e.Secret, o.Secret)
	}
	return slices.EqualFunc(e.secrets.Values(), o.secrets.Values(), signature.Secret.Equal)
}

// version is the plugin's, as Go modules have it.
func version() string {
	const path = "github.com/caddy-replicate/replicate-webhook"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, m := range append(info.Deps, &info.Main) {
		if m.Path == path && m.Version != "" {
			return strings.Trim(m.Version, "()")
		}
	}
	return "unknown"
}

// sharedApp is the configuration's app, provisioned with its defaults where it
// is not configured.
func sharedApp(ctx caddy.Context) (*App, error) {
	mod, err := ctx.App(appName)
	if err != nil {
		return nil, err
	}
	app, ok := mod.(*App)
	if !ok {
		return nil, errors.New("app " + appName + " is of another plugin")
	}
	return app, nil
}

// Interface guards.
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)
