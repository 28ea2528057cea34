package dashboard_test

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/dashrun"
)

// pages returns the paths of all pages.
func pages(v *dashrun.Visitor) []string {
	return []string{"/_webhooks/", "/_webhooks/deliveries", "/_webhooks/deliveries/" + v.FailedDelivery(), "/_webhooks/predictions", "/_webhooks/endpoints", "/_webhooks/events"}
}

// TestHeaders: nothing may frame the pages, and they may load and run nothing
// but what the handler serves. Refusals have the same headers.
func TestHeaders(t *testing.T) {
	v := dashrun.Start(t, dashrun.OneFailed(t)).Visitor()
	for _, path := range append(pages(v), "/_webhooks/prediction?id=pred_failed", "/_webhooks/endpoint?endpoint=hooks.example.com", "/_webhooks/none", "/_webhooks/assets/app.css", "/_webhooks/deliveries?state=x") {
		resp, body := v.Do(http.MethodGet, path, nil)
		csp := resp.Header.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "script-src 'self';", "style-src 'self';", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"} {
			if !strings.Contains(csp, want) {
				t.Errorf("%s: the policy %q has no %s", path, csp, want)
			}
		}
		if strings.Contains(csp, "unsafe") {
			t.Errorf("%s: the policy is %q", path, csp)
		}
		if resp.Header.Get("X-Frame-Options") != "DENY" || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: headers %v", path, resp.Header)
		}
		if regexp.MustCompile(`(?i)\sstyle=|\son[a-z]+=|<style|<script>|(src|href|action)="(https?:)?//`).MatchString(body) && strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") {
			t.Errorf("%s has something inline or from elsewhere:\n%s", path, body)
		}
	}
}

// TestSignedOut: without a user there is nothing, on no spelling of any path.
func TestSignedOut(t *testing.T) {
	s := dashrun.Start(t, dashrun.OneFailed(t))
	v := s.Visitor()
	for _, path := range append(pages(v), "/_webhooks/prediction", "/_webhooks/endpoint", "/_webhooks/inbox", "/_webhooks/inbox/pause", "/_webhooks/events/evt_1/replay", "/_webhooks/deliveries/dlv_1/payload", "/_webhooks/live", "/_webhooks/assets/app.js", "/_webhooks/none", "/_webhooks/endpoints/reset") {
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodHead} {
			if resp, _ := v.Do(method, path, nil, "Authorization", ""); resp.StatusCode != http.StatusUnauthorized {
				t.Errorf("%s %s without a login: %d", method, path, resp.StatusCode)
			}
			// Where no login is asked for, nobody is signed in.
			req, err := http.NewRequest(method, s.URL("PORT2", path), nil)
			if err != nil {
				t.Fatal(err)
			}
			req.SetBasicAuth(dashrun.User, dashrun.Password)
			resp, err := s.Client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusForbidden {
				t.Errorf("%s %s where no login is asked for: %d", method, path, resp.StatusCode)
			}
		}
	}
}

// TestPathTricks: each page has one path. No other spelling of it is answered,
// and none gets out of the prefix.
func TestPathTricks(t *testing.T) {
	v := dashrun.Start(t, dashrun.OneFailed(t)).Visitor()
	id := v.FailedDelivery()
	for _, path := range []string{
		"/_webhooks//", "/_webhooks/./", "/_webhooks/../_webhooks/", "/_webhooks/%2e%2e/", "/_webhooks/%2e/deliveries", "/_webhooks/deliveries/",
		"/_webhooks/deliveries//" + id, "/_webhooks/deliveries/../endpoints", "/_webhooks/deliveries%2f" + id, "/_webhooks/deliveries/%2e%2e%2fendpoints",
		"/_webhooks/d%65liveries", "/_webhooks/deliveries;x=1", "/_webhooks/deliveries/" + id + "/", "/_webhooks/deliveries/" + id + "%00", "/_webhooks\\deliveries",
		"/_webhooks/deliveries/" + id + "/redeliver/", "/_webhooks/assets/../app.css", "/_webhooks/assets/%2e%2e/handler.go", "/_webhooks/assets/idiomorph.LICENSE", "/_webhooks/assets/",
		"/_WEBHOOKS/deliveries", "/_webhooks/Deliveries", "/_webhooks/%5f", "/%5fwebhooks/deliveries", "/x/../_webhooks/deliveries", "/_webhooks/deliveries/" + strings.Repeat("a", 200),
		"/_webhooks/..%2f..%2fetc%2fpasswd", "/_webhooks/live/", "/_webhooks/templates/base.html",
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			if resp, body := v.Do(method, path, nil); resp.StatusCode != http.StatusNotFound {
				t.Errorf("%s %s is %d: %.200s", method, path, resp.StatusCode, body)
			}
		}
	}
	// The prefix without its slash leads to the page.
	if resp, _ := v.Do(http.MethodGet, "/_webhooks", nil, "Authorization", ""); resp.StatusCode != http.StatusMovedPermanently || resp.Header.Get("Location") != "./_webhooks/" {
		t.Errorf("the prefix alone: %d %q", resp.StatusCode, resp.Header.Get("Location"))
	}
	for path, method := range map[string]string{"/_webhooks/": "POST", "/_webhooks/deliveries": "PUT", "/_webhooks/endpoints/reset": "GET", "/_webhooks/deliveries/" + id + "/redeliver": "GET", "/_webhooks/live": "POST"} {
		if resp, _ := v.Do(method, path, nil); resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") == "" {
			t.Errorf("%s %s is %d, Allow %q", method, path, resp.StatusCode, resp.Header.Get("Allow"))
		}
	}
}

// TestCrossSite: nothing is changed for another site, whatever the browser
// tells of it, nor without the token of this browser's own page.
func TestCrossSite(t *testing.T) {
	s := dashrun.Start(t, dashrun.OneFailed(t))
	v := s.Visitor()
	id := v.FailedDelivery()
	page, do := "/_webhooks/deliveries/"+id, "/_webhooks/deliveries/"+id+"/redeliver"
	form := url.Values{"token": {v.Token(page)}}
	other := s.Visitor()
	foreign := url.Values{"token": {other.Token(page)}}
	own := s.URL("PORT1", "")
	before := strings.Count(v.Page("/_webhooks/deliveries"), `id="row-`)
	for name, try := range map[string]struct {
		form   url.Values
		header []string
	}{
		"another site says Sec-Fetch-Site":  {form, []string{"Sec-Fetch-Site", "cross-site"}},
		"a sibling host":                    {form, []string{"Sec-Fetch-Site", "same-site"}},
		"another origin":                    {form, []string{"Sec-Fetch-Site", "", "Origin", "https://evil.example"}},
		"another port of this host":         {form, []string{"Sec-Fetch-Site", "", "Origin", "http://127.0.0.1:1"}},
		"an opaque origin":                  {form, []string{"Sec-Fetch-Site", "", "Origin", "null"}},
		"an origin that begins like ours":   {form, []string{"Sec-Fetch-Site", "", "Origin", own + ".evil.example"}},
		"an origin that is no URL":          {form, []string{"Sec-Fetch-Site", "", "Origin", "://"}},
		"no token":                          {nil, nil},
		"an empty token":                    {url.Values{"token": {""}}, nil},
		"another browser's token":           {foreign, nil},
		"a token without its cookie":        {form, []string{"Cookie", ""}},
		"two cookies":                       {form, []string{"Cookie", "replicate_dashboard=a; replicate_dashboard=b"}},
		"a body that is no form":            {form, []string{"Content-Type", "text/plain"}},
		"a body that is JSON":               {form, []string{"Content-Type", "application/json"}},
		"neither header nor token, a robot": {nil, []string{"Sec-Fetch-Site", "", "Origin", ""}},
	} {
		if resp, body := v.Do(http.MethodPost, do, try.form, try.header...); resp.StatusCode != http.StatusForbidden {
			t.Errorf("%s: %d %s", name, resp.StatusCode, body)
		}
	}
	// The token counts in the body only: addresses are logged and shared.
	if resp, _ := v.Do(http.MethodPost, do+"?"+form.Encode(), nil); resp.StatusCode != http.StatusForbidden {
		t.Errorf("a token in the address: %d", resp.StatusCode)
	}
	if resp, _ := v.Do(http.MethodPost, "/_webhooks/endpoints/reset", url.Values{"endpoint": {"https://hooks.example.com"}}); resp.StatusCode != http.StatusForbidden {
		t.Errorf("reset without a token: %d", resp.StatusCode)
	}
	if after := strings.Count(v.Page("/_webhooks/deliveries"), `id="row-`); after != before {
		t.Fatalf("%d deliveries became %d", before, after)
	}
	resp, body := v.Do(http.MethodPost, do, form)
	if resp.StatusCode != http.StatusSeeOther {
		t.Fatalf("the page's own form: %d %s", resp.StatusCode, body)
	}
	if after := strings.Count(v.Page("/_webhooks/deliveries"), `id="row-`); after != before+1 {
		t.Fatalf("%d deliveries became %d", before, after)
	}
}

// TestToken: the form has the cookie's token, in other bytes each time, and the
// cookie is for nobody else.
func TestToken(t *testing.T) {
	v := dashrun.Start(t, dashrun.OneFailed(t)).Visitor()
	page := "/_webhooks/deliveries/" + v.FailedDelivery()
	resp, _ := v.Do(http.MethodGet, page, nil)
	cookies := resp.Cookies()
	if len(cookies) != 1 || !cookies[0].HttpOnly || cookies[0].SameSite != http.SameSiteStrictMode {
		t.Fatalf("cookies %v", cookies)
	}
	first, second := v.Token(page), v.Token(page)
	if first == second || strings.Contains(first, cookies[0].Value) {
		t.Errorf("tokens %s and %s of the cookie %s", first, second, cookies[0].Value)
	}
	if resp, _ := v.Do(http.MethodGet, page, nil); len(resp.Cookies()) != 0 {
		t.Errorf("a browser that has a cookie gets another: %v", resp.Cookies())
	}
}
