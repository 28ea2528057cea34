package egress

import (
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"testing"
)

var dnsName = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*$`)

// FuzzCheckURL looks for a URL that passes although its host is neither a DNS
// name nor an allowed address in its usual notation, as another parser would
// see it.
func FuzzCheckURL(f *testing.F) {
	for _, seed := range []string{
		"https://example.com/hook?x=1",
		"https://93.184.216.34:8443/",
		"https://[2606:4700::1111]/",
		"https://bücher.example/",
		"https://127。0。0。1/",
		"https://0x7f.1/",
		"https://[::ffff:127.0.0.1]/",
		"http://user@example.com:80/#x",
	} {
		f.Add(seed)
	}
	g := newGuard(f, Config{AllowHTTP: true})
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := g.CheckURL(raw)
		if err != nil {
			if u != nil {
				t.Errorf("%q: a URL beside the error %v", raw, err)
			}
			return
		}
		if u.Scheme != "https" && u.Scheme != "http" || u.User != nil || u.Fragment != "" || u.Opaque != "" {
			t.Errorf("%q: accepted as %#v", raw, u)
		}

		name := u.Hostname()
		if addr, err := netip.ParseAddr(name); err == nil {
			if err := g.CheckAddr(addr); err != nil {
				t.Errorf("%q: accepted with %v", raw, err)
			}
			if addr.String() != name {
				t.Errorf("%q: address %q is not in its usual notation", raw, name)
			}
		} else {
			last := name[strings.LastIndexByte(name, '.')+1:]
			if len(name) > 253 || !dnsName.MatchString(name) {
				t.Errorf("%q: %q is not a DNS name", raw, name)
			}
			if strings.HasPrefix(last, "0x") || strings.Trim(last, "0123456789") == "" {
				t.Errorf("%q: %q may be read as a number", raw, name)
			}
			if isLocalName(name) {
				t.Errorf("%q: %q is a local name", raw, name)
			}
		}

		// The URL is stable: what is stored and read again is the same URL.
		again, err := g.CheckURL(u.String())
		if err != nil {
			t.Fatalf("%q: canonical form %q refused: %v", raw, u, err)
		}
		if again.String() != u.String() || again.Host != u.Host {
			t.Errorf("%q: canonical form %q became %q", raw, u, again)
		}
		if parsed, err := url.Parse(u.String()); err != nil || parsed.Hostname() != name {
			t.Errorf("%q: canonical form %q parses as %v, %v", raw, u, parsed, err)
		}
	})
}
