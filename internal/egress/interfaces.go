package egress

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// ownAddrsAge is the time for which a list of the host's own addresses is used
// before it is read again. Addresses come and go with containers, VPNs and renewed
// leases, while reading them is a system call that a burst of dials need not
// repeat.
const ownAddrsAge = 5 * time.Second

// ownAddrs knows the addresses of the host's own interfaces. A service bound
// to one of them often trusts its callers because they must be local, and a
// public address is on no list of reserved blocks.
type ownAddrs struct {
	read func() ([]netip.Addr, error)
	now  func() time.Time

	mu      sync.Mutex
	addrs   map[netip.Addr]struct{}
	expires time.Time
}

// has reports whether a, which must be unmapped and without a zone, is an
// address of the host. It fails if the addresses cannot be read: an outdated
// list would quietly turn the rule off for what is new.
func (o *ownAddrs) has(a netip.Addr) (bool, error) {
	o.mu.Lock()
	defer o.mu.Unlock()

	if now := o.now(); o.addrs == nil || !now.Before(o.expires) {
		list, err := o.read()
		if err != nil {
			return false, fmt.Errorf("reading interface addresses: %w", err)
		}
		addrs := make(map[netip.Addr]struct{}, len(list))
		for _, a := range list {
			addrs[a.Unmap().WithZone("")] = struct{}{}
		}
		o.addrs, o.expires = addrs, now.Add(ownAddrsAge)
	}
	_, ok := o.addrs[a]
	return ok, nil
}

// interfaceAddrs asks the operating system for the addresses of all
// interfaces, whether up or down.
func interfaceAddrs() ([]netip.Addr, error) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	addrs := make([]netip.Addr, 0, len(list))
	for _, a := range list {
		var ip net.IP
		switch a := a.(type) {
		case *net.IPNet:
			ip = a.IP
		case *net.IPAddr:
			ip = a.IP
		}
		if addr, ok := netip.AddrFromSlice(ip); ok {
			addrs = append(addrs, addr.Unmap())
		}
	}
	return addrs, nil
}
