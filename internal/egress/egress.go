// Package egress decides which destinations a client-supplied webhook URL may
// reach, and reaches them.
//
// A webhook sender makes requests on behalf of strangers from inside the
// operator's network, the textbook position for server-side request forgery
// (CWE-918). The package defends it in two layers:
//
//   - [Guard.CheckURL] reads the text of a URL, without DNS, when a client
//     hands it over. It refuses everything that is recognisably wrong, early
//     and with a reason the client can act on.
//   - [Guard.DialContext] resolves the host when the request is made, refuses
//     the dial if any of the resolved addresses is forbidden, and connects to
//     exactly the addresses it has checked. A name that changes its answer
//     between the two therefore gains nothing. A control hook checks the
//     address once more on the socket that is about to connect.
//
// The second layer is the one that protects; the first makes mistakes visible
// early. [Guard.Client] joins both into an [http.Client].
//
// Which addresses are forbidden is described at [Guard.CheckAddr].
package egress

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"code.dny.dev/ssrf"
)

// Resolver turns a host name into addresses. [net.Resolver] implements it.
//
// The network is always "ip": both address families are asked for, because a
// host is judged by all of its addresses. IPv4 addresses may come back in
// their IPv4-mapped IPv6 form.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Config holds an operator's egress policy. The zero value is the safe
// default: https to ports 443 and 8443 of public addresses.
type Config struct {
	// AllowHTTP admits http:// URLs beside https:// ones.
	AllowHTTP bool

	// Ports are the destination ports that may be used, 1 to 65535. A list
	// given here is complete: nothing is added to it. Empty means 443 and
	// 8443, and 80 too when AllowHTTP is set.
	Ports []int

	// Allow are exceptions to the built-in list of forbidden addresses and
	// to the rule against the host's own addresses.
	Allow []netip.Prefix

	// AllowHosts are host names admitted whatever addresses they have, those
	// in Deny apart. Names of local networks may be among them.
	AllowHosts []string

	// Deny are addresses forbidden beside the built-in ones. Deny beats
	// Allow and AllowHosts.
	Deny []netip.Prefix

	// Resolver resolves host names; nil means [net.DefaultResolver].
	Resolver Resolver

	// TLS is the base of the client's TLS configuration, for instance to
	// trust further root certificates; nil means Go's defaults. It is
	// cloned, and TLS 1.2 is the minimum whatever it says. Verification
	// cannot be turned off: [New] refuses InsecureSkipVerify and ServerName.
	TLS *tls.Config

	// Interfaces returns the addresses of the host's own network
	// interfaces; nil means those the operating system reports. It is called
	// from several goroutines, though never from two at once.
	Interfaces func() ([]netip.Addr, error)
}

// Guard applies one [Config]. It is immutable and safe for concurrent use.
type Guard struct {
	allowHTTP bool
	ports     []uint16
	allow     []netip.Prefix
	deny      []netip.Prefix
	builtin   *ssrf.Guardian
	own       *ownAddrs
	resolver  Resolver
	tls       *tls.Config

	// allowHosts are in canonical form, and trusted is the guard for them,
	// nil if there are none.
	allowHosts []string
	trusted    *Guard

	// connect opens one TCP connection to an address that has been checked.
	// It is a field so that tests can watch which addresses would be dialled
	// without packets leaving the host.
	connect func(ctx context.Context, to netip.AddrPort) (net.Conn, error)
}

// New returns a Guard for the policy c. It fails if a port or prefix is not
// valid, if c.TLS would weaken certificate verification, or if the host's own
// addresses cannot be read: without them the rule that protects the host
// itself could not be applied.
func New(c Config) (*Guard, error) {
	ports, err := portList(c.Ports, c.AllowHTTP)
	if err != nil {
		return nil, err
	}
	allow, err := normalize(c.Allow)
	if err != nil {
		return nil, fmt.Errorf("reading allowed prefixes: %w", err)
	}
	deny, err := normalize(c.Deny)
	if err != nil {
		return nil, fmt.Errorf("reading denied prefixes: %w", err)
	}
	conf, err := tlsConfig(c.TLS)
	if err != nil {
		return nil, err
	}

	g := &Guard{
		allowHTTP: c.AllowHTTP,
		ports:     ports,
		allow:     allow,
		deny:      deny,
		// Ports, networks and exceptions are judged here, so the library is
		// left with the one question of whether an address is public.
		builtin:  ssrf.New(ssrf.WithAnyPort(), ssrf.WithAnyNetwork()),
		own:      &ownAddrs{read: c.Interfaces, now: time.Now},
		resolver: c.Resolver,
		tls:      conf,
	}
	if g.own.read == nil {
		g.own.read = interfaceAddrs
	}
	if g.resolver == nil {
		g.resolver = net.DefaultResolver
	}
	g.connect = g.dialTCP
	if err := g.trust(c.AllowHosts); err != nil {
		return nil, err
	}
	if _, err := g.own.has(netip.IPv4Unspecified()); err != nil {
		return nil, err
	}
	return g, nil
}

// trust prepares the guard for hosts that are admitted by name.
func (g *Guard) trust(names []string) error {
	if len(names) == 0 {
		return nil
	}
	for _, name := range names {
		h, problem := parseHost(name, false)
		if h.name == "" {
			return fmt.Errorf("reading allowed hosts: %q: a name %s", name, cmp.Or(problem, "must not be an address"))
		}
		g.allowHosts = append(g.allowHosts, h.name)
	}
	t := *g
	t.allow = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	t.connect = t.dialTCP
	g.trusted = &t
	return nil
}

// portList validates the configured ports and supplies the defaults.
func portList(configured []int, allowHTTP bool) ([]uint16, error) {
	if len(configured) == 0 {
		if allowHTTP {
			return []uint16{80, 443, 8443}, nil
		}
		return []uint16{443, 8443}, nil
	}
	ports := make([]uint16, 0, len(configured))
	for _, p := range configured {
		if p < 1 || p > 65535 {
			return nil, fmt.Errorf("reading allowed ports: %d is not between 1 and 65535", p)
		}
		ports = append(ports, uint16(p))
	}
	slices.Sort(ports)
	return slices.Compact(ports), nil
}

// normalize masks prefixes and turns IPv4-mapped ones into the IPv4 prefixes
// they stand for, the form in which addresses are compared.
func normalize(prefixes []netip.Prefix) ([]netip.Prefix, error) {
	out := make([]netip.Prefix, 0, len(prefixes))
	for _, p := range prefixes {
		if !p.IsValid() {
			return nil, errors.New("an empty or malformed prefix")
		}
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

// tlsConfig derives the client's TLS configuration from the operator's.
func tlsConfig(base *tls.Config) (*tls.Config, error) {
	conf := &tls.Config{}
	if base != nil {
		if base.InsecureSkipVerify {
			return nil, errors.New("reading TLS configuration: certificate verification cannot be disabled")
		}
		if base.ServerName != "" {
			// One fixed name would verify every webhook host against the
			// certificate of another.
			return nil, errors.New("reading TLS configuration: a server name cannot be set")
		}
		conf = base.Clone()
	}
	conf.MinVersion = max(conf.MinVersion, tls.VersionTLS12)
	if conf.MaxVersion != 0 && conf.MaxVersion < conf.MinVersion {
		return nil, errors.New("reading TLS configuration: the maximum version is below the minimum")
	}
	return conf, nil
}
