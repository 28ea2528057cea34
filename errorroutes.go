package replicatewebhook

import (
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-replicate/replicate-webhook/internal/body"
)

// errorRoutes reports whether an error that a handler returns can come to an error
// route. If it can't, the handler may respond by itself: the response is the one
// that Caddy's server would send, and costs a quarter less CPU time, which counts
// in a flood of forgeries.
type errorRoutes struct {
	// possible means that the handler stands in a route of which errors may
	// be handled before they reach the server.
	possible bool
}

// findErrorRoutes looks at where the handler that ctx provisions stands.
func findErrorRoutes(ctx caddy.Context, handler caddy.Module) errorRoutes {
	for _, m := range ctx.Modules() {
		switch m := m.(type) {
		case *caddyhttp.App:
		case *caddyhttp.Subroute:
			if m.Errors != nil {
				return errorRoutes{possible: true}
			}
		default:
			if m != handler {
				return errorRoutes{possible: true}
			}
		}
	}
	return errorRoutes{}
}

// none reports whether no error route can handle an error of the request. A route
// with a name may be invoked from a place that has error routes.
func (e errorRoutes) none(r *http.Request) bool {
	server, ok := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	return ok && !e.possible && len(server.NamedRoutes) == 0 && (server.Errors == nil || len(server.Errors.Routes) == 0)
}

// abandon gives up a body that is not at its end, and with it the connection: see
// body.CloseAfter.
func abandon(w http.ResponseWriter, r *http.Request) {
	if r.Body == nil || r.ContentLength == 0 {
		w.Header().Set("Connection", "close")
		return
	}
	body.CloseAfter(w)
	// In HTTP/1, net/http closes the body after the response. To close it here
	// could fail, which would cancel the context of error routes.
	if (r.ProtoMajor != 1 || isCopy(r)) && r.Body.Close() == nil {
		body.ClearReadTimeout(w)
	}
}

// isCopy reports whether a handler before the edge passed on a copy of the server's
// request, as tracing does, so that error routes get another request, which shares
// its body. The placeholders are those of the server's own.
func isCopy(r *http.Request) bool {
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return true
	}
	method := r.Method
	defer func() { r.Method = method }()
	r.Method = "a method that no request has"
	seen, _ := repl.GetString("http.request.method")
	return seen != r.Method
}
