// Package admin is the operators' API: routes below /replicate_webhook/ of
// Caddy's admin endpoint. docs/admin/openapi.json describes them.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-replicate/replicate-webhook/internal/app"
	"github.com/caddy-replicate/replicate-webhook/internal/operator"
)

func init() { caddy.RegisterModule(API{}) }

const (
	// Base is the path prefix of the routes.
	Base = "/replicate_webhook/"
	// VersionHeader is in every response, with operator.APIVersion.
	VersionHeader = "Replicate-Webhook-Api"
)

// App is the part of the app module replicate_webhook that the API needs.
type App interface {
	Operator() *operator.Service
}

// API is the module admin.api.replicate_webhook. It has no options. Errors are
// Caddy's own, {"error":"…"}:
//
// Status | Meaning
// -------|--------
// 400 | a parameter is wrong, missing or unknown
// 404 | there is no such route, prediction, delivery, endpoint, event or inbox, or the app is not in the configuration
// 405 | another method is meant, see Allow
// 409 | the prediction's webhook is disabled, the event has ended, is waiting or can't be replayed, or too many rotations of a key overlap
// 503 | the store can't be asked now
type API struct{}

// CaddyModule returns the Caddy module information.
func (API) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "admin.api.replicate_webhook", New: func() caddy.Module { return new(API) }}
}

// Routes returns the one pattern of the admin endpoint that has all of them.
func (API) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{{Pattern: Base, Handler: caddy.AdminHandlerFunc(serve)}}
}

// request is a request for a route.
type request struct {
	ctx   context.Context
	s     *operator.Service
	id    string // in the path
	query url.Values
}

// route is one of the API's.
type route struct {
	method string
	path   string // below Base; {id} stands for one segment
	params []string
	// lists has the parameters of a list, which are read by its own query.
	lists bool
	serve func(*request) (any, error)
}

var routes = []route{
	{method: http.MethodGet, path: "status", serve: func(r *request) (any, error) { return r.s.Status(r.ctx) }},
	{method: http.MethodGet, path: "find", lists: true, serve: func(r *request) (any, error) { return r.s.QueryFound(r.ctx, r.query) }},
	{method: http.MethodGet, path: "predictions", lists: true, serve: func(r *request) (any, error) { return r.s.QueryPredictions(r.ctx, r.query) }},
	{method: http.MethodGet, path: "predictions/{id}", params: []string{"api"}, serve: func(r *request) (any, error) {
		return r.s.Prediction(r.ctx, r.id, r.query.Get("api"))
	}},
	{method: http.MethodGet, path: "deliveries", lists: true, serve: func(r *request) (any, error) { return r.s.QueryDeliveries(r.ctx, r.query) }},
	{method: http.MethodGet, path: "deliveries/{id}", serve: func(r *request) (any, error) { return r.s.Delivery(r.ctx, r.id) }},
	{method: http.MethodPost, path: "deliveries/{id}/redeliver", serve: func(r *request) (any, error) { return r.s.Redeliver(r.ctx, r.id) }},
	{method: http.MethodPost, path: "redeliver", lists: true, serve: redeliverAll},
	{method: http.MethodGet, path: "endpoints", serve: func(r *request) (any, error) { return r.s.Endpoints(), nil }},
	{method: http.MethodPost, path: "endpoints/reset", params: []string{"endpoint"}, serve: func(r *request) (any, error) {
		return r.s.ResetEndpoint(r.query.Get("endpoint"))
	}},
	// Those for many events come first: a segment for all is no id.
	{method: http.MethodGet, path: "events", lists: true, serve: func(r *request) (any, error) { return r.s.QueryEvents(r.ctx, r.query) }},
	{method: http.MethodPost, path: "events/retry", lists: true, serve: changeEvents(operator.ActionRetry)},
	{method: http.MethodPost, path: "events/discard", lists: true, serve: changeEvents(operator.ActionDiscard)},
	{method: http.MethodPost, path: "events/replay", lists: true, serve: changeEvents(operator.ActionReplay)},
	{method: http.MethodGet, path: "events/{id}", serve: func(r *request) (any, error) { return r.s.Event(r.ctx, r.id) }},
	{method: http.MethodGet, path: "events/{id}/request", serve: func(r *request) (any, error) { return r.s.ForwardRequest(r.ctx, r.id) }},
	{method: http.MethodPost, path: "events/{id}/retry", serve: changeEvent(operator.ActionRetry)},
	{method: http.MethodPost, path: "events/{id}/discard", serve: changeEvent(operator.ActionDiscard)},
	{method: http.MethodPost, path: "events/{id}/replay", serve: changeEvent(operator.ActionReplay)},
	{method: http.MethodGet, path: "inbox", serve: func(r *request) (any, error) { return r.s.Inboxes(r.ctx) }},
	{method: http.MethodPost, path: "inbox/pause", params: []string{"scope"}, serve: setPaused(true)},
	{method: http.MethodPost, path: "inbox/resume", params: []string{"scope"}, serve: setPaused(false)},
	{method: http.MethodGet, path: "secret", params: []string{"client"}, serve: func(r *request) (any, error) {
		return r.s.Secret(r.ctx, r.query.Get("client"))
	}},
	{method: http.MethodPost, path: "secret/rotate", params: []string{"client", "overlap"}, serve: func(r *request) (any, error) {
		return r.s.Rotate(r.ctx, r.query)
	}},
}

func redeliverAll(r *request) (any, error) {
	dry, err := r.dryRun()
	if err != nil {
		return nil, err
	}
	q, err := operator.ParseDeliveryQuery(r.query)
	if err != nil {
		return nil, err
	}
	return r.s.RedeliverAll(r.ctx, q, dry)
}

func changeEvents(a operator.EventAction) func(*request) (any, error) {
	return func(r *request) (any, error) {
		dry, err := r.dryRun()
		if err != nil {
			return nil, err
		}
		q, err := operator.ParseEventQuery(r.query)
		if err != nil {
			return nil, err
		}
		return r.s.ChangeEvents(r.ctx, a, q, dry)
	}
}

func changeEvent(a operator.EventAction) func(*request) (any, error) {
	return func(r *request) (any, error) { return r.s.ChangeEvent(r.ctx, a, r.id) }
}

func setPaused(paused bool) func(*request) (any, error) {
	return func(r *request) (any, error) { return r.s.SetPaused(r.ctx, r.query.Get("scope"), paused) }
}

// dryRun takes the parameter dry_run out of the query.
func (r *request) dryRun() (bool, error) {
	dry := r.query.Get("dry_run")
	if !slices.Contains([]string{"", "true", "false"}, dry) || len(r.query["dry_run"]) > 1 {
		return false, &operator.InvalidError{Option: "dry_run", Problem: "must be true or false"}
	}
	r.query.Del("dry_run")
	return dry == "true", nil
}

func serve(w http.ResponseWriter, r *http.Request) error {
	h := w.Header()
	h.Set(VersionHeader, strconv.Itoa(operator.APIVersion))
	// Payloads are the clients' own, and there is a secret among the routes.
	h.Set("Cache-Control", "no-store")
	found, id, err := find(r, h)
	if err != nil {
		return err
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err == nil && !found.lists {
		err = known(query, found.params)
	}
	if err != nil {
		return caddy.APIError{HTTPStatus: http.StatusBadRequest, Err: err}
	}
	// The admin endpoint is there before the apps are, and outlives
	// configurations: the app is asked for each time.
	app, err := running()
	if err != nil {
		return err
	}
	doc, err := found.serve(&request{ctx: r.Context(), s: app.Operator(), id: id, query: query})
	if err != nil {
		return caddy.APIError{HTTPStatus: operator.HTTPStatus(err), Err: err}
	}
	h.Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	// What can't be written any more can't be reported either.
	_ = e.Encode(doc)
	return nil
}

// find returns the route of a request and the id in its path.
func find(r *http.Request, h http.Header) (*route, string, error) {
	path := strings.Split(strings.TrimPrefix(r.URL.EscapedPath(), Base), "/")
	for i := range routes {
		id, ok := routes[i].match(path)
		if !ok {
			continue
		}
		if r.Method != routes[i].method {
			h.Set("Allow", routes[i].method)
			return nil, "", caddy.APIError{HTTPStatus: http.StatusMethodNotAllowed, Err: fmt.Errorf("method %s is not allowed, use %s", r.Method, routes[i].method)}
		}
		return &routes[i], id, nil
	}
	return nil, "", caddy.APIError{HTTPStatus: http.StatusNotFound, Err: errors.New("there is no such route")}
}

func (r *route) match(path []string) (id string, ok bool) {
	want := strings.Split(r.path, "/")
	if len(path) != len(want) {
		return "", false
	}
	for i, segment := range want {
		if segment != "{id}" {
			if path[i] != segment {
				return "", false
			}
			continue
		}
		var err error
		if id, err = url.PathUnescape(path[i]); err != nil || id == "" {
			return "", false
		}
	}
	return id, true
}

// known refuses parameters that a route does not have.
func known(query url.Values, params []string) error {
	for name, values := range query {
		switch {
		case !slices.Contains(params, name):
			return &operator.InvalidError{Option: name, Problem: "is not a parameter of this route"}
		case len(values) > 1:
			return &operator.InvalidError{Option: name, Problem: "is there more than once"}
		}
	}
	return nil
}

// running returns the app of the running configuration.
func running() (App, error) {
	a, err := app.Running[App]()
	switch {
	case errors.Is(err, caddy.ErrNotConfigured):
		return nil, caddy.APIError{HTTPStatus: http.StatusNotFound, Err: errors.New("nothing in the running configuration uses app " + app.Name)}
	case err != nil:
		return nil, caddy.APIError{HTTPStatus: http.StatusServiceUnavailable, Err: err}
	}
	return a, nil
}

// Interface guards.
var _ caddy.AdminRouter = API{}
