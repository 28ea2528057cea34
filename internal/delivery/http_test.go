package delivery

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-replicate/replicate-webhook/internal/egress"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// receiver is a raw TCP server on loopback: each connection is handled by f.
func receiver(t testing.TB, f func(c net.Conn)) (port int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				f(c)
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

// request reads a request with its body.
func request(c net.Conn) {
	r, err := http.ReadRequest(bufio.NewReader(c))
	if err == nil {
		io.Copy(io.Discard, r.Body)
	}
}

// closed waits until the other end closes the connection.
func closedBy(c net.Conn) { io.Copy(io.Discard, c) }

// names resolves what the tests use and nothing else.
type names struct{}

func (names) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	switch host {
	case "receiver.example.com", "receiver.example.org":
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
	case "internal.example.com":
		return []netip.Addr{netip.MustParseAddr("10.1.2.3")}, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, Server: "10.0.0.53:53", IsNotFound: true}
}

// guard admits a loopback port by exception.
func guard(t testing.TB, roots *x509.CertPool, ports ...int) *egress.Guard {
	t.Helper()
	g, err := egress.New(egress.Config{
		AllowHTTP: true, Ports: ports, Resolver: names{}, TLS: &tls.Config{RootCAs: roots},
		Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
	})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// deliver makes one delivery with one attempt and gives its outcome.
func deliver(t *testing.T, url string, configure func(*Config)) store.Outcome {
	t.Helper()
	s := newMemStore()
	ended := make(chan store.Outcome, 1)
	s.ended = func(o *store.Outcome) { ended <- *o }
	engine(t, s, nil, func(c *Config) {
		c.Client, c.Timeout = nil, Duration(10*time.Second)
		c.Retry.MaxAttempts = -1
		configure(c)
	})
	s.add("dlv_1", url)
	select {
	case o := <-ended:
		return o
	case <-time.After(30 * time.Second):
		t.Fatal("no outcome")
		panic("unreachable")
	}
}

func TestAttemptOverHTTP(t *testing.T) {
	reply := func(text string) func(net.Conn) {
		return func(c net.Conn) {
			request(c)
			io.WriteString(c, text)
			closedBy(c)
		}
	}
	const short = 300 * time.Millisecond
	for name, c := range map[string]struct {
		handle      func(net.Conn)
		timeout     time.Duration
		disposition store.Disposition
		status      int
		error       string
		answer      string
	}{
		"success":        {reply("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nOK!"), 0, store.Delivered, 200, "", "OK!"},
		"no content":     {reply("HTTP/1.1 204 No Content\r\n\r\n"), 0, store.Delivered, 204, "", ""},
		"early hints":    {reply("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), 0, store.Delivered, 200, "", ""},
		"redirect":       {reply("HTTP/1.1 302 Found\r\nLocation: http://receiver.example.com/x\r\nContent-Length: 0\r\n\r\n"), 0, store.Exhausted, 302, "redirect not followed", ""},
		"gone":           {reply("HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n"), 0, store.Gone, 410, "status 410", ""},
		"server error":   {reply("HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\n\x00\xffab"), 0, store.Exhausted, 500, "status 500", "\ufffd\ufffdab"},
		"switching":      {reply("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"), 0, store.Exhausted, 101, "status 101", ""},
		"hang":           {closedBy, short, store.Exhausted, 0, "timeout after 0.3s awaiting response", ""},
		"not HTTP":       {reply("hello, who is there?\r\n\r\n"), 0, store.Exhausted, 0, "malformed response", ""},
		"bad length":     {reply("HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n"), 0, store.Exhausted, 0, "malformed response", ""},
		"closed":         {request, 0, store.Exhausted, 0, "connection closed", ""},
		"trickle":        {trickle("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"), short, store.Exhausted, 200, "timeout after 0.3s reading body", "*"},
		"slow headers":   {trickle("HTTP/1.1 200 OK\r\nX: "), short, store.Exhausted, 0, "timeout after 0.3s awaiting response", ""},
		"endless body":   {endlessly("HTTP/1.1 200 OK\r\n\r\n", "x"), 0, store.Delivered, 200, "", strings.Repeat("x", maxKept)},
		"endless 500":    {endlessly("HTTP/1.1 500 Oops\r\n\r\n", "x"), 0, store.Exhausted, 500, "status 500", strings.Repeat("x", maxKept)},
		"endless header": {endlessly("HTTP/1.1 200 OK\r\nX: ", "x"), 0, store.Exhausted, 0, "response header too large", ""},
		"many headers":   {endlessly("HTTP/1.1 200 OK\r\n", "X: y\r\n"), 0, store.Exhausted, 0, "response header too large", ""},
		"endless 1xx":    {endlessly("", "HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n"), 0, store.Exhausted, 0, "response header too large", ""},
		"cut body": {func(c net.Conn) {
			request(c)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
		}, 0, store.Exhausted, 200, "connection closed reading body", "abc"},
		"reset": {func(c net.Conn) {
			request(c)
			c.(*net.TCPConn).SetLinger(0)
		}, 0, store.Exhausted, 0, "connection reset", ""},
		"reset in body": {func(c net.Conn) {
			request(c)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\nabc")
			c.(*net.TCPConn).SetLinger(0)
		}, 0, store.Exhausted, 200, "connection reset reading body", "abc"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			port := receiver(t, c.handle)
			o := deliver(t, "http://receiver.example.com:"+strconv.Itoa(port)+"/hook?a=b", func(conf *Config) {
				conf.Guard = guard(t, nil, port)
				if c.timeout != 0 {
					conf.Timeout = Duration(c.timeout)
				}
			})
			a := o.Attempt
			if o.Disposition != c.disposition || a.Status != c.status || a.Error != c.error {
				t.Errorf("disposition %d, status %d, error %q; want %d, %d, %q", o.Disposition, a.Status, a.Error, c.disposition, c.status, c.error)
			}
			if c.answer != "*" && a.Response != c.answer {
				t.Errorf("response %.80q", a.Response)
			}
			if !a.Exception {
				t.Error("an address admitted by exception is not marked")
			}
			if a.Took <= 0 || c.timeout != 0 && a.Took < c.timeout {
				t.Errorf("took %v", a.Took)
			}
		})
	}
}

// trickle sends a beginning, then a byte at a time for as long as it can.
func trickle(head string) func(net.Conn) {
	return func(c net.Conn) {
		request(c)
		io.WriteString(c, head)
		for {
			if _, err := io.WriteString(c, "x"); err != nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// endlessly sends a beginning, then the same again and again.
func endlessly(head, rest string) func(net.Conn) {
	rest = strings.Repeat(rest, 1000)
	return func(c net.Conn) {
		request(c)
		for text := head; ; text = rest {
			if _, err := io.WriteString(c, text); err != nil {
				return
			}
		}
	}
}

func TestAttemptWithoutAConnection(t *testing.T) {
	free := receiver(t, func(net.Conn) {})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refusing := l.Addr().(*net.TCPAddr).Port
	l.Close()
	const nowhere = "webhook_url does not lead to a public destination: no such host, or not a public address"
	for name, c := range map[string]struct {
		url, error, detail string
		exception          bool
	}{
		"refused":      {fmt.Sprintf("http://127.0.0.1:%d/", refusing), "connection refused", "refused", true},
		"unresolvable": {fmt.Sprintf("http://nowhere.example.com:%d/", free), nowhere, "10.0.0.53", false},
		"forbidden":    {fmt.Sprintf("http://internal.example.com:%d/", free), nowhere, "10.1.2.3", false},
		"literal":      {fmt.Sprintf("http://10.1.2.3:%d/", free), "webhook_url must not point to a private, reserved or forbidden address", "private", false},
		"port":         {"http://receiver.example.com:1/", "webhook_url must not use port 1", "port 1", false},
		"no URL":       {"::", "webhook_url must be an absolute URL such as https://example.com/hook", "absolute", false},
	} {
		t.Run(name, func(t *testing.T) {
			core, logs := observer.New(zap.InfoLevel)
			o := deliver(t, c.url, func(conf *Config) {
				conf.Guard, conf.Logger = guard(t, nil, free, refusing), zap.New(core)
			})
			if o.Attempt.Error != c.error || o.Attempt.Status != 0 || o.Attempt.Exception != c.exception {
				t.Errorf("attempt %+v", o.Attempt)
			}
			if detail := fmt.Sprint(logs.All()[0].ContextMap()["error"]); !strings.Contains(detail, c.detail) {
				t.Errorf("logged %q, want %q in it", detail, c.detail)
			}
		})
	}
}

func TestAttemptOverTLS(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		claim, err := signature.ParseHeaders(r.Header, signature.Standard|signature.Replicate)
		if err == nil {
			_, err = claim.Verify([]signature.Secret{secret(t, testSecret)}, body, func() []byte { return nil })
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
		}
	}))
	server.EnableHTTP2 = true
	server.Config.ErrorLog, _ = zap.NewStdLogAt(zap.NewNop(), zap.InfoLevel)
	server.StartTLS()
	defer server.Close()
	port := server.Listener.Addr().(*net.TCPAddr).Port
	plain := receiver(t, func(c net.Conn) {
		io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
		closedBy(c)
	})
	closing := receiver(t, func(c net.Conn) { c.Read(make([]byte, 16<<10)) })
	old := httptest.NewUnstartedServer(http.NotFoundHandler())
	old.TLS = &tls.Config{MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}
	old.Config.ErrorLog = server.Config.ErrorLog
	old.StartTLS()
	defer old.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	for name, c := range map[string]struct {
		host  string
		port  int
		roots *x509.CertPool
		error string
	}{
		// The certificate of httptest is for example.com and 127.0.0.1.
		"trusted":   {"127.0.0.1", port, roots, ""},
		"untrusted": {"127.0.0.1", port, x509.NewCertPool(), "tls: certificate signed by unknown authority"},
		"name":      {"receiver.example.org", port, roots, "tls: certificate is not valid for this host"},
		"no TLS":    {"127.0.0.1", plain, roots, "tls: the response is not TLS"},
		"closed":    {"127.0.0.1", closing, roots, "connection closed"},
		"old":       {"127.0.0.1", old.Listener.Addr().(*net.TCPAddr).Port, roots, "tls: protocol version not supported"},
	} {
		t.Run(name, func(t *testing.T) {
			o := deliver(t, fmt.Sprintf("https://%s:%d/", c.host, c.port), func(conf *Config) {
				conf.Guard = guard(t, c.roots, c.port)
			})
			if o.Attempt.Error != c.error {
				t.Errorf("error %q, want %q", o.Attempt.Error, c.error)
			}
		})
	}
}

// Nothing that a receiver may have seen is sent twice in one attempt, also not
// when a connection from the pool breaks.
func TestAttemptIsOneRequest(t *testing.T) {
	var requests atomic.Int32
	port := receiver(t, func(c net.Conn) {
		br := bufio.NewReader(c)
		for n := 1; ; n++ {
			r, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			io.Copy(io.Discard, r.Body)
			requests.Add(1)
			if n == 2 {
				return // the request is taken, and no answer given
			}
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
	})
	s := newMemStore()
	ended := make(chan store.Outcome, 1)
	s.ended = func(o *store.Outcome) { ended <- *o }
	engine(t, s, nil, func(c *Config) {
		c.Client, c.Guard = nil, guard(t, nil, port)
		c.Retry.InitialDelay = Duration(time.Millisecond)
	})
	url := fmt.Sprintf("http://127.0.0.1:%d/", port)
	s.add("a", url)
	if o := <-ended; o.Disposition != store.Delivered {
		t.Fatalf("first outcome %+v", o)
	}
	s.add("b", url)
	if o := <-ended; o.Disposition != store.Retry || o.Attempt.Error != "connection closed" {
		t.Fatalf("outcome on a connection that breaks %+v", o)
	}
	if o := <-ended; o.Disposition != store.Delivered || o.Attempt.Number != 2 {
		t.Fatalf("last outcome %+v", o)
	}
	if n := requests.Load(); n != 3 {
		t.Errorf("%d requests for 3 attempts", n)
	}
}

// The connections of as many attempts as may be in flight are used again.
func TestConnectionsAreKept(t *testing.T) {
	var conns atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Write([]byte(strings.Repeat("x", 40<<10))) // more than is kept
	}))
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			conns.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	s := newMemStore()
	const n = 500
	ended := make(chan struct{}, n)
	s.ended = func(*store.Outcome) { ended <- struct{}{} }
	engine(t, s, nil, func(c *Config) {
		c.Client, c.Guard = nil, guard(t, nil, server.Listener.Addr().(*net.TCPAddr).Port)
	})
	for i := range n {
		s.add(strconv.Itoa(i), server.URL)
	}
	for range n {
		<-ended
	}
	if count(s.outcomes(t), store.Delivered) != n {
		t.Error("not all are delivered")
	}
	if c := conns.Load(); c > 40 {
		t.Errorf("%d connections for %d deliveries", c, n)
	}
}
