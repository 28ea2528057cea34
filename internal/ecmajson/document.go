package ecmajson

import (
	"bytes"
	"iter"
)

// Kind is the type of a JSON value.
type Kind uint8

// The kinds. Missing, the zero value, is that of a value which is not there.
const (
	Missing Kind = iota
	Null
	Bool
	Number
	String
	Array
	Object
)

// String returns the name of the kind in lower case, "missing" for the zero Kind.
func (k Kind) String() string {
	switch k {
	case Null:
		return "null"
	case Bool:
		return "bool"
	case Number:
		return "number"
	case String:
		return "string"
	case Array:
		return "array"
	case Object:
		return "object"
	default:
		return "missing"
	}
}

// kindOf returns the kind of the value that starts with c.
func kindOf(c byte) Kind {
	switch c {
	case '{':
		return Object
	case '[':
		return Array
	case '"':
		return String
	case 't', 'f':
		return Bool
	case 'n':
		return Null
	default:
		return Number
	}
}

// inlineSlots is the number of selected values that fit into a Document without an
// allocation of their own.
const inlineSlots = 8

// Document is the result of one [Parse]. It refers to the source text, which
// must not change while the document or anything taken from it is in use. All
// methods may be called by several goroutines.
type Document struct {
	src, out  []byte
	lim       Limits
	sel       *Selector
	vals      []slot
	inline    [inlineSlots]slot
	listed    chunks[listedMember]
	depth     int
	dup       int // offset of the first repeated key in the scanned form, -1 for none
	kind      Kind
	canonical bool
	folded    []foldedKey
}

// Bytes returns the ECMAScript form of the whole text: JSON.stringify(JSON.parse(text)).
// It may be the source text itself. The caller must not change it.
func (d *Document) Bytes() []byte { return d.out }

// Canonical reports whether the source text already was equal to [Document.Bytes].
// It costs nothing.
func (d *Document) Canonical() bool { return d.canonical }

// Kind returns the kind of the top-level value, never Missing.
func (d *Document) Kind() Kind { return d.kind }

// Depth returns the deepest nesting of arrays and objects: 0 for a scalar, 1 for an
// array or object of scalars.
func (d *Document) Depth() int { return d.depth }

// DuplicateKey reports the first object key, anywhere in the text, that repeats
// an earlier key of the same object: the key, and the source offset of the
// opening quote of the repetition. Keys are compared as JSON.parse sees them,
// after unescaping; lone surrogates are compared as they are and appear in key
// as U+FFFD. Nothing found costs nothing; a find reads the source a second time
// up to that place.
func (d *Document) DuplicateKey() (key string, offset int, found bool) {
	if d.dup < 0 {
		return "", 0, false
	}
	// Members are noted by their place in the output, which is what ordering
	// needs; the same scan over the same bytes yields the place in the source.
	offset = locate(d.src, d.lim, d.dup)
	return keyAt(d.src, offset), offset, true
}

// FoldedKey returns the first key that differs from one of the selector's by case
// alone, in the sense of [bytes.EqualFold], at the place where that one is looked
// for. Parsers that ignore case, such as Go's encoding/json, take the one for
// the other.
func (d *Document) FoldedKey() (key string, found bool) {
	if len(d.folded) == 0 {
		return "", false
	}
	return d.folded[0].key, true
}

// FoldedTwin returns the first key of those that FoldedKey looks for that stands
// beside the selector's own, so that parsers differ on which of the two counts.
func (d *Document) FoldedTwin() (key string, found bool) {
	for _, f := range d.folded {
		if f.slot < 0 || d.vals[f.slot].kind != Missing {
			return f.key, true
		}
	}
	return "", false
}

// Value returns the value at path i of the selector given to [Parse]; the zero Value
// when the text has no such member, the parent is not an object, or the
// selector has no path i. Of repeated keys the last counts, also when it is the
// parent that is repeated: then only the members of the last parent are there.
func (d *Document) Value(i int) Value {
	if d.sel == nil || i < 0 || i >= len(d.sel.slots) {
		return Value{}
	}
	s := d.vals[d.sel.slots[i]]
	if s.kind == Missing {
		return Value{}
	}
	return Value{Start: s.from, End: s.to, kind: s.kind, raw: d.out[s.start:s.end:s.end]}
}

// Value is one selected value.
type Value struct {
	// Start and End bound the value in the source text: src[Start:End].
	Start, End int

	raw  []byte
	kind Kind
}

// Kind returns the kind of the value; Missing for the zero Value. It is the kind in
// the source: a number too large for a double is a Number with the form null.
func (v Value) Kind() Kind { return v.kind }

// Raw returns the ECMAScript form of the value, nil for the zero Value. It is part
// of [Document.Bytes]; the caller must not change it.
func (v Value) Raw() []byte { return v.raw }

// Text returns the decoded string and true when the value is a String, otherwise ""
// and false. Lone surrogates, which UTF-8 cannot hold, become U+FFFD each.
func (v Value) Text() (string, bool) {
	if v.kind != String {
		return "", false
	}
	return unquote(v.raw[1 : len(v.raw)-1]), true
}

// Member is one member of the top-level object as it stands in the source.
type Member struct {
	// Key is the decoded key, lone surrogates as U+FFFD.
	Key string
	// KeyStart is the source offset of the key's opening quote.
	KeyStart int
	// ValueStart and ValueEnd bound the value: src[ValueStart:ValueEnd].
	ValueStart, ValueEnd int
}

// listedMember keeps a Member in a third of its size until it is asked for.
type listedMember struct {
	key, value, end uint32
}

// Members returns the members of the top-level object in source order, repeated
// keys included, so that a caller can cut members out of the source without
// touching any other byte. It is nil unless Limits.Members was set and the top
// value is a non-empty object. Each call builds the list anew: 40 bytes a member
// and its key. [Document.EachMember] does the same without a list.
func (d *Document) Members() []Member {
	if d.listed.n == 0 {
		return nil
	}
	ms := make([]Member, 0, d.listed.n)
	for m := range d.EachMember() {
		ms = append(ms, m)
	}
	return ms
}

// EachMember returns an iterator over what [Document.Members] returns.
func (d *Document) EachMember() iter.Seq[Member] {
	return func(yield func(Member) bool) {
		for i := range d.listed.n {
			m := d.listed.at(i)
			if !yield(Member{
				Key:        keyAt(d.src, int(m.key)),
				KeyStart:   int(m.key),
				ValueStart: int(m.value),
				ValueEnd:   int(m.end),
			}) {
				return
			}
		}
	}
}

// Edit returns the top-level object with the members that edit keeps, with another
// value where it returns one, and with extra, which is members without braces or
// empty, after them. What remains of the source is a subsequence of its bytes: nothing
// is respelled or moved. [Limits].Members must have been set.
func (d *Document) Edit(edit func(key string) (value []byte, keep bool), extra []byte) []byte {
	src := d.src
	out := make([]byte, 0, len(src)+len(extra)+1)
	kept, end := 0, 0
	for m := range d.EachMember() {
		if end == 0 {
			out = append(out, src[:m.KeyStart]...)
		}
		if value, keep := edit(m.Key); keep {
			if kept++; kept > 1 {
				// The comma, and the white space that this member stood in.
				out = append(out, src[end:m.KeyStart]...)
			}
			if value == nil {
				value = src[m.ValueStart:m.ValueEnd]
			}
			out = append(out, src[m.KeyStart:m.ValueStart]...)
			out = append(out, value...)
		}
		end = m.ValueEnd
	}
	if end == 0 { // {}
		end = bytes.IndexByte(src, '{') + 1
		out = append(out, src[:end]...)
	}
	if len(extra) > 0 {
		if kept > 0 {
			out = append(out, ',')
		}
		out = append(out, extra...)
	}
	return append(out, src[end:]...)
}

// keyAt decodes the key whose opening quote is at src[i]. The text has been
// parsed, so the closing quote is there.
func keyAt(src []byte, i int) string {
	i++
	for j := i; ; {
		k := j + bytes.IndexByte(src[j:], '"')
		// A quote closes the string unless an odd run of backslashes precedes it.
		b := k
		for b > i && src[b-1] == '\\' {
			b--
		}
		if (k-b)%2 == 0 {
			return unquote(src[i:k])
		}
		j = k + 1
	}
}
