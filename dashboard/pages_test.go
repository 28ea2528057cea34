package dashboard_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/dashrun"
)

// TestEmptyStates: where there is nothing yet, the pages say what to do.
func TestEmptyStates(t *testing.T) {
	v := dashrun.Start(t, nil).Visitor()
	for path, want := range map[string]string{
		"": "webhook_url", "deliveries": "replicate_predictions", "predictions": "webhook_url", "endpoints": "first attempt",
		"deliveries?state=failed": "No deliveries match", "predictions?id=x": "No predictions match",
	} {
		if body := v.Page("/_webhooks/" + path); !strings.Contains(body, want) {
			t.Errorf("%q does not say %s:\n%s", path, want, body)
		}
	}
}

// TestBadQueries: what can't be asked for is a page that says so.
func TestBadQueries(t *testing.T) {
	v := dashrun.Start(t, nil).Visitor()
	for path, status := range map[string]int{
		"deliveries?state=bogus": 400, "deliveries?limit=0": 400, "deliveries?cursor=%00": 400, "deliveries?state=failed&state=failed": 400,
		"deliveries?since=yesterday": 400, "deliveries?nonsense=1": 400, "deliveries?endpoint=ftp://x": 400, "predictions?status=x": 400,
		"deliveries/none": 404, "deliveries/none?again=<script>": 404, "?range=9h": 200, "?range=%00": 200, "deliveries?a;b": 200, "endpoints?reset=" + url.QueryEscape("<b>"): 200,
	} {
		resp, body := v.Do("GET", "/_webhooks/"+path, nil)
		if resp.StatusCode != status || !strings.Contains(body, "<main") || strings.Contains(body, "<script>") {
			t.Errorf("%s is %d, want %d:\n%s", path, resp.StatusCode, status, body)
		}
	}
}
