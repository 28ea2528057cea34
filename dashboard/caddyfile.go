package dashboard

import (
	"encoding/json"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

	"github.com/caddy-replicate/replicate-webhook/internal/directive"
)

const directiveName = "replicate_dashboard"

func init() {
	httpcaddyfile.RegisterDirective(directiveName, parse)
	httpcaddyfile.RegisterDirectiveOrder(directiveName, httpcaddyfile.Before, "respond")
}

// parse reads the directive. A matcher that is one path with a /* at its end
// says what the prefix is.
func parse(hp httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
	if !hp.Next() {
		return nil, hp.ArgErr()
	}
	matchers, err := hp.ExtractMatcherSet()
	if err != nil {
		return nil, err
	}
	h := new(Handler)
	if err := h.UnmarshalCaddyfile(hp.Dispenser); err != nil {
		return nil, err
	}
	var paths []string
	if len(matchers) == 1 && matchers["path"] != nil {
		if err := json.Unmarshal(matchers["path"], &paths); err != nil {
			return nil, err
		}
	}
	if len(paths) == 1 && h.Prefix == "" {
		prefix, below := strings.CutSuffix(paths[0], "/*")
		if below && checkPrefix(prefix) == nil {
			h.Prefix = prefix
		}
	}
	if len(paths) == 1 && h.Prefix != "" && paths[0] == h.Prefix+"/*" {
		// Without its slash the prefix leads to the page too.
		matchers["path"] = caddyconfig.JSON([]string{h.Prefix, paths[0]}, nil)
	}
	return hp.NewRoute(matchers, h), nil
}

// UnmarshalCaddyfile reads
//
//	replicate_dashboard [<matcher>] {
//		prefix <path>
//		user   <placeholder>
//		public
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	if d.NextArg() {
		return d.Errf("unexpected %q: %s takes a matcher and a block", d.Val(), directiveName)
	}
	o := directive.Options(d)
	for o.Next() {
		switch o.Name() {
		case "prefix":
			o.Text(&h.Prefix, "a path such as /_webhooks")
			if err := checkPrefix(h.Prefix); o.Err() == nil && err != nil {
				o.Failf("%v", err)
			}
		case "user":
			o.Text(&h.User, "a placeholder such as {http.auth.user.id}")
			if err := checkUser(h.User); o.Err() == nil && err != nil {
				o.Failf("%v", err)
			}
		case "public":
			o.Flag(&h.Public)
		default:
			o.Unknown("prefix, user or public")
		}
	}
	return o.Err()
}

// Interface guard.
var _ caddyfile.Unmarshaler = (*Handler)(nil)
