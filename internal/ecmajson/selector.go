package ecmajson

import "bytes"

// A Selector is a compiled set of member paths. It is immutable once made and
// may be used by any number of goroutines.
type Selector struct {
	tops []selTop
	// slots has the slot of each path in the order of NewSelector; equal
	// paths share one.
	slots []int
	n     int
}

// selTop is one key of the top-level object that is either wanted itself or
// leads to wanted members. Keys are kept in canonical escaped form, which is
// one to one with the string, so that matching needs no decoding.
type selTop struct {
	key  []byte
	slot int // -1 when only the members below are wanted
	subs []selSub
}

type selSub struct {
	key  []byte
	slot int
}

// NewSelector compiles paths. Each is one or two object keys from the top:
// {"event"} is the member "event" of the top-level object, {"prediction", "id"}
// the member "id" of the object that is its member "prediction". Keys are
// compared as strings, exactly. A path's position is the index for
// [Document.Value].
//
// A path of any other length is a programming error and panics. Matching looks
// at every path in turn, so a selector is meant for a dozen paths, not for
// thousands.
func NewSelector(paths ...[]string) *Selector {
	s := &Selector{}
	for _, path := range paths {
		if len(path) != 1 && len(path) != 2 {
			panic("ecmajson: a selector path has one or two keys")
		}
		t := s.top(content(path[0]))
		if len(path) == 1 {
			if t.slot < 0 {
				t.slot = s.n
				s.n++
			}
			s.slots = append(s.slots, t.slot)
			continue
		}
		s.slots = append(s.slots, s.sub(t, content(path[1])))
	}
	return s
}

// content returns the canonical form of a key without its quotes.
func content(key string) []byte {
	q := AppendString(nil, key)
	return q[1 : len(q)-1]
}

func (s *Selector) top(key []byte) *selTop {
	for i := range s.tops {
		if bytes.Equal(s.tops[i].key, key) {
			return &s.tops[i]
		}
	}
	s.tops = append(s.tops, selTop{key: key, slot: -1})
	return &s.tops[len(s.tops)-1]
}

func (s *Selector) sub(t *selTop, key []byte) int {
	for _, u := range t.subs {
		if bytes.Equal(u.key, key) {
			return u.slot
		}
	}
	t.subs = append(t.subs, selSub{key: key, slot: s.n})
	s.n++
	return s.n - 1
}

// slot holds the place of one selected value: its kind, and its extent in the
// scanned form and in the source. The scanned extent is replaced by that in
// the final form when the two differ.
type slot struct {
	kind       Kind
	start, end int
	from, to   int
}

// match is called for each key of the two outermost levels: it notes whether
// the value to come is wanted. A wanted key that appears again voids what was
// found before, with everything below it, since the later value replaces it.
func (p *parser) match(depth int, key []byte) {
	p.want[depth] = -1
	if depth == 1 {
		p.top = nil
		for i := range p.sel.tops {
			t := &p.sel.tops[i]
			if !bytes.Equal(t.key, key) {
				continue
			}
			p.top = t
			p.want[1] = t.slot
			for _, u := range t.subs {
				p.vals[u.slot] = slot{}
			}
			return
		}
		for i := range p.sel.tops {
			p.fold(p.sel.tops[i].key, p.sel.tops[i].slot, key)
		}
		return
	}
	if p.top == nil {
		return
	}
	for _, u := range p.top.subs {
		if bytes.Equal(u.key, key) {
			p.want[2] = u.slot
			return
		}
	}
	for _, u := range p.top.subs {
		p.fold(u.key, u.slot, key)
	}
}

// foldedKey is a key that differs by case alone from the wanted one of a slot,
// which is -1 where only the members below it are wanted.
type foldedKey struct {
	slot int
	key  string
}

// fold notes a key that is taken for a wanted one by those who ignore case.
func (p *parser) fold(wanted []byte, slot int, key []byte) {
	if !bytes.EqualFold(wanted, key) {
		return
	}
	for _, f := range p.folded {
		if f.slot == slot {
			return
		}
	}
	p.folded = append(p.folded, foldedKey{slot, unquote(key)})
}

// begin notes that a value of one of the two outermost levels starts at i.
func (p *parser) begin(depth, i int) {
	if w := p.want[depth]; w >= 0 {
		p.vals[w] = slot{kind: kindOf(p.src[i]), start: i - p.delta, from: i}
	}
	if depth == 1 && p.listed.n > 0 {
		p.listed.at(p.listed.n - 1).value = uint32(i)
	}
}

// finish notes that the value of this level ends before i.
func (p *parser) finish(depth, i int) {
	if w := p.want[depth]; w >= 0 {
		p.vals[w].end, p.vals[w].to = i-p.delta, i
	}
	if depth == 1 && p.listed.n > 0 {
		p.listed.at(p.listed.n - 1).end = uint32(i)
	}
}
