package ecmajson

import (
	"math"
	"strconv"
)

const (
	// maxDigits is the largest number of digits in the shortest form of a double.
	maxDigits = 17
	// formLen is the length of the longest form, -0.0000012345678901234567, and
	// some.
	formLen = 32
)

// decimal is a number as its ECMAScript form shows it: 0.d₁d₂…dₙ × 10^point.
type decimal struct {
	digits   [maxDigits]byte // ASCII, neither the first nor the last is 0
	n        int             // of the digits, 0 for the number 0
	point    int
	negative bool
}

// Literals whose first digit has a weight in 10^minTextual to 10^maxTextual are
// normal doubles with room to spare, so that exactDigits holds for them.
const (
	minTextual = -300
	maxTextual = 300
)

// readDecimal returns the decimal of the double nearest to the number literal
// lit; ok is false when that is an infinity. Its time is linear in the length of
// the literal, with a small factor for any digits.
func readDecimal(lit []byte) (d decimal, ok bool) {
	var s significand
	negative := lit[0] == '-'
	if negative {
		lit = lit[1:]
	}
	s.read(lit)
	switch {
	case s.n == 0 || s.exp < minDecimal:
		return decimal{}, true
	case s.exp > maxDecimal:
		return decimal{}, false
	case s.n <= exactDigits && s.exp >= minTextual && s.exp <= maxTextual:
		d.n, d.point = s.n, int(s.exp)+1
		m := s.head
		for i := s.n - 1; i >= 0; i-- {
			d.digits[i] = '0' + byte(m%10)
			m /= 10
		}
	default:
		f := s.nearest()
		switch {
		case f == 0:
			return decimal{}, true
		case math.IsInf(f, 1):
			return decimal{}, false
		}
		d = shortest(f)
	}
	d.negative = negative
	return d, true
}

// shortest returns the shortest decimal that is read back as f, which is finite
// and greater than 0.
func shortest(f float64) (d decimal) {
	// The result is d.ddde±dd, or de±dd for a single digit.
	var tmp [formLen]byte
	s := strconv.AppendFloat(tmp[:0], f, 'e', -1, 64)
	d.digits[0], d.n = s[0], 1
	i := 1
	if s[i] == '.' {
		for i++; s[i] != 'e'; i++ {
			d.digits[d.n] = s[i]
			d.n++
		}
	}
	d.point = readExponent(s[i+1:]) + 1
	return d
}

// readExponent returns the small integer s, which may have a sign.
func readExponent(s []byte) (x int) {
	negative := s[0] == '-'
	for _, c := range s {
		if isDigit(c) {
			x = x*10 + int(c-'0')
		}
	}
	if negative {
		return -x
	}
	return x
}

// append appends the ECMAScript form, at most formLen bytes.
//
// Source: ECMA-262 Number::toString.
func (d *decimal) append(dst []byte) []byte {
	if d.n == 0 {
		return append(dst, '0')
	}
	if d.negative {
		dst = append(dst, '-')
	}
	digits := d.digits[:d.n]
	const zeros = "000000000000000000000"
	switch {
	case d.n <= d.point && d.point <= 21:
		return append(append(dst, digits...), zeros[:d.point-d.n]...)
	case 0 < d.point && d.point <= 21:
		dst = append(append(dst, digits[:d.point]...), '.')
		return append(dst, digits[d.point:]...)
	case -6 < d.point && d.point <= 0:
		dst = append(append(dst, "0."...), zeros[:-d.point]...)
		return append(dst, digits...)
	}
	dst = append(dst, digits[0])
	if d.n > 1 {
		dst = append(append(dst, '.'), digits[1:]...)
	}
	dst = append(dst, 'e')
	if d.point > 0 {
		dst = append(dst, '+')
	}
	return strconv.AppendInt(dst, int64(d.point)-1, 10)
}

// appendShort appends the digits, longMark and the power of ten of the last
// digit. It is no longer than any literal of the number that is shorter than the
// ECMAScript form.
func (d *decimal) appendShort(dst []byte) []byte {
	if d.negative {
		dst = append(dst, '-')
	}
	dst = append(append(dst, d.digits[:d.n]...), longMark)
	return strconv.AppendInt(dst, int64(d.point-d.n), 10)
}

// readShort reads what appendShort wrote.
func readShort(s []byte) (d decimal) {
	if s[0] == '-' {
		d.negative, s = true, s[1:]
	}
	for s[d.n] != longMark {
		d.digits[d.n] = s[d.n]
		d.n++
	}
	d.point = readExponent(s[d.n+1:]) + d.n
	return d
}
