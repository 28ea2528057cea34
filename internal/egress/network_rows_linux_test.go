package egress

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"
)

// Addresses that may be reached, and those of the host itself, which may not.
const (
	publicAddr  = "93.184.216.34"
	publicAddr6 = "2606:2800:220:1::34"
	ownAddr     = "93.184.216.99"
	ownAddr6    = "2606:2800:220:1::99"
)

var public = map[netip.Addr]bool{
	netip.MustParseAddr(publicAddr): true, netip.MustParseAddr(publicAddr6): true,
}

// allowedURLs show that the guard lets through what it should.
var allowedURLs = []string{
	"http://" + publicAddr + "/", "http://[" + publicAddr6 + "]/", "http://public.example/", "http://PUBLIC.example./",
	"http://six.example/", "http://dual.example/", "http://alias.example/", "http://public.example:443/", "http://xn--bcher-kva.example/",
	"http://public.example/?x=1",
}

// row is a URL that must lead to nothing that is forbidden.
type row struct {
	name, url string
	// target is where it would lead, if that is one address.
	target netip.Addr
	// again: it is tried several times. answers: it may get an answer, from
	// an address that is allowed.
	again, answers bool
}

// forbiddenAddrs has an address of each block that is special, and each form in
// which one can be wrapped.
var forbiddenAddrs = []struct{ name, addr string }{
	{"this network", "0.0.0.0"}, {"this network, within", "0.1.2.3"}, {"private 10", "10.0.0.1"}, {"private 10, end", "10.255.255.255"},
	{"shared", "100.64.0.1"}, {"shared, end", "100.127.255.254"}, {"alibaba metadata", "100.100.100.200"}, {"loopback", "127.0.0.1"},
	{"loopback, other", "127.255.255.254"}, {"systemd's resolver", "127.0.0.53"}, {"link local", "169.254.0.1"}, {"metadata", "169.254.169.254"},
	{"container credentials", "169.254.170.2"}, {"pod identity", "169.254.170.23"}, {"time service", "169.254.169.123"}, {"private 172", "172.16.0.1"},
	{"docker", "172.17.0.1"}, {"private 172, end", "172.31.255.254"}, {"protocol assignments", "192.0.0.1"}, {"oracle metadata", "192.0.0.192"},
	{"dummy", "192.0.0.8"}, {"nat64 discovery", "192.0.0.170"}, {"documentation 1", "192.0.2.1"}, {"as112", "192.31.196.1"}, {"amt", "192.52.193.1"},
	{"6to4 relay", "192.88.99.1"}, {"private 192", "192.168.0.1"}, {"private 192, end", "192.168.255.254"}, {"direct delegation", "192.175.48.1"},
	{"benchmarking", "198.18.0.1"}, {"benchmarking, end", "198.19.255.254"}, {"documentation 2", "198.51.100.1"}, {"documentation 3", "203.0.113.1"},
	{"multicast", "224.0.0.1"}, {"multicast, end", "239.255.255.250"}, {"class e", "240.0.0.1"}, {"broadcast", "255.255.255.255"},
	{"azure", "168.63.129.16"}, {"own", ownAddr},

	{"unspecified", "::"}, {"loopback 6", "::1"}, {"compatible loopback", "::7f00:1"}, {"compatible private", "::a00:1"},
	{"translated", "::ffff:0:7f00:1"}, {"nat64 loopback", "64:ff9b::7f00:1"}, {"nat64 metadata", "64:ff9b::a9fe:a9fe"}, {"nat64 public", "64:ff9b::5db8:d822"},
	{"local nat64", "64:ff9b:1::a00:1"}, {"discard", "100::1"}, {"dummy 6", "100:0:0:1::1"}, {"teredo", "2001::80ff:fffe"}, {"teredo, server inside", "2001:0:a00:1::1"},
	{"anycast 6", "2001:1::1"}, {"benchmarking 6", "2001:2::1"}, {"amt 6", "2001:3::1"}, {"as112 6", "2001:4:112::1"}, {"orchid", "2001:10::1"}, {"orchid 2", "2001:20::1"},
	{"drone", "2001:30::1"}, {"documentation 6", "2001:db8::1"}, {"6to4 private", "2002:a00:1::1"}, {"6to4 loopback", "2002:7f00:1::1"}, {"6to4 metadata", "2002:a9fe:a9fe::1"},
	{"direct delegation 6", "2620:4f:8000::1"}, {"documentation 7", "3fff::1"}, {"segment routing", "5f00::1"}, {"unallocated", "4000::1"}, {"unallocated, high", "e000::1"},
	{"unique local", "fc00::1"}, {"unique local, usual", "fd00::1"}, {"aws metadata 6", "fd00:ec2::254"}, {"google metadata 6", "fd20:ce::254"}, {"site local", "fec0::1"},
	{"isatap private", "2606:4700::5efe:a00:1"}, {"isatap loopback", "2606:4700::5efe:7f00:1"}, {"isatap, universal bit", "2606:4700::200:5efe:a9fe:a9fe"}, {"own 6", ownAddr6},
}

// forbiddenHosts are hosts in a URL that one parser or another takes for an
// address, or a name that leads inside.
var forbiddenHosts = []string{
	"127.1", "127.0.1", "0", "0x7f000001", "0X7F000001", "0x7f.1", "0x7f.0x0.0x0.0x1", "2130706433", "017700000001", "0177.0.0.1", "0177.0.0.01", "127.0.0.0x1",
	"127.000.000.001", "127.0.0.1.", "00000177.1", "10.1", "0xa000001", "167772161", "0xa9fea9fe", "2852039166", "169.254.43518", "0251.0376.0251.0376", "0xA9.0xFE.0xA9.0xFE",
	"256.256.256.256", "4294967296", "1.2.3.4.5", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::ffff:a9fe:a9fe]", "[::ffff:10.0.0.1]", "[0:0:0:0:0:ffff:127.0.0.1]", "[::127.0.0.1]",
	"[64:ff9b::127.0.0.1]", "[::ffff:0:127.0.0.1]", "[::1%25lo]", "[fe80::1%25lo]", "[::ffff:127.0.0.1%25lo]", "[fe80::1]", "[ff02::1]", "[v1.x]", "[127.0.0.1]", "[::1", "::1",
	"localhost", "LOCALHOST", "localhost.", "app.localhost", "ip6-localhost", "ip6-loopback", "localhost.localdomain", "metadata.google.internal", "METADATA.google.internal.", "printer.local",
	"router.home.arpa", "x.internal", "127%2e0%2e0%2e1", "%6cocalhost", "%31%32%37.0.0.1", "127。0。0。1", "127｡0｡0｡1", "127．0．0．1", "１２７.0.0.1", "①②⑦.⓪.⓪.①", "ｌｏｃａｌｈｏｓｔ",
	"ⓛocalhost", "ℓocalhost", "١٢٧.٠.٠.١", "१२७.०.०.१", "𝟏𝟐𝟕.𝟎.𝟎.𝟏", "127.0.0.¹", "loca\u00adlhost", "local\u200bhost", "\u202e1.0.0.721", "localhoſt", "\u212aubernetes.local", "xn--localhost-", "intranet", "hosts.example",
	"user@127.0.0.1", "127.0.0.1@public.example", "public.example@127.0.0.1", "public.example:80@127.0.0.1", "public.example%40127.0.0.1", `public.example\@127.0.0.1`, "public.example#@127.0.0.1",
	"public.example:22", "public.example:25", "public.example:6379", "public.example:0", "public.example:080", "public.example:65616", "public.example:4294967376", "127.0.0.1:80", "[::1]:443", "unix", "",
}

// names are what the DNS server knows, beside the forbidden addresses. Answers
// are addresses and, before them, aliases; of several, one is given to each
// look-up of a type, and the last from then on.
var names = map[string][]string{
	"public.example":        {publicAddr},
	"six.example":           {publicAddr6},
	"dual.example":          {publicAddr + " " + publicAddr6},
	"alias.example":         {"one.example two.example public.example " + publicAddr},
	"xn--bcher-kva.example": {publicAddr},

	"mixed-last.example":     {publicAddr + " 10.0.0.1"},
	"mixed-first.example":    {"10.0.0.1 " + publicAddr},
	"mixed-families.example": {publicAddr + " ::1"},
	"mixed-six.example":      {publicAddr6 + " 127.0.0.1"},
	"mixed-mapped.example":   {publicAddr + " ::ffff:10.0.0.1"},
	"mixed-own.example":      {publicAddr + " " + ownAddr},
	"mixed-many.example":     {"8.8.8.8 8.8.4.4 9.9.9.9 1.1.1.1 1.0.0.1 " + publicAddr + " 192.168.0.1"},
	"mixed-nat64.example":    {publicAddr + " 64:ff9b::a9fe:a9fe"},
	"mixed-zero.example":     {publicAddr + " 0.0.0.0"},

	"rebind.example":      {publicAddr, "127.0.0.1"},
	"rebind-meta.example": {publicAddr, publicAddr, "169.254.169.254"},
	"rebind-six.example":  {publicAddr6, "::1"},
	"rebind-back.example": {"10.0.0.1", publicAddr, "10.0.0.1"},

	"cname.example":           {"inner.corp.example 10.0.0.2"},
	"cname-chain.example":     {"c1.example c2.example c3.example c4.example c5.example c6.example c7.example inner.corp.example 10.0.0.3"},
	"cname-meta.example":      {"metadata.google.internal 169.254.169.254"},
	"cname-localhost.example": {"localhost 127.0.0.1"},
	"cname-six.example":       {"inner.corp.example fd00::7"},
	"cname-loop.example":      {"loop-a.example loop-b.example"},
	"cname-mixed.example":     {"lb.example " + publicAddr + " 172.16.0.9"},
	"intranet.corp.example":   {"10.0.0.8"},
	"wiki.corp.example":       {"10.0.0.9"},
	"wiki":                    {"10.0.0.9"},
}

// zone looks a name up for the nth time.
func zone(name string, n int) (records []string, known bool) {
	if lists, ok := names[name]; ok {
		return strings.Fields(lists[min(n, len(lists)-1)]), true
	}
	if label, ok := strings.CutSuffix(name, ".addr.example"); ok {
		var i int
		if _, err := fmt.Sscanf(label, "n%d", &i); err == nil && i < len(forbiddenAddrs) {
			return []string{forbiddenAddrs[i].addr}, true
		}
	}
	return nil, false
}

// forbiddenRows are all rows.
func forbiddenRows() (rows []row) {
	add := func(r row) { rows = append(rows, r) }
	for i, f := range forbiddenAddrs {
		a := netip.MustParseAddr(f.addr)
		host := f.addr
		if a.Is6() {
			host = "[" + host + "]"
		}
		add(row{name: f.name, url: "http://" + host + "/", target: a})
		add(row{name: f.name + ", https", url: "https://" + host + ":8443/"})
		add(row{name: f.name + ", by name", url: fmt.Sprintf("http://n%d.addr.example/", i)})
		add(row{name: "redirect to " + f.name, url: "http://public.example/?to=" + url.QueryEscape("http://"+host+"/"), answers: true})
	}
	for _, host := range forbiddenHosts {
		add(row{name: "host " + host, url: "http://" + host + "/"})
		add(row{name: "host " + host, url: "https://" + host + "/"})
	}
	for _, host := range []string{"wiki", "wiki.", "wiki.corp.example", "intranet.corp.example", "INTRANET.corp.EXAMPLE."} {
		add(row{name: "search list", url: "http://" + host + "/"})
	}
	for name := range names {
		switch kind, _, _ := strings.Cut(name, "-"); strings.TrimSuffix(kind, ".example") {
		case "mixed", "cname":
			add(row{name: "name", url: "http://" + name + "/"})
			add(row{name: "name", url: "https://" + name + "/"})
		case "rebind":
			add(row{name: "name", url: "http://" + name + "/", again: true, answers: true})
		}
	}
	for _, raw := range []string{
		"ftp://10.0.0.1/", "gopher://10.0.0.1:6379/_x", "unix:///run/docker.sock", "file:///etc/passwd", "//10.0.0.1/", "http:10.0.0.1", "http:///10.0.0.1/", `http:\\10.0.0.1\`, "http://10.0.0.1:80:80/",
		"http://public.example:3128/", "http://10.99.0.1:3128/", "http://[::ffff:10.99.0.1]:3128/", "dict://127.0.0.1:6379/", "javascript://127.0.0.1/", "http://127.0.0.1:80\r\nX: y/",
	} {
		add(row{name: "form", url: raw})
	}
	return rows
}
