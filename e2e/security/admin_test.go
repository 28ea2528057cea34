package security_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/siterun"
)

// TestAdminEndpointRefusesWebPages: a page that an operator has open can neither
// read from the admin endpoint nor have it do anything, and neither can one whose
// name has been made to resolve to it.
func TestAdminEndpointRefusesWebPages(t *testing.T) {
	s := siterun.Start(t, siterun.Options{})
	s.Create("/hook")
	s.Settled(2)
	before := s.Hook.Count()
	for name, page := range map[string]http.Header{
		"another origin":         {"Origin": {"https://evil.example"}},
		"no origin":              {"Origin": {"null"}},
		"a form of another site": {"Origin": {"https://evil.example"}, "Sec-Fetch-Site": {"cross-site"}, "Sec-Fetch-Mode": {"navigate"}, "Content-Type": {"application/x-www-form-urlencoded"}},
		"an image":               {"Sec-Fetch-Site": {"cross-site"}, "Sec-Fetch-Mode": {"no-cors"}, "Sec-Fetch-Dest": {"image"}},
		"a name that resolves":   {"Host": {"evil.example"}},
	} {
		for _, c := range []struct{ method, path string }{
			{http.MethodGet, "status"}, {http.MethodGet, "secret"}, {http.MethodGet, "deliveries"},
			{http.MethodPost, "redeliver?state=delivered"}, {http.MethodPost, "endpoints/reset?endpoint=" + s.Hook.URL},
		} {
			r := must(http.NewRequest(c.method, "http://"+s.AdminAddr+"/replicate_webhook/"+c.path, strings.NewReader("")))
			r.Header = page.Clone()
			r.Host = page.Get("Host")
			a, err := do(s.Client, r)
			if err != nil {
				t.Fatal(err)
			}
			if a.status != http.StatusForbidden && a.status != http.StatusBadRequest || strings.Contains(a.body, "whsec_") {
				t.Errorf("%s: %s %s got %v, want 403 or 400", name, c.method, c.path, a)
			}
		}
	}
	s.Settled(2)
	if n := s.Hook.Count() - before; n != 0 {
		t.Errorf("a page had %d requests sent", n)
	}
}

// TestAdminEndpointTakesNoNonsense: whatever a path, a method or a parameter
// says, the answer is a 4xx and nothing is changed; and of the ways to ask for a
// secret one gives it, which nothing may keep.
func TestAdminEndpointTakesNoNonsense(t *testing.T) {
	s := siterun.Start(t, siterun.Options{})
	id := s.Create("/hook")
	before := s.Settled(2)
	long := strings.Repeat("a", 4000)
	for _, c := range []struct{ method, path string }{
		{http.MethodGet, "redeliver"}, {http.MethodPost, "status"}, {http.MethodDelete, "predictions/" + id}, {http.MethodPut, "deliveries/x"}, {http.MethodGet, "deliveries/x/redeliver"},
		{http.MethodPost, "redeliver?state=everything"}, {http.MethodPost, "redeliver?state=failed&state=delivered"}, {http.MethodPost, "redeliver?all=true"}, {http.MethodPost, "redeliver?since=yesterdayish"},
		{http.MethodPost, "deliveries/nothing/redeliver"}, {http.MethodPost, "deliveries/%00/redeliver"}, {http.MethodPost, "deliveries/" + long + "/redeliver"}, {http.MethodPost, "endpoints/reset"}, {http.MethodPost, "endpoints/reset?endpoint=x"},
		{http.MethodGet, "predictions?limit=-1"}, {http.MethodGet, "predictions?limit=1e9"}, {http.MethodGet, "predictions?limit=99999999999999999999"}, {http.MethodGet, "predictions?cursor=%00"}, {http.MethodGet, "predictions?cursor=-5"},
		{http.MethodGet, "predictions?status=<script>alert(1)</script>"}, {http.MethodGet, "deliveries?state='%20OR%201=1"}, {http.MethodGet, "deliveries?event=x"}, {http.MethodGet, "deliveries?nothing=x"},
		{http.MethodGet, "predictions/" + id + "'--"}, {http.MethodGet, "predictions/%2e%2e%2fsecret"}, {http.MethodGet, "predictions/" + long}, {http.MethodGet, "predictions/" + id + "/secret"}, {http.MethodGet, "secret/"}, {http.MethodGet, "%73ecret"}, {http.MethodGet, ""},
		{http.MethodGet, "events/replay"}, {http.MethodPost, "events"}, {http.MethodGet, "events/x/replay"}, {http.MethodPost, "events/x/replay"}, {http.MethodPost, "events/x/request"}, {http.MethodGet, "events/x/request"}, {http.MethodGet, "events/" + long},
		{http.MethodPost, "events/discard?state=failed"}, {http.MethodPost, "events/discard?state=waiting&state=failed"}, {http.MethodPost, "events/replay?dry_run=1"}, {http.MethodGet, "events?endpoint=x"}, {http.MethodGet, "events?state=pending"},
		{http.MethodPost, "inbox/pause"}, {http.MethodPost, "inbox/pause?scope=nothing"}, {http.MethodPost, "inbox/resume?scope=%00"}, {http.MethodGet, "inbox/pause?scope=default"}, {http.MethodGet, "inbox?x=1"},
		{http.MethodGet, "status?x=1"}, {http.MethodGet, "secret?client=a&client=b"}, {http.MethodGet, "deliveries?%zz"},
	} {
		r := must(http.NewRequest(c.method, "http://"+s.AdminAddr+"/replicate_webhook/", nil))
		r.URL.Opaque = "/replicate_webhook/" + strings.NewReplacer(" ", "%20", "<", "%3C", ">", "%3E", "'", "%27").Replace(strings.SplitN(c.path, "?", 2)[0])
		if _, query, ok := strings.Cut(c.path, "?"); ok {
			r.URL.RawQuery = strings.NewReplacer("<", "%3C", ">", "%3E").Replace(query)
		}
		a, err := do(s.Client, r)
		if err != nil {
			t.Fatalf("%s %s: %v", c.method, c.path, err)
		}
		if a.status < 400 || a.status > 499 || strings.Contains(a.body, "whsec_") {
			t.Errorf("%s %s: got %v, want 4xx", c.method, c.path, a)
		}
		if ct := a.header.Get("Content-Type"); strings.Contains(ct, "html") {
			t.Errorf("%s %s: the answer is %s", c.method, c.path, ct)
		}
	}
	after := s.Status()
	if after.Deliveries != before.Deliveries || s.Hook.Count() != 2 {
		t.Errorf("something was changed: %+v became %+v, and %d requests were sent", before.Deliveries, after.Deliveries, s.Hook.Count())
	}
	a, err := do(s.Client, must(http.NewRequest(http.MethodGet, fmt.Sprintf("http://%s/replicate_webhook/secret?client=%s%s", s.AdminAddr, strings.ReplaceAll(s.APIURL(), "/", "%2F"), "%20user%2Ftester"), nil)))
	if err != nil || a.status != http.StatusOK || !strings.Contains(a.body, "whsec_") || a.header.Get("Cache-Control") != "no-store" {
		t.Errorf("the secret: got %d with Cache-Control %q, %v", a.status, a.header.Get("Cache-Control"), err)
	}
}
