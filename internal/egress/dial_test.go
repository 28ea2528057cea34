package egress

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestDialRefusesAnyForbiddenAnswer(t *testing.T) {
	tests := []struct {
		name   string
		answer string
	}{
		{"loopback", "127.0.0.1"},
		{"loopback first", "127.0.0.1 93.184.216.34"},
		{"loopback last", "93.184.216.34 127.0.0.1"},
		{"loopback last of many", "8.8.8.8 8.8.4.4 9.9.9.9 1.1.1.1 1.0.0.1 93.184.216.34 2606:4700::1 127.0.0.1"},
		{"mapped loopback", "93.184.216.34 ::ffff:127.0.0.1"},
		{"ipv6 loopback beside ipv4", "93.184.216.34 ::1"},
		{"private beside public", "93.184.216.34 10.0.0.1"},
		{"metadata", "169.254.169.254"},
		{"azure", "168.63.129.16"},
		{"own address", "203.0.114.7"},
		{"own address beside another", "203.0.114.8 203.0.114.7"},
		{"zone", "fe80::1%lo"},
		{"unspecified", "0.0.0.0"},
		{"ipv6 unspecified", "::"},
	}
	for _, tt := range tests {
		for _, network := range []string{"tcp", "tcp4", "tcp6"} {
			t.Run(tt.name+"/"+network, func(t *testing.T) {
				g := newGuard(t, Config{
					Resolver:   answers("hook.example", tt.answer),
					Interfaces: func() ([]netip.Addr, error) { return []netip.Addr{netip.MustParseAddr("203.0.114.7")}, nil },
				})
				dialled := recorded(g)
				_, err := g.DialContext(t.Context(), network, "hook.example:443")
				var refused *ForbiddenError
				if !errors.As(err, &refused) || refused.Host != "hook.example" || !refused.Addr.IsValid() {
					t.Errorf("got %v, want a *ForbiddenError with host and address", err)
				}
				if list := dialled(); len(list) != 0 {
					t.Errorf("connected to %v", list)
				}
				if got := ClientText(err); got != textNotPublic {
					t.Errorf("client is told %q", got)
				}
			})
		}
	}
}

func TestDialMixedAnswerReachesNothing(t *testing.T) {
	c := newCounter(t)
	for _, answer := range []string{"127.0.0.1", "127.0.0.1 127.0.0.2", "127.0.0.2 127.0.0.1"} {
		g := newGuard(t, Config{
			Ports:    []int{c.port},
			Allow:    prefixes("127.0.0.1/32"),
			Resolver: answers("hook.example", answer),
		})
		conn, err := g.DialContext(t.Context(), "tcp", net.JoinHostPort("hook.example", portOf(c)))
		if answer == "127.0.0.1" {
			if err != nil {
				t.Fatalf("%s: %v", answer, err)
			}
			conn.Close()
			if n := c.count(t); n != 1 {
				t.Errorf("%s: %d connections, want 1", answer, n)
			}
			continue
		}
		if !errors.Is(err, ErrForbidden) {
			t.Errorf("%s: got %v, want ErrForbidden", answer, err)
		}
		if n := c.count(t); n != 0 {
			t.Errorf("%s: %d connections, want none", answer, n)
		}
	}
}

// A name whose answer changes between two lookups is looked up once per dial:
// the address checked is the address connected to.
func TestDialRebinding(t *testing.T) {
	t.Run("public, then loopback", func(t *testing.T) {
		r := answers("hook.example", "93.184.216.34", "127.0.0.1")
		g := newGuard(t, Config{Resolver: r})
		dialled := recorded(g)
		if _, err := g.DialContext(t.Context(), "tcp", "hook.example:443"); err == nil || errors.Is(err, ErrForbidden) {
			t.Errorf("first dial: got %v, want a failed connection", err)
		}
		if list := dialled(); len(list) != 1 || list[0] != "93.184.216.34" || r.lookups != 1 {
			t.Errorf("connected to %v after %d lookups, want 93.184.216.34 after one", list, r.lookups)
		}
		if _, err := g.DialContext(t.Context(), "tcp", "hook.example:443"); !errors.Is(err, ErrForbidden) {
			t.Errorf("second dial: got %v, want ErrForbidden", err)
		}
		if list := dialled(); len(list) != 1 {
			t.Errorf("connected to %v", list)
		}
	})
	t.Run("with a real connection", func(t *testing.T) {
		c := newCounter(t)
		g := newGuard(t, Config{
			Ports:    []int{c.port},
			Allow:    prefixes("127.0.0.1/32"),
			Resolver: answers("hook.example", "127.0.0.1", "127.0.0.2"),
		})
		conn, err := g.DialContext(t.Context(), "tcp", net.JoinHostPort("hook.example", portOf(c)))
		if err != nil {
			t.Fatal(err)
		}
		if got := conn.RemoteAddr().String(); got != c.Addr().String() {
			t.Errorf("connected to %s, want %s", got, c.Addr())
		}
		conn.Close()
		if n := c.count(t); n != 1 {
			t.Errorf("%d connections, want 1", n)
		}
	})
}

// loopbackForms are hosts that one or another parser takes for 127.0.0.1.
var loopbackForms = []string{
	"127.0.0.1", "127.0.0.1.", "127.1", "127.0.1", "0", "0.0.0.0",
	"2130706433", "017700000001", "0x7f000001", "0x7f.1", "0X7F.0.0.1",
	"0177.0.0.1", "0177.0.0.01", "127.0.0.0x1", "127.000.000.001",
	"[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]",
	"[::ffff:0:127.0.0.1]", "[64:ff9b::127.0.0.1]", "[2002:7f00:1::]",
	"[::1%25lo]", "[fe80::1%25lo]", "[::ffff:127.0.0.1%25lo]",
	"localhost", "LOCALHOST", "localhost.", "app.localhost", "ip6-localhost",
	"localhost.localdomain", "metadata.google.internal", "printer.local",
	"127%2e0%2e0%2e1", "%6cocalhost", "127。0。0。1", "127｡0｡0｡1",
	"１２７.0.0.1", "①②⑦.⓪.⓪.①", "ｌｏｃａｌｈｏｓｔ", "١٢٧.٠.٠.١",
	"user@127.0.0.1", "hook.example", "hook.example.",
}

func TestLoopbackFormsReachNothing(t *testing.T) {
	c := newCounter(t)
	g := newGuard(t, Config{AllowHTTP: true, Ports: []int{c.port}, Resolver: everything{}})
	client, transport := g.Client(), g.Transport()
	bare := *client
	bare.Transport = transport // without the check of the text

	for _, form := range loopbackForms {
		t.Run(form, func(t *testing.T) {
			raw := "http://" + form + ":" + portOf(c) + "/"
			if resp, err := client.Get(raw); err == nil {
				resp.Body.Close()
				t.Error("client got an answer")
			}
			if resp, err := bare.Get(raw); err == nil {
				resp.Body.Close()
				t.Error("transport got an answer")
			}
			address := strings.NewReplacer("[", "", "]", "", "%25", "%").Replace(form)
			conn, err := g.DialContext(t.Context(), "tcp", net.JoinHostPort(address, portOf(c)))
			if err == nil {
				conn.Close()
			}
			if !errors.Is(err, ErrForbidden) {
				t.Errorf("dial: got %v, want ErrForbidden", err)
			}
			if n := c.count(t); n != 0 {
				t.Errorf("%d connections, want none", n)
			}
		})
	}
}

func TestAllowedLoopbackIsReached(t *testing.T) {
	c := newCounter(t)
	g := newGuard(t, Config{
		Ports:    []int{c.port},
		Allow:    prefixes("127.0.0.0/8"),
		Resolver: everything{},
	})
	for _, h := range []string{"127.0.0.1", "hook.example", "HOOK.example.", "bücher.example"} {
		conn, err := g.DialContext(t.Context(), "tcp", net.JoinHostPort(h, portOf(c)))
		if err != nil {
			t.Errorf("%s: %v", h, err)
			continue
		}
		conn.Close()
		if n := c.count(t); n != 1 {
			t.Errorf("%s: %d connections, want 1", h, n)
		}
	}

	denied := newGuard(t, Config{
		Ports:    []int{c.port},
		Allow:    prefixes("127.0.0.0/8"),
		Deny:     prefixes("127.0.0.1/32"),
		Resolver: everything{},
	})
	for _, h := range []string{"127.0.0.1", "hook.example"} {
		if _, err := denied.DialContext(t.Context(), "tcp", net.JoinHostPort(h, portOf(c))); !errors.Is(err, ErrForbidden) {
			t.Errorf("%s, denied: got %v, want ErrForbidden", h, err)
		}
	}
	if n := c.count(t); n != 0 {
		t.Errorf("%d connections although denied", n)
	}
}

func TestDialRefusesOtherDestinations(t *testing.T) {
	g := newGuard(t, Config{Resolver: answers("hook.example", "93.184.216.34")})
	dialled := recorded(g)
	for _, tt := range []struct{ name, network, address string }{
		{"unix socket", "unix", "/run/docker.sock"},
		{"udp", "udp", "hook.example:443"},
		{"raw ip", "ip4:icmp", "93.184.216.34"},
		{"no port", "tcp", "hook.example"},
		{"port by name", "tcp", "hook.example:https"},
		{"port not allowed", "tcp", "hook.example:22"},
		{"port out of range", "tcp", "hook.example:65979"},
		{"no host", "tcp", ":443"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := g.DialContext(t.Context(), tt.network, tt.address); !errors.Is(err, ErrForbidden) {
				t.Errorf("got %v, want ErrForbidden", err)
			}
		})
	}
	if list := dialled(); len(list) != 0 {
		t.Errorf("connected to %v", list)
	}
}

func TestControlChecksTheSocket(t *testing.T) {
	g := newGuard(t, Config{})
	for _, tt := range []struct {
		network, address string
		allowed          bool
	}{
		{"tcp4", "93.184.216.34:443", true},
		{"tcp6", "[2606:4700::1111]:443", true},
		{"tcp4", "127.0.0.1:443", false},
		{"tcp6", "[::ffff:127.0.0.1]:443", false},
		{"tcp6", "[fe80::1%lo]:443", false},
		{"tcp4", "93.184.216.34:22", false},
		{"udp4", "93.184.216.34:443", false},
		{"tcp4", "hook.example:443", false},
	} {
		err := g.control(t.Context(), tt.network, tt.address, nil)
		if tt.allowed && err != nil || !tt.allowed && !errors.Is(err, ErrForbidden) {
			t.Errorf("%s %s: got %v, want allowed %v", tt.network, tt.address, err, tt.allowed)
		}
	}

	// The hook is in place: past the first check, a forbidden address is
	// still not connected to.
	c := newCounter(t)
	g = newGuard(t, Config{Ports: []int{c.port}})
	if _, err := g.dialTCP(t.Context(), netip.MustParseAddrPort(c.Addr().String())); !errors.Is(err, ErrForbidden) {
		t.Errorf("got %v, want ErrForbidden", err)
	}
	if n := c.count(t); n != 0 {
		t.Errorf("%d connections, want none", n)
	}
}

func TestDialTriesAddressesInTurn(t *testing.T) {
	g := newGuard(t, Config{Resolver: answers("hook.example",
		"1.1.1.1 1.1.1.2 1.1.1.1 ::ffff:1.1.1.2 1.1.1.3 2606:4700::1 1.1.1.4 2606:4700::2 1.1.1.5 1.1.1.6")})
	dialled := recorded(g)
	if _, err := g.DialContext(t.Context(), "tcp", "hook.example:443"); err == nil {
		t.Fatal("connected")
	}
	want := "1.1.1.1 2606:4700::1 1.1.1.2 2606:4700::2 1.1.1.3 1.1.1.4"
	if got := strings.Join(dialled(), " "); got != want {
		t.Errorf("tried %s, want %s", got, want)
	}

	dialled = recorded(g)
	if _, err := g.DialContext(t.Context(), "tcp6", "hook.example:443"); err == nil {
		t.Fatal("connected")
	}
	if got := strings.Join(dialled(), " "); got != "2606:4700::1 2606:4700::2" {
		t.Errorf("tried %s over IPv6", got)
	}
}

func TestDialStartsNextAttemptBesideASlowOne(t *testing.T) {
	g := newGuard(t, Config{Resolver: answers("hook.example", "1.1.1.1 1.1.1.2")})
	near, far := net.Pipe()
	defer far.Close()
	slowEnded := make(chan struct{})
	g.connect = func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
		if to.Addr().String() == "1.1.1.1" {
			defer close(slowEnded)
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return near, nil
	}
	conn, err := g.DialContext(t.Context(), "tcp", "hook.example:443")
	if err != nil || conn != near {
		t.Fatalf("got %v, %v", conn, err)
	}
	<-slowEnded // it is called off when the other has won
	conn.Close()
}

func TestDialClosesTheLoser(t *testing.T) {
	g := newGuard(t, Config{Resolver: answers("hook.example", "1.1.1.1 1.1.1.2")})
	winner, other := net.Pipe()
	defer other.Close()
	loser, peer := net.Pipe()
	g.connect = func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
		if to.Addr().String() == "1.1.1.1" {
			<-ctx.Done()
			return loser, nil // connected after all, at the last moment
		}
		return winner, nil
	}
	conn, err := g.DialContext(t.Context(), "tcp", "hook.example:443")
	if err != nil || conn != winner {
		t.Fatalf("got %v, %v", conn, err)
	}
	defer conn.Close()
	if _, err := peer.Read(make([]byte, 1)); err == nil {
		t.Error("the late connection is still open")
	}
}

func TestDialEndsWithItsContext(t *testing.T) {
	g := newGuard(t, Config{Resolver: answers("hook.example", "1.1.1.1")})
	ctx, cancel := context.WithCancel(t.Context())
	g.connect = func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
		cancel()
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if _, err := g.DialContext(ctx, "tcp", "hook.example:443"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}

	ctx, cancel = context.WithDeadline(t.Context(), time.Unix(0, 0))
	defer cancel()
	_, err := g.DialContext(ctx, "tcp", "hook.example:443")
	if !errors.Is(err, context.DeadlineExceeded) || ClientText(err) != textTimeout {
		t.Errorf("got %v, %q", err, ClientText(err))
	}
}

func TestDialUnknownName(t *testing.T) {
	for name, r := range map[string]Resolver{
		"no such name": answers("other.example", "1.1.1.1"),
		"no address":   answers("hook.example", ""),
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuard(t, Config{Resolver: r})
			_, err := g.DialContext(t.Context(), "tcp", "hook.example:443")
			var dns *net.DNSError
			if !errors.As(err, &dns) || errors.Is(err, ErrForbidden) {
				t.Errorf("got %v, want a *net.DNSError", err)
			}
			if got := ClientText(err); got != textNotPublic {
				t.Errorf("client is told %q, which tells it from a forbidden address", got)
			}
		})
	}
}
