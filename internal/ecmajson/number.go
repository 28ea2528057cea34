package ecmajson

import "bytes"

// longMark stands in the scanned form for the e of a number whose ECMAScript
// form is longer than its literal, such as 1e20, which becomes
// 100000000000000000000, or 9999999999999999, which rounds up to the next power
// of ten. Keeping these numbers short until the end keeps the scanned form
// within the size of the source. No other byte below 0x20 is ever in it.
const longMark = 0x01

// exactDigits is the number of decimal digits that a double always holds: a decimal
// of no more digits, without trailing zeros, is its own shortest form.
const exactDigits = 15

// number scans the number literal at i and returns the offset after it, or -1.
func (p *parser) number(i int) int {
	src := p.src
	start := i
	if src[i] == '-' {
		i++
	}
	first := i
	switch {
	case i >= len(src) || !isDigit(src[i]):
		return p.unexpected(i, "in a number")
	case src[i] == '0':
		i++
	default:
		i = digits(src, i)
	}
	point := i
	if i < len(src) && src[i] == '.' {
		if i++; i >= len(src) || !isDigit(src[i]) {
			return p.unexpected(i, "in a number")
		}
		i = digits(src, i)
	}
	mantissa := i
	if i < len(src) && src[i]|0x20 == 'e' {
		if i++; i < len(src) && (src[i] == '+' || src[i] == '-') {
			i++
		}
		if i >= len(src) || !isDigit(src[i]) {
			return p.unexpected(i, "in a number")
		}
		i = digits(src, i)
	}
	if i-start > p.lim.MaxNumber {
		return p.fail(ErrLiteral, start)
	}
	if i == mantissa && plain(src[first:i], point-first, first > start) {
		return i
	}
	var tmp, short [formLen]byte
	lit := src[start:i]
	d, ok := readDecimal(lit)
	if !ok {
		p.replace(start, i, []byte("null"))
		return i
	}
	form := d.append(tmp[:0])
	switch {
	case bytes.Equal(form, lit):
	case len(form) <= len(lit):
		p.replace(start, i, form)
	default:
		s := d.appendShort(short[:0])
		p.replace(start, i, s)
		p.grow += len(form) - len(s)
	}
	return i
}

func isDigit(c byte) bool { return c-'0' < 10 }

func digits(src []byte, i int) int {
	for i < len(src) && isDigit(src[i]) {
		i++
	}
	return i
}

// plain reports whether m, digits with a point at m[point:] or none, certainly is
// in its ECMAScript form, which spares most numbers the conversion to a double
// and back.
func plain(m []byte, point int, negative bool) bool {
	if point == len(m) {
		return len(m) <= exactDigits && !(negative && m[0] == '0')
	}
	if len(m)-1 > exactDigits || m[len(m)-1] == '0' {
		return false
	}
	// Below 1e-6 the form has an exponent.
	return m[0] != '0' || len(m) <= len("0.000001") || string(m[:8]) != "0.000000"
}
