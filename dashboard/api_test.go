package dashboard_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/dashrun"
)

// TestAPI: what the pages show is there as JSON, to read, for those who are
// signed in.
func TestAPI(t *testing.T) {
	s := dashrun.Start(t, dashrun.OneFailed(t))
	v := s.Visitor()
	get := func(path string, status int) map[string]any {
		t.Helper()
		resp, body := v.Do(http.MethodGet, "/_webhooks/api/"+path, nil)
		var doc map[string]any
		if err := json.Unmarshal([]byte(body), &doc); err != nil || resp.StatusCode != status ||
			resp.Header.Get("Content-Type") != "application/json" || resp.Header.Get("Cache-Control") != "no-store" {
			t.Fatalf("GET %s is %d %v %s (%v), want %d", path, resp.StatusCode, resp.Header, body, err, status)
		}
		if strings.Contains(body, dashrun.SigningSecret) {
			t.Fatalf("GET %s tells the secret: %s", path, body)
		}
		return doc
	}
	id := v.FailedDelivery()
	if c := get("status", http.StatusOK)["deliveries"].(map[string]any); c["failed"] != 1.0 {
		t.Fatalf("the status counts %v", c)
	}
	rows := get("deliveries?state=failed", http.StatusOK)["results"].([]any)
	if len(rows) != 1 || rows[0].(map[string]any)["id"] != id {
		t.Fatalf("the failed deliveries are %v", rows)
	}
	one := get("deliveries/"+id, http.StatusOK)
	if len(one["log"].([]any)) == 0 || one["payload"] == nil {
		t.Fatalf("the delivery is %v", one)
	}
	prediction := one["prediction"].(string)
	if rows := get("predictions?id="+prediction, http.StatusOK)["results"].([]any); len(rows) != 1 {
		t.Fatalf("the predictions are %v", rows)
	}
	if p := get("predictions/"+prediction, http.StatusOK); p["id"] != prediction {
		t.Fatalf("the prediction is %v", p)
	}
	if e := get("endpoints", http.StatusOK); e["results"] == nil {
		t.Fatalf("the endpoints are %v", e)
	}
	for path, status := range map[string]int{
		"deliveries?state=lost": http.StatusBadRequest, "deliveries?cursor=-": http.StatusBadRequest, "predictions?none=1": http.StatusBadRequest,
		"deliveries/dlv_none": http.StatusNotFound, "predictions/none": http.StatusNotFound,
	} {
		if get(path, status)["error"] == "" {
			t.Errorf("%s: no error is told", path)
		}
	}
	for _, path := range []string{"", "status/", "secret", "deliveries/" + id + "/redeliver", "endpoints/reset", "deliveries//", "../api/status", "%73tatus"} {
		if resp, body := v.Do(http.MethodGet, "/_webhooks/api/"+path, nil); resp.StatusCode != http.StatusNotFound {
			t.Errorf("GET api/%s is %d: %s", path, resp.StatusCode, body)
		}
	}
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete} {
		if resp, _ := v.Do(method, "/_webhooks/api/status", nil); resp.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("%s is %d", method, resp.StatusCode)
		}
	}
	if resp, body := v.Do(http.MethodGet, "/_webhooks/api/status", nil, "Authorization", ""); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("without a login: %d %s", resp.StatusCode, body)
	}
	resp, err := s.Client.Get(s.URL("PORT2", "/_webhooks/api/status"))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("where no login is asked for: %d", resp.StatusCode)
	}
}
