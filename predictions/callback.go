package predictions

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-replicate/replicate-webhook/internal/app"
	"github.com/caddy-replicate/replicate-webhook/internal/body"
	"github.com/caddy-replicate/replicate-webhook/internal/clientip"
	"github.com/caddy-replicate/replicate-webhook/internal/conceal"
	"github.com/caddy-replicate/replicate-webhook/internal/prediction"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// maxCallback is the largest body of a callback, in bytes.
const maxCallback = 16 << 20

// Callback is the handler replicate_callback. It takes the webhooks that the
// prediction API sends to the URLs made from the global option callback, and
// passes them to the tracker. It has no options and responds to every request
// itself:
//
// Status | When
// -------|-----
// 200 | what the webhook says is committed, or was known
// 400 | the body is not the prediction that the token was made for
// 404 | the path does not end in a known token
// 405 | it is not a POST
// 413 | the body is over 16 MiB
// 415 | the body has a content encoding
// 503 | the store, or room for the body, is not available; Retry-After says when to try again
//
// The last segment of the path is a secret token, by which a callback both
// names its prediction and is believed. Bodies are bare prediction objects, as
// Replicate and Cog send them; the {event, prediction, timestamp} of the
// webhook guide is refused.
//
// Tokens must not get into logs, and access logs hold the URI as it came.
// Requests that reach this handler are therefore taken out of the access log
// and logged by the handler, with the token masked: at INFO where the server
// has access logs, else at DEBUG. Other handlers may respond before it does:
// where one is configured in front, put `log_skip` on the same path.
type Callback struct {
	tracker callbacks
	budget  *body.Budget
	logger  *zap.Logger
}

// callbacks is the part of tracker.Tracker that the handler uses.
type callbacks interface {
	Callback(ctx context.Context, token string, body []byte) error
}

// CaddyModule returns the Caddy module information.
func (Callback) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.replicate_callback",
		New: func() caddy.Module { return new(Callback) },
	}
}

// Provision finds the app.
func (c *Callback) Provision(ctx caddy.Context) error {
	c.logger = ctx.Logger()
	app, err := app.Get[App](ctx)
	if err != nil {
		return err
	}
	c.tracker, c.budget = app.Tracker(), app.Budget()
	return c.budget.Admits(maxCallback, "the largest callback")
}

// ServeHTTP takes one callback. It writes its errors itself: an error that is
// returned would be logged with the URI.
func (c *Callback) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
	status := http.StatusOK
	err := c.take(w, r)
	if err == nil {
		w.WriteHeader(status)
	} else {
		p := callbackProblem(err)
		status = p.status
		if status == http.StatusMethodNotAllowed {
			w.Header().Set("Allow", http.MethodPost)
		}
		p.write(w)
	}
	c.log(r, status, err)
	return nil
}

func (c *Callback) take(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodPost {
		return &problem{status: http.StatusMethodNotAllowed, detail: "a callback is a POST", closing: true}
	}
	token := lastSegment(r.URL.EscapedPath())
	if !isToken(token) {
		return &problem{status: http.StatusNotFound, detail: "there is no such callback", closing: true}
	}
	if !identity(r.Header) {
		return &problem{status: http.StatusUnsupportedMediaType, detail: "the body has a content encoding", closing: true}
	}
	if r.Body == nil {
		r.Body = http.NoBody
	}
	body, err := readBody(w, r, maxCallback, c.budget.For(clientip.Of(r)))
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	if body.rest != nil {
		return &problem{status: http.StatusRequestEntityTooLarge, detail: "the body is over 16 MiB", closing: true}
	}
	return c.tracker.Callback(r.Context(), token, body.data)
}

func callbackProblem(err error) *problem {
	switch {
	case errors.Is(err, store.ErrNotFound):
		return &problem{status: http.StatusNotFound, detail: "there is no such callback", cause: err}
	case errors.Is(err, prediction.ErrUnexpected):
		return &problem{status: http.StatusBadRequest, detail: "the body is not the prediction of this callback", cause: err}
	}
	return problemOf(err)
}

// log is the access log's line with the token masked.
func (c *Callback) log(r *http.Request, status int, err error) {
	level := zapcore.DebugLevel
	if server, ok := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok && server.Logs != nil {
		level = zapcore.InfoLevel
	}
	if status >= 500 {
		level = zapcore.ErrorLevel
	}
	if l := c.logger.Check(level, "handled callback"); l != nil {
		l.Write(zap.String("client_ip", clientip.Of(r)), zap.String("method", r.Method), zap.String("host", r.Host),
			zap.String("uri", maskToken(r.URL.EscapedPath())), zap.Int("status", status), zap.Error(err))
	}
}

func lastSegment(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

// maskToken hides the last segment of a path, and what is long enough to be a
// token in another place.
func maskToken(path string) string {
	s := strings.Split(path, "/")
	for i := range s {
		if i == len(s)-1 || len(s[i]) >= conceal.TokenLen {
			s[i] = "***"
		}
	}
	return strings.Join(s, "/")
}

// isToken reports whether s is spelled like a token.
func isToken(s string) bool {
	if len(s) != conceal.TokenLen {
		return false
	}
	for i := range len(s) {
		if !conceal.IsTokenByte(s[i]) {
			return false
		}
	}
	return true
}

// Interface guards.
var (
	_ caddy.Provisioner           = (*Callback)(nil)
	_ caddyhttp.MiddlewareHandler = (*Callback)(nil)
)
