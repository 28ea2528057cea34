package predictions

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-replicate/replicate-webhook/internal/body"
	"github.com/caddy-replicate/replicate-webhook/internal/prediction"
	"github.com/caddy-replicate/replicate-webhook/store"
)

func TestCallback(t *testing.T) {
	const path = "/cb/" + fakeToken
	for _, c := range []struct {
		name, method, path, body string
		err                      error
		header                   []string
		status                   int
		called                   bool
	}{
		{"taken", "POST", path, `{"id":"p"}`, nil, nil, 200, true},
		{"any content type", "POST", path, `{"id":"p"}`, nil, []string{"Content-Type", "text/plain"}, 200, true},
		{"empty", "POST", path, ``, prediction.ErrUnexpected, nil, 400, true},
		{"get", "GET", path, ``, nil, nil, 405, false},
		{"no token", "POST", "/cb/", `{}`, nil, nil, 404, false},
		{"short token", "POST", "/cb/" + fakeToken[1:], `{}`, nil, nil, 404, false},
		{"escaped token", "POST", "/cb/%61" + fakeToken[1:], `{}`, nil, nil, 404, false},
		{"odd token", "POST", "/cb/!" + fakeToken[1:], `{}`, nil, nil, 404, false},
		{"slash after it", "POST", path + "/", `{}`, nil, nil, 404, false},
		{"unknown token", "POST", path, `{}`, store.ErrNotFound, nil, 404, true},
		{"nonsense", "POST", path, `x`, fmt.Errorf("%w: x", prediction.ErrUnexpected), nil, 400, true},
		{"store", "POST", path, `{}`, errFakeStore, nil, 503, true},
		{"encoded", "POST", path, `{}`, nil, []string{"Content-Encoding", "gzip"}, 415, false},
		{"too large", "POST", path, strings.Repeat("x", maxCallback+1), nil, nil, 413, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			core, logs := observer.New(zap.DebugLevel)
			f := newFake()
			f.callbackErr = c.err
			cb := &Callback{tracker: f, budget: body.NewBudget(1 << 30), logger: zap.New(core)}
			w := httptest.NewRecorder()
			r := newRequest(t.Context(), c.method, c.path, c.body, c.header...)
			if err := cb.ServeHTTP(w, r, nil); err != nil {
				t.Fatalf("an error is returned, and would be logged with the URI: %v", err)
			}
			if c.status == 200 {
				wantStatus(t, w, 200, "")
			} else {
				wantProblem(t, w, c.status, "")
			}
			if got := len(f.Calls("callback")) == 1; got != c.called {
				t.Fatalf("the tracker was called: %v", got)
			}
			if (w.Header().Get("Retry-After") != "") != (c.status == 503) || (w.Header().Get("Allow") != "") != (c.status == 405) {
				t.Errorf("the answer has %v", w.Header())
			}
			if skip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.LogSkipVar).(bool); !skip {
				t.Error("the access log gets the URI")
			}
			if logs.Len() != 1 || strings.Contains(fmt.Sprint(logs.All()[0].ContextMap()), fakeToken[1:]) {
				t.Fatalf("logged %v", logs.All())
			}
		})
	}
}

func TestCallbackLogLevels(t *testing.T) {
	for _, c := range []struct {
		name   string
		server *caddyhttp.Server
		err    error
		want   string
	}{
		{"no access logs", new(caddyhttp.Server), nil, "debug"},
		{"access logs", &caddyhttp.Server{Logs: new(caddyhttp.ServerLogConfig)}, nil, "info"},
		{"failure", new(caddyhttp.Server), errFakeStore, "error"},
	} {
		t.Run(c.name, func(t *testing.T) {
			core, logs := observer.New(zap.DebugLevel)
			f := newFake()
			f.callbackErr = c.err
			cb := &Callback{tracker: f, budget: body.NewBudget(1 << 30), logger: zap.New(core)}
			r := newRequest(withServer(t.Context(), c.server), "POST", "/cb/"+fakeToken, "{}")
			if err := cb.ServeHTTP(httptest.NewRecorder(), r, nil); err != nil {
				t.Fatal(err)
			}
			if got := logs.All()[0]; got.Level.String() != c.want || got.ContextMap()["uri"] != "/cb/***" {
				t.Fatalf("logged %+v", got)
			}
		})
	}
}

func TestCallbackBudget(t *testing.T) {
	cb := &Callback{tracker: newFake(), budget: body.NewBudget(8), logger: zap.NewNop()}
	w := httptest.NewRecorder()
	if err := cb.ServeHTTP(w, newRequest(t.Context(), "POST", "/cb/"+fakeToken, "{  }"), nil); err != nil {
		t.Fatal(err)
	}
	wantProblem(t, w, 503, "too many")
}

// TestRefusedCallbacksEndTheirConnection: a callback that is refused before its
// body is read does not hold a connection for as long as the body might take.
func TestRefusedCallbacksEndTheirConnection(t *testing.T) {
	cb := &Callback{tracker: newFake(), budget: body.NewBudget(1 << 30), logger: zap.NewNop()}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := cb.ServeHTTP(w, r.WithContext(newRequest(r.Context(), r.Method, "/", "").Context()), nil); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	for _, framing := range []string{"Content-Length: 100000\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"} {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
		_, _ = io.WriteString(conn, "POST /cb/unknown HTTP/1.1\r\nHost: x\r\n"+framing)
		got, err := io.ReadAll(conn)
		if err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 404 ") {
			t.Errorf("got %q, %v; want 404 and the end of the connection", got, err)
		}
	}
}
