package egress

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/netip"
	"testing"
)

func TestTrace(t *testing.T) {
	port, conf := server(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), nil)
	g, c := loopbackClient(t, port, conf)

	// The second request goes over the pooled connection of the first.
	for _, name := range []string{"new connection", "pooled connection"} {
		outer := 0
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			GotConn: func(httptrace.GotConnInfo) { outer++ },
		})
		ctx, trace := g.Trace(ctx, nil)
		if trace.ByException() || trace.Remote().IsValid() {
			t.Errorf("%s: knows an address before the request", name)
		}
		r, err := http.NewRequestWithContext(ctx, "POST", at("https", port, "/"), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if want := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port)); trace.Remote() != want {
			t.Errorf("%s: remote %s, want %s", name, trace.Remote(), want)
		}
		if !trace.ByException() {
			t.Errorf("%s: not by exception", name)
		}
		if outer != 1 {
			t.Errorf("%s: the caller's own hook ran %d times", name, outer)
		}
	}
}

func TestTraceOfFailedAttempt(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	port := s.Listener.Addr().(*net.TCPAddr).Port
	s.Close() // nobody listens there now

	g, c := loopbackClient(t, port, nil)
	ctx, trace := g.Trace(t.Context(), nil)
	r, err := http.NewRequestWithContext(ctx, "POST", at("http", port, "/"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := c.Do(r); err == nil {
		resp.Body.Close()
		t.Fatal("got an answer")
	}
	if !trace.ByException() || trace.Remote().IsValid() {
		t.Errorf("by exception %v, remote %s", trace.ByException(), trace.Remote())
	}
}

// A connection to an ordinary address is not by exception, even if an attempt
// at an excepted one came before it.
func TestTraceOfPublicAddress(t *testing.T) {
	g := newGuard(t, Config{Allow: prefixes("127.0.0.0/8")})
	_, trace := g.Trace(t.Context(), nil)
	trace.connectStart("tcp", "93.184.216.34:443")
	if trace.ByException() {
		t.Error("an attempt at a public address counts as an exception")
	}
	trace.connectStart("tcp", "127.0.0.1:443")
	if !trace.ByException() {
		t.Error("an attempt at an excepted address does not count")
	}
	trace.gotConn(httptrace.GotConnInfo{Conn: remoteConn{to: "93.184.216.34:443"}})
	if trace.ByException() || trace.Remote().String() != "93.184.216.34:443" {
		t.Errorf("by exception %v, remote %s", trace.ByException(), trace.Remote())
	}
	trace.gotConn(httptrace.GotConnInfo{Conn: remoteConn{to: "[::ffff:127.0.0.1]:443"}})
	if !trace.ByException() || trace.Remote().String() != "127.0.0.1:443" {
		t.Errorf("by exception %v, remote %s", trace.ByException(), trace.Remote())
	}
}

// remoteConn is a connection of which only the remote address matters.
type remoteConn struct {
	net.Conn
	to string
}

func (c remoteConn) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(c.to))
}
