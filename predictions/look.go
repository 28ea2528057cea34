package predictions

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/internal/conceal"
	"github.com/caddy-replicate/replicate-webhook/internal/prediction"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// look handles a request whose response shows a prediction. That of a tracked one
// is an observation for the tracker, and gains our members.
func (h *Handler) look(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, rt route) error {
	p, err := h.tracker.Lookup(r.Context(), h.upstream.URL, rt.id)
	if err != nil {
		// A client's view of a prediction does not depend on our store.
		if !errors.Is(err, store.ErrNotFound) {
			h.logger.Warn("looking a prediction up: its response passes as it is", zap.String("prediction", rt.id), zap.Error(err))
		}
		return h.passOn(w, r, next)
	}
	r = unconditional(r)
	hide := h.anyCallback()
	if p.Token != nil {
		hide = conceal.New(h.tracker.CallbackBase(), p.Token)
	}
	a := h.newResponse(w, r, hide)
	a.passing = func(reason) { a.Header().Set(statusHeader, p.Webhook.String()) }
	return a.serve(next, r, func() {
		if body := h.observed(r, a, p); body != nil {
			a.replace(body)
		} else {
			a.letGo(true)
		}
	})
}

// observed returns the response that was held with our members, or nil when it
// is not the prediction.
func (h *Handler) observed(r *http.Request, a *response, p store.Prediction) []byte {
	mark, body := a.held()
	s, doc, err := prediction.ParseDocument(body)
	if err == nil && s.ID != p.ID {
		err = prediction.ErrUnexpected
	}
	if err != nil {
		h.logger.Warn("the response of the prediction API passes as it is", zap.String("prediction", p.ID), zap.Error(err))
		return nil
	}
	now, err := h.tracker.Observe(r.Context(), p, s)
	if err != nil {
		// It will be observed again, by a poll at the latest.
		h.logger.Error("storing what was seen of a prediction", zap.String("prediction", p.ID), zap.Error(err))
	} else {
		p = now
	}
	f := fieldsOf(&p)
	if p.Token != nil {
		f.ours = func(webhook string) bool { return hasToken(webhook, p.Token) }
	}
	return append(mark[:len(mark):len(mark)], augment(doc, s.Webhook, f)...)
}

// hasToken reports whether a callback URL ends in the token with that SHA-256.
func hasToken(url string, sum []byte) bool {
	got := sha256.Sum256([]byte(url[strings.LastIndexByte(url, '/')+1:]))
	return subtle.ConstantTimeCompare(got[:], sum) == 1
}
