// Package replicatewebhook puts both halves of Replicate-style webhooks into
// Caddy.
//
// The edge, the handler replicate_webhook, verifies signed webhooks and forwards
// each genuine event to the app behind it once. The app module of the same
// name owns what handlers share: the store and the budget of buffered bytes.
package replicatewebhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"go.uber.org/zap"

	_ "github.com/caddy-replicate/replicate-webhook/admin"     // registers its module
	_ "github.com/caddy-replicate/replicate-webhook/command"   // registers the command
	_ "github.com/caddy-replicate/replicate-webhook/dashboard" // registers its handler
	"github.com/caddy-replicate/replicate-webhook/internal/app"
	"github.com/caddy-replicate/replicate-webhook/internal/body"
	"github.com/caddy-replicate/replicate-webhook/internal/delivery"
	"github.com/caddy-replicate/replicate-webhook/internal/directive"
	"github.com/caddy-replicate/replicate-webhook/internal/edge"
	"github.com/caddy-replicate/replicate-webhook/internal/metrics"
	"github.com/caddy-replicate/replicate-webhook/internal/notice"
	"github.com/caddy-replicate/replicate-webhook/internal/operator"
	"github.com/caddy-replicate/replicate-webhook/internal/secret"
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

const appName = app.Name

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
	// inboxes are those of the scopes of edges.
	inboxes []delivery.Inbox
	sender  sender

	operator *operator.Service
	emitter  emitter
	notices  *notice.Notices
	receiver *notice.Receiver // nil without notify
	refusals *edge.Digests
	spans    *spans.Tracer
}

// CaddyModule returns the Caddy module information. Its receiver is a pointer
// because emitting an event asks for it, while the app stops.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: appName, New: func() caddy.Module { return new(App) }}
}

// Provision sets the app up. It opens nothing, so that a configuration can be
// validated while a server is running.
func (a *App) Provision(ctx caddy.Context) error {
	a.logger = ctx.Logger()
	a.secrets = secret.NewWatcher(a.logger)
	if err := a.provisionObservers(ctx); err != nil {
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
		return fmt.Errorf("provisioning store: %w", err)
	}
	if err := a.provisionSender(ctx); err != nil {
		return err
	}
	a.provisionOperator()
	return errors.Join(
		metrics.Register(ctx.GetMetricsRegistry(), scraped{a}),
		metrics.RegisterSecrets(ctx.GetMetricsRegistry(), a.secrets.Ages),
	)
}

// provisionObservers sets up events, rejection digests and tracing.
func (a *App) provisionObservers(ctx caddy.Context) error {
	events, err := ctx.App("events")
	if err != nil {
		return fmt.Errorf("getting the events app: %w", err)
	}
	a.spans = new(spans.Tracer)
	a.notices = notice.New(metrics.Notices{})
	if old := activeApp(); old != nil {
		// The traced request may have been one of the configuration before, and
		// something may have happened there that was not told.
		a.spans, a.notices = old.spans, old.notices
	}
	a.emitter = emitter{ctx: ctx, events: events.(*caddyevents.App), notices: a.notices, logger: a.logger}
	a.refusals = edge.NewDigests(a.emitter.refused)
	return nil
}

// activeApp returns the app of the active configuration, nil if it has none.
func activeApp() *App {
	a, err := app.Running[*App]()
	if err != nil {
		return nil
	}
	return a
}

// emitter reports what happens to subscribers of Caddy's events, and to those who are
// sent notices.
type emitter struct {
	ctx     caddy.Context
	events  *caddyevents.App
	notices *notice.Notices
	logger  *zap.Logger
}

// emit emits an event of Caddy's. It must not be called while a request waits:
// subscribers may take long. Once the configuration was replaced, the subscribers
// of the new one get the event.
func (e *emitter) emit(name string, data map[string]any) {
	if e.ctx.Err() != nil {
		a := activeApp()
		if a == nil || a.emitter.ctx.Err() != nil {
			return
		}
		e = &a.emitter
	}
	e.events.Emit(e.ctx, name, data)
}

// refused logs and emits a digest of requests that the edge refused.
func (e *emitter) refused(d edge.Digest) {
	e.logger.Info("webhooks rejected", zap.String("reason", string(d.Outcome)), zap.Int("count", d.Count),
		zap.Int("status", d.Status), zap.String("client", d.Client))
	e.notices.Add(notice.Happening{What: notice.Rejected, Subject: string(d.Outcome), Count: d.Count, Status: d.Status, Example: d.Client})
	e.emit("replicate_webhook_rejected", map[string]any{
		"reason": string(d.Outcome), "count": d.Count, "status": d.Status, "client": d.Client,
	})
}

// scraped is the store for scrapes, while the app has it open: a scrape is not a
// reason to open it.
type scraped struct{ app *App }

// Counts implements metrics.Store.
func (s scraped) Counts(ctx context.Context) (store.Counts, error) {
	if s.app.sender.running.Load() == nil {
		return store.Counts{}, store.ErrUnavailable
	}
	return s.app.operator.Counts(ctx)
}

// InboxStates implements metrics.Store.
func (s scraped) InboxStates(ctx context.Context) ([]store.InboxState, error) {
	if s.app.sender.running.Load() == nil {
		return nil, store.ErrUnavailable
	}
	return s.app.operator.InboxStates(ctx)
}

// provisionOperator sets up the service of the admin API and the dashboard.
func (a *App) provisionOperator() {
	a.operator = operator.New(operator.Config{
		Version: version(),
		Store:   a.opener.(caddy.Module).CaddyModule().ID.Name(),
		Acquire: a.acquire,
		Engine: func() operator.Engine {
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

// Operator returns the service of the admin API and the dashboard.
func (a *App) Operator() *operator.Service { return a.operator }

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
	a.warnOfInboxes()
	if err := a.startSender(); err != nil {
		return err
	}
	a.secrets.Start()
	return nil
}

// maxClockError returns half the smallest tolerance of the app's edges, 0 if none
// has one.
func (a *App) maxClockError() time.Duration {
	var least time.Duration
	for _, e := range a.edges {
		if t := time.Duration(e.Tolerance); e.Tolerance != off && (least == 0 || t < least) {
			least = t
		}
	}
	return least / 2
}

// Stop ends polling and delivery. On a reload it does not wait for the attempts in
// flight; on exit it does.
func (a *App) Stop() error {
	a.stopSender()
	a.secrets.Stop()
	return nil
}

// Cleanup releases the app's reference to the store. Requests that are still
// running hold their own. On exit it waits until the store is closed, which makes
// the last commits durable and tells other nodes that this one is gone.
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

// acquire returns a reference to the store, which it opens if necessary: requests
// may come before Start, and outlive Cleanup.
func (a *App) acquire() (*shared.Ref, error) { return shared.Acquire(a.opener) }

// version returns the version of the plugin's Go module.
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

// Interface guards.
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)
