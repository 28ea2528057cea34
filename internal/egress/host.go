package egress

import (
	"net/netip"
	"slices"
	"strings"
	"unicode"

	"golang.org/x/net/idna"
)

// host is the host part of a URL in canonical form: either an address or a
// name.
type host struct {
	addr netip.Addr // valid if the host was written as an address
	name string     // lower-case ASCII, without a trailing dot
}

// String returns the host as it is written in a URL's authority.
func (h host) String() string {
	switch {
	case !h.addr.IsValid():
		return h.name
	case h.addr.Is6():
		return "[" + h.addr.String() + "]"
	default:
		return h.addr.String()
	}
}

// Problems of a host. Each completes a sentence beginning with "webhook_url".
const (
	badHost    = "must have a valid host name"
	badIPv6    = "must have a valid IPv6 address between its brackets"
	hasZone    = "must not use an IPv6 zone"
	embedsIPv4 = "must not wrap an IPv4 address in an IPv6 one"
	legacyIPv4 = "must write an IPv4 address as four decimal numbers without leading zeros"
	mappedName = "must write its host in plain letters and ASCII digits"
	localName  = "must not use a host name of a local network"
)

// maxName is the longest DNS name in its textual form without the trailing
// dot (RFC 1035, section 2.3.4), and maxLabel the longest of its parts.
const (
	maxName  = 253
	maxLabel = 63
)

// parseHost reads a host, without the brackets if it is an IPv6 address. The
// returned problem is empty if the host is acceptable as text. Whether a
// literal address is one that may be reached is not judged here.
//
// Clients of the system differ widely in what they take for an address:
// inet_aton(3) and the URL Standard read 0x7f.1, 2130706433 and 0177.0.0.1 as
// 127.0.0.1, and IDNA processing (UTS #46) turns full-width digits and
// ideographic full stops into ASCII. All that is refused rather than
// interpreted, so there is no second opinion to disagree with.
func parseHost(s string, ipv6 bool) (host, string) {
	if ipv6 {
		return parseIPv6(s)
	}
	if !isASCII(s) {
		ascii, ok := punycode(s)
		if !ok {
			return host{}, mappedName
		}
		s = ascii
	}
	name := strings.ToLower(s)
	if addr, err := netip.ParseAddr(name); err == nil && addr.Is4() {
		return host{addr: addr}, ""
	}
	name = strings.TrimSuffix(name, ".")
	if name == "" || len(name) > maxName {
		return host{}, badHost
	}
	for label := range strings.SplitSeq(name, ".") {
		if !validLabel(label) {
			return host{}, badHost
		}
	}
	if endsInNumber(name) {
		return host{}, legacyIPv4
	}
	if isLocalName(name) {
		return host{name: name}, localName
	}
	return host{name: name}, ""
}

// admitHost is [parseHost] under the policy of the guard. A name of a local
// network is judged by its addresses alone where there are exceptions to the
// built-in list of these, or where the operator names it.
func (g *Guard) admitHost(s string, ipv6 bool) (host, string) {
	h, problem := parseHost(s, ipv6)
	if problem == localName && (len(g.allow) > 0 || slices.Contains(g.allowHosts, h.name)) {
		return h, ""
	}
	return h, problem
}

// parseIPv6 reads the text between the brackets of an IP literal.
func parseIPv6(s string) (host, string) {
	addr, err := netip.ParseAddr(s)
	switch {
	case err != nil || !addr.Is6():
		return host{}, badIPv6
	case addr.Zone() != "":
		// A zone selects an interface of this host (RFC 4007); nothing
		// public needs one.
		return host{}, hasZone
	case addr.Is4In6() || strings.Contains(s, "."):
		return host{}, embedsIPv4
	}
	return host{addr: addr}, ""
}

// validLabel reports whether s may be one label of a host name: letters,
// digits, hyphens inside (RFC 1123, section 2.1) and underscores, which exist
// in public names although the RFC does not foresee them.
func validLabel(s string) bool {
	if s == "" || len(s) > maxLabel || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	return true
}

// endsInNumber reports whether the last label of a name would make other
// software take the whole name for an IPv4 address: it consists of digits, or
// starts like a hexadecimal number. This is the test of the URL Standard
// (section 3.5, "ends in a number"), with anything after 0x counted as a
// number. No top-level domain looks like that.
func endsInNumber(name string) bool {
	last := name[strings.LastIndexByte(name, '.')+1:]
	return strings.HasPrefix(last, "0x") || strings.Trim(last, "0123456789") == ""
}

// localDomains are names that never belong to the public DNS, with all names
// below them.
var localDomains = []string{
	"localhost",     // RFC 6761, section 6.3
	"localdomain",   // localhost.localdomain in many hosts files
	"ip6-localhost", // hosts files of Debian and its descendants
	"ip6-loopback",  // the same
	"local",         // multicast DNS, RFC 6762
	"internal",      // reserved by ICANN for private use; metadata.google.internal
	"home.arpa",     // RFC 8375
}

// isLocalName reports whether name is one of [localDomains] or below it.
func isLocalName(name string) bool {
	for _, d := range localDomains {
		if rest, ok := strings.CutSuffix(name, d); ok && (rest == "" || rest[len(rest)-1] == '.') {
			return true
		}
	}
	return false
}

// punycode returns the ASCII form (RFC 5890) of an internationalised name. It
// reports false if the name is not valid, or if it reaches its ASCII form only
// by a mapping that goes beyond lower case: such a name is not what it looks
// like. Digits of other scripts are refused even where IDNA keeps them.
func punycode(s string) (string, bool) {
	for _, r := range s {
		if r > unicode.MaxASCII && unicode.IsNumber(r) {
			return "", false
		}
	}
	ascii, err := idna.Lookup.ToASCII(s)
	if err != nil {
		return "", false
	}
	back, err := idna.Lookup.ToUnicode(ascii)
	if err != nil || back != lowerKeepingScript(s) {
		return "", false
	}
	return ascii, true
}

// lowerKeepingScript lower-cases s except for characters outside ASCII whose
// lower case is ASCII, such as the Kelvin sign.
func lowerKeepingScript(s string) string {
	return strings.Map(func(r rune) rune {
		low := unicode.ToLower(r)
		if r > unicode.MaxASCII && low <= unicode.MaxASCII {
			return r
		}
		return low
	}, s)
}

// isASCII reports whether s holds bytes below 0x80 alone.
func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] > unicode.MaxASCII {
			return false
		}
	}
	return true
}
