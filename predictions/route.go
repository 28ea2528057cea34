package predictions

import (
	"net/http"
	"strings"

	"github.com/caddy-replicate/replicate-webhook/internal/prediction"
	"github.com/caddy-replicate/replicate-webhook/internal/tracker"
)

// action is the way in which a request is handled.
type action uint8

const (
	passOn     action = iota // not ours
	create                   // POST that creates a prediction or training
	look                     // GET of one, or POST to cancel it
	update                   // PATCH of one's webhook
	deliveries               // GET of one's delivery log
	redeliver                // POST to deliver a row of it again
	secretKey                // GET of the signing secret
)

// route is a request as its method and path have it.
type route struct {
	action     action
	collection string // tracker.Predictions or tracker.Trainings
	id         string // of the prediction
	row        string // of its delivery log
}

// maxSegments is the most that a path of ours has below the prefix.
const maxSegments = 6

// routeOf reads the escaped path of a request. A path is ours in its one plain
// spelling only. Any other, such as one with an escape, a doubled or a closing
// slash, passes as it is, unless it is misspelled and names our members: what it
// means is for the upstream to say.
func (h *Handler) routeOf(r *http.Request) route {
	switch r.Method {
	case http.MethodGet, http.MethodPost, http.MethodPatch:
	default:
		return route{}
	}
	path, ok := strings.CutPrefix(r.URL.EscapedPath(), h.prefix+"/")
	if !ok || strings.Count(path, "/") >= maxSegments {
		return route{}
	}
	s := strings.Split(path, "/")
	for _, segment := range s {
		if !plain(segment) {
			return route{}
		}
	}
	switch r.Method {
	case http.MethodGet:
		return routeGet(s)
	case http.MethodPost:
		return routePost(s)
	default:
		if len(s) == 2 && s[0] == "predictions" && prediction.ValidID(s[1]) {
			return route{action: update, collection: tracker.Predictions, id: s[1]}
		}
		return route{}
	}
}

func routeGet(s []string) route {
	switch {
	case len(s) == 2 && collectionOf(s[0]) != "" && prediction.ValidID(s[1]):
		return route{action: look, collection: collectionOf(s[0]), id: s[1]}
	case len(s) == 3 && s[0] == "predictions" && prediction.ValidID(s[1]) && s[2] == "webhook_deliveries":
		return route{action: deliveries, collection: tracker.Predictions, id: s[1]}
	case len(s) == 3 && s[0] == "webhooks" && s[1] == "default" && s[2] == "secret":
		return route{action: secretKey}
	}
	return route{}
}

func routePost(s []string) route {
	last := s[len(s)-1]
	switch {
	case len(s) == 1 && collectionOf(last) != "":
		return route{action: create, collection: collectionOf(last)}
	case len(s) == 4 && (s[0] == "models" || s[0] == "deployments") && last == "predictions":
		return route{action: create, collection: tracker.Predictions}
	case len(s) == 6 && s[0] == "models" && s[3] == "versions" && last == "trainings":
		return route{action: create, collection: tracker.Trainings}
	case len(s) == 3 && collectionOf(s[0]) != "" && prediction.ValidID(s[1]) && last == "cancel":
		return route{action: look, collection: collectionOf(s[0]), id: s[1]}
	case len(s) == 5 && s[0] == "predictions" && prediction.ValidID(s[1]) && s[2] == "webhook_deliveries" && last == "redeliver":
		return route{action: redeliver, collection: tracker.Predictions, id: s[1], row: s[3]}
	}
	return route{}
}

func collectionOf(segment string) string {
	switch segment {
	case "predictions":
		return tracker.Predictions
	case "trainings":
		return tracker.Trainings
	}
	return ""
}

// misspelled reports whether a request that is not ours may create a
// prediction all the same, at an API that is lenient with paths.
func misspelled(r *http.Request) bool {
	if r.Method != http.MethodPost && r.Method != http.MethodPut {
		return false
	}
	s := strings.FieldsFunc(strings.ToLower(r.URL.Path), func(c rune) bool { return c == '/' || c == '\\' })
	for i := range s {
		s[i], _, _ = strings.Cut(s[i], ";")
	}
	n := len(s)
	return n > 0 && collectionOf(strings.TrimSpace(s[n-1])) != "" ||
		n > 1 && r.Method == http.MethodPut && collectionOf(s[n-2]) != ""
}

// plain reports whether a path segment means itself to every server: no
// escapes, no parameters, not empty, and not "." or "..".
func plain(segment string) bool {
	if segment == "" || segment == "." || segment == ".." {
		return false
	}
	for i := range len(segment) {
		switch c := segment[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.':
		default:
			return false
		}
	}
	return true
}
