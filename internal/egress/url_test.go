package egress

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

// prefixes parses CIDRs for a test's configuration.
func prefixes(cidrs ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, c := range cidrs {
		out = append(out, netip.MustParsePrefix(c))
	}
	return out
}

// noInterfaces stands for a host without addresses, so that tests do not
// depend on the machine they run on.
func noInterfaces() ([]netip.Addr, error) { return nil, nil }

// newGuard returns a guard for c that leaves the machine's own addresses
// alone unless the test says otherwise.
func newGuard(t testing.TB, c Config) *Guard {
	t.Helper()
	if c.Interfaces == nil {
		c.Interfaces = noInterfaces
	}
	g, err := New(c)
	if err != nil {
		t.Fatalf("making guard: %v", err)
	}
	return g
}

func TestCheckURLAccepts(t *testing.T) {
	plain := newGuard(t, Config{})
	tests := []struct {
		name string
		raw  string
		want string // canonical form; empty if unchanged
	}{
		{"name", "https://example.com/hook", ""},
		{"no path", "https://example.com", ""},
		{"query", "https://example.com/hook?id=1&x=%2F", ""},
		{"query without path", "https://example.com?id=1", ""},
		{"at sign in query", "https://example.com/?@127.0.0.1/", ""},
		{"at sign in path", "https://example.com/@user", ""},
		{"address in path", "https://example.com/http://127.0.0.1/", ""},
		{"percent in path", "https://example.com/%0d%0a", ""},
		{"default port", "https://example.com:443/hook", ""},
		{"second port", "https://example.com:8443/hook", ""},
		{"upper-case scheme", "HTTPS://example.com/", "https://example.com/"},
		{"upper-case host", "https://EXAMPLE.Com/Hook", "https://example.com/Hook"},
		{"trailing dot", "https://example.com./", "https://example.com/"},
		{"trailing dot and port", "https://example.com.:8443/", "https://example.com:8443/"},
		{"single label", "https://receiver/", ""},
		{"underscore", "https://my_app.example.com/", ""},
		{"digits in name", "https://1.2.3.4.example.com/", ""},
		{"label of digits", "https://123.example/", ""},
		{"hex label in front", "https://0x7f.example/", ""},
		{"rebinding service", "https://127.0.0.1.nip.io/", ""},
		{"localhost in front", "https://localhost.example.com/", ""},
		{"local as a suffix of a label", "https://mylocal/", ""},
		{"internal in the middle", "https://internal.example.com/", ""},
		{"punycode", "https://xn--bcher-kva.example/", ""},
		{"international name", "https://bücher.example/", "https://xn--bcher-kva.example/"},
		{"international name in capitals", "https://BÜCHER.example/", "https://xn--bcher-kva.example/"},
		{"chinese name", "https://例え.テスト/", "https://xn--r8jz45g.xn--zckzah/"},
		{"international path", "https://example.com/ü", "https://example.com/%C3%BC"},
		{"public address", "https://93.184.216.34/hook", ""},
		{"public address and port", "https://93.184.216.34:8443/hook", ""},
		{"public ipv6", "https://[2606:2800:220:1:248:1893:25c8:1946]/", ""},
		{"public ipv6 and port", "https://[2606:4700::1111]:443/", ""},
		{"ipv6 in long form", "https://[2606:4700:0:0:0:0:0:1111]/", "https://[2606:4700::1111]/"},
		{"upper-case ipv6", "https://[2606:4700::ABCD]/", "https://[2606:4700::abcd]/"},
		{"isatap around a public address", "https://[2606:4700::200:5efe:808:808]/", ""},
		{"longest", "https://example.com/" + strings.Repeat("a", MaxURLLength-20), ""},
		{"longest label", "https://" + strings.Repeat("a", 63) + ".example/", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := tt.want
			if want == "" {
				want = tt.raw
			}
			u, err := plain.CheckURL(tt.raw)
			if err != nil {
				t.Fatalf("refused: %v", err)
			}
			if u.String() != want {
				t.Errorf("got %q, want %q", u, want)
			}
		})
	}
}

func TestCheckURLRefuses(t *testing.T) {
	plain := newGuard(t, Config{})
	const (
		characters = "must not contain white space, control or invisible characters"
		absolute   = "must be an absolute URL such as https://example.com/hook"
		invalid    = "must be a valid URL"
		noHost     = "must have a host"
		userinfo   = "must not contain a user name or password"
		percent    = "must not use percent-encoding or a zone in its host"
		address    = "must not point to a private, reserved or forbidden address"
		badPort    = "must have a port between 1 and 65535 without leading zeros"
	)
	tests := []struct {
		name string
		raw  string
		want string
	}{
		{"empty", "", "must not be empty"},
		{"too long", "https://example.com/" + strings.Repeat("a", MaxURLLength-19), tooLong},
		{"too long once encoded", "https://example.com/" + strings.Repeat("ü", 900), tooLong},
		{"invalid utf-8", "https://example.com/\xff", "must be valid UTF-8"},
		{"space", "https://example.com/a b", characters},
		{"leading space", " https://example.com/", characters},
		{"trailing newline", "https://example.com/\n", characters},
		{"tab in host", "https://exa\tmple.com/", characters},
		{"crlf", "https://example.com/\r\nX: y", characters},
		{"nul", "https://example.com/\x00", characters},
		{"delete", "https://example.com/\x7f", characters},
		{"ideographic space", "https://example.com/\u3000", characters},
		{"zero-width space", "https://127.0\u200b.0.1/", characters},
		{"soft hyphen", "https://local\u00adhost/", characters},
		{"right-to-left override", "https://example.com/\u202e", characters},
		{"backslash in authority", `https://example.com\@127.0.0.1/`, "must not contain a backslash"},
		{"backslashes for slashes", `https:\\127.0.0.1\`, "must not contain a backslash"},

		{"relative", "/hook", absolute},
		{"name only", "example.com/hook", absolute},
		{"network path", "//example.com/hook", absolute},
		{"no scheme", "://example.com/", absolute},
		{"opaque", "https:example.com", absolute},
		{"one slash", "https:/example.com", absolute},
		{"http", "http://example.com/", "must use https"},
		{"ftp", "ftp://example.com/", "must use https"},
		{"file", "file:///etc/passwd", "must use https"},
		{"gopher", "gopher://127.0.0.1:6379/_", "must use https"},
		{"unix", "unix:///run/docker.sock", "must use https"},
		{"javascript", "javascript://example.com/%0aalert(1)", "must use https"},
		{"no host", "https:///hook", noHost},
		{"port without host", "https://:443/hook", noHost},
		{"query without host", "https://?x", noHost},
		{"empty brackets", "https://[]/", invalid},
		{"fragment", "https://example.com/#part", "must not have a fragment"},
		{"empty fragment", "https://example.com/#", "must not have a fragment"},
		{"fragment before at", "https://example.com#@127.0.0.1/", "must not have a fragment"},
		{"user", "https://user@example.com/", userinfo},
		{"user and password", "https://user:secret@example.com/", userinfo},
		{"empty user", "https://@example.com/", userinfo},
		{"host as user", "https://example.com:443@127.0.0.1/", userinfo},
		{"bad escape", "https://example.com/%zz", invalid},

		{"plain http port", "https://example.com:80/", "must not use port 80"},
		{"ssh port", "https://example.com:22/", "must not use port 22"},
		{"redis port", "https://example.com:6379/", "must not use port 6379"},
		{"empty port", "https://example.com:/", "must not have an empty port"},
		{"port zero", "https://example.com:0/", badPort},
		{"port too large", "https://example.com:65979/", badPort},
		{"port far too large", "https://example.com:4294967739/", badPort},
		{"port with leading zero", "https://example.com:0443/", badPort},
		{"port with letters", "https://example.com:https/", invalid},
		{"two ports", "https://example.com:443:22/", invalid},

		{"percent-encoded dot", "https://127%2e0%2e0%2e1/", percent},
		{"percent-encoded letter", "https://%6cocalhost/", percent},
		{"percent-encoded utf-8", "https://%ef%bc%91/", percent},
		{"empty label", "https://example..com/", badHost},
		{"dot", "https://./", badHost},
		{"two trailing dots", "https://example.com../", badHost},
		{"leading hyphen", "https://-example.com/", badHost},
		{"trailing hyphen", "https://example-.com/", badHost},
		{"long label", "https://" + strings.Repeat("a", 64) + ".example/", badHost},
		{"long name", "https://" + strings.Repeat("a.", 127) + "example/", badHost},
		{"comma", "https://a,b/", badHost},
		{"quote", `https://a"b/`, badHost},
		{"braces", "https://{host}/", invalid},

		{"loopback", "https://127.0.0.1/", address},
		{"loopback, other", "https://127.8.9.10/", address},
		{"private 10", "https://10.0.0.1/", address},
		{"private 172", "https://172.31.255.255/", address},
		{"private 192", "https://192.168.1.1/", address},
		{"metadata", "https://169.254.169.254/latest/meta-data/", address},
		{"azure", "https://168.63.129.16/", address},
		{"alibaba metadata", "https://100.100.100.200/", address},
		{"oracle metadata", "https://192.0.0.192/", address},
		{"unspecified", "https://0.0.0.0/", address},
		{"broadcast", "https://255.255.255.255/", address},
		{"ipv6 loopback", "https://[::1]/", address},
		{"ipv6 loopback in long form", "https://[0:0:0:0:0:0:0:1]/", address},
		{"ipv6 unspecified", "https://[::]/", address},
		{"ipv6 unique local", "https://[fd00:ec2::254]/", address},
		{"ipv6 link local", "https://[fe80::1]/", address},
		{"ipv4-compatible in hex", "https://[::7f00:1]/", address},
		{"nat64 in hex", "https://[64:ff9b::7f00:1]/", address},
		{"6to4", "https://[2002:7f00:1::]/", address},
		{"isatap", "https://[2606:4700::5efe:a00:1]/", address},

		{"one number, hex", "https://0x7f000001/", legacyIPv4},
		{"one number, upper-case hex", "https://0X7F000001/", legacyIPv4},
		{"one number, decimal", "https://2130706433/", legacyIPv4},
		{"one number, octal", "https://017700000001/", legacyIPv4},
		{"zero", "https://0/", legacyIPv4},
		{"octal part", "https://0177.0.0.1/", legacyIPv4},
		{"octal parts", "https://0177.00.00.01/", legacyIPv4},
		{"leading zeros", "https://127.000.000.001/", legacyIPv4},
		{"two parts", "https://127.1/", legacyIPv4},
		{"three parts", "https://127.0.1/", legacyIPv4},
		{"hex part", "https://0x7f.1/", legacyIPv4},
		{"hex last part", "https://127.0.0.0x1/", legacyIPv4},
		{"empty hex", "https://127.0.0.0x/", legacyIPv4},
		{"trailing dot on address", "https://127.0.0.1./", legacyIPv4},
		{"trailing dot on number", "https://2130706433./", legacyIPv4},
		{"five parts", "https://1.2.3.4.5/", legacyIPv4},
		{"overflowing part", "https://256.256.256.256/", legacyIPv4},
		{"overflowing number", "https://4294967296/", legacyIPv4},
		{"public in hex", "https://0x08080808/", legacyIPv4},
		{"public in decimal", "https://134744072/", legacyIPv4},
		{"public with leading zeros", "https://08.8.8.8/", legacyIPv4},
		{"public in two parts", "https://8.8/", legacyIPv4},
		{"number as top-level domain", "https://example.1/", legacyIPv4},
		{"hex as top-level domain", "https://example.0xff/", legacyIPv4},

		{"ipv4-mapped", "https://[::ffff:127.0.0.1]/", embedsIPv4},
		{"ipv4-mapped in hex", "https://[::ffff:7f00:1]/", embedsIPv4},
		{"ipv4-mapped public", "https://[::ffff:8.8.8.8]/", embedsIPv4},
		{"ipv4-compatible", "https://[::127.0.0.1]/", embedsIPv4},
		{"nat64 with dots", "https://[64:ff9b::127.0.0.1]/", embedsIPv4},
		{"zone", "https://[fe80::1%25eth0]/", percent},
		{"zone on a public address", "https://[2606:4700::1111%251]/", percent},
		{"bare zone", "https://[fe80::1%eth0]/", percent},
		{"ipv4 in brackets", "https://[127.0.0.1]/", invalid},
		{"ipv6 of nine groups", "https://[1:2:3:4:5:6:7:8:9]/", invalid},
		{"future address", "https://[v1.abc]/", invalid},
		{"unclosed bracket", "https://[::1/", invalid},
		{"text after bracket", "https://[::1]x/", invalid},
		{"ipv6 without brackets", "https://::1/", invalid},

		{"full-width digits", "https://１２７.０.０.１/", mappedName},
		{"circled digits", "https://①②⑦.⓪.⓪.①/", mappedName},
		{"ideographic full stops", "https://127。0。0。1/", mappedName},
		{"half-width ideographic full stops", "https://127｡0｡0｡1/", mappedName},
		{"full-width full stop", "https://127．0．0．1/", mappedName},
		{"one dot leader", "https://127․0․0․1/", mappedName},
		{"arabic-indic digits", "https://١٢٧.٠.٠.١/", mappedName},
		{"devanagari digits", "https://१२७.example/", mappedName},
		{"superscript digit", "https://127.0.0.¹/", mappedName},
		{"mathematical digits", "https://𝟏𝟐𝟕.𝟎.𝟎.𝟏/", mappedName},
		{"full-width letters", "https://ｌｏｃａｌｈｏｓｔ/", mappedName},
		{"circled letters", "https://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/", mappedName},
		{"ligature", "https://ﬁle.example/", mappedName},
		{"kelvin sign", "https://example.\u212aom/", mappedName},
		{"full-width slash", "https://example.com／.example.org/", mappedName},
		{"account-of sign", "https://℀.example.org/", mappedName},

		{"localhost", "https://localhost/", localName},
		{"localhost in capitals", "https://LOCALHOST/", localName},
		{"localhost and dot", "https://localhost./", localName},
		{"below localhost", "https://app.localhost/", localName},
		{"localhost of hosts files", "https://localhost.localdomain/", localName},
		{"ip6-localhost", "https://ip6-localhost/", localName},
		{"multicast dns", "https://printer.local/", localName},
		{"google metadata", "https://metadata.google.internal/", localName},
		{"google metadata and dot", "https://metadata.google.internal./", localName},
		{"internal", "https://internal/", localName},
		{"home network", "https://router.home.arpa/", localName},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			u, err := plain.CheckURL(tt.raw)
			if err == nil {
				t.Fatalf("accepted as %q", u)
			}
			var bad *URLError
			if !errors.As(err, &bad) {
				t.Fatalf("got %T, want *URLError", err)
			}
			if bad.Problem != tt.want {
				t.Errorf("got %q, want %q", bad.Problem, tt.want)
			}
			if got := ClientText(err); got != "webhook_url "+tt.want {
				t.Errorf("client is told %q", got)
			}
			forbidden := tt.want == address || tt.want == localName || strings.HasPrefix(tt.want, "must not use port")
			if errors.Is(err, ErrForbidden) != forbidden {
				t.Errorf("errors.Is(err, ErrForbidden) is %v, want %v", !forbidden, forbidden)
			}
		})
	}
}

func TestCheckURLFollowsPolicy(t *testing.T) {
	tests := []struct {
		name   string
		config Config
		raw    string
		want   string // problem; empty if accepted
	}{
		{"http allowed", Config{AllowHTTP: true}, "http://example.com/", ""},
		{"http with port", Config{AllowHTTP: true}, "http://example.com:80/", ""},
		{"https beside http", Config{AllowHTTP: true}, "https://example.com/", ""},
		{"other scheme beside http", Config{AllowHTTP: true}, "ftp://example.com/", "must use http or https"},
		{"odd port with http", Config{AllowHTTP: true}, "http://example.com:8080/", "must not use port 8080"},
		{"own ports", Config{Ports: []int{9443}}, "https://example.com:9443/", ""},
		{"own ports replace the default", Config{Ports: []int{9443}}, "https://example.com/", "must not use port 443"},
		{"own ports with http", Config{Ports: []int{443}, AllowHTTP: true}, "http://example.com/", "must not use port 80"},
		{"allowed private", Config{Allow: prefixes("10.0.0.0/8")}, "https://10.1.2.3/", ""},
		{"other private", Config{Allow: prefixes("10.0.0.0/8")}, "https://192.168.1.1/", "must not point to a private, reserved or forbidden address"},
		{"allowed private in legacy form", Config{Allow: prefixes("127.0.0.0/8")}, "https://127.1/", legacyIPv4},
		{"allowed loopback, mapped", Config{Allow: prefixes("127.0.0.0/8")}, "https://[::ffff:127.0.0.1]/", embedsIPv4},
		{"loopback by name", Config{}, "https://localhost/", localName},
		{"allowed loopback by name", Config{Allow: prefixes("127.0.0.0/8")}, "https://localhost/", ""},
		{"allowed ipv6 loopback", Config{Allow: prefixes("::1/128")}, "https://[::1]/", ""},
		{"denied public", Config{Deny: prefixes("93.184.216.0/24")}, "https://93.184.216.34/", "must not point to a private, reserved or forbidden address"},
		{"deny beats allow", Config{Allow: prefixes("10.0.0.0/8"), Deny: prefixes("10.1.0.0/16")}, "https://10.1.2.3/", "must not point to a private, reserved or forbidden address"},
		{"own address left to the dial", Config{Interfaces: func() ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("93.184.216.34")}, nil
		}}, "https://93.184.216.34/", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := newGuard(t, tt.config).CheckURL(tt.raw)
			var bad *URLError
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tt.want != "" && (!errors.As(err, &bad) || bad.Problem != tt.want):
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func BenchmarkCheckURL(b *testing.B) {
	g := newGuard(b, Config{})
	for _, bm := range []struct{ name, raw string }{
		{"name", "https://hooks.example.com/replicate/predictions?id=gm3qorzdhgbfurvjtvhg6dckhu"},
		{"address", "https://93.184.216.34:8443/hook"},
		{"international", "https://bücher.example/hook"},
		{"refused", "https://0x7f000001/"},
	} {
		b.Run(bm.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = g.CheckURL(bm.raw)
			}
		})
	}
}
