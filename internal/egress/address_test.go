package egress

import (
	"errors"
	"net/netip"
	"testing"
	"time"
)

// specialBlocks are the blocks that must never be reachable by default: the
// IANA special-purpose registries, and what lies outside global unicast. The
// list is kept apart from the library's so that a change there is noticed.
// https://www.iana.org/assignments/iana-ipv4-special-registry
// https://www.iana.org/assignments/iana-ipv6-special-registry
var specialBlocks = []string{
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16",
	"172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24",
	"192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24",
	"198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4",
	"240.0.0.0/4", "255.255.255.255/32", "168.63.129.16/32",
	"::/128", "::1/128", "::/96", "::/3", "64:ff9b::/96", "64:ff9b:1::/48",
	"100::/64", "100:0:0:1::/64", "2001::/23", "2001::/32", "2001:1::/32",
	"2001:2::/48", "2001:3::/32", "2001:4:112::/48", "2001:10::/28",
	"2001:20::/28", "2001:30::/28", "2001:db8::/32", "2002::/16",
	"2620:4f:8000::/48", "3fff::/20", "4000::/3", "5f00::/16", "6000::/3",
	"8000::/3", "a000::/3", "c000::/3", "e000::/4", "fc00::/7", "fe00::/9",
	"fe80::/10", "fec0::/10", "ff00::/8",
}

// lastOf returns the highest address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

func TestSpecialBlocksForbidden(t *testing.T) {
	g := newGuard(t, Config{})
	for _, block := range specialBlocks {
		t.Run(block, func(t *testing.T) {
			p := netip.MustParsePrefix(block)
			for _, a := range []netip.Addr{p.Addr(), lastOf(p)} {
				// ::/3 contains the IPv4-mapped block, none of its ends.
				var refused *ForbiddenError
				if err := g.CheckAddr(a); !errors.As(err, &refused) || !errors.Is(err, ErrForbidden) {
					t.Errorf("%s: got %v", a, err)
				}
				if a.Is4() {
					mapped := netip.AddrFrom16(a.As16())
					if err := g.CheckAddr(mapped); !errors.Is(err, ErrForbidden) {
						t.Errorf("%s: got %v", mapped, err)
					}
				}
			}
		})
	}
}

func TestCheckAddr(t *testing.T) {
	g := newGuard(t, Config{})
	tests := []struct {
		name    string
		addr    string
		allowed bool
	}{
		{"public", "93.184.216.34", true},
		{"below private 10", "9.255.255.255", true},
		{"above private 10", "11.0.0.0", true},
		{"below shared", "100.63.255.255", true},
		{"above shared", "100.128.0.0", true},
		{"below loopback", "126.255.255.255", true},
		{"above loopback", "128.0.0.0", true},
		{"below link local", "169.253.255.255", true},
		{"above link local", "169.255.0.0", true},
		{"below private 172", "172.15.255.255", true},
		{"above private 172", "172.32.0.0", true},
		{"above private 192", "192.169.0.0", true},
		{"below multicast", "223.255.255.255", true},
		{"beside azure, below", "168.63.129.15", true},
		{"beside azure, above", "168.63.129.17", true},
		{"metadata", "169.254.169.254", false},
		{"metadata of containers", "169.254.170.2", false},
		{"alibaba metadata", "100.100.100.200", false},
		{"oracle metadata", "192.0.0.192", false},
		{"azure", "168.63.129.16", false},
		{"public ipv6", "2606:4700::1111", true},
		{"first global unicast", "2000::", true},
		{"above protocol assignments", "2001:200::1", true},
		{"below documentation", "2001:db7:ffff::1", true},
		{"aws metadata ipv6", "fd00:ec2::254", false},
		{"mapped public", "::ffff:93.184.216.34", true},
		{"mapped loopback", "::ffff:127.0.0.1", false},
		{"mapped metadata", "::ffff:169.254.169.254", false},
		{"mapped azure", "::ffff:168.63.129.16", false},
		{"compatible public", "::93.184.216.34", false},
		{"compatible loopback", "::127.0.0.1", false},
		{"translated, old form", "::ffff:0:127.0.0.1", false},
		{"nat64 public", "64:ff9b::93.184.216.34", false},
		{"nat64 loopback", "64:ff9b::127.0.0.1", false},
		{"local nat64", "64:ff9b:1::10.0.0.1", false},
		{"6to4 public", "2002:5db8:d822::1", false},
		{"6to4 private", "2002:a00:1::1", false},
		{"teredo", "2001:0:4136:e378:8000:63bf:3fff:fdd2", false},
		{"orchid", "2001:20::1", false},
		{"isatap private", "2606:4700::5efe:10.0.0.1", false},
		{"isatap private, universal bit", "2606:4700::200:5efe:192.168.0.1", false},
		{"isatap loopback", "2606:4700::5efe:127.0.0.1", false},
		{"isatap azure", "2606:4700::5efe:168.63.129.16", false},
		{"isatap public", "2606:4700::200:5efe:93.184.216.34", true},
		{"not quite isatap", "2606:4700::100:5efe:10.0.0.1", true},
		{"zone", "fe80::1%eth0", false},
		{"zone on public", "2606:4700::1111%eth0", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := g.CheckAddr(netip.MustParseAddr(tt.addr))
			if tt.allowed && err != nil {
				t.Errorf("refused: %v", err)
			}
			if !tt.allowed && !errors.Is(err, ErrForbidden) {
				t.Errorf("got %v, want ErrForbidden", err)
			}
		})
	}
	if err := g.CheckAddr(netip.Addr{}); !errors.Is(err, ErrForbidden) {
		t.Errorf("zero address: got %v, want ErrForbidden", err)
	}
}

func TestCheckAddrExceptions(t *testing.T) {
	own := func() ([]netip.Addr, error) {
		return []netip.Addr{
			netip.MustParseAddr("93.184.216.34"),
			netip.MustParseAddr("2606:4700::1111%eth0"),
		}, nil
	}
	tests := []struct {
		name      string
		allow     []string
		deny      []string
		addr      string
		allowed   bool
		exception bool
	}{
		{"allowed private", []string{"10.0.0.0/8"}, nil, "10.1.2.3", true, true},
		{"allowed private, mapped", []string{"10.0.0.0/8"}, nil, "::ffff:10.1.2.3", true, true},
		{"allowed by a mapped prefix", []string{"::ffff:10.0.0.0/104"}, nil, "10.1.2.3", true, true},
		{"allowed by an unmasked prefix", []string{"10.9.9.9/8"}, nil, "10.1.2.3", true, true},
		{"outside the exception", []string{"10.0.0.0/8"}, nil, "192.168.0.1", false, false},
		{"public needs no exception", []string{"0.0.0.0/0"}, nil, "93.184.216.35", true, false},
		{"everything allowed", []string{"0.0.0.0/0"}, nil, "127.0.0.1", true, true},
		{"ipv6 everything is not ipv4", []string{"::/0"}, nil, "127.0.0.1", false, false},
		{"allowed ipv6 loopback", []string{"::1/128"}, nil, "::1", true, true},
		{"allowed unique local", []string{"fd00::/8"}, nil, "fd12::1", true, true},
		{"allowed azure", []string{"168.63.129.16/32"}, nil, "168.63.129.16", true, true},
		{"deny beats allow", []string{"10.0.0.0/8"}, []string{"10.1.0.0/16"}, "10.1.2.3", false, false},
		{"beside what is denied", []string{"10.0.0.0/8"}, []string{"10.1.0.0/16"}, "10.2.2.3", true, true},
		{"deny of a narrower allow", []string{"10.1.2.3/32"}, []string{"10.0.0.0/8"}, "10.1.2.3", false, false},
		{"denied public", nil, []string{"8.8.8.0/24"}, "8.8.8.8", false, false},
		{"denied public, mapped", nil, []string{"8.8.8.0/24"}, "::ffff:8.8.8.8", false, false},
		{"denied public, isatap", nil, []string{"8.8.8.0/24"}, "2606:4700::200:5efe:808:808", false, false},
		{"denied ipv6", nil, []string{"2606:4700::/32"}, "2606:4700::1", false, false},
		{"nat64 of a public address", []string{"64:ff9b::/96"}, nil, "64:ff9b::8.8.8.8", true, true},
		{"nat64 of loopback", []string{"64:ff9b::/96"}, nil, "64:ff9b::127.0.0.1", false, false},
		{"nat64 of a denied address", []string{"64:ff9b::/96"}, []string{"8.8.8.8/32"}, "64:ff9b::8.8.8.8", false, false},
		{"nat64 of an allowed private", []string{"64:ff9b::/96", "10.0.0.0/8"}, nil, "64:ff9b::10.0.0.1", true, true},
		{"6to4 of metadata", []string{"2002::/16"}, nil, "2002:a9fe:a9fe::1", false, false},
		{"teredo of loopback", []string{"2001::/32"}, nil, "2001::80ff:fffe", false, false},
		{"teredo of a public address", []string{"2001::/32"}, nil, "2001::f7f7:f7f7", true, true},
		{"isatap of an allowed private", []string{"10.0.0.0/8"}, nil, "2606:4700::5efe:10.0.0.1", true, true},
		{"own address", nil, nil, "93.184.216.34", false, false},
		{"own address, mapped", nil, nil, "::ffff:93.184.216.34", false, false},
		{"own address, isatap", nil, nil, "2606:4700::200:5efe:93.184.216.34", false, false},
		{"own ipv6 address", nil, nil, "2606:4700::1111", false, false},
		{"own address allowed", []string{"93.184.216.34/32"}, nil, "93.184.216.34", true, true},
		{"own address allowed and denied", []string{"93.184.216.34/32"}, []string{"93.184.216.34/32"}, "93.184.216.34", false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := newGuard(t, Config{Allow: prefixes(tt.allow...), Deny: prefixes(tt.deny...), Interfaces: own})
			a := netip.MustParseAddr(tt.addr)
			err := g.CheckAddr(a)
			if tt.allowed && err != nil || !tt.allowed && !errors.Is(err, ErrForbidden) {
				t.Errorf("got %v, want allowed %v", err, tt.allowed)
			}
			if got := g.AllowedByException(a); got != tt.exception {
				t.Errorf("by exception: got %v, want %v", got, tt.exception)
			}
		})
	}
}

func TestOwnAddressesReadAgain(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	mine := []netip.Addr{netip.MustParseAddr("93.184.216.34")}
	var failure error
	reads := 0
	g := newGuard(t, Config{
		Allow: prefixes("10.0.0.0/8", "203.0.113.0/24", "8.8.4.4/32"),
		Interfaces: func() ([]netip.Addr, error) {
			reads++
			return mine, failure
		},
	})
	g.own.now = func() time.Time { return now }
	g.own.expires = now
	public := netip.MustParseAddr("8.8.8.8")

	for range 3 {
		if err := g.CheckAddr(public); err != nil {
			t.Fatalf("another's address: %v", err)
		}
	}
	if reads != 2 { // by New, and once since
		t.Errorf("read %d times, want 2", reads)
	}

	mine = append(mine, public)
	now = now.Add(ownAddrsAge)
	if err := g.CheckAddr(public); !errors.Is(err, ErrForbidden) {
		t.Errorf("new own address: got %v, want ErrForbidden", err)
	}

	now, failure = now.Add(ownAddrsAge), errors.New("no netlink")
	if err := g.CheckAddr(netip.MustParseAddr("9.9.9.9")); !errors.Is(err, failure) || errors.Is(err, ErrForbidden) {
		t.Errorf("unreadable: got %v, want the failure and no ErrForbidden", err)
	}
	if err := g.CheckAddr(netip.MustParseAddr("10.0.0.1")); err != nil {
		t.Errorf("unreadable, allowed: %v", err)
	}
	if a := netip.MustParseAddr("8.8.4.4"); g.CheckAddr(a) != nil || !g.AllowedByException(a) {
		t.Error("unreadable, allowed public address: not an exception")
	}
	if err := g.CheckAddr(netip.MustParseAddr("127.0.0.1")); !errors.Is(err, ErrForbidden) {
		t.Errorf("unreadable, loopback: got %v, want ErrForbidden", err)
	}
}

func TestSystemAddressesForbidden(t *testing.T) {
	g, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	list, err := interfaceAddrs()
	if err != nil || len(list) == 0 {
		t.Fatalf("reading interface addresses: %v, %v", list, err)
	}
	for _, a := range list {
		if err := g.CheckAddr(a); !errors.Is(err, ErrForbidden) {
			t.Errorf("%s: got %v, want ErrForbidden", a, err)
		}
	}
}

func TestCheckAddrPort(t *testing.T) {
	g := newGuard(t, Config{})
	for at, allowed := range map[string]bool{
		"93.184.216.34:443":        true,
		"93.184.216.34:8443":       true,
		"93.184.216.34:80":         false,
		"93.184.216.34:0":          false,
		"127.0.0.1:443":            false,
		"[2606:4700::1111]:443":    true,
		"[::ffff:127.0.0.1]:443":   false,
		"[2606:4700::1111%lo]:443": false,
	} {
		err := g.CheckAddrPort(netip.MustParseAddrPort(at))
		if allowed && err != nil || !allowed && !errors.Is(err, ErrForbidden) {
			t.Errorf("%s: got %v, want allowed %v", at, err, allowed)
		}
	}
}
