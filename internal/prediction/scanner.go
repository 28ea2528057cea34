package prediction

import (
	"bytes"

	"github.com/caddy-replicate/replicate-webhook/internal/ecmajson"
)

// Scanner reads the id, status and version of a prediction object of any size
// while it streams by. It holds at most 4 KiB and never fails: what it can't
// make out stays empty. As with Parse, the last of repeated members counts, and
// one that is not a string counts as empty.
//
// It follows the nesting of the text but does not judge what is inside of
// other members. The zero value is ready.
type Scanner struct {
	state  scanState
	depth  int  // of arrays and objects below the top-level object
	inText bool // inside of a string, at any depth
	escape bool // after a backslash in it

	key   [maxKey]byte
	keyN  int
	text  [maxText]byte
	textN int // len(text)+1: too long
	field *string

	id, status, version string
}

// maxKey is enough for the wanted keys with every character escaped, maxText
// for any id.
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

// Write scans the next bytes. It takes all of them and gives no error.
func (s *Scanner) Write(p []byte) (int, error) {
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
func (s *Scanner) skipping() bool {
	return !s.escape && (s.state == inNested && s.inText || s.state == inString && s.field == nil)
}

// ID is the prediction's id as far as it has streamed by.
func (s *Scanner) ID() string { return s.id }

// Status is the prediction's status as far as it has streamed by.
func (s *Scanner) Status() string { return s.status }

// Version is the model's version as far as it has streamed by.
func (s *Scanner) Version() string { return s.version }

// Complete reports whether the object has been closed and nothing but white
// space has followed.
func (s *Scanner) Complete() bool { return s.state == afterObject }

func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\r' || c == '\t' }

func (s *Scanner) step(c byte) {
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

// choose notes which field the key just read names, and voids what an earlier
// member of that key said.
func (s *Scanner) choose() {
	s.field = nil
	if s.keyN > maxKey {
		return
	}
	switch decode(s.key[:s.keyN]) {
	case "id":
		s.field = &s.id
	case "status":
		s.field = &s.status
	case "version":
		s.field = &s.version
	default:
		return
	}
	*s.field = ""
}

func (s *Scanner) value(c byte) {
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
func (s *Scanner) inside(c byte) {
	if c == '"' && !s.escape {
		if s.state == inKey {
			s.state = beforeColon
			return
		}
		if s.field != nil && s.textN <= maxText {
			*s.field = decode(s.text[:s.textN])
		}
		s.state = afterValue
		return
	}
	s.escape = c == '\\' && !s.escape
	switch {
	case s.state == inKey:
		s.keyN = keep(s.key[:], s.keyN, c)
	case s.field != nil:
		s.textN = keep(s.text[:], s.textN, c)
	}
}

// keep puts a byte at position n of a buffer and gives the next position, one
// past the end for a text that is too long.
func keep(buf []byte, n int, c byte) int {
	if n < len(buf) {
		buf[n] = c
	}
	return min(n+1, len(buf)+1)
}

func (s *Scanner) nested(c byte) {
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

var literal = ecmajson.NewSelector([]string{"v"})

// decode gives the string of a literal's content, empty for an invalid one.
func decode(content []byte) string {
	b := make([]byte, 0, len(content)+8)
	b = append(b, `{"v":"`...)
	b = append(b, content...)
	b = append(b, `"}`...)
	d, err := ecmajson.Parse(b, ecmajson.Limits{}, literal)
	if err != nil {
		return ""
	}
	v, _ := d.Value(0).Text()
	return v
}
