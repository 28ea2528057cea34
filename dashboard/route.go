package dashboard

import (
	"net/http"
	"slices"
	"strings"

	"github.com/caddy-replicate/replicate-webhook/internal/operator"
)

// The pages.
const (
	pageOverview    = "overview"
	pageDeliveries  = "deliveries"
	pageDelivery    = "delivery"
	pagePredictions = "predictions"
	pagePrediction  = "prediction"
	pageEndpoints   = "endpoints"
	pageEndpoint    = "endpoint"
	pageEvents      = "events"
	pageEvent       = "event"
	pageInbox       = "inbox"
	pagePayload     = "payload"
	pageFind        = "find"
	pageAll         = "all" // an action on many rows
	pageLive        = "live"
	pageAsset       = "asset"
	pageAPI         = "api"
	doRedeliver     = "redeliver"
	doReset         = "reset"
	doPause         = "pause"
	doResume        = "resume"
	toRoot          = "root" // the prefix without its slash
)

// route is the target of a request.
type route struct {
	page string
	// kind is the name of an API path, see apiOf, or the list of a payload.
	kind string
	// name is the asset's name, or the id of a delivery or prediction.
	name string
	// up leads from the page to the dashboard's root.
	up string
}

// routeOf reads a path below the prefix. Only the one spelling of each path is
// known: no dots, empty segments or escapes. Of a path that is not known it returns
// how the root is reached.
func routeOf(r *http.Request, prefix string) (route, bool) {
	path, ok := strings.CutPrefix(r.URL.EscapedPath(), prefix)
	if path == "" && ok {
		return route{page: toRoot}, true
	}
	segments := strings.Split(strings.TrimPrefix(path, "/"), "/")
	rt := route{up: strings.Repeat("../", len(segments)-1)}
	if rt.up == "" {
		rt.up = "./"
	}
	if !ok || path[0] != '/' || r.URL.Path != r.URL.EscapedPath() {
		return rt, false
	}
	if segments[0] == pageAPI {
		rt.page, rt.kind, rt.name = pageAPI, apiOf(segments[1:]), segments[len(segments)-1]
		return rt, rt.kind != ""
	}
	switch len(segments) {
	case 1:
		switch segments[0] {
		case "":
			rt.page = pageOverview
		case pageDeliveries, pagePredictions, pagePrediction, pageEndpoints, pageEndpoint, pageEvents, pageInbox, pageFind, pageLive:
			rt.page = segments[0]
		}
	case 2:
		rt.name = segments[1]
		switch {
		case segments[0] == "assets" && assets[rt.name] != nil:
			rt.page = pageAsset
		case segments[0] == pageDeliveries && rt.name == doRedeliver, segments[0] == pageEvents && slices.Contains(eventActions, operator.EventAction(rt.name)):
			rt.page = pageAll
		case segments[0] == pageDeliveries && validID(rt.name):
			rt.page = pageDelivery
		case segments[0] == pageEndpoints && rt.name == doReset:
			rt.page = doReset
		case segments[0] == pageEvents && validID(rt.name):
			rt.page = pageEvent
		case segments[0] == pageInbox && (rt.name == doPause || rt.name == doResume):
			rt.page = rt.name
		}
	case 3:
		rt.name = segments[1]
		switch list, last := segments[0], segments[2]; {
		case !validID(rt.name):
		case list == pageDeliveries && last == doRedeliver:
			rt.page = last
		case list == pageEvents && slices.Contains(eventActions, operator.EventAction(last)):
			rt.page = last
		case (list == pageDeliveries || list == pageEvents) && last == pagePayload:
			rt.page, rt.kind = last, list
		}
	}
	return rt, rt.page != ""
}

// eventActions are what can be done with an event.
var eventActions = []operator.EventAction{operator.ActionRetry, operator.ActionDiscard, operator.ActionReplay}

// validID reports whether a text may be the id of a delivery or event.
func validID(s string) bool {
	for _, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-') {
			return false
		}
	}
	return s != "" && len(s) <= 128
}

// methods returns the methods that a page accepts.
func (rt route) methods() []string {
	switch rt.page {
	case doRedeliver, doReset, doPause, doResume:
		return []string{http.MethodPost}
	case pageAll:
		return []string{http.MethodGet, http.MethodPost}
	}
	if slices.Contains(eventActions, operator.EventAction(rt.page)) {
		return []string{http.MethodPost}
	}
	return []string{http.MethodGet}
}
