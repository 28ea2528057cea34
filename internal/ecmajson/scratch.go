package ecmajson

import "sync"

const (
	chunkBits = 10
	chunkLen  = 1 << chunkBits
)

// chunks is a list that grows without copying: a hostile text can make a list
// larger than itself, and the copies an ordinary slice leaves behind while it
// grows would multiply that.
type chunks[T any] struct {
	list []*[chunkLen]T
	n    int
}

func (c *chunks[T]) at(i int) *T { return &c.list[i>>chunkBits][i&(chunkLen-1)] }

func (c *chunks[T]) push(v T) {
	if c.n>>chunkBits == len(c.list) {
		c.list = append(c.list, new([chunkLen]T))
	}
	*c.at(c.n) = v
	c.n++
}

// shrink empties the list and keeps one chunk for the next text.
func (c *chunks[T]) shrink() {
	c.n = 0
	if len(c.list) > 1 {
		c.list = append([]*[chunkLen]T(nil), c.list[0])
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

// scratch is what one parse needs besides its result.
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
