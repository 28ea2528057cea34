package egress

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxURLLength is the longest URL accepted, in bytes, both as given and with
// everything outside ASCII percent-encoded.
const MaxURLLength = 2048

// CheckURL judges the text of a client-supplied URL, without resolving its
// host. It returns the URL in canonical form: lower-case scheme, and a host
// that is either an address in its usual notation or a lower-case ASCII name
// (Punycode for an internationalised one) without a trailing dot. Callers
// should use that form from then on; it passes CheckURL unchanged.
//
// A URL is accepted if it
//
//   - is absolute, at most [MaxURLLength] bytes of UTF-8, and free of white
//     space, control and other invisible characters, and backslashes;
//   - uses https, or http where the policy allows that;
//   - has no user name, password or fragment;
//   - has a host that is a plain name or a plain address: no percent
//     encoding, no legacy number forms of IPv4 addresses even where they
//     stand for a public one, no IPv6 zone, no IPv4 address inside an IPv6
//     one, no characters that become others by IDNA mapping, and no name
//     reserved for local networks unless the policy has exceptions;
//   - uses a port the policy allows; and
//   - does not name a literal address that [Guard.CheckAddr] forbids. The
//     rule against the host's own addresses is left to the dial, because
//     these change while a URL waits, and a refusal here would tell any
//     client which public addresses the operator's host has.
//
// The error is a [*URLError].
func (g *Guard) CheckURL(raw string) (*url.URL, error) {
	u, problem, forbidden := g.checkURL(raw)
	if problem != "" {
		return nil, &URLError{Problem: problem, forbidden: forbidden}
	}
	return u, nil
}

// checkURL does the work of [Guard.CheckURL]. The problem is empty if the URL
// is accepted; forbidden tells a refused destination from a malformed URL.
func (g *Guard) checkURL(raw string) (u *url.URL, problem string, forbidden bool) {
	if problem := badText(raw); problem != "" {
		return nil, problem, false
	}

	// The authority is cut out by hand and compared with what net/url makes
	// of it, so that the parts judged are the parts used.
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok || scheme == "" {
		return nil, "must be an absolute URL such as https://example.com/hook", false
	}
	if problem := g.badScheme(scheme); problem != "" {
		return nil, problem, false
	}
	if strings.Contains(rest, "#") {
		return nil, "must not have a fragment", false
	}
	authority := rest
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		authority = rest[:i]
	}
	switch {
	case authority == "":
		return nil, "must have a host", false
	case strings.Contains(authority, "@"):
		return nil, "must not contain a user name or password", false
	case strings.Contains(authority, "%"):
		return nil, "must not use percent-encoding or a zone in its host", false
	}

	u, err := url.Parse(raw)
	if err != nil || u.Host != authority || u.User != nil || u.Opaque != "" {
		return nil, "must be a valid URL", false
	}
	if u.Hostname() == "" {
		return nil, "must have a host", false
	}
	h, problem := g.admitHost(u.Hostname(), authority[0] == '[')
	if problem != "" {
		return nil, problem, problem == localName
	}
	port, number, problem := urlPort(u)
	if problem != "" {
		return nil, problem, false
	}
	if !slices.Contains(g.ports, number) {
		// Which other ports the operator opens is the operator's to tell.
		return nil, "must not use port " + strconv.Itoa(int(number)), true
	}
	if h.addr.IsValid() {
		if v, err := g.judge(h.addr, nil); err != nil || v.reason != "" {
			return nil, "must not point to a private, reserved or forbidden address", true
		}
	}

	u.Host = h.String() + port
	if len(u.String()) > MaxURLLength {
		return nil, tooLong, false
	}
	return u, "", false
}

const tooLong = "must be at most 2048 bytes long"

// badText looks at the characters of a URL before it is taken apart.
// Backslashes are refused because the URL Standard reads them as slashes and
// RFC 3986 does not; invisible characters, because some parsers drop them.
func badText(raw string) string {
	switch {
	case raw == "":
		return "must not be empty"
	case len(raw) > MaxURLLength:
		return tooLong
	case !utf8.ValidString(raw):
		return "must be valid UTF-8"
	}
	for _, r := range raw {
		if r == '\\' {
			return "must not contain a backslash"
		}
		if r == ' ' || !unicode.IsPrint(r) {
			return "must not contain white space, control or invisible characters"
		}
	}
	return ""
}

// badScheme judges the part of a URL before "://".
func (g *Guard) badScheme(scheme string) string {
	switch {
	case strings.EqualFold(scheme, "https"):
		return ""
	case !g.allowHTTP:
		return "must use https"
	case strings.EqualFold(scheme, "http"):
		return ""
	default:
		return "must use http or https"
	}
}

// urlPort returns the port of u as a number, and as it is written after the
// host: empty, or a colon and the number. A default port is not made explicit.
func urlPort(u *url.URL) (text string, number uint16, problem string) {
	s := u.Port()
	if s == "" {
		if strings.HasSuffix(u.Host, ":") {
			return "", 0, "must not have an empty port"
		}
		if u.Scheme == "http" {
			return "", 80, ""
		}
		return "", 443, ""
	}
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || s[0] == '0' {
		return "", 0, "must have a port between 1 and 65535 without leading zeros"
	}
	return ":" + s, uint16(n), ""
}
