package caddyrun

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard" // what Caddyfile text may name
)

// Server is a Caddy that runs in this process. There is one Caddy in a process,
// so tests that use it can't be parallel.
type Server struct {
	*Env
	// Logs has everything that was logged, at DEBUG.
	Logs *Logs
	// Client talks to the server. Its connections are closed with it.
	Client *http.Client

	stop sync.Once
}

// New prepares a server without starting it. More global options may be given,
// which {$GLOBALS} then holds. The admin endpoint is off unless they hold an
// admin option.
//
// The test fails if goroutines are left once the server has stopped.
func New(t testing.TB, globals ...string) *Server {
	t.Helper()
	before := goroutines()
	id, logs := registerLogs(t)
	s := &Server{Env: newEnv(t, "caddyrun "+id, withAdmin(globals)...), Logs: logs, Client: NewClient(t)}
	t.Setenv("XDG_DATA_HOME", s.Path("data"))
	t.Cleanup(func() {
		s.Stop()
		s.Client.CloseIdleConnections()
		if err := awaitGoroutines(before, func() { closeIdle(t) }); err != nil {
			t.Errorf("after the server stopped: %v", err)
		}
		if t.Failed() && testing.Verbose() {
			t.Logf("the server logged:\n%s", s.Logs)
		}
	})
	return s
}

func withAdmin(globals []string) []string {
	for _, option := range globals {
		if len(option) > 5 && option[:5] == "admin" {
			return globals
		}
	}
	return append([]string{"admin off"}, globals...)
}

// Start runs Caddy with the Caddyfile text.
func Start(t testing.TB, caddyfile string, globals ...string) *Server {
	t.Helper()
	s := New(t, globals...)
	s.Reload(caddyfile)
	return s
}

// NewClient returns a client that follows no redirects and does not ask for
// compression. Its connections are closed when the test ends.
func NewClient(t testing.TB) *http.Client {
	transport := &http.Transport{DialContext: dial, DisableCompression: true, MaxIdleConnsPerHost: 100, ExpectContinueTimeout: Patience}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{
		Transport:     transport,
		Timeout:       2 * Patience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// dial connects again where a connection was reset while it was being made: on
// a reload the old configuration's listener closes, with the connections that
// the kernel has queued there.
func dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var d net.Dialer
	for {
		conn, err := d.DialContext(ctx, network, addr)
		if !errors.Is(err, syscall.ECONNRESET) {
			return conn, err
		}
	}
}

// ThroughReloads returns a client like c for requests that are sent while a
// configuration is replaced. The old configuration's listeners reset the
// connections that they have not accepted, and its servers close the idle ones: a
// request that meets one of them is sent again.
func ThroughReloads(c *http.Client) *http.Client {
	again := *c
	again.Transport = resender{c.Transport}
	return &again
}

type resender struct{ http.RoundTripper }

// CloseIdleConnections closes what http.Client's method is to close.
func (t resender) CloseIdleConnections() {
	(&http.Client{Transport: t.RoundTripper}).CloseIdleConnections()
}

// RoundTrip implements http.RoundTripper.
func (t resender) RoundTrip(r *http.Request) (*http.Response, error) {
	const tries = 4
	for try := 1; ; try++ {
		resp, err := t.RoundTripper.RoundTrip(r)
		if try == tries || r.Body != nil && r.GetBody == nil || !lostConnection(err) {
			return resp, err
		}
		r = r.Clone(r.Context())
		if r.GetBody != nil {
			body, err := r.GetBody()
			if err != nil {
				return nil, err
			}
			r.Body = body
		}
	}
}

func lostConnection(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// Adapt turns Caddyfile text into JSON, as `caddy adapt` does.
func (s *Server) Adapt(caddyfile string) ([]byte, []caddyconfig.Warning, error) {
	return caddyconfig.GetAdapter("caddyfile").Adapt([]byte(s.Expand(caddyfile)), map[string]any{"filename": "Caddyfile"})
}

// Reload loads new Caddyfile text into the running Caddy, or starts it.
func (s *Server) Reload(caddyfile string) {
	s.t.Helper()
	if err := s.TryReload(caddyfile); err != nil {
		s.t.Fatal(err)
	}
}

// TryReload is like Reload, for text that may be refused.
func (s *Server) TryReload(caddyfile string) error {
	config, _, err := s.Adapt(caddyfile)
	if err != nil {
		return fmt.Errorf("adapting: %w", err)
	}
	return s.LoadJSON(config)
}

// LoadJSON loads a configuration in JSON.
func (s *Server) LoadJSON(config []byte) error {
	if err := caddy.Load(config, true); err != nil {
		return fmt.Errorf("loading: %w", err)
	}
	s.awaitOneListener()
	// What is idle belongs to the old configuration, which may still serve requests
	// on it.
	s.Client.CloseIdleConnections()
	return nil
}

// Stop stops Caddy. The end of the test calls it.
func (s *Server) Stop() {
	s.stop.Do(func() {
		if !strings.Contains(s.extra, "admin off") {
			// Stopping leaves the admin endpoint to the process's end.
			if err := caddy.Load([]byte(`{"admin":{"disabled":true,"config":{"persist":false}}}`), true); err != nil {
				s.t.Errorf("stopping the admin endpoint: %v", err)
			}
		}
		if err := caddy.Stop(); err != nil {
			s.t.Errorf("stopping caddy: %v", err)
		}
	})
}
