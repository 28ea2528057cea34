package predictions

import (
	"errors"
	"maps"
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/internal/ecmajson"
)

// secret handles the look-up of the signing secret. The API's response decides
// whether there is one; its key is replaced by the one that the caller's
// webhooks are signed with here.
func (h *Handler) secret(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	asked, before := r, w.Header().Clone()
	r = unconditional(r)
	a := h.newResponse(w, r, nil)
	a.holds = func(status int) bool { return status == http.StatusOK }
	// The API's own secret must not be sent: a receiver that trusts it would
	// refuse the webhooks.
	a.passing = func(why reason) {
		if why != notObject {
			a.mode = dropped
		}
	}
	err := a.serve(next, r, func() {
		_, body := a.held()
		if doc, ok := readKey(body); ok {
			h.ownSecret(asked, a, doc, before)
			return
		}
		h.logger.Warn("the response to a look-up of the signing secret holds no key", zap.String("api", h.upstream.URL))
		a.passing = func(reason) {}
		a.letGo(true)
	})
	if a.mode == dropped {
		restore(a.Header(), before)
	}
	if a.mode == dropped && err == nil {
		return h.fail(w, asked, &problem{status: http.StatusServiceUnavailable, retry: budgetRetry,
			detail: "the signing secret can't be looked up at the moment", cause: errors.New("the response to a look-up of the signing secret can't be held")})
	}
	return err
}

// ownSecret responds with the caller's secret. before is the header without the
// API's.
func (h *Handler) ownSecret(r *http.Request, a *response, doc *ecmajson.Document, before http.Header) {
	caller, err := h.client.Identify(r.Context(), h.upstream, r.Header)
	var key string
	if err == nil {
		key, err = h.keys.SigningSecret(r.Context(), caller.Identity)
	}
	if err != nil {
		restore(a.Header(), before)
		a.free()
		_ = h.fail(a.ResponseWriter, r, err)
		return
	}
	a.Header().Set("Cache-Control", "no-store")
	a.replace(replaceKey(doc, key))
}

// restore makes a header what it was before.
func restore(header, before http.Header) {
	clear(header)
	maps.Copy(header, before)
}
