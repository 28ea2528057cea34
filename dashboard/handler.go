// Package dashboard is the handler replicate_dashboard: pages about what is
// stored, delivered and stopped, with the means to redeliver.
package dashboard

import (
	"errors"
	"fmt"
	"net/http"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/internal/app"
	"github.com/caddy-replicate/replicate-webhook/internal/history"
)

func init() { caddy.RegisterModule(Handler{}) }

// DefaultUser is the placeholder that names the user, as basic_auth and other
// authentication of Caddy's fill it.
const DefaultUser = "{http.auth.user.id}"

// Handler serves the dashboard. It responds with 403 to requests without a user:
// put basic_auth or forward_auth before it.
//
// Pages are complete without JavaScript. With it they follow what happens. They
// load nothing from elsewhere, can't be framed, and show no secret. Below api/
// the same is there as JSON, to read: status, predictions, predictions/{id},
// deliveries, deliveries/{id}, endpoints, events, events/{id}, inbox and find, with
// the parameters and documents of the admin API.
type Handler struct {
	// Prefix is the path below which the dashboard is, without a slash at
	// its end. Default: the path of the directive's matcher, else none.
	Prefix string `json:"prefix,omitempty"`

	// User is a placeholder that is empty for those who are not signed in.
	// Default: {http.auth.user.id}.
	User string `json:"user,omitempty"`

	// Public lets everybody in.
	Public bool `json:"public,omitempty"`

	app     App
	logger  *zap.Logger
	history *history.History
	source  *history.Source
	streams *streams
	now     func() time.Time
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.replicate_dashboard", New: func() caddy.Module { return new(Handler) }}
}

// Provision prepares the handler.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.logger = ctx.Logger()
	h.now = time.Now
	h.streams = newStreams()
	if h.User == "" {
		h.User = DefaultUser
	}
	if err := errors.Join(checkPrefix(h.Prefix), checkUser(h.User)); err != nil {
		return err
	}
	if h.Public {
		h.logger.Warn("the dashboard is public: everybody who reaches it sees all deliveries and can repeat them")
	}
	var err error
	if h.app, err = app.Get[App](ctx); err != nil {
		return err
	}
	source := &history.Source{Pending: h.pending}
	if h.history, err = history.Attach(source); err != nil {
		return err
	}
	h.source = source
	if server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		// A server that stops waits for its requests: live ones must end
		// first.
		server.RegisterOnShutdown(h.streams.close)
	}
	return nil
}

// Cleanup ends the handler. Requests that are under way go on.
func (h *Handler) Cleanup() error {
	if h.source == nil {
		return nil
	}
	s := h.source
	h.source = nil
	h.streams.close()
	return h.history.Detach(s)
}

var prefixPattern = regexp.MustCompile(`^(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$`)

func checkPrefix(prefix string) error {
	if !prefixPattern.MatchString(prefix) {
		return fmt.Errorf("prefix is %q: it must be a plain path such as /_webhooks, without a slash at its end", prefix)
	}
	return nil
}

// checkUser refuses a text that is never empty, since it would let everybody in.
func checkUser(user string) error {
	if !strings.HasPrefix(user, "{") || !strings.HasSuffix(user, "}") || strings.Count(user, "{") != 1 {
		return fmt.Errorf("user is %q: it must be one placeholder, such as %s, which is empty for those who are not signed in. public lets everybody in", user, DefaultUser)
	}
	return nil
}

// user returns the signed-in user.
func (h *Handler) user(r *http.Request) string {
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return ""
	}
	return strings.TrimSpace(repl.ReplaceAll(h.User, ""))
}

// ServeHTTP responds to all requests itself.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	protect(w.Header())
	rt, known := routeOf(r, h.Prefix)
	if known && rt.page == toRoot {
		w.Header().Set("Location", "./"+path.Base(h.Prefix)+"/")
		w.WriteHeader(http.StatusMovedPermanently)
		return nil
	}
	user := h.user(r)
	if user == "" && !h.Public {
		h.logger.Debug("nobody is signed in", zap.String("user", h.User), zap.String("path", r.URL.Path))
		return h.signedOut(w, r)
	}
	if !known && rt.page == pageAPI {
		return respond(w, http.StatusNotFound, map[string]string{"error": "there is no such path below api/"})
	}
	if !known {
		return (&visit{h, w, r, rt, user}).missing()
	}
	if want := rt.methods(); !slices.Contains(want, r.Method) && (r.Method != http.MethodHead || !slices.Contains(want, http.MethodGet)) {
		w.Header().Set("Allow", strings.Join(want, ", "))
		return caddyhttp.Error(http.StatusMethodNotAllowed, fmt.Errorf("method %s", r.Method))
	}
	switch rt.page {
	case pageAsset:
		assets[rt.name].serve(w, r)
		return nil
	case pageLive:
		return h.stream(w, r)
	case pageAPI:
		return h.api(w, r, rt)
	}
	return h.page(w, r, rt, user)
}

// Interface guards.
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
