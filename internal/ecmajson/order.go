package ecmajson

import (
	"bytes"
	"hash/maphash"
	"math/bits"
	"slices"
)

// member is a member of an object that is still open: the offsets in the
// scanned form of its key's opening quote and after the closing one. The value
// follows a colon later and ends a comma before the next member.
//
// When keys repeat, end carries the outcome: the first member of that key is an
// alias of the last, which is marked as moved, and those between are dropped.
type member struct {
	key, end uint32
}

const (
	dropped   uint32 = 0
	aliasMark uint32 = 1 << 31
	movedMark uint32 = 1 << 30
)

// stays reports whether the member keeps a place in the order.
func (m member) stays() bool { return m.end != dropped && m.end&movedMark == 0 }

// plan is an object of the scanned form whose members have to be put into
// another order or dropped. Plans are noted as objects close, so those inside
// an object come right before it.
type plan struct {
	start, end uint32 // the object with its braces
	first      uint32 // index of the first plan inside, its own index if none
	block      uint32 // its members in their order: a run of extents
	off, n     uint32
}

// smallObject is the number of members up to which keys are compared in pairs.
const smallObject = 16

// seed makes the places in the hash table unpredictable, so that no text can
// be made of keys that collide.
var seed = maphash.MakeSeed()

// closeObject takes the members from base on off the stack; the closing brace
// is at src[i]. If their order is not that of the ECMAScript form it notes a
// plan.
func (p *parser) closeObject(base, i int) {
	n := p.members.n
	if n-base > 1 {
		p.flush(i)
		text := p.text(i)
		move := p.ordered(text, base)
		if n-base > smallObject && p.repeatsLarge(text, base) {
			move = true
		}
		if move {
			p.plan(text, base, i-p.delta)
		}
	}
	p.members.n = base
}

// ordered looks for array-index keys out of place, and in a small object for
// repeated keys; it reports whether there are any.
func (p *parser) ordered(text []byte, base int) (move bool) {
	var seen uint64
	names, last := false, int64(-1)
	n := p.members.n
	small := n-base <= smallObject
	for k := base; k < n; k++ {
		m := p.members.at(k)
		key := text[m.key+1 : m.end-1]
		x, index := arrayIndex(key)
		if index {
			move = move || names || x <= last
			last = x
		} else {
			names = true
		}
		if !small {
			continue
		}
		// One bit of a crude hash tells most keys apart before any is compared.
		h := uint32(len(key)) * 0x9E3779B1
		if len(key) > 0 {
			h ^= uint32(key[0])*0x85EBCA6B ^ uint32(key[len(key)-1])*0xC2B2AE35 ^ uint32(key[len(key)/2])*0x27D4EB2F
		}
		bit := uint64(1) << (h >> 26)
		if seen&bit != 0 && p.repeatsSmall(text, base, k) {
			move = true
		}
		seen |= bit
	}
	return move
}

// repeatsSmall compares the key of member k with those of the members before.
func (p *parser) repeatsSmall(text []byte, base, k int) bool {
	m := *p.members.at(k)
	key := text[m.key:m.end]
	for f := base; f < k; f++ {
		if p.members.at(f).stays() && bytes.Equal(p.key(text, base, f), key) {
			p.repeat(base, f, k)
			return true
		}
	}
	return false
}

// repeatsLarge looks for repeated keys with a hash table of one and a half
// cells for each member. A cell is the index of a member after base, plus one,
// in its low bits, and as much of the hash of its key as there is room for above
// these: nearly all keys that differ are told apart without a look at them, which
// in a large text is not in any cache.
func (p *parser) repeatsLarge(text []byte, base int) (found bool) {
	count := p.members.n - base
	size := count + count/2
	if cap(p.table) < size {
		p.table = make([]uint32, size)
	}
	table := p.table[:size]
	clear(table)
	indexMask := uint32(1)<<bits.Len(uint(count)) - 1
	var ahead [lookahead]struct {
		cell int
		tag  uint32
	}
	for from := base; from < base+count; from += lookahead {
		to := min(from+lookahead, base+count)
		for k := from; k < to; k++ {
			m := p.members.at(k)
			hash := maphash.Bytes(seed, text[m.key:m.end])
			a := &ahead[k-from]
			a.cell, a.tag = int((hash>>32)*uint64(size)>>32), uint32(hash)&^indexMask
		}
		for i := range to - from {
			if cell := table[ahead[i].cell]; cell != 0 && cell&^indexMask == ahead[i].tag {
				p.touched += p.key(text, base, base+int(cell&indexMask)-1)[0]
			}
		}
		for k := from; k < to; k++ {
			if p.enter(text, table, base, k, ahead[k-from].cell, ahead[k-from].tag, indexMask) {
				found = true
			}
		}
	}
	return found
}

// lookahead is the number of keys that are looked up in a table at once: cells that
// are not in a cache are then fetched for all of them at the same time.
const lookahead = 32

// enter puts member k into the table, from cell c on, and reports whether its key
// is there already.
func (p *parser) enter(text []byte, table []uint32, base, k, c int, tag, indexMask uint32) bool {
	m := *p.members.at(k)
	key := text[m.key:m.end]
	for {
		cell := table[c]
		if cell == 0 {
			table[c] = tag | uint32(k-base+1)
			return false
		}
		if cell&^indexMask == tag {
			f := base + int(cell&indexMask) - 1
			if bytes.Equal(p.key(text, base, f), key) {
				p.repeat(base, f, k)
				return true
			}
		}
		if c++; c == len(table) {
			c = 0
		}
	}
}

// last returns the member whose key and value stand in the place of member f.
func (p *parser) last(base, f int) int {
	if end := p.members.at(f).end; end&aliasMark != 0 {
		return base + int(end&^aliasMark)
	}
	return f
}

// key returns the key of member f, quotes included.
func (p *parser) key(text []byte, base, f int) []byte {
	m := p.members.at(p.last(base, f))
	return text[m.key : m.end&^movedMark]
}

// repeat notes that member k has the key of member f, the first one with it.
func (p *parser) repeat(base, f, k int) {
	if w := p.last(base, f); w != f {
		p.members.at(w).end = dropped
	}
	p.members.at(f).end = aliasMark | uint32(k-base)
	m := p.members.at(k)
	m.end |= movedMark
	if p.dup < 0 || int(m.key) < p.dup {
		p.dup = int(m.key)
	}
}

// plan notes the order of the members from base on: array indices by their
// value, then the others. brace is the offset of the closing brace.
func (p *parser) plan(text []byte, base, brace int) {
	n := p.members.n
	kept := 0
	for k := base; k < n; k++ {
		if p.members.at(k).stays() {
			kept++
		}
	}
	block, off := p.extents.take(kept)
	pl := plan{
		start: p.members.at(base).key - 1,
		end:   uint32(brace) + 1,
		first: uint32(p.plans.n),
		block: uint32(block),
		off:   uint32(off),
		n:     uint32(kept),
	}
	for pl.first > 0 && p.plans.at(int(pl.first)-1).start > pl.start {
		pl.first = p.plans.at(int(pl.first) - 1).first
	}
	out := p.extents.run(&pl)
	w := 0
	for k := base; k < n; k++ {
		if p.members.at(k).stays() {
			q := p.key(text, base, k)
			if x, index := arrayIndex(q[1 : len(q)-1]); index {
				out[w] = newExtent(uint32(x), uint32(p.last(base, k)))
				w++
			}
		}
	}
	sortByIndex(out[:w])
	for j, e := range out[:w] {
		out[j] = p.extent(e.end(), brace)
	}
	for k := base; k < n; k++ {
		if p.members.at(k).stays() {
			q := p.key(text, base, k)
			if _, index := arrayIndex(q[1 : len(q)-1]); !index {
				out[w] = p.extent(p.last(base, k), brace)
				w++
			}
		}
	}
	p.plans.push(pl)
}

// sortByIndex sorts cells of index<<32 | member.
func sortByIndex(cells []extent) {
	const (
		digit = 11 // bits
		few   = 1 << 10
	)
	if len(cells) <= few {
		slices.Sort(cells)
		return
	}
	// Comparing takes longer for each cell the more there are. Distributing by
	// the digits of the index, the least significant first, does not.
	from, to := cells, make([]extent, len(cells))
	for shift := 32; shift < 64; shift += digit {
		var at [1 << digit]int
		for _, c := range from {
			at[c>>shift&(1<<digit-1)]++
		}
		if at[from[0]>>shift&(1<<digit-1)] == len(from) {
			continue // they all have this digit
		}
		sum := 0
		for d, n := range at {
			at[d], sum = sum, sum+n
		}
		for _, c := range from {
			d := c >> shift & (1<<digit - 1)
			to[at[d]] = c
			at[d]++
		}
		from, to = to, from
	}
	if &from[0] != &cells[0] {
		copy(cells, from)
	}
}

// extent returns what member k of the object on top takes in the scanned form, key
// and value.
func (p *parser) extent(k, brace int) extent {
	end := uint32(brace)
	if k+1 < p.members.n {
		end = p.members.at(k+1).key - 1
	}
	return newExtent(p.members.at(k).key, end)
}

// arrayIndex returns the value of a key that is an array index: an integer from 0
// to 2**32-2 in canonical decimal (ECMA-262, Array exotic objects).
func arrayIndex(key []byte) (int64, bool) {
	if len(key) == 0 || len(key) > len("4294967294") || !isDigit(key[0]) || key[0] == '0' && len(key) > 1 {
		return 0, false
	}
	var x int64
	for _, c := range key {
		if !isDigit(c) {
			return 0, false
		}
		x = x*10 + int64(c-'0')
	}
	return x, x <= 1<<32-2
}
