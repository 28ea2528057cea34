package predictions

import (
	"errors"
	"net/http"

	"github.com/caddy-replicate/replicate-webhook/internal/clientip"
	"github.com/caddy-replicate/replicate-webhook/internal/ecmajson"
	"github.com/caddy-replicate/replicate-webhook/internal/prediction"
	"github.com/caddy-replicate/replicate-webhook/internal/tracker"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// maxPatch is the largest body of an update, in bytes.
const maxPatch = 64 << 10

// update handles a PATCH of a prediction's webhook. A caller that may see a
// prediction may change its webhook.
func (h *Handler) update(w http.ResponseWriter, r *http.Request, rt route) error {
	if err := h.applyUpdate(w, r, rt); err != nil {
		return h.fail(w, r, err)
	}
	return nil
}

func (h *Handler) applyUpdate(w http.ResponseWriter, r *http.Request, rt route) error {
	ctx := r.Context()
	change, err := h.readUpdate(w, r)
	if err != nil {
		return err
	}
	if err := h.tracker.Ready(ctx); err != nil {
		return err
	}
	var p store.Prediction
	var body []byte
	if isTest(rt.id) {
		if p, err = h.findTest(r, rt.id); err != nil {
			return err
		}
		body = p.Body
	} else {
		charge := h.budget.For(clientip.Of(r))
		defer charge.Return()
		s, err := h.tracker.Fetch(ctx, h.upstream, r.Header, rt.id, charge.Take)
		if err != nil {
			return err
		}
		body = object(s)
		p, err = h.tracker.Lookup(ctx, h.upstream.URL, rt.id)
		if errors.Is(err, store.ErrNotFound) {
			f, err := h.updateUntracked(r, change, s)
			if err == nil {
				writeJSON(w, http.StatusOK, extend(body, f))
			}
			return err
		}
		if err != nil {
			return err
		}
	}
	url := p.URL
	if change.hasURL {
		url = change.url
	}
	if p, err = h.tracker.SetWebhook(ctx, p, url, change.events); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, extend(body, fieldsOf(&p)))
	return nil
}

// readUpdate reads the body of an update. Errors are *problem.
func (h *Handler) readUpdate(w http.ResponseWriter, r *http.Request) (patch, error) {
	if !isJSON(r.Header.Get("Content-Type"), true) || !identity(r.Header) {
		return patch{}, &problem{status: http.StatusUnsupportedMediaType, detail: "the body must be JSON without a content encoding", closing: true}
	}
	if r.Body == nil {
		r.Body = http.NoBody
	}
	body, err := readBody(w, r, maxPatch, h.budget.For(clientip.Of(r)))
	if err != nil {
		return patch{}, err
	}
	defer func() { _ = body.Close() }()
	if body.rest != nil {
		return patch{}, &problem{status: http.StatusRequestEntityTooLarge, detail: "the body is over 64 KiB", closing: true}
	}
	return readPatch(body.data, h.tracker.CheckURL)
}

// updateUntracked gives a webhook to a prediction that was created without
// one, which is tracked from here on. To take it away is to change nothing.
func (h *Handler) updateUntracked(r *http.Request, change patch, s *prediction.Snapshot) (fields, error) {
	switch {
	case !change.hasURL:
		return fields{}, unprocessable("the prediction has no webhook: %s needs a %s", memberEvents, memberURL)
	case change.url == "":
		return fields{status: store.WebhookDisabled, completed: true}, nil
	}
	c, err := h.newCapture(r, change.url, change.events, tracker.Predictions)
	if err != nil {
		return fields{}, err
	}
	p, err := h.tracker.TrackExisting(r.Context(), c, s)
	return fieldsOf(&p), err
}

// object returns a prediction as the API shows it, as far as a snapshot has it.
func object(s *prediction.Snapshot) []byte {
	var b []byte
	text := func(name, value string) {
		b = append(b, name...)
		if value == "" {
			b = append(b, "null"...)
			return
		}
		b = ecmajson.AppendString(b, value)
	}
	raw := func(name string, value []byte) {
		b = append(b, name...)
		if value == nil {
			value = []byte("null")
		}
		b = append(b, value...)
	}
	text(`{"id":`, s.ID)
	text(`,"version":`, s.Version)
	raw(`,"input":`, s.Input)
	raw(`,"output":`, s.Output)
	raw(`,"error":`, s.Error)
	text(`,"status":`, s.Status)
	text(`,"created_at":`, s.CreatedAt)
	text(`,"started_at":`, s.StartedAt)
	text(`,"completed_at":`, s.CompletedAt)
	return append(b, '}')
}

// find returns a tracked prediction to a caller that may see it.
func (h *Handler) find(r *http.Request, id string) (store.Prediction, error) {
	if isTest(id) {
		return h.findTest(r, id)
	}
	if err := h.tracker.CheckAccess(r.Context(), h.upstream, r.Header, id); err != nil {
		return store.Prediction{}, err
	}
	return h.tracker.Lookup(r.Context(), h.upstream.URL, id)
}
