package ecmajson

import "sync"

const (
	chunkBits = 10
	chunkLen  = 1 << chunkBits
	// firstLen is the first capacity of a list. Most lists stay within it.
	firstLen = 16
)

// chunks is a list that grows without copying once it is long: a hostile text
// can make a list larger than itself, and the copies an ordinary slice leaves
// behind while it grows would multiply that.
type chunks[T any] struct {
	list [][]T // all of chunkLen but the first, which grows to it
	n    int
}

func (c *chunks[T]) at(i int) *T { return &c.list[i>>chunkBits][i&(chunkLen-1)] }

func (c *chunks[T]) push(v T) {
	if k := c.n >> chunkBits; k == len(c.list) || c.n&(chunkLen-1) == len(c.list[k]) {
		c.grow()
	}
	*c.at(c.n) = v
	c.n++
}

func (c *chunks[T]) grow() {
	switch {
	case c.n == 0:
		c.list = append(c.list, make([]T, firstLen))
	case c.n < chunkLen:
		first := make([]T, min(4*c.n, chunkLen))
		copy(first, c.list[0])
		c.list[0] = first
	default:
		c.list = append(c.list, make([]T, chunkLen))
	}
}

// shrink empties the list and keeps one chunk for the next text.
func (c *chunks[T]) shrink() {
	c.n = 0
	if len(c.list) > 1 {
		c.list = append([][]T(nil), c.list[0])
	}
}

// extent is a piece of the scanned text, start<<32 | end. While the order of an
// object is being worked out the same cell holds index<<32 | member.
type extent uint64

func newExtent(start, end uint32) extent { return extent(start)<<32 | extent(end) }

func (e extent) start() int { return int(e >> 32) }
func (e extent) end() int   { return int(uint32(e)) }

const (
	blockLen = 4096
	// blockShare is the longest run taken from a shared block; a longer one gets
	// a block of its own, so that at most an eighth of a block stays unused.
	blockShare = blockLen / 8
)

// extents hands out runs of extents that stay where they are.
type extents struct {
	blocks [][]extent
	shared int // index of the block in use for short runs, -1 at first
	used   int
}

func (x *extents) take(n int) (block, off int) {
	if n > blockShare {
		x.blocks = append(x.blocks, make([]extent, n))
		return len(x.blocks) - 1, 0
	}
	if x.shared < 0 || x.used+n > blockLen {
		x.blocks = append(x.blocks, make([]extent, blockLen))
		x.shared, x.used = len(x.blocks)-1, 0
	}
	off = x.used
	x.used += n
	return x.shared, off
}

func (x *extents) run(p *plan) []extent {
	return x.blocks[p.block][p.off : p.off+p.n]
}

// shrink takes everything back and keeps one shared block, if there is any.
func (x *extents) shrink() {
	switch {
	case x.shared < 0:
		x.blocks = nil
	case len(x.blocks) > 1:
		x.blocks = [][]extent{x.blocks[x.shared]}
		x.shared = 0
	}
	x.used = 0
}

// scratch holds the working memory of one parse.
type scratch struct {
	frames  []uint32
	members chunks[member]
	table   []uint32
	plans   chunks[plan]
	extents extents
}

// keep bounds what a scratch may hold on to between two texts, in cells of the
// plain slices; the lists bound themselves.
const keep = 1 << 13

var pool = sync.Pool{New: func() any { return &scratch{extents: extents{shared: -1}} }}

func (s *scratch) release() {
	if cap(s.frames) > keep {
		s.frames = nil
	}
	if cap(s.table) > keep {
		s.table = nil
	}
	s.members.shrink()
	s.plans.shrink()
	s.extents.shrink()
	pool.Put(s)
}
