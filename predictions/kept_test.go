package predictions

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/fakeapi"
	"github.com/caddy-replicate/replicate-webhook/internal/tracker"
	"github.com/caddy-replicate/replicate-webhook/internal/upstream"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// TestLargeResponsesAreNotKept: of a response that is too large to be kept, nothing is
// copied, and nothing is written in the transaction that commits its id.
func TestLargeResponsesAreNotKept(t *testing.T) {
	f := newFixture(t, fakeapi.Options{})
	f.fake.callback = "https://hooks.example/cb"
	for size, kept := range map[int]bool{1 << 10: true, 15 << 20: false} {
		x := &captured{h: f.h, c: &tracker.Capture{API: upstream.API{URL: apiURL}, URL: "https://r.example/hook"}, ctx: t.Context(), k: &keyed{}}
		x.a = f.h.newResponse(httptest.NewRecorder(), newRequest(t.Context(), "POST", "/v1/predictions", plainBody), f.h.anyCallback())
		x.a.WriteHeader(201)
		_, _ = x.a.Write([]byte(`{"id":"a","status":"starting","input":"` + strings.Repeat("http://x/", size/9) + `"}`))
		x.settle(true)
		began := time.Now()
		a := x.c.Answer(store.Prediction{ID: "a"})
		if a.IDOnly == kept || (a.Body != nil) != kept || a.ID != "a" || a.Status != 201 {
			t.Errorf("of %d bytes %d are kept (%v, in %v): %+v", size, len(a.Body), !a.IDOnly, time.Since(began), a.ID)
		}
	}
}
