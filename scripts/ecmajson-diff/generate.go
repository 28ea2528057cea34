package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
)

// generator makes JSON texts in every spelling the grammar allows, with a
// leaning to those in which two implementations may differ.
type generator struct {
	r      *rand.Rand
	b      []byte
	budget int // values left in the text
	spaced int // 0: no white space; otherwise how freely it is strewn
}

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

func (g *generator) put(s string) { g.b = append(g.b, s...) }

func (g *generator) space() {
	for g.spaced > 0 && g.r.IntN(4) < g.spaced {
		g.b = append(g.b, " \t\n\r"[g.r.IntN(4)])
	}
}

func (g *generator) value(depth int) {
	g.budget--
	kind := g.r.IntN(12)
	if g.budget <= 0 || depth > 12 {
		kind %= 7
	}
	switch kind {
	case 0:
		g.put(pick(g.r, []string{"null", "true", "false"}))
	case 1, 2, 3:
		g.number()
	case 4, 5, 6:
		g.str()
	case 7, 8:
		g.array(depth)
	default:
		g.object(depth)
	}
}

func (g *generator) array(depth int) {
	g.put("[")
	g.space()
	for i := range g.r.IntN(6) {
		if i > 0 {
			g.put(",")
			g.space()
		}
		g.value(depth + 1)
		g.space()
	}
	g.put("]")
}

func (g *generator) object(depth int) {
	n := g.r.IntN(8)
	if g.r.IntN(20) == 0 {
		n = 14 + g.r.IntN(12)
	}
	style := g.r.IntN(4)
	g.put("{")
	g.space()
	for i := range n {
		if i > 0 {
			g.put(",")
			g.space()
		}
		g.key(style)
		g.space()
		g.put(":")
		g.space()
		g.value(depth + 1)
		g.space()
	}
	g.put("}")
}

// special keys: those an engine may treat in a way of its own, and array
// indices with their neighbors.
var special = []string{
	"__proto__", "constructor", "toJSON", "toString", "valueOf", "length", "prototype", "hasOwnProperty", "",
	"0", "1", "9", "10", "00", "01", "-0", "-1", "1.0", "1e3", "+1", " 1", "1 ", "4294967293", "4294967294",
	"4294967295", "4294967296", "2147483647", "2147483648", "9007199254740991", "9007199254740992", "99999999999999999999",
}

func (g *generator) key(style int) {
	switch g.r.IntN(4) {
	case 0:
		g.quoted([]rune(pick(g.r, special)))
	case 1:
		g.quoted([]rune(strconv.Itoa(g.r.IntN(1 << (1 + g.r.IntN(16))))))
	case 2:
		if style == 0 {
			g.str()
			return
		}
		fallthrough
	default:
		if style == 1 {
			g.quoted([]rune{rune('a' + g.r.IntN(3))})
			return
		}
		g.quoted([]rune("key" + strconv.Itoa(g.r.IntN(30))))
	}
}

func (g *generator) str() {
	n := g.r.IntN(8)
	if g.r.IntN(10) == 0 {
		n = g.r.IntN(60)
	}
	rs := make([]rune, n)
	style := g.r.IntN(3)
	for i := range rs {
		if style == 0 {
			rs[i] = rune(' ' + g.r.IntN(95))
		} else {
			rs[i] = g.unit()
		}
	}
	g.quoted(rs)
}

// unit returns a code point or a lone surrogate.
func (g *generator) unit() rune {
	switch g.r.IntN(10) {
	case 0:
		return rune(g.r.IntN(0x20))
	case 1:
		return pick(g.r, []rune{'"', '\\', '/', 0x7f, 0x80, 0x85, 0x7ff, 0x800, 0x2028, 0x2029, 0xfeff, 0xfffd, 0xfffe, 0xffff, 0x10000, 0x10ffff, 0xd7ff, 0xe000})
	case 2:
		return rune(0xd800 + g.r.IntN(0x800))
	case 3:
		return pick(g.r, []rune{0xd83d, 0xde00, 0xd800, 0xdc00, 0xdbff, 0xdfff})
	case 4:
		return rune(0x10000 + g.r.IntN(0x100000))
	case 5:
		return rune(g.r.IntN(0x10000))
	default:
		return rune(' ' + g.r.IntN(95))
	}
}

func (g *generator) quoted(rs []rune) {
	g.put(`"`)
	for _, r := range rs {
		surrogate := r >= 0xd800 && r < 0xe000
		short := strings.IndexRune("\"\\/\b\f\n\r\t", r)
		switch must := r < 0x20 || r == '"' || r == '\\'; {
		case surrogate:
			g.hex(r)
		case short >= 0 && (must && g.r.IntN(3) > 0 || g.r.IntN(3) == 0):
			g.put(`\` + string(`"\/bfnrt`[short]))
		case must || g.r.IntN(8) == 0:
			if r > 0xffff {
				g.hex(0xd800 + (r-0x10000)>>10)
				r = 0xdc00 + (r-0x10000)&0x3ff
			}
			g.hex(r)
		default:
			g.put(string(r))
		}
	}
	g.put(`"`)
}

func (g *generator) hex(r rune) {
	g.put(`\u`)
	for _, c := range fmt.Sprintf("%04x", r) {
		if g.r.IntN(2) == 0 {
			c = []rune(strings.ToUpper(string(c)))[0]
		}
		g.put(string(c))
	}
}

func (g *generator) digits(n int) {
	for range n {
		if g.r.IntN(4) == 0 {
			g.put("0")
		} else {
			g.put(strconv.Itoa(g.r.IntN(10)))
		}
	}
}

func (g *generator) integer(n int) {
	if n == 0 {
		g.put("0")
		return
	}
	g.put(strconv.Itoa(1 + g.r.IntN(9)))
	g.digits(n - 1)
}

func (g *generator) number() {
	if g.r.IntN(3) == 0 {
		g.put("-")
	}
	if g.r.IntN(100) == 0 {
		g.long()
		return
	}
	switch g.r.IntN(9) {
	case 0:
		g.put(pick(g.r, []string{
			"0", "0.0", "0e5", "0.000001", "0.0000001", "0.00000100", "1e20", "1e21", "1E+22", "1e-6", "1e-7", "12e99", "123e97", "12e-9",
			"1.7976931348623157e308", "1.7976931348623158e308", "1.7976931348623159e308", "17976931348623158079e289", "2e308", "1e309",
			"5e-324", "2.4703282292062327e-324", "2.4703282292062328e-324", "2.2250738585072011e-308", "9007199254740993", "4503599627370497.5",
			"179769313486231580793728971405303415079934132710037826936173778980444968292764750946649017977587207096330286416692887910946555547851940402630657488671505820681908902000708383676273854845817711531764475730270069855571366959622842914819860834936475292719074168444365510704342711559699508093042880177904174497792",
			"179769313486231580793728971405303415079934132710037826936173778980444968292764750946649017977587207096330286416692887910946555547851940402630657488671505820681908902000708383676273854845817711531764475730270069855571366959622842914819860834936475292719074168444365510704342711559699508093042880177904174497791.9999",
			"123456789012345", "1234567890123456", "0.123456789012345", "999999999999999.5", "99999999999999.5", "1.50", "100.0",
		}))
	case 1:
		if g.r.IntN(4) == 0 {
			// Carries that add a digit.
			g.put(strings.Repeat("9", 1+g.r.IntN(23)))
			g.put(pick(g.r, []string{"", "", "5", ".9", ".0", ".99999999999999999999", "e0", "e1", "e-5", "e-20"}))
			return
		}
		g.integer(g.r.IntN(24))
	case 2:
		g.integer(g.r.IntN(12))
		g.put(".")
		g.digits(1 + g.r.IntN(12))
	case 3:
		g.put(strconv.FormatFloat(math.Abs(g.double()), "eE"[g.r.IntN(2)], g.r.IntN(22)-1, 64))
	case 4:
		g.put(strconv.FormatFloat(math.Abs(g.r.NormFloat64()), 'f', g.r.IntN(22), 64))
	case 5:
		// Near the borders of the exponent form.
		g.integer(1 + g.r.IntN(3))
		g.put(pick(g.r, []string{"e", "E", "e+", "E+", "e-", "E-", "e0", "e-0"}))
		g.put(strconv.Itoa(g.r.IntN(26)))
	case 6:
		g.put("0.")
		g.put(strings.Repeat("0", g.r.IntN(10)))
		g.digits(1 + g.r.IntN(20))
	case 7:
		// A double and the halfway point above it in full length.
		f := math.Abs(g.double())
		g.put(halfway(f, g.r.IntN(3)))
	default:
		g.integer(g.r.IntN(5))
		g.put(".")
		g.digits(1 + g.r.IntN(20))
		g.put(pick(g.r, []string{"e", "E", "e+", "E+", "e-", "E-"}))
		g.put(strconv.Itoa(g.r.IntN(340)))
	}
}

// double returns a finite double; all exponents are equally likely.
func (g *generator) double() float64 {
	for {
		if f := math.Float64frombits(g.r.Uint64()); !math.IsNaN(f) && !math.IsInf(f, 0) {
			return f
		}
	}
}
