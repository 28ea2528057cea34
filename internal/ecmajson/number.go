package ecmajson

import (
	"bytes"
	"math"
	"strconv"
)

// longMark stands for the e of a number in the scanned form whose ECMAScript
// form is longer than its literal. Nearly all of these have an exponent, as
// 1e20, which becomes 100000000000000000000; for the others see shorten. Keeping
// them short until the end keeps the scanned form within the size of the
// source; no other byte below 0x20 is ever in it.
const longMark = 0x01

// exactDigits is how many decimal digits a double always holds: a decimal of no
// more digits, without trailing zeros, is its own shortest form.
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
	var tmp, short [40]byte
	lit := src[start:i]
	form := appendLiteral(tmp[:0], lit)
	switch {
	case bytes.Equal(form, lit):
	case len(form) <= len(lit):
		p.replace(start, i, form)
	default:
		s := append(short[:0], lit...)
		if mantissa < i {
			s[mantissa-start] = longMark
		} else {
			s = shorten(s[:0], form)
		}
		p.replace(start, i, s)
		p.grow += len(form) - len(s)
	}
	return i
}

// shorten writes the form of a literal without an exponent that is shorter than
// its form: 9999999999999999 and its like, which round up to the next power of
// ten. It appends that as 1e16 with the mark for the e.
func shorten(dst, form []byte) []byte {
	digits := bytes.TrimRight(form, "0")
	dst = append(append(dst, digits...), longMark)
	return strconv.AppendInt(dst, int64(len(form)-len(digits)), 10)
}

func isDigit(c byte) bool { return c-'0' < 10 }

func digits(src []byte, i int) int {
	for i < len(src) && isDigit(src[i]) {
		i++
	}
	return i
}

// plain tells whether m, digits with a point at m[point:] or none, certainly is
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

// overflow is the least magnitude that rounds to infinity, halfway between the
// largest double and 2**1024; it has 309 digits.
const overflow = "179769313486231580793728971405303415079934132710037826936173778980444968292764750946649017977587207096330286416692887910946555547851940402630657488671505820681908902000708383676273854845817711531764475730270069855571366959622842914819860834936475292719074168444365510704342711559699508093042880177904174497792"

// appendLiteral appends the ECMAScript form of the valid number literal lit, at
// most 25 bytes.
func appendLiteral(dst, lit []byte) []byte {
	e, lead, some := magnitude(lit)
	switch {
	case !some || e < -330:
		return append(dst, '0')
	// Out of range is settled here for what strconv makes of it: an error that
	// is many times the size of the literal.
	case e > 308 || e == 308 && reaches(lit[lead:], overflow):
		return append(dst, "null"...)
	}
	var tmp [compactLen]byte
	if len(lit) > longLiteral {
		lit = compact(tmp[:0], lit, lead, int(e))
	}
	f, err := strconv.ParseFloat(string(lit), 64)
	if err != nil {
		// Not reachable with a valid literal; null is what the infinity that
		// comes with a range error is written as.
		return append(dst, "null"...)
	}
	return AppendNumber(dst, f)
}

const (
	// longLiteral is the length from which a literal is brought into a compact
	// form before strconv sees it: that goes wrong where more than 800 digits
	// precede the point or a negative exponent.
	longLiteral = 400
	// decisive is how many significant digits can matter: the decimals halfway
	// between two doubles, on which rounding depends, have 767 or fewer.
	decisive   = 770
	compactLen = decisive + 16
)

// compact writes lit, whose first significant digit is at lead and has the
// weight 10**e, as d.ddde+-x with no more digits than matter. A last digit 1
// stands for everything cut off that is not zero.
func compact(dst, lit []byte, lead, e int) []byte {
	if lit[0] == '-' {
		dst = append(dst, '-')
	}
	n := 0
	for _, c := range lit[lead:] {
		if c == '.' {
			continue
		}
		if !isDigit(c) {
			break
		}
		if n < decisive {
			dst = append(dst, c)
			if n++; n == 1 {
				dst = append(dst, '.')
			}
		} else if c != '0' {
			dst = append(dst, '1')
			break
		}
	}
	if n == 1 {
		dst = append(dst, '0')
	}
	return strconv.AppendInt(append(dst, 'e'), int64(e), 10)
}

// magnitude gives the decimal exponent of lit in scientific notation, and the
// offset of the first digit that is not 0; some is false when there is none.
func magnitude(lit []byte) (e int64, lead int, some bool) {
	point, end := -1, len(lit)
	lead = -1
	for k, c := range lit {
		switch {
		case c == '.':
			point = k
		case c|0x20 == 'e':
			end = k
		case c > '0' && lead < 0:
			lead = k
		}
		if end < len(lit) {
			break
		}
	}
	if lead < 0 {
		return 0, 0, false
	}
	switch {
	case point < 0:
		e = int64(end - 1 - lead)
	case lead < point:
		e = int64(point - 1 - lead)
	default:
		e = int64(point - lead)
	}
	if end == len(lit) {
		return e, lead, true
	}
	x, k := int64(0), end+1
	negative := lit[k] == '-'
	for ; k < len(lit); k++ {
		// A literal is too short by far to make up for a larger exponent.
		if isDigit(lit[k]) && x < 1<<40 {
			x = x*10 + int64(lit[k]-'0')
		}
	}
	if negative {
		x = -x
	}
	return e + x, lead, true
}

// reaches tells whether the digits m starts with, a point among them skipped,
// are at least those of bound, both as fractions of the same magnitude.
func reaches(m []byte, bound string) bool {
	k := 0
	for _, c := range m {
		if c == '.' {
			continue
		}
		if !isDigit(c) || k == len(bound) {
			break
		}
		if c != bound[k] {
			return c > bound[k]
		}
		k++
	}
	for ; k < len(bound); k++ {
		if bound[k] != '0' {
			return false
		}
	}
	return true
}

// AppendNumber appends JSON.stringify(f): null for an infinity and for not a
// number, 0 for both zeros, otherwise the shortest digits that read back as f,
// with an exponent below 1e-6 and from 1e21 on.
//
// Source: ECMA-262 Number::toString, SerializeJSONProperty.
func AppendNumber(dst []byte, f float64) []byte {
	abs := math.Abs(f)
	switch {
	case !(abs <= math.MaxFloat64):
		return append(dst, "null"...)
	case abs == 0:
		return append(dst, '0')
	case abs >= 1e-6 && abs < 1e21:
		return strconv.AppendFloat(dst, f, 'f', -1, 64)
	}
	dst = strconv.AppendFloat(dst, f, 'e', -1, 64)
	// strconv writes at least two digits of exponent.
	if n := len(dst); dst[n-2] == '0' && dst[n-3] == '-' {
		dst[n-2] = dst[n-1]
		dst = dst[:n-1]
	}
	return dst
}
