package tracker

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/upstream"
)

// TestRenewedTokenIsPolledWith from the next poll on.
func TestRenewedTokenIsPolledWith(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		own := upstream.API{URL: apiURL, Token: "r8_before"}
		if err := w.client.Join(own); err != nil {
			t.Fatal(err)
		}
		w.api.set("/v1/predictions/a", body("a", "processing"))
		w.start()
		defer w.end()
		w.trackAt(own, "a", "starting")
		time.Sleep(time.Minute)
		w.client.Renew(upstream.API{URL: apiURL, Token: "r8_after"})
		w.client.Renew(upstream.API{URL: "https://another.test", Token: "r8_nobodys"})
		before := len(w.api.requests())
		time.Sleep(time.Minute)
		for i, r := range w.api.requests() {
			want := "Bearer r8_before"
			if i >= before {
				want = "Bearer r8_after"
			}
			if r.authorization != want {
				t.Fatalf("poll %d was made with %q", i, r.authorization)
			}
		}
		if len(w.api.requests()) == before {
			t.Fatal("there was no poll afterwards")
		}
	})
}
