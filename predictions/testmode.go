package predictions

import (
	"net/http"
	"strings"

	"github.com/caddy-replicate/replicate-webhook/internal/tracker"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// createTest handles a create in test mode. The API is asked who the caller is
// and is not asked to predict.
func (m *manager) createTest(r *http.Request, hook *hook) (reply, error) {
	if !m.testMode {
		return reply{}, unprocessable("%s is switched off on this server", memberTest)
	}
	ctx := r.Context()
	if err := m.tracker.Ready(ctx); err != nil {
		return reply{}, err
	}
	if err := m.client.CheckAccount(ctx, m.api, r.Header); err != nil {
		return reply{}, err
	}
	caller, err := m.client.Identify(ctx, m.api, r.Header)
	if err != nil {
		return reply{}, err
	}
	c := &tracker.Capture{API: m.api, Caller: caller, URL: hook.url, Events: hook.events, Collection: tracker.Predictions, Traceparent: traceparent(r.Header)}
	p, err := m.tracker.Test(ctx, c, hook.test == testFailure, hook.input, hook.version)
	if err != nil {
		return reply{}, err
	}
	return reply{http.StatusCreated, extend(p.Body, fieldsOf(&p))}, nil
}

// lookTest handles a request for a prediction of test mode, which its creator may
// see. It is finished from its beginning, so that there is nothing to cancel.
func (m *manager) lookTest(r *http.Request, rt route) (reply, error) {
	p, err := m.findTest(r, rt.id)
	if err != nil {
		return reply{}, err
	}
	return reply{http.StatusOK, extend(p.Body, fieldsOf(&p))}, nil
}

func isTest(id string) bool { return strings.HasPrefix(id, tracker.TestPrefix) }

func (m *manager) findTest(r *http.Request, id string) (store.Prediction, error) {
	caller, err := m.client.Identify(r.Context(), m.api, r.Header)
	if err != nil {
		return store.Prediction{}, err
	}
	return m.tracker.TestPrediction(r.Context(), m.api, caller, id)
}
