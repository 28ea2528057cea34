package webhook

import (
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// ErrorRoutes knows whether an error that a handler returns can come to an error
// route. Where it can't, the handler may respond by itself: the response is the
// one that Caddy's server would give, and costs a quarter less of the processor
// time, which a flood of forgeries has to be worth.
type ErrorRoutes struct {
	// possible is set where the handler stands in a route of which errors may
	// be handled before they reach the server.
	possible bool
}

// FindErrorRoutes looks at where the handler that ctx provisions stands.
func FindErrorRoutes(ctx caddy.Context, handler caddy.Module) ErrorRoutes {
	for _, m := range ctx.Modules() {
		switch m := m.(type) {
		case *caddyhttp.App:
		case *caddyhttp.Subroute:
			if m.Errors != nil {
				return ErrorRoutes{possible: true}
			}
		default:
			if m != handler {
				return ErrorRoutes{possible: true}
			}
		}
	}
	return ErrorRoutes{}
}

// None reports whether no error route can handle an error of the request. A route
// with a name may be invoked from a place that has error routes.
func (e ErrorRoutes) None(r *http.Request) bool {
	server, ok := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	return ok && !e.possible && len(server.NamedRoutes) == 0 && (server.Errors == nil || len(server.Errors.Routes) == 0)
}
