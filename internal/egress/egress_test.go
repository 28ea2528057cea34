package egress

import (
	"crypto/tls"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestNewRefusesBadConfig(t *testing.T) {
	tests := []struct {
		name   string
		config Config
		want   string
	}{
		{"port zero", Config{Ports: []int{443, 0}}, "reading allowed ports: 0 is not between 1 and 65535"},
		{"negative port", Config{Ports: []int{-1}}, "reading allowed ports: -1 is not between 1 and 65535"},
		{"large port", Config{Ports: []int{65536}}, "reading allowed ports: 65536 is not between 1 and 65535"},
		{"empty allow", Config{Allow: []netip.Prefix{{}}}, "reading allowed prefixes: an empty or malformed prefix"},
		{"empty deny", Config{Deny: []netip.Prefix{{}}}, "reading denied prefixes: an empty or malformed prefix"},
		{"no verification", Config{TLS: &tls.Config{InsecureSkipVerify: true}},
			"reading TLS configuration: certificate verification cannot be disabled"},
		{"one server name", Config{TLS: &tls.Config{ServerName: "example.com"}},
			"reading TLS configuration: a server name cannot be set"},
		{"old TLS only", Config{TLS: &tls.Config{MaxVersion: tls.VersionTLS11}},
			"reading TLS configuration: the maximum version is below the minimum"},
		{"unreadable interfaces", Config{Interfaces: func() ([]netip.Addr, error) { return nil, errors.New("no netlink") }},
			"reading interface addresses: no netlink"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.config.Interfaces == nil {
				tt.config.Interfaces = noInterfaces
			}
			if _, err := New(tt.config); err == nil || err.Error() != tt.want {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestNewPorts(t *testing.T) {
	for _, tt := range []struct {
		name   string
		config Config
		want   []uint16
	}{
		{"default", Config{}, []uint16{443, 8443}},
		{"default with http", Config{AllowHTTP: true}, []uint16{80, 443, 8443}},
		{"configured", Config{Ports: []int{9443, 443, 9443}, AllowHTTP: true}, []uint16{443, 9443}},
	} {
		if got := newGuard(t, tt.config).ports; !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestNewLeavesConfigAlone(t *testing.T) {
	conf := &tls.Config{MinVersion: tls.VersionTLS10}
	allow := make([]netip.Prefix, 1, 64)
	allow[0] = netip.MustParsePrefix("10.9.9.9/8")
	g := newGuard(t, Config{TLS: conf, Allow: allow, Ports: []int{8443, 443}})
	if conf.MinVersion != tls.VersionTLS10 || allow[0].String() != "10.9.9.9/8" || allow[:2][1].IsValid() {
		t.Error("the configuration was changed")
	}
	allow[0] = netip.MustParsePrefix("127.0.0.0/8")
	if err := g.CheckAddr(netip.MustParseAddr("127.0.0.1")); err == nil {
		t.Error("the guard follows later changes of the configuration")
	}
}

func TestForbiddenErrorText(t *testing.T) {
	a := netip.MustParseAddr("10.0.0.1")
	for _, tt := range []struct {
		err  *ForbiddenError
		want string
	}{
		{&ForbiddenError{Addr: a, Reason: "why"}, "forbidden destination: address 10.0.0.1: why"},
		{&ForbiddenError{Host: "hook.example", Addr: a, Reason: "why"}, `forbidden destination: host "hook.example" has address 10.0.0.1: why`},
		{&ForbiddenError{Host: "0x7f.1", Reason: "why"}, `forbidden destination: host "0x7f.1": why`},
	} {
		if got := tt.err.Error(); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
	err := newGuard(t, Config{}).CheckAddr(a)
	if err == nil || !strings.Contains(err.Error(), "10.0.0.0/8") {
		t.Errorf("operators are not told the rule: %v", err)
	}
}
