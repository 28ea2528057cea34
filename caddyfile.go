package replicatewebhook

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-replicate/replicate-webhook/internal/delivery"
	"github.com/caddy-replicate/replicate-webhook/internal/directive"
	"github.com/caddy-replicate/replicate-webhook/internal/event"
)

func init() {
	httpcaddyfile.RegisterGlobalOption(appName, parseApp)
	httpcaddyfile.RegisterHandlerDirective(appName, parseEdge)
	httpcaddyfile.RegisterDirectiveOrder(appName, httpcaddyfile.Before, "basic_auth")
}

// parseApp reads the global option.
func parseApp(d *caddyfile.Dispenser, existing any) (any, error) {
	if existing != nil {
		d.Next()
		return nil, d.Errf("global option %s is given twice: put all of it into one block", appName)
	}
	app := new(App)
	if err := app.UnmarshalCaddyfile(d); err != nil {
		return nil, err
	}
	return httpcaddyfile.App{Name: appName, Value: caddyconfig.JSON(app, nil)}, nil
}

// UnmarshalCaddyfile reads
//
//	replicate_webhook {
//		store          <module> [<args...>]
//		body_budget    <size>
//		signing        shared|per_client
//		signing_secret <secret> [<older...>]
//		seal_key       <secret> [<older...>]
//		callback       <public_url>
//		poll           <initial> <max> [<give_up>]
//		retry {
//			max_attempts   <n>
//			initial_delay  <duration>
//			max_delay      <duration>
//			backoff_factor <number>
//			jitter         <0..1>
//		}
//		timeout        <duration>
//		workers        <n>
//		endpoint {
//			concurrency <n>
//			rate        <n>/<duration>
//			breaker     <failures> <cooldown> [<hold>]|off
//		}
//		egress {
//			allow_http
//			ports <port...>
//			allow      <cidr...>
//			allow_host <name...>
//			deny       <cidr...>
//		}
//		retention {
//			deliveries  <duration>
//			predictions <duration>
//		}
//	}
func (a *App) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the option's name
	if d.NextArg() {
		return d.Errf("unexpected %q: %s takes its options in a block", d.Val(), appName)
	}
	o := directive.Options(d)
	for o.Next() {
		switch o.Name() {
		case "store":
			a.parseStore(d, o)
		case "body_budget":
			o.Size(&a.BodyBudget)
		case "signing":
			o.Choice(&a.Signing, "shared", "per_client")
		case "signing_secret":
			o.List(&a.SigningSecret)
		case "seal_key":
			o.List(&a.SealKey)
		case "callback":
			o.Text(&a.Callback, "a public URL")
		case "poll":
			o.Duration(&a.Poll.Initial)
			o.Duration(&a.Poll.Max)
			if o.Remaining() > 0 {
				o.Duration(&a.Poll.GiveUp)
			}
		case "retry":
			parseRetry(o.Block(), &a.Retry)
		case "timeout":
			o.Duration((*caddy.Duration)(&a.Timeout))
		case "workers":
			o.Count(&a.Workers, 1)
		case "endpoint":
			parseEndpoint(o.Block(), &a.Endpoint)
		case "egress":
			a.Egress.parse(o.Block())
		case "retention":
			a.Retention.parse(o.Block())
		default:
			o.Unknown("store, body_budget, signing, signing_secret, seal_key, callback, poll, retry, timeout, workers, endpoint, egress or retention")
		}
	}
	if o.Err() == nil {
		if err := a.check(); err != nil {
			return d.Errf("%s: %v", appName, err)
		}
	}
	return o.Err()
}

func parseRetry(o *directive.Walker, r *delivery.Retry) {
	for o.Next() {
		switch o.Name() {
		case "max_attempts":
			o.Count(&r.MaxAttempts, 0)
			if r.MaxAttempts == 0 {
				r.MaxAttempts = -1 // in JSON 0 is the default
			}
		case "initial_delay":
			o.Duration((*caddy.Duration)(&r.InitialDelay))
		case "max_delay":
			o.Duration((*caddy.Duration)(&r.MaxDelay))
		case "backoff_factor":
			o.Number(&r.BackoffFactor, 1, 100)
		case "jitter":
			o.Number(&r.Jitter, 0, 1)
		default:
			o.Unknown("max_attempts, initial_delay, max_delay, backoff_factor or jitter")
		}
	}
	o.End()
}

func parseEndpoint(o *directive.Walker, e *delivery.Endpoint) {
	for o.Next() {
		switch o.Name() {
		case "concurrency":
			o.Count(&e.Concurrency, 1)
		case "rate":
			text, _ := o.Arg("a rate such as 100/1s")
			count, per, _ := strings.Cut(text, "/")
			n, err := strconv.Atoi(count)
			d, perErr := caddy.ParseDuration(per)
			if err != nil || perErr != nil || n < 1 || d <= 0 {
				o.Failf("rate is %q: write it like 100/1s", text)
			}
			e.Rate = delivery.Rate{Count: n, Per: delivery.Duration(d)}
		case "breaker":
			if o.Remaining() == 1 {
				var word string
				o.Choice(&word, "off")
				e.Breaker.Failures = directive.Off
				continue
			}
			o.Count(&e.Breaker.Failures, 1)
			o.Duration((*caddy.Duration)(&e.Breaker.Cooldown))
			if o.Remaining() > 0 {
				o.Duration((*caddy.Duration)(&e.Breaker.Hold))
			}
		default:
			o.Unknown("concurrency, rate or breaker")
		}
	}
	o.End()
}

func (e *Egress) parse(o *directive.Walker) {
	for o.Next() {
		switch o.Name() {
		case "allow_http":
			o.Flag(&e.AllowHTTP)
		case "ports":
			var ports []string
			o.List(&ports)
			for _, p := range ports {
				n, err := strconv.Atoi(p)
				if err != nil {
					o.Failf("%q is not a valid port", p)
				}
				e.Ports = append(e.Ports, n)
			}
		case "allow":
			o.List(&e.Allow)
		case "allow_host":
			o.List(&e.AllowHost)
		case "deny":
			o.List(&e.Deny)
		default:
			o.Unknown("allow_http, ports, allow, allow_host or deny")
		}
	}
	o.End()
}

func (r *Retention) parse(o *directive.Walker) {
	for o.Next() {
		switch o.Name() {
		case "deliveries":
			o.Duration(&r.Deliveries)
		case "predictions":
			o.Duration(&r.Predictions)
		default:
			o.Unknown("deliveries or predictions")
		}
	}
	o.End()
}

func (a *App) parseStore(d *caddyfile.Dispenser, o *directive.Walker) {
	kind, ok := o.Arg("a kind: sqlite or postgres")
	if !ok {
		return
	}
	id := "replicate_webhook.stores." + kind
	if _, err := caddy.GetModule(id); err != nil {
		o.Failf("there is no store %q: use sqlite or postgres", kind)
		return
	}
	mod, err := caddyfile.UnmarshalModule(d, id)
	if err != nil {
		o.Fail(err)
		return
	}
	a.StoreRaw = caddyconfig.JSONModuleObject(mod, "module", kind, nil)
}

// scopesKey is where parsed handlers are kept, to compare those of one scope.
const scopesKey = "replicate_webhook.scopes"

// parsedEdge is a handler and where it stands.
type parsedEdge struct {
	edge  *Edge
	place string
}

// parseEdge reads the directive and finds what its text alone shows to be
// wrong.
func parseEdge(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	e := new(Edge)
	if err := e.UnmarshalCaddyfile(h.Dispenser); err != nil {
		return nil, err
	}
	h.Reset()
	h.Next() // errors from here on are about the directive as a whole
	fail := func(err error) (caddyhttp.MiddlewareHandler, error) {
		return nil, h.Errf("%s: %v", appName, err)
	}
	// The defaults stay out of the JSON: only a copy gets them.
	checked := *e
	checked.Events = append([]string(nil), e.Events...)
	if err := checked.setDefaults(); err != nil {
		return fail(err)
	}
	for i, s := range e.Secret {
		if strings.Contains(s, "{") {
			continue // a placeholder, known when the configuration is loaded
		}
		if _, err := e.parseSecret(s); err != nil {
			return fail(fmt.Errorf("secret %d: %w", i+1, err))
		}
	}
	seen, _ := h.State[scopesKey].([]parsedEdge)
	for _, other := range seen {
		if other.edge.Scope != checked.Scope {
			continue
		}
		if option := checked.differsFrom(other.edge); option != "" {
			return fail(fmt.Errorf("it shares the scope %q with the one at %s but differs in %s: make them equal, or give each a scope of its own",
				checked.Scope, other.place, option))
		}
	}
	h.State[scopesKey] = append(seen, parsedEdge{&checked, fmt.Sprintf("%s:%d", h.File(), h.Line())})
	return e, nil
}

// UnmarshalCaddyfile reads
//
//	replicate_webhook [<matcher>] {
//		secret           <secret...>
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
//	}
func (e *Edge) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	if d.NextArg() {
		return d.Errf("unexpected %q: %s takes a matcher and a block", d.Val(), appName)
	}
	o := directive.Options(d)
	for o.Next() {
		switch o.Name() {
		case "secret":
			o.List(&e.Secret)
		case "scheme":
			o.Choice(&e.Scheme, "replicate", "standard")
		case "tolerance":
			o.DurationOrOff(&e.Tolerance)
		case "dedup":
			o.DurationOrOff(&e.Dedup)
		case "dedup_key":
			o.Choice(&e.DedupKey, "event", "prediction", "message")
		case "scope":
			o.Text(&e.Scope, "a name")
		case "in_flight_wait":
			o.Duration(&e.InFlightWait)
		case "events":
			for name, ok := o.Arg("one value or more"); ok; name, ok = o.Arg("") {
				if _, err := event.Parse(name); err != nil {
					o.Failf("events: %v", err)
				}
				e.Events = append(e.Events, name)
				if o.Remaining() == 0 {
					break
				}
			}
		case "max_body":
			o.Size(&e.MaxBody)
		case "read_timeout":
			o.Duration(&e.ReadTimeout)
		case "upstream_timeout":
			o.Duration(&e.UpstreamTimeout)
		case "on_store_error":
			o.Choice(&e.OnStoreError, "reject", "pass")
		default:
			o.Unknown("secret, scheme, tolerance, dedup, dedup_key, scope, in_flight_wait, events, max_body, read_timeout, upstream_timeout or on_store_error")
		}
	}
	return o.Err()
}

// Interface guards.
var (
	_ caddyfile.Unmarshaler = (*App)(nil)
	_ caddyfile.Unmarshaler = (*Edge)(nil)
)
