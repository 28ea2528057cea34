package dashboard_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/dashrun"
)

// TestSearchBoxFindsEverything: every page has the box. A whole id leads to its page,
// and what names several things to a list of them.
func TestSearchBoxFindsEverything(t *testing.T) {
	v := dashrun.Start(t, withEvents(t)).Visitor()
	for _, path := range []string{"/_webhooks/", "/_webhooks/events", "/_webhooks/none", "/_webhooks/find"} {
		if _, body := v.Do(http.MethodGet, path, nil); !strings.Contains(body, `id="search"`) {
			t.Errorf("%s has no search box", path)
		}
	}
	delivery, ev := firstDelivery(v), oneEvent(v, "state=failed")
	for q, want := range map[string]string{
		delivery: "deliveries/" + delivery, ev: "events/" + ev, "pred_lost": "prediction?id=pred_lost",
		"pred_both": "prediction?api=https%3A%2F%2Fapi.replicate.com%2Fv1&id=pred_both",
	} {
		if resp, body := v.Do(http.MethodGet, "/_webhooks/find?q="+q, nil); resp.StatusCode != http.StatusSeeOther || resp.Header.Get("Location") != want {
			t.Errorf("%s is %d %q, want %s:\n%s", q, resp.StatusCode, resp.Header.Get("Location"), want, body)
		}
		if body := v.Page("/_webhooks/" + want); !strings.Contains(body, q) {
			t.Errorf("%s has no %s", want, q)
		}
	}
	for q, want := range map[string]string{
		"alice": "deliveries?client=user%20alice", "hooks.example": "pred_both", delivery[:len(delivery)-4]: delivery, "nothing-like-it": "Nothing found", "": "By the id of",
	} {
		if body := v.Page("/_webhooks/find?q=" + q); !strings.Contains(body, want) {
			t.Errorf("%q finds no %s:\n%s", q, want, body)
		}
	}
	for _, q := range []string{"q=%20", "q=a&q=b", "text=a", "q=" + strings.Repeat("a", 5000)} {
		if resp, body := v.Do(http.MethodGet, "/_webhooks/find?"+q, nil); resp.StatusCode != http.StatusBadRequest || !strings.Contains(body, "<main") {
			t.Errorf("%.20s is %d:\n%s", q, resp.StatusCode, body)
		}
	}
}
