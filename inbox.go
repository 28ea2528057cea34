package replicatewebhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/internal/delivery"
	"github.com/caddy-replicate/replicate-webhook/internal/directive"
	"github.com/caddy-replicate/replicate-webhook/internal/edge"
	"github.com/caddy-replicate/replicate-webhook/internal/inbox/route"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// Inbox stores events for an app and passes them on when the app is there. A 2xx
// then means that the event is stored.
type Inbox struct {
	InboxOptions

	// Routes lead to the app. They are called for each attempt, off the
	// request that brought the event. Required.
	Routes caddyhttp.RouteList `json:"routes,omitempty"`
}

// InboxOptions are the options of an inbox. Handlers of one scope must agree in all of
// them.
type InboxOptions struct {
	// RetryFor is how long an event is tried, from when it was accepted. Time
	// in which the scope is paused, or has no inbox, does not count. Default:
	// 72h.
	RetryFor caddy.Duration `json:"retry_for,omitempty" default:"72h"`

	// MaxDelay is the longest wait between two attempts of an event. Waits are
	// 1s, 2s, 4s and so on up to it. Default: 5m.
	MaxDelay caddy.Duration `json:"max_delay,omitempty" default:"5m"`

	// Concurrency is how many events are with the app at once, for each node.
	// Default: 16.
	Concurrency int `json:"concurrency,omitempty" default:"16"`

	// Ordered is prediction, for one event of a prediction at a time, in the
	// order in which they were accepted, or none. Under payload any it is none.
	// Default: prediction.
	Ordered string `json:"ordered,omitempty" default:"prediction" choice:"prediction none"`

	// MaxEvents is how many events may wait. Others get a response of 503.
	// Default: 1000000.
	MaxEvents int `json:"max_events,omitempty" default:"1000000"`

	// MaxBytes is how many bytes all stored events may have. To make room, the
	// bodies of ended events are deleted, those that ended first before the
	// others. Default: 1 GiB.
	MaxBytes int64 `json:"max_bytes,omitempty" default:"1GiB"`

	// Resign is on or off: whether an attempt whose signed time is older than
	// half the tolerance has a new webhook-timestamp and webhook-signature.
	// Default: on.
	Resign string `json:"resign,omitempty" default:"on" choice:"on off"`
}

// inboxParsedKey is the key of a Caddyfile's state that is set while the block of an
// inbox is parsed.
const inboxParsedKey = "replicate_webhook.inbox"

// errNestedEdge is the error of an edge in the route of an inbox.
var errNestedEdge = errors.New("replicate_webhook can't stand inside of an inbox, whose events are verified already: put it into a route of its own")

// parseInbox reads the option inbox with its upstreams or its block. Without a helper,
// which reads directives, there can be none.
func parseInbox(o *directive.Walker, d *caddyfile.Dispenser, h *httpcaddyfile.Helper) *Inbox {
	in := new(Inbox)
	if h == nil {
		o.Failf("inbox works in the directive of a site alone")
		return in
	}
	parse := func(segment *caddyfile.Dispenser) {
		outer := h.State[inboxParsedKey]
		h.State[inboxParsedKey] = true
		sub, err := httpcaddyfile.ParseSegmentAsSubroute(h.WithDispenser(segment))
		h.State[inboxParsedKey] = outer
		if err != nil {
			if !strings.Contains(err.Error(), d.File()+":") {
				err = d.Errf("inbox: %w", err)
			}
			o.Fail(err)
			return
		}
		in.Routes = sub.(*caddyhttp.Subroute).Routes
		if len(in.Routes) == 0 {
			o.Failf("inbox has a handle without handlers: name what leads to the app in it, such as reverse_proxy app:3000")
		}
	}
	option, upstreams := d.Token(), inboxUpstreams(o, d)
	inner := o.Block()
	for inner.Next() {
		if inner.Name() != "handle" {
			inner.Field(&in.InboxOptions, "handle")
			continue
		}
		if inner.Remaining() > 0 {
			inner.Failf("handle has a matcher, but an inbox passes all its events on: leave it out, and match inside of handle")
			break
		}
		segment := d.NewFromNextSegment()
		if inner.Err() == nil && len(upstreams) > 0 {
			inner.Failf("inbox has both upstreams and a handle: keep one")
		}
		if inner.Err() == nil {
			parse(segment)
		}
	}
	inner.End()
	if o.Err() == nil && len(upstreams) > 0 {
		parse(shortInbox(option, upstreams, in.Concurrency))
	}
	if o.Err() == nil && len(in.Routes) == 0 {
		o.Failf("inbox is empty: name the app, as in inbox app:3000, or what leads to it in inbox { handle { … } }")
	}
	return in
}

// inboxUpstreams returns the upstreams after inbox.
func inboxUpstreams(o *directive.Walker, d *caddyfile.Dispenser) (upstreams []caddyfile.Token) {
	for n := o.Remaining(); n > 0; n-- {
		upstream, ok := o.Arg("an upstream")
		if !ok {
			return nil
		}
		if upstream[0] == '/' || upstream[0] == '@' || upstream[0] == '*' {
			o.Failf("inbox has the matcher %q, but it passes all its events on: leave it out", upstream)
			return nil
		}
		upstreams = append(upstreams, d.Token())
	}
	return upstreams
}

// idleConns is how many idle connections to an upstream reverse_proxy keeps.
const idleConns = 32

// shortInbox returns the handle that the upstreams of an option stand for: a
// reverse_proxy that keeps as many connections as there are attempts at once.
func shortInbox(option caddyfile.Token, upstreams []caddyfile.Token, concurrency int) *caddyfile.Dispenser {
	line := option.Line // errors about the upstreams are to name it
	var tokens []caddyfile.Token
	add := func(line int, texts ...string) {
		for _, text := range texts {
			t := option
			t.Text, t.Line = text, line
			tokens = append(tokens, t)
		}
	}
	add(line-1, "handle", "{")
	add(line, "reverse_proxy")
	tokens = append(tokens, upstreams...)
	if concurrency > idleConns {
		add(line, "{")
		add(line+1, "transport", "http", "{")
		add(line+2, "keepalive_idle_conns_per_host", strconv.Itoa(concurrency))
		add(line+3, "}")
		line += 4
		add(line, "}")
	}
	add(line+1, "}")
	return caddyfile.NewDispenser(tokens)
}

// setInboxDefaults sets the defaults of inbox and record, and returns an error for
// those that are not valid.
func (e *Edge) setInboxDefaults() error {
	if e.Inbox == nil {
		return nil
	}
	if len(e.Inbox.Routes) == 0 {
		return errors.New("inbox is empty: name what leads to the app in its routes")
	}
	if e.Record > 0 {
		return errors.New("record is for a route without an inbox, which keeps events and responses anyway: leave record out")
	}
	if e.OnStoreError == "pass" {
		return errors.New("on_store_error is pass, but with an inbox an event that can't be stored has no way to the app: leave on_store_error out")
	}
	options := &e.Inbox.InboxOptions
	if e.anyPayload() {
		if options.Ordered == "prediction" {
			return errors.New("inbox: ordered is prediction, but under payload any a body need not name a prediction: leave ordered out")
		}
		options.Ordered = "none"
	}
	if err := directive.SetDefaults(options); err != nil {
		return fmt.Errorf("inbox: %w", err)
	}
	if options.MaxBytes < e.MaxBody {
		return fmt.Errorf("inbox: max_bytes is %d, less than the max_body of %d: an event of that size could never be stored; raise max_bytes or lower max_body", options.MaxBytes, e.MaxBody)
	}
	return nil
}

// form returns the inbox as JSON, by which those of a scope are compared. Names of
// groups are numbered anew: a Caddyfile numbers them through all its sites.
func (in *Inbox) form() string {
	if in == nil {
		return ""
	}
	b, err := json.Marshal(in)
	var v any
	if err == nil {
		err = json.Unmarshal(b, &v)
	}
	if err != nil {
		// Nothing equals it.
		return err.Error()
	}
	groups := make(map[string]string)
	visitObjects(v, func(o map[string]any) {
		if name, ok := o["group"].(string); ok {
			if groups[name] == "" {
				groups[name] = fmt.Sprintf("group%d", len(groups))
			}
			o["group"] = groups[name]
		}
	})
	b, _ = json.Marshal(v)
	return string(b)
}

// visitObjects calls a function for each object of a JSON value, in a fixed order.
func visitObjects(v any, visit func(map[string]any)) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			visitObjects(e, visit)
		}
	case map[string]any:
		visit(v)
		names := make([]string, 0, len(v))
		for name := range v {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			visitObjects(v[name], visit)
		}
	}
}

// passiveChecks reports whether a proxy in a form has passive health checks.
func passiveChecks(form string) (found bool) {
	var v any
	if json.Unmarshal([]byte(form), &v) != nil {
		return false
	}
	visitObjects(v, func(o map[string]any) {
		checks, _ := o["health_checks"].(map[string]any)
		found = found || o["handler"] == "reverse_proxy" && checks["passive"] != nil
	})
	return found
}

// provisionInbox prepares the route of the scope's inbox, unless another handler of
// the scope has done so: they are equal.
func (e *Edge) provisionInbox(ctx caddy.Context) error {
	if e.Inbox == nil {
		return nil
	}
	if e.Dedup == off {
		e.logger.Warn("dedup is off with an inbox: each retry of the sender is stored as an event of its own, and reaches the app",
			zap.String("scope", e.Scope))
	}
	if passiveChecks(e.inboxForm) {
		e.logger.Warn("a proxy in the inbox has passive health checks, by which one event that the app refuses with an error takes the app from all others: leave fail_duration and the like out, the inbox has a breaker of its own",
			zap.String("scope", e.Scope))
	}
	if slices.ContainsFunc(e.app.inboxes, func(in delivery.Inbox) bool { return in.Scope == e.Scope }) {
		return nil
	}
	r, err := route.New(ctx, e.Inbox.Routes, route.Options{
		Timeout: time.Duration(e.UpstreamTimeout), Resign: e.Inbox.Resign != "off",
		Tolerance: max(0, time.Duration(e.Tolerance)), Secrets: e.secrets.Values,
		Trace: e.app.spans.Attempt, Now: e.now, Logger: e.logger,
	})
	if err != nil {
		return err
	}
	e.app.inboxes = append(e.app.inboxes, delivery.Inbox{
		Scope: e.Scope, RetryFor: time.Duration(e.Inbox.RetryFor), MaxDelay: time.Duration(e.Inbox.MaxDelay),
		Concurrency: e.Inbox.Concurrency, App: r,
	})
	return nil
}

// edgeInbox returns what the edge has to know of the inbox, nil without one.
func (e *Edge) edgeInbox() *edge.Inbox {
	if e.Inbox == nil {
		return nil
	}
	return &edge.Inbox{
		Ordered: e.Inbox.Ordered == "prediction", MaxEvents: int64(e.Inbox.MaxEvents), MaxBytes: e.Inbox.MaxBytes,
	}
}

// warnOfInboxes logs which scopes have events that wait without an inbox.
func (a *App) warnOfInboxes() {
	ctx, cancel := context.WithTimeout(a.emitter.ctx, store.CommitTimeout)
	defer cancel()
	scopes, err := a.ref.Inboxes(ctx)
	if err != nil {
		a.logger.Warn("it is not known whether events wait for a scope that has no inbox any more", zap.Error(err))
		return
	}
	for _, state := range scopes {
		waiting := state.Events[store.DeliveryPending]
		has := slices.ContainsFunc(a.inboxes, func(in delivery.Inbox) bool { return in.Scope == state.Scope })
		if waiting > 0 && !has {
			a.logger.Warn("events wait for a scope that has no inbox any more: give the scope its inbox back, or discard them by caddy replicate-webhook events discard",
				zap.String("scope", state.Scope), zap.Int("events", waiting))
		}
	}
}
