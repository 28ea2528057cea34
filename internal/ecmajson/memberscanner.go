package ecmajson

import (
	"bytes"
	"slices"
)

// MemberScanner reads string members of a top-level object of any size while the
// text streams by. It holds at most 4 KiB and never fails: what it can't make out
// stays empty. As for [Parse], the last of repeated members counts, and one that is
// not a string counts as empty.
//
// It follows the nesting of the text but does not check what is inside of other
// members.
type MemberScanner struct {
	state  scanState
	depth  int  // of arrays and objects below the top-level object
	inText bool // inside of a string, at any depth
	escape bool // after a backslash in it

	key   [maxKey]byte
	keyN  int
	text  [maxText]byte
	textN int // len(text)+1: too long
	field int // of names and values, -1 for none

	names, values []string
}

// NewMemberScanner returns a scanner for members of the given names.
func NewMemberScanner(names ...string) *MemberScanner {
	return &MemberScanner{field: -1, names: names, values: make([]string, len(names))}
}

// maxKey is enough for keys of 10 characters that are all escaped. A longer key or
// a text longer than maxText is ignored.
const (
	maxKey  = 64
	maxText = 2048
)

type scanState uint8

const (
	beforeObject scanState = iota
	beforeFirstKey
	beforeKey
	inKey
	beforeColon
	beforeValue
	inScalar // a number or literal name of the top-level object
	inString // a string of the top-level object
	inNested // an array or object of the top-level object
	afterValue
	afterObject
	broken
)

// Write scans the next bytes. It never returns an error.
func (s *MemberScanner) Write(p []byte) (int, error) {
	for i := 0; i < len(p) && s.state != broken; i++ {
		if s.skipping() {
			// Outputs are long strings, most of them in base64.
			n := bytes.IndexByte(p[i:], '"')
			if n < 0 {
				n = len(p) - i
			}
			if b := bytes.IndexByte(p[i:i+n], '\\'); b >= 0 {
				n = b
			}
			if i += n; i == len(p) {
				break
			}
		}
		s.step(p[i])
	}
	return len(p), nil
}

// skipping reports whether nothing matters before the next quote or backslash.
func (s *MemberScanner) skipping() bool {
	return !s.escape && (s.state == inNested && s.inText || s.state == inString && s.field < 0)
}

// Value returns the value of the member with the i-th name, as far as it has
// streamed by.
func (s *MemberScanner) Value(i int) string { return s.values[i] }

// Complete reports whether the object has been closed and nothing but white
// space has followed.
func (s *MemberScanner) Complete() bool { return s.state == afterObject }

func (s *MemberScanner) step(c byte) {
	switch s.state {
	case inKey, inString:
		s.inside(c)
		return
	case inNested:
		s.nested(c)
		return
	case inScalar:
		if c != ',' && c != '}' && !isSpace(c) {
			if c == '"' || c == '{' || c == '[' || c == ']' || c == ':' {
				s.state = broken
			}
			return
		}
		s.state = afterValue
	}
	if isSpace(c) {
		return
	}
	switch {
	case s.state == beforeObject && c == '{':
		s.state = beforeFirstKey
	case (s.state == beforeFirstKey || s.state == beforeKey) && c == '"':
		s.state, s.keyN = inKey, 0
	case (s.state == beforeFirstKey || s.state == afterValue) && c == '}':
		s.state = afterObject
	case s.state == beforeColon && c == ':':
		s.state = beforeValue
		s.choose()
	case s.state == beforeValue:
		s.value(c)
	case s.state == afterValue && c == ',':
		s.state = beforeKey
	default:
		s.state = broken
	}
}

// choose notes which field the key that was just read names, and voids what an
// earlier member of that key said.
func (s *MemberScanner) choose() {
	s.field = -1
	if s.keyN > maxKey {
		return
	}
	if s.field = slices.Index(s.names, decodeContent(s.key[:s.keyN])); s.field >= 0 {
		s.values[s.field] = ""
	}
}

func (s *MemberScanner) value(c byte) {
	switch c {
	case '"':
		s.state, s.textN = inString, 0
	case '{', '[':
		s.state, s.depth = inNested, 1
	case ',', '}', ']', ':':
		s.state = broken
	default:
		s.state = inScalar
	}
}

// inside takes a byte of a key or string of the top-level object.
func (s *MemberScanner) inside(c byte) {
	if c == '"' && !s.escape {
		if s.state == inKey {
			s.state = beforeColon
			return
		}
		if s.field >= 0 && s.textN <= maxText {
			s.values[s.field] = decodeContent(s.text[:s.textN])
		}
		s.state = afterValue
		return
	}
	s.escape = c == '\\' && !s.escape
	switch {
	case s.state == inKey:
		s.keyN = putAt(s.key[:], s.keyN, c)
	case s.field >= 0:
		s.textN = putAt(s.text[:], s.textN, c)
	}
}

// putAt puts a byte at position n of a buffer and returns the next position, one
// past the end for a text that is too long.
func putAt(buf []byte, n int, c byte) int {
	if n < len(buf) {
		buf[n] = c
	}
	return min(n+1, len(buf)+1)
}

func (s *MemberScanner) nested(c byte) {
	switch {
	case s.inText:
		if c == '"' && !s.escape {
			s.inText = false
		}
		s.escape = c == '\\' && !s.escape
	case c == '"':
		s.inText = true
	case c == '{' || c == '[':
		s.depth++
	case c == '}' || c == ']':
		if s.depth--; s.depth == 0 {
			s.state = afterValue
		}
	}
}

var contentSelector = NewSelector([]string{"v"})

// decodeContent returns the string of a literal's content, empty for an invalid
// one.
func decodeContent(content []byte) string {
	b := make([]byte, 0, len(content)+8)
	b = append(b, `{"v":"`...)
	b = append(b, content...)
	b = append(b, `"}`...)
	d, err := Parse(b, Limits{}, contentSelector)
	if err != nil {
		return ""
	}
	v, _ := d.Value(0).Text()
	return v
}
