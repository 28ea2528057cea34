package predictions

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-replicate/replicate-webhook/internal/directive"
)

// The directives.
const (
	predictionsDirective = "replicate_predictions"
	callbackDirective    = "replicate_callback"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective(predictionsDirective, parsePredictions)
	httpcaddyfile.RegisterDirectiveOrder(predictionsDirective, httpcaddyfile.After, "intercept")
	httpcaddyfile.RegisterHandlerDirective(callbackDirective, parseCallback)
	httpcaddyfile.RegisterDirectiveOrder(callbackDirective, httpcaddyfile.Before, "respond")
}

// parsePredictions reads the directive and finds what its text alone shows to
// be wrong.
func parsePredictions(hp httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	h := new(Handler)
	if err := h.UnmarshalCaddyfile(hp.Dispenser); err != nil {
		return nil, err
	}
	// The defaults stay out of the JSON: only a copy gets them.
	checked := *h
	if err := checked.check(); err != nil {
		hp.Reset()
		hp.Next() // the error is about the directive as a whole
		return nil, hp.Errf("%s: %v", predictionsDirective, err)
	}
	return h, nil
}

// UnmarshalCaddyfile reads
//
//	replicate_predictions [<matcher>] {
//		api       <base_url>|off
//		api_token <token>
//		prefix    <path>
//		test_mode on|off
//		max_body  <size>
//		serve_signing_secret
//		capture   webhook_url|webhook...
//		idempotency <duration>|off
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	if d.NextArg() {
		return d.Errf("unexpected %q: %s takes a matcher and a block", d.Val(), predictionsDirective)
	}
	o := directive.Options(d)
	for o.Next() {
		o.Field(h)
	}
	return o.Err()
}

func parseCallback(hp httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	c := new(Callback)
	return c, c.UnmarshalCaddyfile(hp.Dispenser)
}

// UnmarshalCaddyfile reads
//
//	replicate_callback [<matcher>]
func (*Callback) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	if d.NextArg() {
		return d.Errf("unexpected %q: %s takes a matcher and nothing else", d.Val(), callbackDirective)
	}
	o := directive.Options(d)
	for o.Next() {
		o.Failf("there is no option %s: %s takes none", o.Name(), callbackDirective)
	}
	return o.Err()
}

// Interface guards.
var (
	_ caddyfile.Unmarshaler = (*Handler)(nil)
	_ caddyfile.Unmarshaler = (*Callback)(nil)
)
