package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

const apiURL = "https://api.test/v1"

var api = API{URL: apiURL}

// imitation is a prediction API in memory, without connections, so that a
// synctest bubble can wait for it.
type imitation struct {
	mu       sync.Mutex
	answer   http.HandlerFunc
	requests int
}

func (a *imitation) answers(f http.HandlerFunc) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answer = f
}

func (a *imitation) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.requests
}

// RoundTrip responds without a connection. A handler that hangs does so until the
// request is cancelled.
func (a *imitation) RoundTrip(r *http.Request) (*http.Response, error) {
	a.mu.Lock()
	a.requests++
	answer := a.answer
	a.mu.Unlock()
	w := httptest.NewRecorder()
	done := make(chan struct{})
	go func() {
		defer close(done)
		answer(w, r)
	}()
	select {
	case <-done:
		return w.Result(), nil
	case <-r.Context().Done():
		<-done
		return nil, r.Context().Err()
	}
}

// newImitation returns a client of an API that responds with a handler.
func newImitation(answer http.HandlerFunc) (*Client, *imitation) {
	a := &imitation{answer: answer}
	return New(&http.Client{Transport: a}), a
}

func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

func text(s string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, s) }
}

func headers(pairs ...string) http.Header {
	h := make(http.Header)
	for i := 0; i < len(pairs); i += 2 {
		h.Add(pairs[i], pairs[i+1])
	}
	return h
}

// realAPI serves a handler on loopback.
func realAPI(t *testing.T, h http.HandlerFunc) API {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return API{URL: s.URL + "/v1"}
}

// overHTTP returns a client that uses connections.
func overHTTP() *Client { return New(&http.Client{Timeout: 2 * time.Second}) }

func TestCallerIsTheAccount(t *testing.T) {
	client := overHTTP()
	var got http.Header
	api := realAPI(t, func(rw http.ResponseWriter, r *http.Request) {
		got = r.Header
		if r.Method != http.MethodGet || r.URL.Path != "/v1/account" {
			t.Errorf("%s %s", r.Method, r.URL)
		}
		_, _ = io.WriteString(rw, `{"type":"organization","username":"acme / co","name":"x"}`+"\n")
	})
	c, err := client.Identify(t.Context(), api, headers("Authorization", "Bearer r8_x", "User-Agent", "ua/1", "Cookie", "c", "X-Forwarded-For", "1.2.3.4", "Accept", "x"))
	if err != nil {
		t.Fatal(err)
	}
	if want := api.URL + " organization/acme%20%2F%20co"; c.Identity != want || c.Authorization != "Bearer r8_x" || c.UserAgent != "ua/1" {
		t.Errorf("got %s, want %s", c.Identity, want)
	}
	got.Del("Accept-Encoding") // net/http's own
	if len(got) != 2 || got.Get("Authorization") != "Bearer r8_x" || got.Get("User-Agent") != "ua/1" {
		t.Errorf("asked with %v", got)
	}
}

// asking are the questions to an API on behalf of a caller.
var asking = map[string]func(*Client, context.Context, API) error{
	"Identify": func(c *Client, ctx context.Context, api API) error {
		_, err := c.Identify(ctx, api, headers("Authorization", "Bearer r8_x"))
		return err
	},
	"CheckAccount": func(c *Client, ctx context.Context, api API) error {
		return c.CheckAccount(ctx, api, headers("Authorization", "Bearer r8_x"))
	},
	"CheckPrediction": func(c *Client, ctx context.Context, api API) error {
		return c.CheckPrediction(ctx, api, headers("Authorization", "Bearer r8_x"), "/predictions/p", "p")
	},
	"FetchPrediction": func(c *Client, ctx context.Context, api API) error {
		_, err := c.FetchPrediction(ctx, api, headers("Authorization", "Bearer r8_x"), "/predictions/p", "p", nil)
		return err
	},
}

func TestRefusalsArePassedBack(t *testing.T) {
	for _, status := range []int{400, 401, 402, 403, 404, 410, 418, 429, 451, 499} {
		api := realAPI(t, func(rw http.ResponseWriter, _ *http.Request) {
			h := rw.Header()
			h.Set("Content-Type", "application/problem+json")
			h.Set("Retry-After", "7")
			h.Set("WWW-Authenticate", "Bearer")
			h.Set("Set-Cookie", "x=y")
			h.Set("X-Internal", "x")
			rw.WriteHeader(status)
			_, _ = io.WriteString(rw, `{"detail":"no"}`+strings.Repeat(" ", 100<<10))
		})
		for name, ask := range asking {
			t.Run(fmt.Sprint(name, " ", status), func(t *testing.T) {
				err := ask(overHTTP(), t.Context(), api)
				if name == "Identify" && status == 404 {
					if err != nil {
						t.Errorf("an API without accounts: %v", err)
					}
					return
				}
				var r *Refusal
				if !errors.As(err, &r) || r.Status != status || len(r.Body) != 64<<10 || !strings.HasPrefix(string(r.Body), `{"detail":"no"}`) {
					t.Fatalf("got %v", err)
				}
				if len(r.Header) != 3 || r.Header.Get("Retry-After") != "7" || r.Header.Get("WWW-Authenticate") != "Bearer" || r.Header.Get("Content-Type") != "application/problem+json" {
					t.Errorf("passed back %v", r.Header)
				}
			})
		}
	}
}

func TestAnythingElseIsTheUpstreamsFault(t *testing.T) {
	var leaked atomic.Int32
	elsewhere := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		leaked.Add(1)
		_, _ = io.WriteString(rw, `{"id":"p","username":"u"}`)
	}))
	defer elsewhere.Close()
	for name, answer := range map[string]http.HandlerFunc{
		"500":        status(500),
		"503":        status(503),
		"599":        status(599),
		"201":        text201(`{"id":"p","username":"u"}`),
		"204":        status(204),
		"301":        func(rw http.ResponseWriter, r *http.Request) { http.Redirect(rw, r, elsewhere.URL, 301) },
		"302":        func(rw http.ResponseWriter, r *http.Request) { http.Redirect(rw, r, elsewhere.URL, 302) },
		"307 to own": func(rw http.ResponseWriter, r *http.Request) { http.Redirect(rw, r, "/v1/other", 307) },
		"empty":      text(""),
		"markup":     text("<html></html>"),
		"array":      text(`[{"id":"p","username":"u"}]`),
		"string":     text(`"p"`),
		"null":       text(`null`),
		"no members": text(`{}`),
		"types":      text(`{"id":["p"],"username":7}`),
		"empty ones": text(`{"id":"","username":""}`),
		"others":     text(`{"id":"q","user":"u"}`),
		"nested":     text(`{"prediction":{"id":"p"},"account":{"username":"u"}}`),
		"cut short":  text(`{"id":"p","username":"u"`),
		"more":       text(`{"id":"p","username":"u"}{}`),
		"reset": func(rw http.ResponseWriter, _ *http.Request) {
			c, _, _ := rw.(http.Hijacker).Hijack()
			_ = c.(*net.TCPConn).SetLinger(0)
			_ = c.Close()
		},
		"shorter than it says": func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(rw, `{"id":"p","username":"u"}`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			api := realAPI(t, answer)
			for who, ask := range asking {
				err := ask(overHTTP(), t.Context(), api)
				var r *Refusal
				if !errors.Is(err, ErrFailed) || errors.As(err, &r) || strings.Contains(err.Error(), "r8_x") {
					t.Errorf("%s: %v", who, err)
				}
			}
		})
	}
	if leaked.Load() != 0 {
		t.Error("a redirect was followed")
	}
}

func text201(s string) http.HandlerFunc {
	return func(rw http.ResponseWriter, _ *http.Request) {
		rw.WriteHeader(201)
		_, _ = io.WriteString(rw, s)
	}
}

func TestSilentAPI(t *testing.T) {
	for name, ask := range asking {
		synctest.Test(t, func(t *testing.T) {
			client, _ := newImitation(hang)
			start := time.Now()
			if err := ask(client, t.Context(), api); !errors.Is(err, ErrFailed) || time.Since(start) != requestTimeout {
				t.Errorf("%s: %v after %s", name, err, time.Since(start))
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			start = time.Now()
			if err := ask(client, ctx, api); err == nil || time.Since(start) != time.Second {
				t.Errorf("%s: %v after %s, when the client left after one", name, err, time.Since(start))
			}
			time.Sleep(2 * requestTimeout)
		})
	}
}

func TestNoAPI(t *testing.T) {
	for name, ask := range asking {
		err := ask(New(nil), t.Context(), API{})
		if name == "Identify" && err != nil || name != "Identify" && !errors.Is(err, ErrNoAPI) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCallersWithoutAccounts(t *testing.T) {
	client, _ := newImitation(status(404))
	who := func(api API, authorization string) string {
		t.Helper()
		h := headers()
		if authorization != "" {
			h.Set("Authorization", authorization)
		}
		c, err := client.Identify(t.Context(), api, h)
		if err != nil {
			t.Fatal(err)
		}
		return c.Identity
	}
	ids := map[string]bool{}
	for _, api := range []API{api, {URL: "https://other.test"}, {}} {
		for _, a := range []string{"Bearer a", "Bearer b", ""} {
			id := who(api, a)
			if id != who(api, a) || strings.Contains(id, "Bearer") {
				t.Errorf("identity %q", id)
			}
			ids[id] = true
		}
	}
	if len(ids) != 9 {
		t.Errorf("%d identities of 9: %v", len(ids), ids)
	}
}

func TestSeveralAuthorizations(t *testing.T) {
	client, imitation := newImitation(status(200))
	_, err := client.Identify(t.Context(), api, headers("Authorization", "Bearer a", "Authorization", "Bearer b"))
	var r *Refusal
	if !errors.As(err, &r) || r.Status != 400 || imitation.count() != 0 {
		t.Errorf("got %v after %d requests", err, imitation.count())
	}
}

func TestIdentityIsRememberedForFiveMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, imitation := newImitation(text(`{"type":"user","username":"u"}`))
		ask := func(authorization string) error {
			_, err := client.Identify(t.Context(), api, headers("Authorization", authorization))
			return err
		}
		check := func(when string, want int) {
			t.Helper()
			if n := imitation.count(); n != want {
				t.Errorf("%s: %d requests, want %d", when, n, want)
			}
		}
		for range 3 {
			_ = ask("a")
		}
		check("one token", 1)
		_ = ask("b")
		check("another", 2)
		time.Sleep(callerLifetime - time.Millisecond)
		_ = ask("a")
		check("just before", 2)
		time.Sleep(time.Millisecond)
		_ = ask("a")
		check("after", 3)
		_ = client.CheckAccount(t.Context(), api, headers("Authorization", "c"))
		_ = client.CheckAccount(t.Context(), api, headers("Authorization", "c"))
		_ = ask("c")
		check("checked each time, then known", 5)

		imitation.answers(status(503))
		for range 2 {
			if ask("d") == nil {
				t.Error("known without a response")
			}
		}
		check("failures are not remembered", 7)
	})
}

func TestCallersThatComeTogetherAskOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, imitation := newImitation(func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(time.Second)
			_, _ = io.WriteString(w, `{"username":"u"}`)
		})
		first, leave := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for i := range 20 {
			ctx := t.Context()
			if i == 0 {
				ctx = first
			}
			wg.Go(func() {
				c, err := client.Identify(ctx, api, headers("Authorization", "a"))
				if ctx == first {
					return
				}
				if err != nil || c.Identity != apiURL+" /u" {
					t.Errorf("%v, %v", c, err)
				}
			})
			synctest.Wait()
		}
		leave()
		wg.Wait()
		if n := imitation.count(); n != 1 {
			t.Errorf("%d requests", n)
		}
	})
}

func TestMalformedIDsAreNotAskedFor(t *testing.T) {
	client, imitation := newImitation(status(200))
	for _, id := range []string{"", "../account", "a/b", strings.Repeat("a", 129)} {
		var r *Refusal
		if err := client.CheckPrediction(t.Context(), api, headers(), "/predictions/"+id, id); !errors.As(err, &r) || r.Status != 404 {
			t.Errorf("%q: %v", id, err)
		}
	}
	if imitation.count() != 0 {
		t.Error("the API was asked for a malformed id")
	}
}

// What a response holds of memory is asked for as it comes.
func TestFetchStopsWhereThereIsNoRoom(t *testing.T) {
	client, _ := newImitation(text(`{"id":"p","output":"` + strings.Repeat("x", 1<<20) + `"}`))
	taken := 0
	_, err := client.FetchPrediction(t.Context(), api, headers("Authorization", "a"), "/predictions/p", "p", func(n int) bool {
		taken += n
		return taken < 100_000
	})
	if !errors.Is(err, ErrNoRoom) || taken > 600_000 {
		t.Errorf("%d bytes were read: %v", taken, err)
	}
}

// An error says which API was asked for what, and what it responded.
func TestErrorsNameTheAPIAndItsStatus(t *testing.T) {
	client, _ := newImitation(status(503))
	_, err := client.Identify(t.Context(), api, headers("Authorization", "Bearer SECRET"))
	var e *Error
	if !errors.Is(err, ErrFailed) || !errors.As(err, &e) || e.API != apiURL || e.Path != "/account" || e.Status != 503 {
		t.Fatalf("got %v", err)
	}
	if text := err.Error(); !strings.Contains(text, apiURL+": GET /account (status 503)") || strings.Contains(text, "SECRET") {
		t.Errorf("it reads %q", text)
	}
}

func TestTwoTokensForOneAPI(t *testing.T) {
	client := New(nil)
	if err := client.Join(API{URL: apiURL, Token: "r8_operator"}); err != nil {
		t.Fatal(err)
	}
	if err := client.Join(API{URL: apiURL, Token: "r8_another"}); err == nil || strings.Contains(err.Error(), "r8_") {
		t.Errorf("two tokens for one API: %v", err)
	}
	client.Renew(API{URL: "https://another.test", Token: "r8_nobodys"})
	if got := client.Authorization(apiURL); got != "Bearer r8_operator" {
		t.Errorf("the operator's Authorization is %q", got)
	}
	if got := client.Authorization("https://another.test"); got != "" {
		t.Errorf("the Authorization of an API that has not joined is %q", got)
	}
}
