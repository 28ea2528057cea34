package admin_test

import (
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-replicate/replicate-webhook/admin/client"
	"github.com/caddy-replicate/replicate-webhook/e2e/rig/siterun"
	"github.com/caddy-replicate/replicate-webhook/internal/operator"
)

func deliveryQuery(state string) operator.DeliveryQuery { return operator.DeliveryQuery{State: state} }

func TestStatusCountsDeliveries(t *testing.T) {
	s := siterun.Start(t, siterun.Options{})
	st := s.Status()
	if st.API != operator.APIVersion || st.Store.Kind != "sqlite" || !st.Store.Ready || st.Deliveries != (operator.DeliveryCounts{}) {
		t.Fatalf("at the start: %+v", st)
	}
	s.Create("/hook")
	st = s.Settled(2)
	if st.Deliveries.Delivered != 2 || st.Attempts.Endpoints != 1 {
		t.Fatalf("in the end: %+v", st)
	}
}

// ask asks the admin endpoint for a path below the routes' base.
func ask(t *testing.T, s *siterun.Site, method, path string) *http.Response {
	t.Helper()
	req, err := http.NewRequest(method, "http://"+s.AdminAddr+"/replicate_webhook/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.URL.Opaque = "//" + s.AdminAddr + "/replicate_webhook/" + path
	answer, err := s.Client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, answer.Body)
	_ = answer.Body.Close()
	return answer
}

// TestMethods: only the one that a route has, and the answer says which.
func TestMethods(t *testing.T) {
	s := siterun.Start(t, siterun.Options{})
	for path, allowed := range map[string]string{
		"status": "GET", "predictions": "GET", "predictions/x": "GET", "deliveries": "GET", "deliveries/x": "GET",
		"deliveries/x/redeliver": "POST", "redeliver": "POST", "endpoints": "GET", "endpoints/reset": "POST", "secret": "GET",
	} {
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"} {
			if method == allowed {
				continue
			}
			resp := ask(t, s, method, path)
			if resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") != allowed {
				t.Errorf("%s %s: %d, Allow %q", method, path, resp.StatusCode, resp.Header.Get("Allow"))
			}
		}
	}
	for _, path := range []string{"", "nonsense", "deliveries/", "deliveries/a/b", "predictions/", "predictions/a/b/c", "status/x", "deliveries/%zz", "deliveries/%2e%2e/x"} {
		if resp := ask(t, s, "GET", path); resp.StatusCode != http.StatusNotFound && resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
}

// TestBrowsersGetNothing: Caddy's own guard of the admin endpoint holds for
// these routes.
func TestBrowsersGetNothing(t *testing.T) {
	s := siterun.Start(t, siterun.Options{})
	req, err := http.NewRequest(http.MethodGet, "http://"+s.AdminAddr+"/replicate_webhook/secret", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Origin", "https://evil.example.com")
	req.Header.Set("Sec-Fetch-Mode", "cors")
	resp, err := s.Client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("status %d", resp.StatusCode)
	}
}

// TestUnixSocket tests the admin endpoint on a Unix socket.
func TestUnixSocket(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "a.sock")
	s := siterun.Start(t, siterun.Options{})
	s.Reload(strings.Replace(s.Expand(s.Config(siterun.Options{})), "admin "+s.AdminAddr, "admin unix/"+socket+"|0220", 1))
	c, err := client.New("unix/" + socket + "|0220")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if st, err := c.Status(t.Context()); err != nil || !st.Store.Ready {
		t.Errorf("status %+v, %v", st, err)
	}
	if _, err := c.Delivery(t.Context(), "dlv_none"); !errors.Is(err, operator.ErrNotFound) || errors.Is(err, operator.ErrDisabled) {
		t.Errorf("finding what is not there: %v", err)
	}
}
