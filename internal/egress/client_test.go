package egress

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
)

// server starts an HTTPS server on loopback whose certificate is valid for
// example.com, and returns its port and a TLS configuration that trusts it.
func server(t *testing.T, h http.Handler, conf *tls.Config) (int, *tls.Config) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.EnableHTTP2 = true
	s.TLS = conf
	s.StartTLS()
	t.Cleanup(s.Close)
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	return s.Listener.Addr().(*net.TCPAddr).Port, &tls.Config{RootCAs: pool}
}

// loopbackClient returns a client that may reach a port on loopback, where it
// finds every host.
func loopbackClient(t *testing.T, port int, conf *tls.Config) (*Guard, *http.Client) {
	t.Helper()
	g := newGuard(t, Config{
		AllowHTTP: true,
		Ports:     []int{port},
		Allow:     prefixes("127.0.0.0/8"),
		Resolver:  everything{},
		TLS:       conf,
	})
	c := g.Client()
	t.Cleanup(c.CloseIdleConnections)
	return g, c
}

// at returns a URL on example.com.
func at(scheme string, port int, path string) string {
	return scheme + "://example.com:" + strconv.Itoa(port) + path
}

func TestClientReachesAnAllowedHost(t *testing.T) {
	port, conf := server(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Got-Encoding", r.Header.Get("Accept-Encoding"))
		w.Header().Set("Content-Encoding", "gzip")
		io.WriteString(w, "not gzip at all")
	}), nil)
	_, c := loopbackClient(t, port, conf)
	for _, host := range []string{"example.com", "127.0.0.1"} {
		resp, err := c.Post("https://"+host+":"+strconv.Itoa(port)+"/", "application/json", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(body) != "not gzip at all" {
			t.Errorf("%s: body %q, %v: decompressed", host, body, err)
		}
		if resp.ProtoMajor != 2 || resp.TLS == nil {
			t.Errorf("%s: protocol %s", host, resp.Proto)
		}
		if e := resp.Header.Get("Got-Encoding"); e != "" {
			t.Errorf("%s: asked for encoding %q", host, e)
		}
	}
}

func TestClientDoesNotFollowRedirects(t *testing.T) {
	target := newCounter(t)
	for _, status := range []int{301, 302, 303, 307, 308} {
		var requests atomic.Int64
		port, conf := server(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			requests.Add(1)
			to := "/again"
			if r.URL.Path == "/out" {
				to = "http://127.0.0.1:" + portOf(target) + "/"
			}
			http.Redirect(w, r, to, status)
		}), nil)
		_, c := loopbackClient(t, port, conf)
		for _, path := range []string{"/out", "/here"} {
			resp, err := c.Post(at("https", port, path), "application/json", strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != status || resp.Header.Get("Location") == "" {
				t.Errorf("%s: got %s", path, resp.Status)
			}
		}
		if n := requests.Load(); n != 2 {
			t.Errorf("status %d: %d requests, want 2", status, n)
		}
	}
	if n := target.count(t); n != 0 {
		t.Errorf("the target of a redirect got %d connections", n)
	}
}

func TestClientIgnoresProxies(t *testing.T) {
	proxy := newCounter(t)
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"} {
		t.Setenv(name, "http://127.0.0.1:"+portOf(proxy))
	}
	port, conf := server(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), nil)
	g, c := loopbackClient(t, port, conf)
	resp, err := c.Get(at("https", port, "/"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()

	plain := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer plain.Close()
	plainPort := plain.Listener.Addr().(*net.TCPAddr).Port
	_, c = loopbackClient(t, plainPort, nil)
	if resp, err = c.Get(at("http", plainPort, "/")); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()

	if n := proxy.count(t); n != 0 {
		t.Errorf("the proxy got %d connections", n)
	}
	// The standard library reads the environment once per process, so the
	// field is looked at too.
	if g.Transport().Proxy != nil {
		t.Error("the transport has a proxy function")
	}
}

func TestClientRefusesWeakTLS(t *testing.T) {
	handler := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("request arrived") })
	old := func() *tls.Config {
		return &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	}
	tests := []struct {
		name   string
		server *tls.Config
		trust  bool
		min    uint16
		host   string
	}{
		{"TLS 1.1", old(), true, 0, "example.com"},
		{"TLS 1.1 with a lower minimum configured", old(), true, tls.VersionTLS10, "example.com"},
		{"TLS 1.2 with a higher minimum configured", &tls.Config{MaxVersion: tls.VersionTLS12}, true, tls.VersionTLS13, "example.com"},
		{"self-signed certificate", nil, false, 0, "example.com"},
		{"certificate of another host", nil, true, 0, "hook.example"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			port, conf := server(t, handler, tt.server)
			if !tt.trust {
				conf = nil
			} else {
				conf.MinVersion = tt.min
			}
			_, c := loopbackClient(t, port, conf)
			resp, err := c.Get("https://" + tt.host + ":" + strconv.Itoa(port) + "/")
			if err == nil {
				resp.Body.Close()
				t.Fatal("got an answer")
			}
			if got := ClientText(err); got != textTLS {
				t.Errorf("client is told %q for %v", got, err)
			}
		})
	}
}

func TestClientLimitsResponseHeaders(t *testing.T) {
	size := 0
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Filler", strings.Repeat("x", size))
	})
	http2, conf := server(t, handler, nil)
	_, overTLS := loopbackClient(t, http2, conf)
	plain := httptest.NewServer(handler)
	defer plain.Close()
	http1 := plain.Listener.Addr().(*net.TCPAddr).Port
	_, overTCP := loopbackClient(t, http1, nil)

	get := func(c *http.Client, url string) error {
		resp, err := c.Get(url)
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	for _, tt := range []struct {
		size int
		ok   bool
	}{{MaxResponseHeader / 2, true}, {MaxResponseHeader * 2, false}, {MaxResponseHeader * 16, false}} {
		size = tt.size
		if err := get(overTCP, at("http", http1, "/")); (err == nil) != tt.ok {
			t.Errorf("HTTP/1.1, %d bytes: %v", size, err)
		}
		if err := get(overTLS, at("https", http2, "/")); (err == nil) != tt.ok {
			t.Errorf("HTTP/2, %d bytes: %v", size, err)
		}
	}
}

func TestClientChecksURLs(t *testing.T) {
	c := newCounter(t)
	g := newGuard(t, Config{Ports: []int{c.port}, Allow: prefixes("127.0.0.0/8"), Resolver: everything{}})
	client := g.Client()
	for _, raw := range []string{
		at("http", c.port, "/"), // http is not allowed, the port is
		"https://user@example.com:" + portOf(c) + "/",
		"https://example.com:443/",
	} {
		body := &closing{Reader: strings.NewReader("{}")}
		resp, err := client.Post(raw, "application/json", body)
		if err == nil {
			resp.Body.Close()
		}
		var bad *URLError
		if !errors.As(err, &bad) {
			t.Errorf("%s: got %v, want *URLError", raw, err)
		}
		if !body.closed {
			t.Errorf("%s: body left open", raw)
		}
	}
	if n := c.count(t); n != 0 {
		t.Errorf("%d connections, want none", n)
	}
}

// closing is a request body that knows whether it was closed.
type closing struct {
	io.Reader
	closed bool
}

func (c *closing) Close() error {
	c.closed = true
	return nil
}

func TestClientTextHidesTheNetwork(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close() // nobody listens there now
	_, c := loopbackClient(t, port, nil)
	_, refused := c.Get(at("https", port, "/"))

	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	plainPort := plain.Listener.Addr().(*net.TCPAddr).Port
	_, c = loopbackClient(t, plainPort, nil)
	_, noTLS := c.Get(at("https", plainPort, "/"))

	_, c = loopbackClient(t, port, nil)
	_, badURL := c.Get("https://example.com:" + strconv.Itoa(port) + "/#x")

	for name, tt := range map[string]struct {
		err  error
		want string
	}{
		"nothing":            {nil, ""},
		"connection refused": {refused, textBroken},
		"no TLS":             {noTLS, textBroken},
		"bad URL":            {badURL, "webhook_url must not have a fragment"},
		"forbidden": {&url.Error{Op: "Post", URL: "https://x/", Err: &net.OpError{Op: "dial",
			Err: &ForbiddenError{Reason: "secret"}}}, textNotPublic},
		"dns":      {&net.DNSError{Server: "10.0.0.53", IsTimeout: true}, textNotPublic},
		"timeout":  {&url.Error{Op: "Post", Err: &net.DNSError{IsTimeout: true}}, textNotPublic},
		"deadline": {&net.OpError{Op: "read", Err: timeoutError{}}, textTimeout},
		"other":    {errors.New("10.0.0.1 is down"), textBroken},
	} {
		if got := ClientText(tt.err); got != tt.want {
			t.Errorf("%s: got %q for %v, want %q", name, got, tt.err, tt.want)
		}
	}
}

type timeoutError struct{}

func (timeoutError) Error() string { return "i/o timeout" }
func (timeoutError) Timeout() bool { return true }
