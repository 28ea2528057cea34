package egress

import (
	"context"
	"net"
	"net/http/httptrace"
	"net/netip"
	"sync"
)

// Trace records, during and after a request, the address that it was sent to. It is
// safe for concurrent use.
type Trace struct {
	guard     *Guard
	connected func(net.Conn)

	mu        sync.Mutex
	remote    netip.AddrPort
	exception bool // of remote
	tried     bool // a connection to an address allowed by exception was attempted
}

// Trace returns a context for one request, and the trace that observes the
// request made with it. Before the request is written, connected is called with
// its connection, unless it is nil. Hooks that ctx already carries stay in
// effect, at a cost: net/http/httptrace calls them by reflection.
func (g *Guard) Trace(ctx context.Context, connected func(net.Conn)) (context.Context, *Trace) {
	t := &Trace{guard: g, connected: connected}
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		ConnectStart: t.connectStart,
		GotConn:      t.gotConn,
	}), t
}

// Remote returns the address of the connection the request was sent on, new
// or from the pool: the last one, if the transport retried. It is the zero
// value if there was none.
func (t *Trace) Remote() netip.AddrPort {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.remote
}

// ByException reports whether the request went to an address that
// [Guard.AllowedByException] tells of. If it got no connection, it reports
// whether one to such an address was attempted, because how an attempt failed
// may reveal as much as a response.
func (t *Trace) ByException() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.remote.IsValid() {
		return t.tried
	}
	return t.exception
}

// exceptional reports whether an address that was connected to was admitted by an
// exception only, of the address or of the name that led to it.
func (g *Guard) exceptional(a netip.Addr) bool {
	if g.AllowedByException(a) {
		return true
	}
	return g.trusted != nil && g.CheckAddr(a) != nil
}

func (t *Trace) connectStart(_, address string) {
	to, err := netip.ParseAddrPort(address)
	if err != nil || !t.guard.exceptional(to.Addr()) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tried = true
}

func (t *Trace) gotConn(info httptrace.GotConnInfo) {
	if t.connected != nil {
		t.connected(info.Conn)
	}
	tcp, ok := info.Conn.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return
	}
	ap := tcp.AddrPort()
	remote := netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	exception := t.guard.exceptional(remote.Addr())
	t.mu.Lock()
	defer t.mu.Unlock()
	t.remote, t.exception = remote, exception
}
