package dashboard_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/dashrun"
)

// TestManyAreChangedAfterAPreview: what a list selects is redelivered or replayed
// together. The preview says how many and changes nothing, and the form is this page's.
func TestManyAreChangedAfterAPreview(t *testing.T) {
	s := dashrun.Start(t, func(path string) {
		withEvents(t)(path)
		dashrun.SeedEvents(t, path, []dashrun.EventRow{{Scope: "shop", Name: "prediction.failed", Prediction: "pred_lost_2", Statuses: []int{500}}})
		dashrun.OneFailed(t)(path)
	})
	v := s.Visitor()
	for _, c := range []struct{ page, list, fields, want, state string }{
		{"deliveries/redeliver?client=alice", "deliveries?client=alice", "client=alice", "<b>1</b> would be changed", "deliveries?state=failed"},
		{"events/replay?scope=shop", "events?scope=shop", "scope=shop", "<b>2</b> would be changed", "events?state=failed"},
		{"events/retry?state=waiting&scope=blog", "events?scope=blog&state=waiting", "state=waiting&scope=blog", "<b>1</b> would be changed", ""},
		{"events/discard?state=waiting&scope=blog", "events?scope=blog&state=waiting", "state=waiting&scope=blog", "<b>1</b> would be changed", ""},
	} {
		before := v.Page("/_webhooks/" + c.list)
		page := v.Page("/_webhooks/" + c.page)
		if !strings.Contains(page, c.want) {
			t.Errorf("%s does not say %s:\n%s", c.page, c.want, page)
		}
		if after := v.Page("/_webhooks/" + c.list); strings.Count(after, `id="row-`) != strings.Count(before, `id="row-`) {
			t.Errorf("%s changed something", c.page)
		}
		path, _, _ := strings.Cut(c.page, "?")
		form, err := url.ParseQuery(c.fields)
		if err != nil {
			t.Fatal(err)
		}
		if resp, _ := v.Do(http.MethodPost, "/_webhooks/"+path, form); resp.StatusCode != http.StatusForbidden {
			t.Errorf("%s without a token is %d", path, resp.StatusCode)
		}
		form.Set("token", v.Token("/_webhooks/"+c.page))
		resp, body := v.Do(http.MethodPost, "/_webhooks/"+path, form)
		to := resp.Header.Get("Location")
		if resp.StatusCode != http.StatusSeeOther || !strings.Contains(to, "finished=true") {
			t.Fatalf("%s is %d %q:\n%s", path, resp.StatusCode, to, body)
		}
		list, _, _ := strings.Cut(path, "/")
		if page := v.Page("/_webhooks/" + list + "/" + to); !strings.Contains(page, "done. That was all.") {
			t.Errorf("%s:\n%s", to, page)
		}
	}
	if oneEvent(v, "state=discarded") == "" {
		t.Error("nothing was discarded")
	}
	for path, want := range map[string]int{"deliveries/redeliver?state=pending": 400, "events/replay?state=waiting": 400, "events/discard?state=failed": 400, "events/retry?color=red": 400, "deliveries/redeliver?done=x": 200} {
		if resp, body := v.Do(http.MethodGet, "/_webhooks/"+path, nil); resp.StatusCode != want {
			t.Errorf("%s is %d, want %d:\n%s", path, resp.StatusCode, want, body)
		}
	}
}
