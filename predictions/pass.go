package predictions

import (
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-replicate/replicate-webhook/internal/conceal"
)

// passOn passes a request on that is not ours. Where the API is told of
// callbacks, a response that may show predictions is passed without them: a list
// shows those of all predictions.
func (h *Handler) passOn(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	hide := h.anyCallback()
	if hide == nil || r.Method == http.MethodHead || !aboutPredictions(r.URL.Path) {
		return next.ServeHTTP(w, r)
	}
	r = readable(r)
	a := h.newResponse(w, r, hide)
	a.holds = nil
	return a.serve(next, r, nil)
}

// aboutPredictions reports whether a path names a collection of predictions, in
// whatever spelling.
func aboutPredictions(path string) bool {
	path = strings.ToLower(path)
	return strings.Contains(path, "prediction") || strings.Contains(path, "training")
}

// anyCallback returns what hides every callback URL that is made from the
// configuration; nil where none is.
func (h *Handler) anyCallback() *conceal.URL { return conceal.New(h.tracker.CallbackBase(), nil) }
