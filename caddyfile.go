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
	"github.com/caddy-replicate/replicate-webhook/internal/tracker"
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
//			then           <duration...>
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
//			events      <duration>
//		}
//		notify <url> [<what...>] {
//			every <duration>
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
			o.Duration((*caddy.Duration)(&a.Poll.Initial))
			o.Duration((*caddy.Duration)(&a.Poll.Max))
			if o.Remaining() > 0 {
				o.Duration((*caddy.Duration)(&a.Poll.GiveUp))
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
			parseRetention(o.Block(), &a.Retention)
		case "notify":
			a.Notify = parseNotify(o)
		default:
			o.Unknown("store, body_budget, signing, signing_secret, seal_key, callback, poll, retry, timeout, workers, endpoint, egress, retention or notify")
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
		case "then":
			for again := true; again; again = o.Remaining() > 0 && o.Err() == nil {
				var d caddy.Duration
				o.Duration(&d)
				r.Then = append(r.Then, delivery.Duration(d))
			}
		default:
			o.Unknown("max_attempts, initial_delay, max_delay, backoff_factor, jitter or then")
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

func parseRetention(o *directive.Walker, r *tracker.Retention) {
	for o.Next() {
		switch o.Name() {
		case "deliveries":
			o.Duration((*caddy.Duration)(&r.Deliveries))
		case "predictions":
			o.Duration((*caddy.Duration)(&r.Predictions))
		case "events":
			o.Duration((*caddy.Duration)(&r.Events))
		default:
			o.Unknown("deliveries, predictions or events")
		}
	}
	o.End()
}

func parseNotify(o *directive.Walker) *Notify {
	n := new(Notify)
	o.Text(&n.URL, "the URL that gets the messages, such as {env.NOTIFY_URL}")
	if o.Err() == nil && o.Remaining() > 0 {
		o.List(&n.On)
	}
	inner := o.Block()
	for inner.Next() {
		switch inner.Name() {
		case "every":
			inner.Duration(&n.Every)
		default:
			inner.Unknown("every")
		}
	}
	inner.End()
	return n
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

// parseEdge reads the directive and finds what its text alone shows to be
// wrong.
func parseEdge(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	if h.State[inboxParsedKey] != nil {
		h.Next()
		return nil, h.Err(errNestedEdge.Error())
	}
	e := new(Edge)
	if err := e.parse(h.Dispenser, &h); err != nil {
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
	if e.Inbox != nil {
		in := *e.Inbox
		checked.Inbox = &in
	}
	if err := checked.setDefaults(); err != nil {
		return fail(err)
	}
	for i, s := range e.Secret {
		if strings.Contains(s, "{") {
			continue // a placeholder, known when the configuration is loaded
		}
		if _, err := checked.parseSecret(s); err != nil {
			return fail(fmt.Errorf("secret %d: %w", i+1, err))
		}
	}
	checked.inboxForm = checked.Inbox.form()
	if err := compareWithinScope(h, &checked); err != nil {
		return fail(err)
	}
	return e, nil
}

// Interface guards.
var (
	_ caddyfile.Unmarshaler = (*App)(nil)
	_ caddyfile.Unmarshaler = (*Edge)(nil)
)
