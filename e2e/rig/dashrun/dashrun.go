// Package dashrun runs the dashboard for tests: a Caddy in this process with the
// dashboard behind a login, in front of an imitation of a prediction API, with a
// receiver of webhooks.
package dashrun

import (
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"

	_ "github.com/caddy-replicate/replicate-webhook"
	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/internal/fakeapi"
)

const (
	// User and Password are the login.
	User     = "operator"
	Password = "a password of the tests"
	// passwordHash is the output of caddy hash-password for Password, of the
	// lowest cost.
	passwordHash = "$2a$04$3P/PyA2dNDSFieIABqOjQecaJhkyv16n7tQeZWvKW5pH0F9HMsgEe"
	// SigningSecret signs what is delivered.
	SigningSecret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
)

// Site is a running Caddy. The dashboard is below /_webhooks/, at PORT1 behind a
// login and at PORT2 without one.
type Site struct {
	*caddyrun.Server
	T testing.TB
	// Receiver gets what is delivered.
	Receiver *caddyrun.App
	// Config is the Caddyfile text.
	Config string
}

// Start starts a site. The function before, if any, gets the path of the SQLite
// file before Caddy starts: see Seed.
func Start(t testing.TB, before func(path string)) *Site {
	t.Helper()
	t.Setenv("SIGNING_SECRET", SigningSecret)
	s := &Site{T: t, Receiver: caddyrun.NewApp(t)}
	upstream := caddyrun.NewApp(t)
	api := fakeapi.New(fakeapi.Options{})
	upstream.Answer(func(w http.ResponseWriter, r *caddyrun.Request) {
		r.Body = io.NopCloser(strings.NewReader(string(r.Got)))
		api.ServeHTTP(w, r.Request)
	})
	s.Server = caddyrun.New(t)
	if before != nil {
		before(s.Path("webhook.db"))
	}
	_, port, _ := strings.Cut(s.Receiver.Addr(), ":")
	s.Config = fmt.Sprintf(`{
	{$GLOBALS}
	replicate_webhook {
		store sqlite {$DIR}/webhook.db
		signing shared
		signing_secret {env.SIGNING_SECRET}
		poll 10ms 50ms
		retry {
			max_attempts 2
			initial_delay 20ms
			max_delay 50ms
		}
		endpoint {
			breaker 3 10m
		}
		egress {
			allow_http
			ports %s
			allow 127.0.0.0/8
		}
	}
}
http://127.0.0.1:{$PORT1} {
	basic_auth /_webhooks/* {
		%s %s
	}
	replicate_dashboard /_webhooks/*
	replicate_predictions /v1/* {
		api %s/v1
	}
	reverse_proxy /v1/* %s
	respond /another/* "another page"
	respond 404
}
# The dashboard without a login before it.
http://127.0.0.1:{$PORT2} {
	replicate_dashboard /_webhooks/*
	respond 404
}
`, port, User, passwordHash, upstream.URL, upstream.URL)
	s.Reload(s.Config)
	return s
}

// Create creates a prediction in test mode. Its two events go to the path of the
// receiver.
func (s *Site) Create(path string) {
	s.T.Helper()
	body := fmt.Sprintf(`{"version":"v1","input":{"prompt":"a cat"},"test_mode":true,"webhook_url":%q}`, s.Receiver.URL+path)
	req, err := http.NewRequest(http.MethodPost, s.URL("PORT1", "/v1/predictions"), strings.NewReader(body))
	if err != nil {
		s.T.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer r8_token")
	req.Header.Set("Content-Type", "application/json")
	resp, err := s.Client.Do(req)
	if err != nil {
		s.T.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		text, _ := io.ReadAll(resp.Body)
		s.T.Fatalf("creating: %d %s", resp.StatusCode, text)
	}
}

// Visitor is a browser without scripts: it has a login and keeps cookies.
type Visitor struct {
	*Site
	jar http.CookieJar
}

// Visitor returns a visitor without cookies.
func (s *Site) Visitor() *Visitor {
	jar, err := cookiejar.New(nil)
	if err != nil {
		s.T.Fatal(err)
	}
	return &Visitor{s, jar}
}

// Do sends a request with the login. Headers are pairs of name and value; an
// empty value removes the header.
func (v *Visitor) Do(method, path string, form url.Values, header ...string) (*http.Response, string) {
	v.T.Helper()
	req, err := http.NewRequest(method, v.URL("PORT1", path), strings.NewReader(form.Encode()))
	if err != nil {
		v.T.Fatal(err)
	}
	// The path is sent as it is spelled.
	if raw, _, _ := strings.Cut(path, "?"); req.URL.Path != raw {
		req.URL.Opaque = "//" + req.URL.Host + raw
	}
	req.SetBasicAuth(User, Password)
	for _, c := range v.jar.Cookies(req.URL) {
		req.AddCookie(c)
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Origin", v.URL("PORT1", ""))
		req.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Del(header[i])
		if header[i+1] != "" {
			req.Header.Set(header[i], header[i+1])
		}
	}
	resp, err := v.Client.Do(req)
	if err != nil {
		v.T.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		v.T.Fatal(err)
	}
	v.jar.SetCookies(req.URL, resp.Cookies())
	return resp, string(body)
}

// Page returns the body of a page, whose status must be 200.
func (v *Visitor) Page(path string) string {
	v.T.Helper()
	resp, body := v.Do(http.MethodGet, path, nil)
	if resp.StatusCode != http.StatusOK {
		v.T.Fatalf("GET %s is %d: %s", path, resp.StatusCode, body)
	}
	return body
}

var tokenInput = regexp.MustCompile(`name="token" value="([^"]*)"`)

// Token returns the token of a page's form.
func (v *Visitor) Token(path string) string {
	v.T.Helper()
	m := tokenInput.FindStringSubmatch(v.Page(path))
	if m == nil {
		v.T.Fatalf("%s has no form with a token", path)
	}
	return m[1]
}

var deliveryLink = regexp.MustCompile(`href="[./]*deliveries/([A-Za-z0-9_-]+)"`)

// FailedDelivery returns the id of the one delivery that failed.
func (v *Visitor) FailedDelivery() string {
	v.T.Helper()
	m := deliveryLink.FindStringSubmatch(v.Page("/_webhooks/deliveries?state=failed"))
	if m == nil {
		v.T.Fatal("no failed delivery is listed")
	}
	return m[1]
}
