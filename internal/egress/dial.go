package egress

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// dialTimeout bounds resolving and connecting together. The transport
	// dials in the background, on behalf of whichever request comes next, so
	// a dial needs an end of its own.
	dialTimeout = 15 * time.Second

	// attemptDelay is the time after which the next address is tried beside an
	// attempt to connect that is still running (RFC 8305, section 5).
	attemptDelay = 250 * time.Millisecond

	// maxAttempts is the number of addresses of one host that are tried. Whoever owns
	// a name can list any number of other people's addresses under it.
	maxAttempts = 6
)

// DialContext connects to a "host:port" address over the network "tcp",
// "tcp4" or "tcp6". It has the signature of [http.Transport.DialContext] and
// keeps that function's promises.
//
// All addresses of the host are resolved, once, and all are judged, of
// whichever family. If any is forbidden, nothing is connected to: an answer
// that mixes public and private addresses has no honest use here, and serves
// to slip the private one past a check that looks at the first. Otherwise the
// addresses just judged are tried, alternating between IPv6 and IPv4, each
// attempt starting when the one before failed or after 250 ms. The whole takes
// at most 15 seconds.
//
// The error is a [*ForbiddenError] if the destination is refused, and one of
// package net otherwise.
func (g *Guard) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()

	if host, _, err := net.SplitHostPort(address); err == nil && g.trusted != nil {
		if h, _ := parseHost(host, strings.Contains(host, ":")); slices.Contains(g.allowHosts, h.name) {
			g = g.trusted
		}
	}
	targets, err := g.resolve(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return g.race(ctx, targets)
}

// resolve returns the addresses to try for a host, all of them checked.
func (g *Guard) resolve(ctx context.Context, network, address string) ([]netip.AddrPort, error) {
	if network != "tcp" && network != "tcp4" && network != "tcp6" {
		return nil, &ForbiddenError{Host: address, Reason: fmt.Sprintf("network %q is not TCP", network)}
	}
	name, service, err := net.SplitHostPort(address)
	if err != nil {
		return nil, &ForbiddenError{Host: address, Reason: "not a host and port"}
	}
	number, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return nil, &ForbiddenError{Host: name, Reason: fmt.Sprintf("port %q is not a number", service)}
	}
	port := uint16(number)
	if !slices.Contains(g.ports, port) {
		return nil, &ForbiddenError{Host: name, Reason: portReason(port)}
	}

	// The textual rules apply here too. The C library's resolver would
	// otherwise read 0x7f.1 as an address, and a caller may have come by its
	// URL without CheckURL.
	h, problem := g.admitHost(name, strings.Contains(name, ":"))
	if problem != "" {
		return nil, &ForbiddenError{Host: name, Reason: "a URL " + problem}
	}
	addrs := []netip.Addr{h.addr}
	if !h.addr.IsValid() {
		if addrs, err = g.resolver.LookupNetIP(ctx, "ip", h.name); err != nil {
			return nil, fmt.Errorf("resolving %q: %w", h.name, err)
		}
	}

	targets := make([]netip.AddrPort, 0, len(addrs))
	for _, a := range addrs {
		v, err := g.judge(a, g.own)
		if err != nil {
			return nil, err
		}
		if v.reason != "" {
			return nil, &ForbiddenError{Host: name, Addr: a, Reason: v.reason}
		}
		a = a.Unmap()
		if network == "tcp4" && !a.Is4() || network == "tcp6" && !a.Is6() {
			continue
		}
		if to := netip.AddrPortFrom(a, port); !slices.Contains(targets, to) {
			targets = append(targets, to)
		}
	}
	if len(targets) == 0 {
		return nil, fmt.Errorf("resolving %q: %w", h.name,
			&net.DNSError{Err: "no suitable address", Name: h.name, IsNotFound: true})
	}
	targets = interleave(targets)
	return targets[:min(len(targets), maxAttempts)], nil
}

// interleave orders addresses so that the families alternate, beginning with
// that of the first, and each family keeps its order (RFC 8305, section 4).
func interleave(list []netip.AddrPort) []netip.AddrPort {
	var first, other []netip.AddrPort
	for _, ap := range list {
		if ap.Addr().Is4() == list[0].Addr().Is4() {
			first = append(first, ap)
		} else {
			other = append(other, ap)
		}
	}
	out := make([]netip.AddrPort, 0, len(list))
	for i := range max(len(first), len(other)) {
		if i < len(first) {
			out = append(out, first[i])
		}
		if i < len(other) {
			out = append(out, other[i])
		}
	}
	return out
}

// race connects to the first of targets that accepts, with staggered starts.
// Of several failures, the first is returned.
func (g *Guard) race(ctx context.Context, targets []netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	type result struct {
		conn net.Conn
		err  error
	}
	// Room for all results lets attempts end after the race is decided.
	results := make(chan result, len(targets))
	next, running := 0, 0
	start := func() {
		to := targets[next]
		next++
		running++
		go func() {
			conn, err := g.connect(ctx, to)
			results <- result{conn, err}
		}()
	}
	// closeLate closes what connects although it is no longer wanted.
	closeLate := func() {
		cancel()
		go func(n int) {
			for range n {
				if r := <-results; r.conn != nil {
					r.conn.Close()
				}
			}
		}(running)
	}

	start()
	timer := time.NewTimer(attemptDelay)
	defer timer.Stop()
	var failed error
	for {
		select {
		case r := <-results:
			running--
			if r.err == nil {
				closeLate()
				return r.conn, nil
			}
			if failed == nil {
				failed = r.err
			}
			if next == len(targets) && running == 0 {
				return nil, failed
			}
			if next < len(targets) {
				start()
				timer.Reset(attemptDelay)
			}
		case <-timer.C:
			if next < len(targets) {
				start()
				timer.Reset(attemptDelay)
			}
		case <-ctx.Done():
			closeLate()
			return nil, fmt.Errorf("connecting: %w", context.Cause(ctx))
		}
	}
}

// dialTCP opens one connection to a checked address.
func (g *Guard) dialTCP(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	d := net.Dialer{ControlContext: g.control}
	return d.DialContext(ctx, "tcp", to.String())
}

// control is the hook that [net.Dialer] calls with the address a socket is
// about to connect to. It repeats the check on what the operating system will
// be given, so that no mistake between the first check and the connection can
// lead elsewhere.
func (g *Guard) control(_ context.Context, network, address string, _ syscall.RawConn) error {
	if network != "tcp4" && network != "tcp6" {
		return &ForbiddenError{Host: address, Reason: fmt.Sprintf("network %q is not TCP", network)}
	}
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return &ForbiddenError{Host: address, Reason: "not an address and port"}
	}
	return g.CheckAddrPort(to)
}
