package predictions

import (
	"maps"
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// secret handles the look-up of the signing secret. The API's answer decides
// whether there is one; its key is replaced by the one that the caller's
// webhooks are signed with here.
func (h *Handler) secret(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	asked, before := r, w.Header().Clone()
	r = r.WithContext(r.Context())
	r.Header = r.Header.Clone()
	r.Header.Set("Accept-Encoding", "identity")
	for _, name := range []string{"If-None-Match", "If-Modified-Since", "Range", "If-Range"} {
		r.Header.Del(name)
	}
	a := h.newAnswer(w, false)
	a.holds = func(status int, header http.Header) bool {
		return status == http.StatusOK && holdsPrediction(status, header)
	}
	if err := next.ServeHTTP(a, r); err != nil || a.mode != holding {
		return err
	}
	body, err := decode(a.Header(), a.buf.Bytes(), a.limit)
	if err == nil {
		if _, ok := replaceKey(body, ""); ok {
			return h.ownSecret(asked, a, body, before)
		}
	}
	h.logger.Warn("the answer to a look-up of the signing secret holds no key", zap.Error(err))
	a.pass()
	return nil
}

// ownSecret answers with the caller's secret. The API's own must not leave when
// that fails: webhooks would be refused by whoever trusts it. before are the
// headers without the API's.
func (h *Handler) ownSecret(r *http.Request, a *answer, body []byte, before http.Header) error {
	caller, err := h.tracker.Caller(r.Context(), h.upstream, r.Header)
	var key string
	if err == nil {
		key, err = h.tracker.SigningSecret(r.Context(), caller.Identity)
	}
	if err != nil {
		clear(a.Header())
		maps.Copy(a.Header(), before)
		a.free()
		return h.fail(a.ResponseWriter, r, err)
	}
	body, _ = replaceKey(body, key)
	a.Header().Set("Cache-Control", "no-store")
	a.send(body)
	return nil
}
