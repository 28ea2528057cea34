package dashboard

import (
	"net/http"
	"strings"
)

// The pages.
const (
	pageOverview    = "overview"
	pageDeliveries  = "deliveries"
	pageDelivery    = "delivery"
	pagePredictions = "predictions"
	pageEndpoints   = "endpoints"
	pageLive        = "live"
	pageAsset       = "asset"
	pageAPI         = "api"
	doRedeliver     = "redeliver"
	doReset         = "reset"
	toRoot          = "root" // the prefix without its slash
)

// route is the target of a request.
type route struct {
	page string
	// kind is the name of an API path, see apiOf.
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
		case pageDeliveries, pagePredictions, pageEndpoints, pageLive:
			rt.page = segments[0]
		}
	case 2:
		rt.name = segments[1]
		switch {
		case segments[0] == "assets" && assets[rt.name] != nil:
			rt.page = pageAsset
		case segments[0] == pageDeliveries && validID(rt.name):
			rt.page = pageDelivery
		case segments[0] == pageEndpoints && rt.name == doReset:
			rt.page = doReset
		}
	case 3:
		rt.name = segments[1]
		if segments[0] == pageDeliveries && validID(rt.name) && segments[2] == doRedeliver {
			rt.page = doRedeliver
		}
	}
	return rt, rt.page != ""
}

// validID reports whether a text may be a delivery's id.
func validID(s string) bool {
	for _, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-') {
			return false
		}
	}
	return s != "" && len(s) <= 128
}

// method returns the method that a page accepts.
func (rt route) method() string {
	switch rt.page {
	case doRedeliver, doReset:
		return http.MethodPost
	}
	return http.MethodGet
}
