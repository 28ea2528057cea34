package predictions

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/caddy-replicate/replicate-webhook/internal/tracker"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// createTest handles a create in test mode. The API is asked who the caller is
// and is not asked to predict.
func (h *Handler) createTest(w http.ResponseWriter, r *http.Request, hook *hook) error {
	if h.TestMode == "off" {
		return h.fail(w, r, unprocessable("%s is switched off on this server", memberTest))
	}
	if err := h.tracker.Ready(r.Context()); err != nil {
		return h.fail(w, r, err)
	}
	if err := h.client.CheckAccount(r.Context(), h.upstream, r.Header); err != nil {
		return h.fail(w, r, err)
	}
	c, err := h.newCapture(r, hook.url, hook.events, tracker.Predictions)
	if err != nil {
		return h.fail(w, r, err)
	}
	p, err := h.tracker.Test(r.Context(), c, hook.test == testFailure, hook.input, hook.version)
	if err != nil {
		return h.fail(w, r, err)
	}
	writeJSON(w, http.StatusCreated, extend(p.Body, fieldsOf(&p)))
	return nil
}

// lookTest responds with a prediction of test mode, to its creator. It is finished
// from its beginning, so that there is nothing to cancel.
func (h *Handler) lookTest(w http.ResponseWriter, r *http.Request, rt route) error {
	p, err := h.findTest(r, rt.id)
	if err != nil {
		return h.fail(w, r, err)
	}
	writeJSON(w, http.StatusOK, extend(p.Body, fieldsOf(&p)))
	return nil
}

func isTest(id string) bool { return strings.HasPrefix(id, tracker.TestPrefix) }

func (h *Handler) findTest(r *http.Request, id string) (store.Prediction, error) {
	caller, err := h.client.Identify(r.Context(), h.upstream, r.Header)
	if err != nil {
		return store.Prediction{}, err
	}
	return h.tracker.TestPrediction(r.Context(), h.upstream, caller, id)
}

func writeJSON(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body)
}
