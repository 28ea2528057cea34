package dashboard

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-replicate/replicate-webhook/internal/operator"
)

// The API serves the documents that the pages are made of, which are those
// of the admin API, for scripts that may sign in here and not there. It only
// reads: what changes something takes a form of the page.
//
//	GET {prefix}/api/status
//	GET {prefix}/api/predictions[?status=&id=&limit=&cursor=]
//	GET {prefix}/api/predictions/{id}
//	GET {prefix}/api/deliveries[?state=&endpoint=&event=&prediction=&client=&response=&since=&limit=&cursor=]
//	GET {prefix}/api/deliveries/{id}
//	GET {prefix}/api/endpoints
//	GET {prefix}/api/events[?state=&scope=&event=&prediction=&response=&since=&limit=&cursor=]
//	GET {prefix}/api/events/{id}
//	GET {prefix}/api/inbox
//	GET {prefix}/api/find?q=[&limit=]
//
// Errors are {"error"} with the status that fits.

// apiOf returns the name of a path below api/, "" if there is none.
func apiOf(segments []string) string {
	switch {
	case len(segments) == 1 && slices.Contains([]string{pageDeliveries, pagePredictions, pageEndpoints, pageEvents, pageInbox, pageFind, "status"}, segments[0]):
		return segments[0]
	case len(segments) == 2 && slices.Contains([]string{pageDeliveries, pagePredictions, pageEvents}, segments[0]) && validID(segments[1]):
		return segments[0] + "/"
	}
	return ""
}

// api serves a document.
func (h *Handler) api(w http.ResponseWriter, r *http.Request, rt route) error {
	doc, err := h.document(r, rt)
	status := http.StatusOK
	if err != nil {
		if r.Context().Err() != nil {
			return err
		}
		status = operator.HTTPStatus(err)
		if status == http.StatusInternalServerError {
			return caddyhttp.Error(status, err)
		}
		if status == http.StatusServiceUnavailable {
			w.Header().Set("Retry-After", "5")
		}
		doc = map[string]string{"error": err.Error()}
	}
	return respond(w, status, doc)
}

// respond writes a document.
func respond(w http.ResponseWriter, status int, doc any) error {
	body, err := json.Marshal(doc)
	if err != nil {
		return caddyhttp.Error(http.StatusInternalServerError, fmt.Errorf("writing a document: %w", err))
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// What can't be written any more can't be reported either.
	_, _ = w.Write(append(body, '\n'))
	return nil
}

func (h *Handler) document(r *http.Request, rt route) (any, error) {
	ctx, s, query := r.Context(), h.app.Operator(), r.URL.Query()
	switch rt.kind {
	case pagePredictions:
		return s.QueryPredictions(ctx, query)
	case pageDeliveries:
		return s.QueryDeliveries(ctx, query)
	case pagePredictions + "/":
		return s.Prediction(ctx, rt.name, "")
	case pageDeliveries + "/":
		return s.Delivery(ctx, rt.name)
	case pageEndpoints:
		return s.Endpoints(), nil
	case pageEvents:
		return s.QueryEvents(ctx, query)
	case pageEvents + "/":
		return s.Event(ctx, rt.name)
	case pageInbox:
		return s.Inboxes(ctx)
	case pageFind:
		return s.QueryFound(ctx, query)
	}
	return s.Status(ctx)
}
