package ecmajson

// Defaults of [Limits].
const (
	DefaultMaxDepth  = 10000
	DefaultMaxNumber = 4096
)

// maxSize keeps two bits of a 32-bit offset free for marks.
const maxSize = 1<<30 - 1

// Limits bounds what [Parse] accepts. The zero value has the defaults.
type Limits struct {
	// MaxDepth is the deepest nesting of arrays and objects; beyond it the error
	// is ErrDepth. 0 or less: 10000. Each level costs four bytes for the time of
	// the parse, and up to twice that again while the stack grows.
	MaxDepth int
	// MaxNumber is the length in bytes of the longest number literal, sign and
	// exponent included; beyond it the error is ErrLiteral. 0 or less: 4096.
	MaxNumber int
	// MaxString is the length in bytes of the longest string literal or key as
	// it stands in the source, without the quotes; beyond it the error is
	// ErrLiteral. 0 or less: no limit.
	MaxString int
	// Members asks for [Document.Members]. It costs 12 bytes for each member of
	// the top-level object, in addition to what any parse costs.
	Members bool
}

func (l Limits) withDefaults() Limits {
	if l.MaxDepth <= 0 {
		l.MaxDepth = DefaultMaxDepth
	}
	if l.MaxNumber <= 0 {
		l.MaxNumber = DefaultMaxNumber
	}
	if l.MaxString <= 0 {
		l.MaxString = maxSize
	}
	return l
}

// Parse reads src, one JSON text, and returns its ECMAScript form and the values
// at the paths of sel, which may be nil.
//
// Errors: *SyntaxError where JSON.parse would throw, and errors that wrap
// ErrUTF8, ErrDepth, ErrLiteral or ErrSize. Parse stops at the first error in
// the text. src is kept by the document and must not be changed while that is
// in use.
//
// Source: ECMA-262 JSON.parse, JSON.stringify, SerializeJSONProperty,
// SerializeJSONObject, OrdinaryOwnPropertyKeys.
func Parse(src []byte, lim Limits, sel *Selector) (*Document, error) {
	if len(src) > maxSize {
		return nil, ErrSize
	}
	s := pool.Get().(*scratch)
	defer s.release()
	d := &Document{src: src, lim: lim.withDefaults(), sel: sel}
	p := parser{scratch: s, src: src, lim: d.lim, sel: sel, dup: -1, stop: -1, want: [3]int{-1, -1, -1}}
	if sel != nil {
		d.vals = d.inline[:]
		if sel.n > inlineSlots {
			d.vals = make([]slot, sel.n)
		}
		p.vals = d.vals
	}
	end := p.run()
	if end < 0 {
		return nil, p.err
	}
	p.flush(end)
	d.out = p.text(end)
	d.canonical = p.buf == nil && len(d.out) == len(src) && p.plans.n == 0
	d.kind = kindOf(src[p.lead])
	d.depth, d.dup, d.listed = p.depth, p.dup, p.listed
	d.folded = p.folded
	if p.plans.n > 0 || p.grow > 0 {
		e := emitter{parser: &p, in: d.out}
		d.out = e.emit()
	}
	return d, nil
}

// locate returns the source offset of the key that is at offset at of the scanned
// form. src has been parsed with the same limits before.
func locate(src []byte, lim Limits, at int) int {
	s := pool.Get().(*scratch)
	defer s.release()
	lim.Members = false
	p := parser{scratch: s, src: src, lim: lim, dup: -1, stop: at, want: [3]int{-1, -1, -1}}
	return p.run()
}

// parser scans a text and writes its scanned form: what the ECMAScript form is
// but for the order of members, and for numbers whose form is longer than
// their literal (see number). The scanned form is never longer than the source.
//
// Bytes that stay as they are are not written one by one: src[from:i] is always
// still to be copied, and nothing is copied until the first difference. The
// offset in the scanned form of the byte at src[i] is i-delta throughout.
type parser struct {
	*scratch
	src     []byte
	buf     []byte // nil until something differs from src[lead:]
	from    int
	delta   int
	lead    int // white space before the value
	grow    int // bytes the numbers left short have to grow by
	lim     Limits
	err     error
	depth   int
	dup     int
	touched byte // keeps the compiler from dropping loads, see repeatsLarge
	stop    int  // offset in the scanned form of a key to stop at, or -1

	sel    *Selector
	vals   []slot
	want   [3]int      // slot of the value to come at depth 1 and 2, or -1
	top    *selTop     // the selected key of the top-level object we are in
	folded []foldedKey // the first of each wanted key
	listed chunks[listedMember]
}

// replace puts with in the place of src[at:end]. with is not longer.
func (p *parser) replace(at, end int, with []byte) {
	if p.buf == nil {
		p.buf = make([]byte, 0, len(p.src)-p.lead)
	}
	p.buf = append(p.buf, p.src[p.from:at]...)
	p.buf = append(p.buf, with...)
	p.from = end
	p.delta = end - len(p.buf)
}

// flush copies what is still to be copied of src[:i].
func (p *parser) flush(i int) {
	if p.buf != nil && p.from < i {
		p.buf = append(p.buf, p.src[p.from:i]...)
		p.from = i
	}
}

// text returns the scanned form of src[:i]. It is complete after flush(i).
func (p *parser) text(i int) []byte {
	if p.buf != nil {
		return p.buf
	}
	return p.src[p.lead:i:i]
}

func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\r' || c == '\t' }

// space drops the white space at i, where there may be none.
func (p *parser) space(i int) int {
	start := i
	for i < len(p.src) && isSpace(p.src[i]) {
		i++
	}
	if i > start {
		p.replace(start, i, nil)
	}
	return i
}

// inArray is the frame of an array; that of an object is the index of its first
// member in the stack of members.
const inArray = ^uint32(0)

// run scans the whole text and returns the offset after the value, or -1 with
// p.err set. With p.stop it returns the source offset of that key instead.
//
// It is a state machine whose states are the labels value, key and after. The stack
// frames holds the arrays and objects that are open.
//
//	state   input                     next
//	value   a scalar, "[]" or "{}"    after
//	value   "["                       value, in a new frame
//	value   "{"                       key, in a new frame
//	key     a string and ":"          value
//	after   "," in an array           value
//	after   "," in an object          key
//	after   "]" or "}"                after, with the frame closed
//	after   the end, no frame is open done
//
// White space may come before each input. Any other input is a syntax error.
func (p *parser) run() int {
	src := p.src
	frames := p.frames[:0]
	shallow := p.sel != nil || p.lim.Members
	i := 0
	for i < len(src) && isSpace(src[i]) {
		i++
	}
	p.lead, p.from, p.delta = i, i, i

value:
	if i < len(src) && src[i] <= ' ' {
		i = p.space(i)
	}
	if i >= len(src) {
		return p.unexpected(i, "where a value should be")
	}
	if shallow && len(frames) <= 2 {
		p.begin(len(frames), i)
	}
	switch c := src[i]; c {
	case '"':
		if i = p.str(i); i < 0 {
			return i
		}
	case '{', '[':
		if len(frames) >= p.lim.MaxDepth {
			return p.fail(ErrDepth, i)
		}
		frame := inArray
		if c == '{' {
			frame = uint32(p.members.n)
		}
		frames = append(frames, frame)
		p.frames = frames // kept for the next text once it has grown
		if len(frames) > p.depth {
			p.depth = len(frames)
		}
		if len(frames) == 2 {
			p.want[2] = -1
		}
		i++
		if i < len(src) && src[i] <= ' ' {
			i = p.space(i)
		}
		// '}' is '{'+2 and ']' is '['+2.
		if i < len(src) && src[i] == c+2 {
			frames = frames[:len(frames)-1]
			i++
			break
		}
		if c == '[' {
			goto value
		}
		if i >= len(src) || src[i] != '"' {
			return p.unexpected(i, "where a key should be")
		}
		goto key
	case 't':
		if i = p.word(i, "true"); i < 0 {
			return i
		}
	case 'f':
		if i = p.word(i, "false"); i < 0 {
			return i
		}
	case 'n':
		if i = p.word(i, "null"); i < 0 {
			return i
		}
	case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
		if i = p.number(i); i < 0 {
			return i
		}
	default:
		return p.unexpected(i, "where a value should be")
	}

after:
	if len(frames) == 0 {
		end := i
		for i < len(src) && isSpace(src[i]) {
			i++
		}
		if i < len(src) {
			return p.unexpected(i, "after the value")
		}
		return end
	}
	if shallow && len(frames) <= 2 {
		p.finish(len(frames), i)
	}
	if i < len(src) && src[i] <= ' ' {
		i = p.space(i)
	}
	if frame := frames[len(frames)-1]; frame == inArray {
		if i < len(src) && src[i] == ',' {
			i++
			goto value
		}
		if i >= len(src) || src[i] != ']' {
			return p.unexpected(i, "after an array element")
		}
	} else {
		if i < len(src) && src[i] == ',' {
			i++
			if i < len(src) && src[i] <= ' ' {
				i = p.space(i)
			}
			if i >= len(src) || src[i] != '"' {
				return p.unexpected(i, "where a key should be")
			}
			goto key
		}
		if i >= len(src) || src[i] != '}' {
			return p.unexpected(i, "after an object member")
		}
		p.closeObject(int(frame), i)
	}
	frames = frames[:len(frames)-1]
	i++
	goto after

key:
	start, at := i, i-p.delta
	if at == p.stop {
		return start
	}
	if i = p.str(i); i < 0 {
		return i
	}
	p.members.push(member{key: uint32(at), end: uint32(i - p.delta)})
	if shallow && len(frames) <= 2 {
		p.shallowKey(len(frames), start, i)
	}
	if i < len(src) && src[i] <= ' ' {
		i = p.space(i)
	}
	if i >= len(src) || src[i] != ':' {
		return p.unexpected(i, "where a colon should be")
	}
	i++
	goto value
}

// shallowKey is called for the key src[start:end] of one of the two outermost
// levels, for the selector and the list of members.
func (p *parser) shallowKey(depth, start, end int) {
	if depth == 1 && p.lim.Members {
		p.listed.push(listedMember{key: uint32(start)})
	}
	if p.sel == nil {
		return
	}
	if p.from <= start {
		p.match(depth, p.src[start+1:end-1])
		return
	}
	p.flush(end)
	p.match(depth, p.buf[p.members.at(p.members.n-1).key+1:len(p.buf)-1])
}

// word scans the literal name w, whose first byte is at i.
func (p *parser) word(i int, w string) int {
	if len(p.src)-i >= len(w) && string(p.src[i:i+len(w)]) == w {
		return i + len(w)
	}
	for k := range len(w) {
		if i+k >= len(p.src) || p.src[i+k] != w[k] {
			return p.unexpected(i+k, "in a literal name")
		}
	}
	return i + len(w)
}
