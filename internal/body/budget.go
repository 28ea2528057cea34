package body

import (
	"fmt"
	"net/netip"
	"sync"
)

// clientShares is the number of equal parts into which the budget is divided.
// One client may hold one part, so that a single sender of slow bodies cannot
// shut out the others.
const clientShares = 8

// Budget is a number of bytes that requests take from and give back to. It is
// safe for concurrent use. NewBudget makes one.
type Budget struct {
	mu        sync.Mutex
	free      int64
	total     int64
	perClient int64
	clients   map[netip.Prefix]int64
}

// NewBudget returns a budget of the given number of bytes. One client address,
// or one IPv6 /64, may hold an eighth of it.
func NewBudget(bytes int64) *Budget {
	return &Budget{free: bytes, total: bytes, perClient: bytes / clientShares, clients: make(map[netip.Prefix]int64)}
}

// Admits returns an error unless a body of the given size fits into the share of
// one client: otherwise every such body would be refused, whoever sends it. what
// names the size.
func (b *Budget) Admits(size int64, what string) error {
	if size <= b.perClient {
		return nil
	}
	return fmt.Errorf("body_budget is %d bytes, of which one client may hold an eighth, %d: that is less than %s of %d bytes; make body_budget %d or more, or the other less",
		b.total, b.perClient, what, size, clientShares*size)
}

// Charge is the bytes that one request holds. It must not be used by several
// goroutines at once.
type Charge struct {
	b      *Budget
	client netip.Prefix
	bytes  int64
}

// For returns the charge of a request from the given client address, with or
// without a port. Addresses that cannot be parsed count as one client.
func (b *Budget) For(client string) *Charge {
	return &Charge{b: b, client: clientPrefix(client)}
}

func clientPrefix(client string) netip.Prefix {
	addr, err := netip.ParseAddr(client)
	if err != nil {
		ap, err := netip.ParseAddrPort(client)
		if err != nil {
			return netip.Prefix{}
		}
		addr = ap.Addr()
	}
	addr = addr.Unmap().WithZone("")
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64 // what one subscriber usually has
	}
	p, _ := addr.Prefix(bits)
	return p
}

// Take adds bytes to what the request holds. It reports false, and takes
// nothing, if the budget or the client's share of it does not suffice.
func (c *Charge) Take(bytes int) bool {
	n := int64(bytes)
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	if n > c.b.free || c.b.clients[c.client]+n > c.b.perClient {
		return false
	}
	c.b.free -= n
	c.b.clients[c.client] += n
	c.bytes += n
	return true
}

// Return gives back all that the request holds. Further calls do nothing.
func (c *Charge) Return() {
	if c.bytes == 0 {
		return
	}
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	c.b.free += c.bytes
	if left := c.b.clients[c.client] - c.bytes; left > 0 {
		c.b.clients[c.client] = left
	} else {
		delete(c.b.clients, c.client)
	}
	c.bytes = 0
}
