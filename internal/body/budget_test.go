package body

import (
	"fmt"
	"sync"
	"testing"
)

func TestShareOfOneClient(t *testing.T) {
	b := NewBudget(800)
	a := b.For("192.0.2.1:1234")
	if !a.Take(60) || !a.Take(40) {
		t.Fatal("a client can't have its eighth")
	}
	if a.Take(1) || b.For("192.0.2.1:99").Take(1) {
		t.Fatal("a client got more than its eighth")
	}
	if !b.For("192.0.2.2").Take(100) {
		t.Fatal("another client is kept out")
	}
	a.Return()
	a.Return()
	if !b.For("192.0.2.1").Take(100) {
		t.Fatal("what was returned is not free")
	}
}

func TestWholeBudget(t *testing.T) {
	b := NewBudget(800)
	var all []*Charge
	for i := range 8 {
		c := b.For(fmt.Sprintf("192.0.2.%d", i))
		if !c.Take(100) {
			t.Fatalf("client %d is kept out", i)
		}
		all = append(all, c)
	}
	if b.For("198.51.100.1").Take(1) {
		t.Fatal("more was granted than there is")
	}
	for _, c := range all {
		c.Return()
	}
	if b.free != 800 || len(b.clients) != 0 {
		t.Fatalf("after all returned %d bytes are free and %d clients remembered", b.free, len(b.clients))
	}
}

func TestClientsAreCountedByAddress(t *testing.T) {
	for _, c := range []struct {
		name, a, b string
		same       bool
	}{
		{"ports", "192.0.2.1:1", "192.0.2.1:2", true},
		{"addresses", "192.0.2.1", "192.0.2.2", false},
		{"one IPv6 /64", "[2001:db8::1]:1", "2001:db8::2", true},
		{"two IPv6 /64", "2001:db8::1", "2001:db8:0:1::1", false},
		{"mapped", "::ffff:192.0.2.1", "192.0.2.1", true},
		{"zones", "fe80::1%eth0", "fe80::1", true},
		{"unreadable", "@", "pipe", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := clientPrefix(c.a) == clientPrefix(c.b); got != c.same {
				t.Fatalf("%s and %s are one client: %v, want %v", c.a, c.b, got, c.same)
			}
		})
	}
}

func TestConcurrentUseAddsUp(t *testing.T) {
	b := NewBudget(1 << 20)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for range 1000 {
				c := b.For(fmt.Sprintf("192.0.2.%d", i))
				c.Take(100)
				c.Take(1 << 30)
				c.Return()
			}
		})
	}
	wg.Wait()
	if b.free != 1<<20 {
		t.Fatalf("%d bytes are free, want all", b.free)
	}
}
