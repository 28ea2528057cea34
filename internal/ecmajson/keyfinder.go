package ecmajson

import (
	"bytes"
	"slices"
	"strconv"
)

// KeyFinder finds a key of the top-level object of a text as the most lenient
// parsers would read it, while the text streams by: with single or no quotes,
// comments, commas too many, or anything in the place of a value, in UTF-8 or
// UTF-16. In a text that is not an object, keys stand at the beginning of lines.
type KeyFinder struct {
	names   []string
	longest int // the longest spelling of a name, with all of it escaped
	found   string

	state findState
	depth int
	quote byte
	skip  bool // an escaped character follows
	star  bool // in a comment: the last byte was an asterisk
	token []byte
	ready bool // token is whole: a colon makes it a key
}

type findState uint8

const (
	findStart   findState = iota
	findObject            // in the object, outside of quotes and comments
	findQuoted            // in quotes
	findSlash             // after a slash, perhaps of a comment
	findComment           // in a comment to the end of the line
	findBlock             // in a comment to its end
	findLines             // in a text that is not an object
	findNothing           // no key can follow
)

// NewKeyFinder returns a finder of the given keys.
func NewKeyFinder(names ...string) *KeyFinder {
	f := &KeyFinder{names: names}
	for _, name := range names {
		f.longest = max(f.longest, len(`\u0000`)*len(name))
	}
	return f
}

// Found returns the first of the keys that was found, or empty.
func (f *KeyFinder) Found() string { return f.found }

// InLines reports whether the text is not an object, nor another value in JSON.
func (f *KeyFinder) InLines() bool { return f.state == findLines }

// Write searches p. It never returns an error.
func (f *KeyFinder) Write(p []byte) (int, error) {
	for _, c := range p {
		if f.found != "" || f.state == findNothing {
			break
		}
		if c != 0 { // of UTF-16
			f.step(c)
		}
	}
	return len(p), nil
}

func (f *KeyFinder) step(c byte) {
	switch f.state {
	case findStart:
		switch {
		case isSpace(c), c >= 0x80: // a byte order mark
		case c == '{':
			f.state, f.depth = findObject, 1
		case c == '[', c == '"':
			f.state = findNothing
		default:
			f.state = findLines
			f.line(c)
		}
	case findObject:
		f.object(c)
	case findQuoted:
		switch {
		case f.skip:
			f.skip = false
			f.keep(c)
		case c == f.quote:
			f.state, f.ready = findObject, true
		default:
			f.skip = c == '\\'
			f.keep(c)
		}
	case findSlash:
		switch f.state = findObject; c {
		case '/':
			f.state = findComment
		case '*':
			f.state, f.star = findBlock, false
		default:
			f.object(c)
		}
	case findComment:
		if c == '\n' {
			f.state = findObject
		}
	case findBlock:
		if f.star && c == '/' {
			f.state = findObject
		}
		f.star = c == '*'
	case findLines:
		f.line(c)
	}
}

// object takes a byte of the object outside of quotes and comments.
func (f *KeyFinder) object(c byte) {
	switch {
	case isSpace(c):
		f.ready = f.ready || len(f.token) > 0
	case c == '"' || c == '\'':
		f.state, f.quote, f.ready, f.token = findQuoted, c, false, f.token[:0]
	case c == '/':
		f.state = findSlash
	case c == '#':
		f.state = findComment
	case c == '{' || c == '[':
		f.depth++
		f.token, f.ready = f.token[:0], false
	case c == '}' || c == ']':
		if f.depth--; f.depth == 0 {
			f.state = findNothing
		}
		f.token, f.ready = f.token[:0], false
	case c == ':':
		if f.depth == 1 {
			f.key()
		}
		f.token, f.ready = f.token[:0], false
	case c == ',':
		f.token, f.ready = f.token[:0], false
	default:
		if f.ready {
			f.token, f.ready = f.token[:0], false
		}
		f.keep(c)
	}
}

// line takes a byte of a text that is not an object.
func (f *KeyFinder) line(c byte) {
	switch {
	case c == '\n':
		f.token, f.ready = f.token[:0], false
	case f.ready, len(f.token) == 0 && isSpace(c):
	case c == ':' || c == '=':
		f.token = bytes.Trim(f.token, " \t\r\"'")
		f.key()
		f.ready = true // what follows on the line is the value
	default:
		f.keep(c)
	}
}

func (f *KeyFinder) keep(c byte) {
	if len(f.token) <= f.longest {
		f.token = append(f.token, c)
	}
}

func (f *KeyFinder) key() {
	if name := unescape(f.token); slices.Contains(f.names, name) {
		f.found = name
	}
}

// unescape decodes the escapes of JSON and JavaScript in a key. What is not an
// escape stands for itself.
func unescape(key []byte) string {
	if bytes.IndexByte(key, '\\') < 0 {
		return string(key)
	}
	var out []byte
	for i := 0; i < len(key); i++ {
		if key[i] != '\\' || i+1 == len(key) {
			out = append(out, key[i])
			continue
		}
		i++
		digits := 0
		switch key[i] {
		case 'u':
			digits = 4
		case 'x':
			digits = 2
		}
		if digits > 0 && i+digits < len(key) {
			if code, err := strconv.ParseUint(string(key[i+1:i+1+digits]), 16, 32); err == nil {
				out = append(out, string(rune(code))...)
				i += digits
				continue
			}
		}
		out = append(out, key[i])
	}
	return string(out)
}
