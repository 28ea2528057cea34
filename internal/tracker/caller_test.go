package tracker

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

	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/shared"
)

// realAPI serves an imitation on loopback.
func realAPI(t *testing.T, h http.HandlerFunc) Upstream {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return Upstream{API: s.URL + "/v1"}
}

// overHTTP makes the tracker use connections.
func overHTTP(c *Config) { c.HTTP = &http.Client{Timeout: 2 * time.Second} }

func TestCallerIsTheAccount(t *testing.T) {
	w := newWorld(t, overHTTP)
	var got http.Header
	api := realAPI(t, func(rw http.ResponseWriter, r *http.Request) {
		got = r.Header
		if r.Method != http.MethodGet || r.URL.Path != "/v1/account" {
			t.Errorf("%s %s", r.Method, r.URL)
		}
		_, _ = io.WriteString(rw, `{"type":"organization","username":"acme / co","name":"x"}`+"\n")
	})
	c, err := w.Caller(t.Context(), api, headers("Authorization", "Bearer r8_x", "User-Agent", "ua/1", "Cookie", "c", "X-Forwarded-For", "1.2.3.4", "Accept", "x"))
	if err != nil {
		t.Fatal(err)
	}
	if want := api.API + " organization/acme%20%2F%20co"; c.Identity != want || c.Authorization != "Bearer r8_x" || c.UserAgent != "ua/1" {
		t.Errorf("got %s, want %s", c.Identity, want)
	}
	got.Del("Accept-Encoding") // net/http's own
	if len(got) != 2 || got.Get("Authorization") != "Bearer r8_x" || got.Get("User-Agent") != "ua/1" {
		t.Errorf("asked with %v", got)
	}
}

// asking are the three questions to an API on behalf of a caller.
var asking = map[string]func(*Tracker, context.Context, Upstream) error{
	"Caller": func(t *Tracker, ctx context.Context, up Upstream) error {
		_, err := t.Caller(ctx, up, headers("Authorization", "Bearer r8_x"))
		return err
	},
	"AuthoriseAccount": func(t *Tracker, ctx context.Context, up Upstream) error {
		return t.AuthoriseAccount(ctx, up, headers("Authorization", "Bearer r8_x"))
	},
	"Authorise": func(t *Tracker, ctx context.Context, up Upstream) error {
		return t.Authorise(ctx, up, headers("Authorization", "Bearer r8_x"), "p")
	},
	"Fetch": func(t *Tracker, ctx context.Context, up Upstream) error {
		_, err := t.Fetch(ctx, up, headers("Authorization", "Bearer r8_x"), "p", nil)
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
				w := newWorld(t, overHTTP)
				err := ask(w.Tracker, t.Context(), api)
				if name == "Caller" && status == 404 {
					if err != nil {
						t.Errorf("an API without accounts: %v", err)
					}
					return
				}
				var r *Refused
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
				w := newWorld(t, overHTTP)
				err := ask(w.Tracker, t.Context(), api)
				var r *Refused
				if !errors.Is(err, ErrUpstream) || errors.As(err, &r) || strings.Contains(err.Error(), "r8_x") {
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

func TestSilentUpstream(t *testing.T) {
	for name, ask := range asking {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, nil)
			w.api.answers(hang)
			start := time.Now()
			if err := ask(w.Tracker, t.Context(), up); !errors.Is(err, ErrUpstream) || time.Since(start) != requestTimeout {
				t.Errorf("%s: %v after %s", name, err, time.Since(start))
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			start = time.Now()
			if err := ask(w.Tracker, ctx, up); err == nil || time.Since(start) != time.Second {
				t.Errorf("%s: %v after %s, when the client left after one", name, err, time.Since(start))
			}
			time.Sleep(2 * requestTimeout)
		})
	}
}

func TestNoUpstream(t *testing.T) {
	w := newWorld(t, nil)
	for name, ask := range asking {
		err := ask(w.Tracker, t.Context(), Upstream{})
		if name == "Caller" && err != nil || name != "Caller" && !errors.Is(err, ErrNoUpstream) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCallersWithoutAccounts(t *testing.T) {
	w := newWorld(t, nil)
	who := func(up Upstream, authorization string) string {
		t.Helper()
		h := headers()
		if authorization != "" {
			h.Set("Authorization", authorization)
		}
		c, err := w.Caller(t.Context(), up, h)
		if err != nil {
			t.Fatal(err)
		}
		return c.Identity
	}
	w.api.status(404)
	other := Upstream{API: "https://other.test"}
	ids := map[string]bool{}
	for _, up := range []Upstream{up, other, {}} {
		for _, a := range []string{"Bearer a", "Bearer b", ""} {
			id := who(up, a)
			if id != who(up, a) || strings.Contains(id, "Bearer") {
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
	w := newWorld(t, nil)
	_, err := w.Caller(t.Context(), up, headers("Authorization", "Bearer a", "Authorization", "Bearer b"))
	var r *Refused
	if !errors.As(err, &r) || r.Status != 400 || len(w.api.requests()) != 0 {
		t.Errorf("got %v after %d requests", err, len(w.api.requests()))
	}
}

func TestIdentityIsRememberedForFiveMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.api.set("/v1/account", `{"type":"user","username":"u"}`)
		ask := func(authorization string) error {
			_, err := w.Caller(t.Context(), up, headers("Authorization", authorization))
			return err
		}
		check := func(when string, want int) {
			t.Helper()
			if n := len(w.api.requests()); n != want {
				t.Errorf("%s: %d requests, want %d", when, n, want)
			}
		}
		for range 3 {
			_ = ask("a")
		}
		check("one token", 1)
		_ = ask("b")
		check("another", 2)
		time.Sleep(callerTTL - time.Millisecond)
		_ = ask("a")
		check("just before", 2)
		time.Sleep(time.Millisecond)
		_ = ask("a")
		check("after", 3)
		_ = w.AuthoriseAccount(t.Context(), up, headers("Authorization", "c"))
		_ = w.AuthoriseAccount(t.Context(), up, headers("Authorization", "c"))
		_ = ask("c")
		check("authorised each time, then known", 5)

		w.api.status(503)
		for range 2 {
			if ask("d") == nil {
				t.Error("known without an answer")
			}
		}
		check("failures are not remembered", 7)
	})
}

func TestCallersThatComeTogetherAskOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.api.answers(func(rw http.ResponseWriter, _ *http.Request) {
			time.Sleep(time.Second)
			_, _ = io.WriteString(rw, `{"username":"u"}`)
		})
		first, leave := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for i := range 20 {
			ctx := t.Context()
			if i == 0 {
				ctx = first
			}
			wg.Go(func() {
				c, err := w.Caller(ctx, up, headers("Authorization", "a"))
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
		if n := len(w.api.requests()); n != 1 {
			t.Errorf("%d requests", n)
		}
	})
}

func TestCallerCacheIsBounded(t *testing.T) {
	var c callerCache
	now := time.Now()
	for i := range 3 * maxCallers {
		c.put(callerKey("api", fmt.Sprint(i)), "x", now)
	}
	if len(c.known) > maxCallers {
		t.Errorf("%d callers are remembered", len(c.known))
	}
}

func TestAuthoriseAsksWhereItIs(t *testing.T) {
	w := newWorld(t, nil)
	c := &Capture{Upstream: up, Caller: client, URL: hook, Collection: Trainings}
	if _, err := w.Created(t.Context(), c, snapshot(t, "p", "starting")); err != nil {
		t.Fatal(err)
	}
	w.api.set("/v1/trainings/p", body("p", "processing"))
	if err := w.Authorise(t.Context(), up, headers("Authorization", "a"), "p"); err != nil {
		t.Error(err)
	}
	s, err := w.Fetch(t.Context(), up, headers("Authorization", "a"), "p", nil)
	if err != nil || s.Status != "processing" {
		t.Errorf("%+v, %v", s, err)
	}
	w.api.set("/v1/predictions/q", body("q", "processing"))
	if err := w.Authorise(t.Context(), up, headers("Authorization", "a"), "q"); err != nil {
		t.Errorf("one that is not tracked: %v", err)
	}
	n := len(w.api.requests())
	for _, id := range []string{"", "../account", "a/b", strings.Repeat("a", 129)} {
		var r *Refused
		if err := w.Authorise(t.Context(), up, headers(), id); !errors.As(err, &r) || r.Status != 404 {
			t.Errorf("%q: %v", id, err)
		}
	}
	if len(w.api.requests()) != n {
		t.Error("the API was asked for a malformed id")
	}
	w.Tracker.acquire = func() (*shared.Ref, error) { return nil, store.ErrUnavailable }
	if err := w.Authorise(t.Context(), up, headers(), "p"); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

// What a response holds of memory is asked for as it comes.
func TestFetchStopsWhereThereIsNoRoom(t *testing.T) {
	w := newWorld(t, nil)
	w.api.set(path, strings.Replace(body("p", "processing"), `["x"]`, `"`+strings.Repeat("x", 1<<20)+`"`, 1))
	taken := 0
	_, err := w.Fetch(t.Context(), up, headers("Authorization", "a"), "p", func(n int) bool {
		taken += n
		return taken < 100_000
	})
	if !errors.Is(err, ErrNoRoom) || taken > 600_000 {
		t.Errorf("%d bytes were read: %v", taken, err)
	}
}

// An error says which API was asked for what, and what it responded.
func TestErrorsNameTheAPIAndItsStatus(t *testing.T) {
	w := newWorld(t, nil)
	w.api.status(503)
	_, err := w.Caller(t.Context(), up, headers("Authorization", "Bearer SECRET"))
	var u *Unanswered
	if !errors.Is(err, ErrUpstream) || !errors.As(err, &u) || u.API != apiURL || u.Path != "/account" || u.Status != 503 {
		t.Fatalf("got %v", err)
	}
	if text := err.Error(); !strings.Contains(text, apiURL+": GET /account (status 503)") || strings.Contains(text, "SECRET") {
		t.Errorf("it reads %q", text)
	}
}
