package egress

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// fakeResolver answers each lookup of a name with the next of its answers,
// and with the last of them from then on.
type fakeResolver struct {
	mu      sync.Mutex
	answers map[string][][]netip.Addr
	lookups int
}

func (f *fakeResolver) LookupNetIP(_ context.Context, network, host string) ([]netip.Addr, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lookups++
	list := f.answers[host]
	if network != "ip" || len(list) == 0 {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	if len(list) > 1 {
		f.answers[host] = list[1:]
	}
	return list[0], nil
}

// answers returns a resolver that knows one name, with one answer per
// argument, each a list of addresses separated by spaces.
func answers(name string, lists ...string) *fakeResolver {
	f := &fakeResolver{answers: map[string][][]netip.Addr{}}
	for _, list := range lists {
		var answer []netip.Addr
		for a := range strings.FieldsSeq(list) {
			answer = append(answer, netip.MustParseAddr(a))
		}
		f.answers[name] = append(f.answers[name], answer)
	}
	return f
}

// everything resolves each name to IPv4 loopback, as a hostile or careless
// resolver would.
type everything struct{}

func (everything) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}, nil
}

// counter is a loopback listener that counts the connections it accepts and
// closes them at once.
type counter struct {
	net.Listener
	port     int
	accepted atomic.Int64
}

func newCounter(t *testing.T) *counter {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &counter{Listener: l, port: l.Addr().(*net.TCPAddr).Port}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			c.accepted.Add(1)
			conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return c
}

// count returns how many connections arrived since the last count. It makes
// one itself: connections are accepted in the order of their arrival, so when
// that one has been accepted and closed, all before it have been too.
func (c *counter) count(t *testing.T) int {
	t.Helper()
	conn, err := net.Dial("tcp4", c.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = conn.Read(make([]byte, 1)) // returns when the listener has closed it
	return int(c.accepted.Swap(0)) - 1
}

// portOf returns the listener's port as text.
func portOf(c *counter) string { return strconv.Itoa(c.port) }

// recorded replaces a guard's connections by a record of their addresses.
func recorded(g *Guard) func() []string {
	var mu sync.Mutex
	var list []string
	g.connect = func(_ context.Context, to netip.AddrPort) (net.Conn, error) {
		mu.Lock()
		defer mu.Unlock()
		list = append(list, to.Addr().String())
		return nil, errors.New("not connecting in a test")
	}
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return list
	}
}
