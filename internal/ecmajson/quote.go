package ecmajson

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"unicode/utf8"
)

const (
	ones   = 0x0101010101010101
	highs  = 0x80 * ones
	hexits = "0123456789abcdef"
)

// str scans the string literal whose opening quote is at i and returns the
// offset after the closing one, or -1.
func (p *parser) str(i int) int {
	src := p.src
	j := i + 1
	for {
		// Eight bytes at a time up to the first that is a quote, a backslash, a
		// control or not ASCII. The subtractions borrow into the next byte only
		// above a byte that already is one of these, so the lowest mark is right.
		for len(src)-j >= 8 {
			w := binary.LittleEndian.Uint64(src[j:])
			m := ((w ^ '"'*ones) - ones) | ((w ^ '\\'*ones) - ones) | (w - 0x20*ones) | w
			if m &= highs; m != 0 {
				j += bits.TrailingZeros64(m) >> 3
				goto special
			}
			j += 8
		}
		for j < len(src) {
			if c := src[j]; c == '"' || c == '\\' || c < 0x20 || c >= utf8.RuneSelf {
				goto special
			}
			j++
		}
		return p.unexpected(j, "in a string")

	special:
		switch c := src[j]; {
		case c == '"':
			if j-i-1 > p.lim.MaxString {
				return p.fail(ErrLiteral, i)
			}
			return j + 1
		case c == '\\':
			if j = p.escape(j); j < 0 {
				return j
			}
		case c < 0x20:
			return p.unexpected(j, "in a string: controls have to be escaped")
		default:
			for j < len(src) && src[j] >= utf8.RuneSelf {
				n := runeLen(src[j:])
				if n == 0 {
					return p.fail(ErrUTF8, j)
				}
				j += n
			}
		}
	}
}

// runeLen returns the length of the multi-byte UTF-8 sequence b starts with, 0 when
// it is invalid. Three bytes, the usual length in CJK text, are done in place.
func runeLen(b []byte) int {
	if c := b[0]; c > 0xE0 && c < 0xF0 && c != 0xED && len(b) >= 3 &&
		b[1]&0xC0 == 0x80 && b[2]&0xC0 == 0x80 {
		return 3
	}
	r, n := utf8.DecodeRune(b)
	if r == utf8.RuneError && n <= 1 {
		return 0
	}
	return n
}

// escape rewrites the escape sequence at i in its ECMAScript form and returns
// the offset after it, or -1. An escaped surrogate pair is one sequence.
func (p *parser) escape(i int) int {
	src := p.src
	if i+1 >= len(src) {
		return p.unexpected(i+1, "in an escape sequence")
	}
	switch src[i+1] {
	case '"', '\\', 'b', 'f', 'n', 'r', 't':
		return i + 2
	case '/':
		p.replace(i, i+2, []byte{'/'})
		return i + 2
	case 'u':
	default:
		return p.unexpected(i+1, "in an escape sequence")
	}
	r, bad := hex4(src, i+2)
	if bad >= 0 {
		return p.unexpected(bad, "in an escape sequence: four hexadecimal digits have to follow \\u")
	}
	r, end := pair(src, r, i+6)
	var tmp [8]byte
	form := appendUnit(tmp[:0], r)
	if !bytes.Equal(form, src[i:end]) {
		p.replace(i, end, form)
	}
	return end
}

// hex4 reads four hexadecimal digits at src[i:]; bad is the offset of the first
// byte that is none, or -1.
func hex4(src []byte, i int) (r rune, bad int) {
	for k := i; k < i+4; k++ {
		if k >= len(src) {
			return 0, k
		}
		c := src[k]
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			c = (c | 0x20) - 'a' + 10
		default:
			return 0, k
		}
		r = r<<4 | rune(c)
	}
	return r, -1
}

// pair joins r, read from an escape that ends before i, with the low surrogate
// escaped at src[i:], if r is a high one and that is there.
func pair(src []byte, r rune, i int) (rune, int) {
	if r>>10 == 0xD800>>10 && i+6 <= len(src) && src[i] == '\\' && src[i+1] == 'u' {
		if lo, bad := hex4(src, i+2); bad < 0 && lo>>10 == 0xDC00>>10 {
			return ((r-0xD800)<<10 | (lo - 0xDC00)) + 0x10000, i + 6
		}
	}
	return r, i
}

func isSurrogate(r rune) bool { return r>>11 == 0xD800>>11 }

// appendUnit appends r, a code point or a lone surrogate, as it stands inside a
// string in the ECMAScript form (ECMA-262 QuoteJSONString, UnicodeEscape).
func appendUnit(dst []byte, r rune) []byte {
	switch {
	case r == '"' || r == '\\':
		return append(dst, '\\', byte(r))
	case r == '\b':
		return append(dst, '\\', 'b')
	case r == '\t':
		return append(dst, '\\', 't')
	case r == '\n':
		return append(dst, '\\', 'n')
	case r == '\f':
		return append(dst, '\\', 'f')
	case r == '\r':
		return append(dst, '\\', 'r')
	case r < 0x20 || isSurrogate(r):
		return append(dst, '\\', 'u', hexits[r>>12], hexits[r>>8&15], hexits[r>>4&15], hexits[r&15])
	}
	return utf8.AppendRune(dst, r)
}

// AppendString appends JSON.stringify(s), quotes included. Bytes of s that are
// not UTF-8 become U+FFFD each.
//
// Source: ECMA-262 QuoteJSONString.
func AppendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c < 0x20 || c == '"' || c == '\\' {
				dst = appendUnit(append(dst, s[from:i]...), rune(c))
				from = i + 1
			}
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 {
			dst = append(append(dst, s[from:i]...), "\ufffd"...)
			from = i + 1
		}
		i += n
	}
	return append(append(dst, s[from:]...), '"')
}

// unquote decodes the content of a valid string literal.
func unquote(b []byte) string {
	i := bytes.IndexByte(b, '\\')
	if i < 0 {
		return string(b)
	}
	out := make([]byte, 0, len(b))
	for i >= 0 {
		out = append(out, b[:i]...)
		c := b[i+1]
		b = b[i+2:]
		switch c {
		case 'b':
			c = '\b'
		case 'f':
			c = '\f'
		case 'n':
			c = '\n'
		case 'r':
			c = '\r'
		case 't':
			c = '\t'
		case 'u':
			r, _ := hex4(b, 0)
			r, n := pair(b, r, 4)
			// AppendRune writes U+FFFD for a surrogate.
			out = utf8.AppendRune(out, r)
			b = b[n:]
			i = bytes.IndexByte(b, '\\')
			continue
		}
		out = append(out, c)
		i = bytes.IndexByte(b, '\\')
	}
	return string(append(out, b...))
}
