package ecmajson

import (
	"bytes"
	"slices"
)

// emitter writes the ECMAScript form out of the scanned form and the plans, each
// byte once, from the back to the front: plans are in the order in which their
// objects end, so the last plan before some point is the outermost one there.
type emitter struct {
	*parser
	in    []byte
	out   []byte
	pos   int // everything from out[pos:] on is written
	stack []region
	moved []slot   // the final extents of the selected values
	ends  []uint32 // see index
	// bounds are the offsets at which selected values start and end in the
	// scanned form, in ascending order.
	bounds []int

	pieces, copied int // the work done
}

// region is a piece of the scanned form that is being written: a member of the
// object of a plan, or the whole text.
type region struct {
	plan   int // -1 for the whole text
	member int // index in the plan's order
	lo, hi int // what is left of the region
	next   int // index of the last plan that may lie in it
}

// emit writes everything and sets the selected values to their final extents.
func (e *emitter) emit() []byte {
	e.out = make([]byte, len(e.in)+e.grow)
	e.pos = len(e.out)
	if len(e.vals) > 0 {
		e.moved = append(e.moved, e.vals...)
		for _, v := range e.vals {
			if v.kind != Missing {
				e.bounds = append(e.bounds, v.start, v.end)
			}
		}
		slices.Sort(e.bounds)
	}
	e.index()
	e.stack = append(e.stack, region{plan: -1, hi: len(e.in), next: e.plans.n - 1})
	for len(e.stack) > 0 {
		r := &e.stack[len(e.stack)-1]
		if r.next >= 0 {
			if pl := e.plans.at(r.next); int(pl.start) >= r.lo {
				e.copy(int(pl.end), r.hi)
				r.hi = int(pl.start)
				inner := r.next
				r.next = int(pl.first) - 1
				e.open(inner, pl)
				continue
			}
		}
		e.copy(r.lo, r.hi)
		if r.plan < 0 {
			break
		}
		pl := e.plans.at(r.plan)
		if r.member > 0 {
			e.put(',')
			r.member--
			e.enter(r, pl)
			continue
		}
		e.put('{')
		for i := range e.vals {
			if e.vals[i].start == int(pl.start) {
				e.moved[i].start = e.pos
			}
		}
		e.stack = e.stack[:len(e.stack)-1]
	}
	for i, m := range e.moved {
		if m.kind != Missing {
			e.vals[i].start, e.vals[i].end = m.start-e.pos, m.end-e.pos
		}
	}
	return e.out[e.pos:]
}

// open starts the object of the plan with this index.
func (e *emitter) open(index int, pl *plan) {
	for i := range e.vals {
		if e.vals[i].end == int(pl.end) {
			e.moved[i].end = e.pos
		}
	}
	e.put('}')
	r := region{plan: index, member: int(pl.n) - 1}
	e.enter(&r, pl)
	e.stack = append(e.stack, r)
}

// enter sets r to the member r.member of its plan.
func (e *emitter) enter(r *region, pl *plan) {
	x := e.extents.run(pl)[r.member]
	r.lo, r.hi = x.start(), x.end()
	// Plans end in ascending order; the last one that ends within the member
	// either lies in it or before it.
	r.next = e.lastBefore(r.hi, int(pl.first), r.plan)
}

// endsShift is the size of a piece of the scanned form in the index of plans, as
// a power of two. The shortest object that needs a plan has 11 bytes, so a piece
// has a few ends of plans at most.
const endsShift = 6

// index notes how many plans end before each piece of the scanned form. Members
// may be written in any order, and a search for their plans among all there are
// would take longer with each.
func (e *emitter) index() {
	if e.plans.n == 0 {
		return
	}
	e.ends = make([]uint32, len(e.in)>>endsShift+1)
	k := 0
	for piece := range e.ends {
		for k < e.plans.n && int(e.plans.at(k).end) <= piece<<endsShift {
			k++
		}
		e.ends[piece] = uint32(k)
	}
}

// lastBefore returns the last of the plans from first to before limit that ends
// at or before the offset at, first-1 if there is none.
func (e *emitter) lastBefore(at, first, limit int) int {
	k := max(int(e.ends[at>>endsShift]), first)
	for k < limit && int(e.plans.at(k).end) <= at {
		k++
	}
	return min(k, limit) - 1
}

func (e *emitter) put(c byte) {
	e.pos--
	e.out[e.pos] = c
}

// copy writes in[a:b], which has no plan in it, with its numbers at full length.
func (e *emitter) copy(a, b int) {
	for e.grow > 0 {
		k := bytes.LastIndexByte(e.in[a:b], longMark)
		if k < 0 {
			break
		}
		from, to := e.literal(a+k, b)
		e.piece(to, b, e.in[to:b])
		var tmp [formLen]byte
		d := readShort(e.in[from:to])
		e.piece(from, to, d.append(tmp[:0]))
		b = from
	}
	e.piece(a, b, e.in[a:b])
}

// literal returns the extent of the number around the mark at in[k].
func (e *emitter) literal(k, b int) (from, to int) {
	from, to = k, k+1
	for from > 0 && (isDigit(e.in[from-1]) || e.in[from-1] == '-') {
		from--
	}
	for to < b && (isDigit(e.in[to]) || e.in[to] == '-') {
		to++
	}
	return from, to
}

// piece writes form, which stands for in[a:b], and notes where the selected
// values that start or end in it come to lie. A form other than in[a:b] itself
// is one whole number.
func (e *emitter) piece(a, b int, form []byte) {
	e.pos -= len(form)
	copy(e.out[e.pos:], form)
	e.pieces++
	e.copied += len(form)
	if k, _ := slices.BinarySearch(e.bounds, a); k == len(e.bounds) || e.bounds[k] > b {
		return
	}
	for i := range e.vals {
		v := &e.vals[i]
		if v.start >= a && v.start < b {
			e.moved[i].start = e.pos + v.start - a
		}
		if v.end > a && v.end <= b {
			e.moved[i].end = e.pos + len(form) - (b - v.end)
		}
	}
}
