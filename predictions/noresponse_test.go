package predictions

import (
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-replicate/replicate-webhook/internal/fakeapi"
)

// TestSiteWithoutAnAPIBehind: where no handler responds after this one, a client
// is told so, and nothing is tracked. Caddy alone would say 200, which clients take
// for a prediction.
func TestSiteWithoutAnAPIBehind(t *testing.T) {
	for name, next := range map[string]func(http.ResponseWriter){
		"no handler":          func(http.ResponseWriter) {},
		"a header and no end": func(w http.ResponseWriter) { w.Header().Set("Etag", "x") },
	} {
		for _, c := range []struct{ method, path, body string }{
			{"POST", "/v1/predictions", ourBody},
			{"POST", "/v1/trainings", ourBody},
			{"GET", "/v1/predictions/{id}", ""},
			{"POST", "/v1/predictions/{id}/cancel", ""},
			{"GET", "/v1/webhooks/default/secret", ""},
		} {
			t.Run(name+" "+c.method+" "+c.path, func(t *testing.T) {
				f := newFixture(t, fakeapi.Options{})
				f.h.ServeSigningSecret = true
				wantStatus(t, f.do("POST", "/v1/predictions", ourBody), 201, three)
				created := len(f.fake.Calls("created"))
				f.next = caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
					next(w)
					return nil
				})
				path := strings.Replace(c.path, "{id}", f.api.IDs()[0], 1)
				wantProblem(t, f.do(c.method, path, c.body), http.StatusBadGateway, "the prediction API has not responded")
				if n := len(f.fake.Calls("created")); n != created {
					t.Error("a prediction is tracked")
				}
			})
		}
	}
}
