package predictions

import (
	"errors"
	"net/http"
	"strconv"

	"github.com/caddy-replicate/replicate-webhook/internal/body"
	"github.com/caddy-replicate/replicate-webhook/internal/clientip"
	"github.com/caddy-replicate/replicate-webhook/internal/prediction"
	"github.com/caddy-replicate/replicate-webhook/internal/tracker"
	"github.com/caddy-replicate/replicate-webhook/internal/upstream"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// maxPatch is the largest body of an update, in bytes.
const maxPatch = 64 << 10

// manager handles the requests about webhooks that are not passed to the API:
// updates, the delivery log, redeliveries and test mode.
type manager struct {
	api          upstream.API
	client       client
	tracker      tracking
	budget       *body.Budget
	testMode     bool
	redeliveries *limiters
}

// reply is a response with a JSON body.
type reply struct {
	status int
	body   []byte
}

// respond returns a function that responds with the result of a manager's method.
func (h *Handler) respond(w http.ResponseWriter, r *http.Request) func(reply, error) error {
	return func(a reply, err error) error {
		if err != nil {
			return h.fail(w, r, err)
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", strconv.Itoa(len(a.body)))
		w.WriteHeader(a.status)
		_, _ = w.Write(a.body)
		return nil
	}
}

// update handles a PATCH of a prediction's webhook. A caller that may see a
// prediction may change its webhook.
func (m *manager) update(w http.ResponseWriter, r *http.Request, rt route) (reply, error) {
	ctx := r.Context()
	change, err := m.readUpdate(w, r)
	if err != nil {
		return reply{}, err
	}
	if err := m.tracker.Ready(ctx); err != nil {
		return reply{}, err
	}
	var p store.Prediction
	var body []byte
	if isTest(rt.id) {
		if p, err = m.findTest(r, rt.id); err != nil {
			return reply{}, err
		}
		body = p.Body
	} else {
		charge := m.budget.For(clientip.Of(r))
		defer charge.Return()
		s, err := m.tracker.Fetch(ctx, m.api, r.Header, rt.id, charge.Take)
		if err != nil {
			return reply{}, err
		}
		body = s.Object()
		p, err = m.tracker.Lookup(ctx, m.api.URL, rt.id)
		if errors.Is(err, store.ErrNotFound) {
			f, err := m.updateUntracked(r, change, s)
			return reply{http.StatusOK, extend(body, f)}, err
		}
		if err != nil {
			return reply{}, err
		}
	}
	url := p.URL
	if change.hasURL {
		url = change.url
	}
	p, err = m.tracker.SetWebhook(ctx, p, url, change.events)
	return reply{http.StatusOK, extend(body, fieldsOf(&p))}, err
}

// readUpdate reads the body of an update. Errors are *problem.
func (m *manager) readUpdate(w http.ResponseWriter, r *http.Request) (patch, error) {
	if !isJSON(r.Header.Get("Content-Type"), true) || !identity(r.Header) {
		return patch{}, &problem{status: http.StatusUnsupportedMediaType, detail: "the body must be JSON without a content encoding", closing: true}
	}
	if r.Body == nil {
		r.Body = http.NoBody
	}
	body, err := readBody(w, r, maxPatch, m.budget.For(clientip.Of(r)))
	if err != nil {
		return patch{}, err
	}
	defer func() { _ = body.Close() }()
	if body.rest != nil {
		return patch{}, &problem{status: http.StatusRequestEntityTooLarge, detail: "the body is over 64 KiB", closing: true}
	}
	return readPatch(body.data, m.tracker.CheckURL)
}

// updateUntracked sets the webhook of a prediction that was created without one, and
// tracks it from here on. Removing a webhook from such a prediction changes nothing.
func (m *manager) updateUntracked(r *http.Request, change patch, s *prediction.Snapshot) (fields, error) {
	switch {
	case !change.hasURL:
		return fields{}, unprocessable("the prediction has no webhook: %s needs a %s", memberEvents, memberURL)
	case change.url == "":
		return fields{status: store.WebhookDisabled, completed: true}, nil
	}
	caller, err := m.client.Identify(r.Context(), m.api, r.Header)
	if err != nil {
		return fields{}, err
	}
	c := &tracker.Capture{API: m.api, Caller: caller, URL: change.url, Events: change.events, Collection: tracker.Predictions, Traceparent: traceparent(r.Header)}
	p, err := m.tracker.TrackExisting(r.Context(), c, s)
	return fieldsOf(&p), err
}

// find returns a tracked prediction to a caller that may see it.
func (m *manager) find(r *http.Request, id string) (store.Prediction, error) {
	if isTest(id) {
		return m.findTest(r, id)
	}
	if err := m.tracker.CheckAccess(r.Context(), m.api, r.Header, id); err != nil {
		return store.Prediction{}, err
	}
	return m.tracker.Lookup(r.Context(), m.api.URL, id)
}
