package dashboard_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	_ "github.com/caddy-replicate/replicate-webhook"
	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/internal/fakeapi"
)

const (
	user     = "operator"
	password = "a password of the tests"
)

// site is a Caddy with a dashboard behind a login, before a prediction API.
type site struct {
	*caddyrun.Server
	t testing.TB
	// receiver gets what is delivered.
	receiver *caddyrun.App
	upstream *caddyrun.App
	config   string
}

// start runs a site. More of a store may be there before: see seed.
func start(t testing.TB, before func(path string)) *site {
	t.Helper()
	t.Setenv("SIGNING_SECRET", signingSecret)
	s := &site{t: t, receiver: caddyrun.NewApp(t), upstream: caddyrun.NewApp(t)}
	api := fakeapi.New(fakeapi.Options{})
	s.upstream.Answer(func(w http.ResponseWriter, r *caddyrun.Request) {
		r.Body = io.NopCloser(strings.NewReader(string(r.Got)))
		api.ServeHTTP(w, r.Request)
	})
	s.Server = caddyrun.New(t)
	if before != nil {
		before(s.Path("webhook.db"))
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := strings.Cut(s.receiver.Addr(), ":")
	s.config = fmt.Sprintf(`{
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
# The same without a login before it.
http://127.0.0.1:{$PORT2} {
	replicate_dashboard /_webhooks/*
	respond 404
}
`, port, user, strings.ReplaceAll(string(hash), "$", "$"), s.upstream.URL, s.upstream.URL)
	s.Reload(s.config)
	return s
}

const signingSecret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"

// create makes a prediction in test mode, whose two events go to the receiver.
func (s *site) create(path string) {
	s.t.Helper()
	body := fmt.Sprintf(`{"version":"v1","input":{"prompt":"a cat"},"test_mode":true,"webhook_url":%q}`, s.receiver.URL+path)
	req, err := http.NewRequest(http.MethodPost, s.URL("PORT1", "/v1/predictions"), strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer r8_token")
	req.Header.Set("Content-Type", "application/json")
	resp, err := s.Client.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		text, _ := io.ReadAll(resp.Body)
		s.t.Fatalf("creating: %d %s", resp.StatusCode, text)
	}
}

// visitor is a browser without scripts: it has a login and keeps cookies.
type visitor struct {
	*site
	jar http.CookieJar
}

func (s *site) visitor() *visitor {
	jar, err := cookiejar.New(nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return &visitor{s, jar}
}

// do sends a request with the login. Headers are pairs; an empty value takes a
// header away.
func (v *visitor) do(method, path string, form url.Values, header ...string) (*http.Response, string) {
	v.t.Helper()
	req, err := http.NewRequest(method, v.URL("PORT1", path), strings.NewReader(form.Encode()))
	if err != nil {
		v.t.Fatal(err)
	}
	// What is tried is what is sent.
	if raw, _, _ := strings.Cut(path, "?"); req.URL.Path != raw {
		req.URL.Opaque = "//" + req.URL.Host + raw
	}
	req.SetBasicAuth(user, password)
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
		v.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		v.t.Fatal(err)
	}
	v.jar.SetCookies(req.URL, resp.Cookies())
	return resp, string(body)
}

// page gets a page that must be there.
func (v *visitor) page(path string) string {
	v.t.Helper()
	resp, body := v.do(http.MethodGet, path, nil)
	if resp.StatusCode != http.StatusOK {
		v.t.Fatalf("GET %s is %d: %s", path, resp.StatusCode, body)
	}
	return body
}

var tokenInput = regexp.MustCompile(`name="token" value="([^"]*)"`)

// token is the one in a page's form.
func (v *visitor) token(path string) string {
	v.t.Helper()
	m := tokenInput.FindStringSubmatch(v.page(path))
	if m == nil {
		v.t.Fatalf("%s has no form with a token", path)
	}
	return m[1]
}
