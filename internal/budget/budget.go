// Package budget bounds the request bytes that are buffered at once.
package budget

import (
	"fmt"
	"net/netip"
	"sync"
)

// share is the part of the budget that one client may hold, so that a single
// sender of slow bodies can't shut out the others.
const share = 8

// Budget is a number of bytes that requests take from and give back to. Made by
// New.
type Budget struct {
	mu      sync.Mutex
	free    int64
	total   int64
	each    int64
	clients map[netip.Prefix]int64
}

// New makes a budget of so many bytes. One client address, or one IPv6 /64,
// may hold an eighth of it.
func New(bytes int64) *Budget {
	return &Budget{free: bytes, total: bytes, each: bytes / share, clients: make(map[netip.Prefix]int64)}
}

// Admits reports an error unless a body of the given size fits into one client's
// share: each such body would be refused for good, whoever sends it. what names
// the size.
func (b *Budget) Admits(size int64, what string) error {
	if size <= b.each {
		return nil
	}
	return fmt.Errorf("body_budget is %d bytes, of which one client may hold an eighth, %d: that is less than %s of %d bytes; make body_budget %d or more, or the other less",
		b.total, b.each, what, size, share*size)
}

// Charge is what one request holds.
type Charge struct {
	b      *Budget
	client netip.Prefix
	bytes  int64
}

// For starts the account of a request from the given client address (with or
// without port). Addresses that can't be read share one account.
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
// nothing, when the budget or the client's share of it is used up.
func (c *Charge) Take(bytes int) bool {
	n := int64(bytes)
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	if n > c.b.free || c.b.clients[c.client]+n > c.b.each {
		return false
	}
	c.b.free -= n
	c.b.clients[c.client] += n
	c.bytes += n
	return true
}

// Return gives back all that the request holds.
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
