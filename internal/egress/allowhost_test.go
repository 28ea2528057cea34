package egress

import (
	"context"
	"net"
	"net/netip"
	"testing"
)

func TestLocalNamesAreJudgedByTheirAddressesWhereThereAreExceptions(t *testing.T) {
	const inside, outside = "10.1.2.3", "192.168.7.7"
	for name, c := range map[string]struct {
		conf    Config
		host    string
		address string
		url     bool // passes as text
		dial    bool
	}{
		"no exception":                 {Config{}, "app.internal", inside, false, false},
		"allowed address":              {Config{Allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}, "app.internal", inside, true, true},
		"allowed address, other name":  {Config{Allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}, "a.b.svc.cluster.local", inside, true, true},
		"other address":                {Config{Allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}, "app.internal", outside, true, false},
		"allowed name":                 {Config{AllowHosts: []string{"App.Internal."}}, "app.internal", outside, true, true},
		"another name":                 {Config{AllowHosts: []string{"app.internal"}}, "b.app.internal", outside, false, false},
		"public name, private address": {Config{AllowHosts: []string{"app.internal"}}, "hooks.example.com", outside, true, false},
		"allowed name, denied address": {Config{AllowHosts: []string{"app.internal"}, Deny: []netip.Prefix{netip.MustParsePrefix("192.168.0.0/16")}}, "app.internal", outside, true, false},
		"allowed public name, private": {Config{AllowHosts: []string{"hooks.example.com"}}, "hooks.example.com", inside, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			c.conf.Resolver = oneAddress(netip.MustParseAddr(c.address))
			c.conf.Interfaces = func() ([]netip.Addr, error) { return nil, nil }
			g, err := New(c.conf)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := g.CheckURL("https://" + c.host + "/hook"); (err == nil) != c.url {
				t.Errorf("checking the URL: %v", err)
			}
			dialled := false
			connect := func(_ context.Context, to netip.AddrPort) (net.Conn, error) {
				dialled = to.Addr() == netip.MustParseAddr(c.address)
				a, _ := net.Pipe()
				return a, nil
			}
			g.connect = connect
			if g.trusted != nil {
				g.trusted.connect = connect
			}
			conn, err := g.DialContext(t.Context(), "tcp", c.host+":443")
			if (err == nil) != c.dial || dialled != c.dial {
				t.Errorf("dialling: %v, %v", conn, err)
			}
			if c.dial && !g.exceptional(netip.MustParseAddr(c.address)) {
				t.Error("its response would be shown to clients")
			}
		})
	}
	for _, bad := range []string{"", "10.1.2.3", "a b", "*.internal", "a..b"} {
		if _, err := New(Config{AllowHosts: []string{bad}}); err == nil {
			t.Errorf("%q is taken for a name", bad)
		}
	}
}

// oneAddress resolves every name to itself.
type oneAddress netip.Addr

func (a oneAddress) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return []netip.Addr{netip.Addr(a)}, nil
}
