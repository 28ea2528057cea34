package egress

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
)

// CheckAddr judges an address. It returns nil if connecting to it is allowed,
// a [*ForbiddenError] if it is not, and another error if the host's own
// addresses could not be read and nothing else decided the matter.
//
// An IPv4-mapped IPv6 address is judged as the IPv4 address it stands for.
// The first of these rules that applies decides:
//
//  1. An address with a zone is forbidden.
//  2. An address in [Config.Deny] is forbidden.
//  3. An IPv6 address that carries an IPv4 address (6to4, Teredo, NAT64,
//     ISATAP, IPv4-compatible) is forbidden if the IPv4 address is, even
//     where [Config.Allow] holds the IPv6 one: whoever routes the packet
//     will unwrap it.
//  4. An address in [Config.Allow] is allowed.
//  5. An address that is not publicly reachable is forbidden. The library
//     code.dny.dev/ssrf knows these: the blocks of the IANA IPv4
//     Special-Purpose Address Registry with multicast and class E; all of
//     IPv6 outside the global unicast block 2000::/3, hence loopback,
//     unique local, link local, site local, multicast, NAT64, discard-only
//     and segment routing; and within that block the entries of the IANA
//     IPv6 registry. Azure's host channel 168.63.129.16 is added here.
//  6. An address of one of the host's own interfaces is forbidden.
//  7. Everything else is allowed.
//
// What is not recognised: an IPv4 address wrapped by a NAT64 gateway that has
// a prefix of its own (RFC 6052), and a public address that a router in front
// of the host translates to it. Operators who have either put it in Deny.
func (g *Guard) CheckAddr(a netip.Addr) error {
	v, err := g.judge(a, g.own)
	if err != nil {
		return err
	}
	if v.reason != "" {
		return &ForbiddenError{Addr: a, Reason: v.reason}
	}
	return nil
}

// CheckAddrPort judges an address like [Guard.CheckAddr], and a port against
// [Config.Ports].
func (g *Guard) CheckAddrPort(ap netip.AddrPort) error {
	if !slices.Contains(g.ports, ap.Port()) {
		return &ForbiddenError{Addr: ap.Addr(), Reason: portReason(ap.Port())}
	}
	return g.CheckAddr(ap.Addr())
}

func portReason(port uint16) string {
	return fmt.Sprintf("port %d is not an allowed port", port)
}

// AllowedByException reports whether an address may be reached only because
// [Config.Allow] says so. The response of such a host may concern the operator
// alone, and is not for the client that named it.
//
// If the host's own addresses cannot be read, the result for an allowed
// address is true: too much is hidden then rather than too little.
func (g *Guard) AllowedByException(a netip.Addr) bool {
	v, err := g.judge(a, g.own)
	return err == nil && v.reason == "" && v.exception
}

// verdict is the outcome of judging an address. It is allowed if reason is
// empty.
type verdict struct {
	reason    string // for operators: why the address is forbidden
	exception bool   // allowed, but only by an exception
}

// azureWire is the address at which every Azure virtual machine reaches the
// platform (DNS, DHCP, health probes, guest agent). It lies in public space
// and so in no IANA registry.
// https://learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16
var azureWire = netip.AddrFrom4([4]byte{168, 63, 129, 16})

// judge applies the rules listed at [Guard.CheckAddr]. With own nil, the
// host's own addresses are left out and there is never an error.
func (g *Guard) judge(a netip.Addr, own *ownAddrs) (verdict, error) {
	// The library lets the zero Addr pass: no prefix contains it.
	if !a.IsValid() {
		return verdict{reason: "not an address"}, nil
	}
	if a.Zone() != "" {
		return verdict{reason: "has a zone"}, nil
	}
	a = a.Unmap()
	if contains(g.deny, a) {
		return verdict{reason: "denied by configuration"}, nil
	}

	exception := false
	if v4, ok := embedded(a); ok {
		v, err := g.judge(v4, own)
		if err != nil {
			return verdict{}, err
		}
		if v.reason != "" {
			return verdict{reason: fmt.Sprintf("embeds %s: %s", v4, v.reason)}, nil
		}
		exception = v.exception
	}

	var reason string
	if a == azureWire {
		reason = "the Azure platform's address"
	} else if err := g.builtin.SafeAddr(a); err != nil {
		reason = err.Error()
	} else if own != nil {
		mine, err := own.has(a)
		if err != nil {
			if contains(g.allow, a) {
				return verdict{exception: true}, nil
			}
			return verdict{}, err
		}
		if mine {
			reason = "an address of this host"
		}
	}

	if reason == "" {
		return verdict{exception: exception}, nil
	}
	if contains(g.allow, a) {
		return verdict{exception: true}, nil
	}
	return verdict{reason: reason}, nil
}

func contains(prefixes []netip.Prefix, a netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

var (
	nat64      = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052
	sixToFour  = netip.MustParsePrefix("2002::/16")    // RFC 3056
	teredo     = netip.MustParsePrefix("2001::/32")    // RFC 4380
	compatible = netip.MustParsePrefix("::/96")        // RFC 4291, section 2.5.5.1
)

// embedded returns the IPv4 address inside an IPv6 address of one of the
// transition mechanisms that have a recognisable form. The unspecified and
// the loopback address share their prefix with the IPv4-compatible ones but
// are none (RFC 4291, section 2.5.5.1).
func embedded(a netip.Addr) (netip.Addr, bool) {
	if !a.Is6() || a.IsUnspecified() || a.IsLoopback() {
		return netip.Addr{}, false
	}
	b := a.As16()
	at := func(i int) netip.Addr { return netip.AddrFrom4([4]byte(b[i : i+4])) }

	switch {
	case sixToFour.Contains(a):
		return at(2), true
	case teredo.Contains(a):
		// The client's address is stored inverted (RFC 4380, section 4).
		n := ^binary.BigEndian.Uint32(b[12:])
		return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n))), true
	case nat64.Contains(a), compatible.Contains(a):
		return at(12), true
	}

	// An ISATAP address may have any prefix; its interface identifier is
	// 0000:5efe, or 0200:5efe if the IPv4 address is globally unique, and the
	// IPv4 address (RFC 5214, section 6.1).
	if id := binary.BigEndian.Uint32(b[8:]); id&^0x02000000 == 0x00005efe {
		return at(12), true
	}
	return netip.Addr{}, false
}
