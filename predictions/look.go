package predictions

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/internal/prediction"
	"github.com/caddy-replicate/replicate-webhook/internal/tracker"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// look handles a request whose answer shows a prediction. That of a tracked one
// is an observation for the tracker, and gains our members.
func (h *Handler) look(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, rt route) error {
	p, err := h.tracker.Lookup(r.Context(), h.upstream.API, rt.id)
	if err != nil {
		// Nobody's view of a prediction depends on our store.
		if !errors.Is(err, store.ErrNotFound) {
			h.logger.Warn("looking a prediction up: its answer passes as it is", zap.String("prediction", rt.id), zap.Error(err))
		}
		return next.ServeHTTP(w, r)
	}
	r = r.WithContext(r.Context())
	r.Header = r.Header.Clone()
	r.Header.Set("Accept-Encoding", "identity")
	// The members may have changed while the API's prediction has not, and a
	// part of an answer can't gain any.
	for _, name := range []string{"If-None-Match", "If-Modified-Since", "Range", "If-Range"} {
		r.Header.Del(name)
	}
	a := h.newAnswer(w, false)
	returned := false
	defer func() {
		// An answer that broke off passes as far as it came.
		if !returned && a.mode == holding {
			a.pass()
			_ = a.FlushError()
		}
	}()
	err = next.ServeHTTP(a, r)
	returned = true
	if a.mode != holding {
		return err
	}
	if err != nil {
		a.pass()
		return err
	}
	if body := h.observed(r, a, p); body != nil {
		a.send(body)
	} else {
		a.pass()
	}
	return nil
}

// observed gives the answer that was held with our members, or nil when it is
// not the prediction.
func (h *Handler) observed(r *http.Request, a *answer, p store.Prediction) []byte {
	body, err := decode(a.Header(), a.buf.Bytes(), a.limit)
	var s *prediction.Snapshot
	if err == nil {
		s, err = prediction.Parse(body)
	}
	if err == nil && s.ID != p.ID {
		err = tracker.ErrNonsense
	}
	if err != nil {
		h.logger.Warn("the answer of the prediction API passes as it is", zap.String("prediction", p.ID), zap.Error(err))
		return nil
	}
	now, err := h.tracker.Observe(r.Context(), p, s)
	if err != nil {
		// It will be observed again: by a poll, if by nobody else.
		h.logger.Error("storing what was seen of a prediction", zap.String("prediction", p.ID), zap.Error(err))
	} else {
		p = now
	}
	f := fieldsOf(&p)
	if p.Token != nil {
		f.ours = func(webhook string) bool { return hasToken(webhook, p.Token) }
	}
	return augment(body, f)
}

// hasToken reports that a callback URL ends in the token with that SHA-256.
func hasToken(url string, sum []byte) bool {
	got := sha256.Sum256([]byte(url[strings.LastIndexByte(url, '/')+1:]))
	return subtle.ConstantTimeCompare(got[:], sum) == 1
}
