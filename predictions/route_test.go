package predictions

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddy-replicate/replicate-webhook/internal/tracker"
)

func TestRoutes(t *testing.T) {
	const p, tr = tracker.Predictions, tracker.Trainings
	long := strings.Repeat("a", 129)
	for _, c := range []struct {
		prefix, method, path string
		want                 route
	}{
		{"/v1", "POST", "/v1/predictions", route{action: create, collection: p}},
		{"/v1", "POST", "/v1/predictions?x=1", route{action: create, collection: p}},
		{"/v1", "POST", "/v1/models/o/n/predictions", route{action: create, collection: p}},
		{"/v1", "POST", "/v1/deployments/o/n.1/predictions", route{action: create, collection: p}},
		{"/v1", "POST", "/v1/trainings", route{action: create, collection: tr}},
		{"/v1", "POST", "/v1/models/o/n/versions/v/trainings", route{action: create, collection: tr}},
		{"/", "POST", "/predictions", route{action: create, collection: p}},
		{"/a/b/", "POST", "/a/b/predictions", route{action: create, collection: p}},
		{"/v1", "GET", "/v1/predictions/abc-_1", route{action: look, collection: p, id: "abc-_1"}},
		{"/v1", "GET", "/v1/trainings/abc", route{action: look, collection: tr, id: "abc"}},
		{"/v1", "POST", "/v1/predictions/abc/cancel", route{action: look, collection: p, id: "abc"}},
		{"/v1", "POST", "/v1/trainings/abc/cancel", route{action: look, collection: tr, id: "abc"}},
		{"/v1", "PATCH", "/v1/predictions/abc", route{action: update, collection: p, id: "abc"}},
		{"/v1", "GET", "/v1/predictions/abc/webhook_deliveries", route{action: deliveries, collection: p, id: "abc"}},
		{"/v1", "POST", "/v1/predictions/abc/webhook_deliveries/7/redeliver", route{action: redeliver, collection: p, id: "abc", row: "7"}},
		{"/v1", "GET", "/v1/webhooks/default/secret", route{action: secretKey}},

		{"/v1", "GET", "/v1/predictions", route{}},
		{"/v1", "PUT", "/v1/predictions/abc", route{}},
		{"/v1", "DELETE", "/v1/predictions/abc", route{}},
		{"/v1", "HEAD", "/v1/predictions/abc", route{}},
		{"/v1", "PATCH", "/v1/trainings/abc", route{}},
		{"/v1", "POST", "/v1/predictions/", route{}},
		{"/v1", "POST", "/v1//predictions", route{}},
		{"/v1", "POST", "//v1/predictions", route{}},
		{"/v1", "POST", "/v1/%70redictions", route{}},
		{"/v1", "POST", "/v1%2fpredictions", route{}},
		{"/v1", "POST", "/v1/x/../predictions", route{}},
		{"/v1", "POST", "/v1/./predictions", route{}},
		{"/v1", "POST", "/v1/predictions;x=1", route{}},
		{"/v1", "POST", "/V1/predictions", route{}},
		{"/v1", "POST", "/v1/Predictions", route{}},
		{"/v1", "POST", "/v1/models/o/../predictions", route{}},
		{"/v1", "POST", "/v1/models/o//predictions", route{}},
		{"/v1", "POST", "/v1/models/o/n/trainings", route{}},
		{"/v1", "POST", "/v1/models/o/n/versions/v/predictions", route{}},
		{"/v1", "POST", "/v10/predictions", route{}},
		{"/v1", "POST", "/predictions", route{}},
		{"/v1", "GET", "/v1/predictions/a.b", route{}},
		{"/v1", "GET", "/v1/predictions/a%20b", route{}},
		{"/v1", "GET", "/v1/predictions/" + long, route{}},
		{"/v1", "GET", "/v1/predictions/abc/", route{}},
		{"/v1", "GET", "/v1/predictions/..", route{}},
		{"/v1", "PATCH", "/v1/predictions/a.b", route{}},
		{"/v1", "GET", "/v1", route{}},
		{"/v1", "GET", "/v1/", route{}},
		{"/v1", "GET", "/v1/a/b/c/d/e/f/g/h", route{}},
	} {
		t.Run(c.method+" "+c.path, func(t *testing.T) {
			h := &Handler{API: apiURL, Prefix: c.prefix}
			if err := h.check(); err != nil {
				t.Fatal(err)
			}
			if got := h.routeOf(httptest.NewRequest(c.method, "http://x"+c.path, nil)); got != c.want {
				t.Fatalf("got %+v, want %+v", got, c.want)
			}
		})
	}
}
