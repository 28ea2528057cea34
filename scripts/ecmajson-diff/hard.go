package main

import (
	"math"
	"math/big"
	"strconv"
	"strings"
)

// halfway spells the point between f and the next double exactly (way 0), a
// little below (1) or a little above (2): the decimals that rounding depends on.
func halfway(f float64, way int) string {
	next := math.Nextafter(f, math.Inf(1))
	if math.IsInf(next, 0) || f == 0 {
		return "1"
	}
	const prec = 2200
	sum := new(big.Float).SetPrec(prec).SetFloat64(f)
	sum.Add(sum, new(big.Float).SetPrec(prec).SetFloat64(next))
	sum.Quo(sum, big.NewFloat(2).SetPrec(prec))
	mantissa := sum.Text('e', 780)
	e := len(mantissa) - 1
	for mantissa[e] != 'e' {
		e--
	}
	digits, exponent := []byte(mantissa[:e]), mantissa[e:]
	last := len(digits) - 1
	for digits[last] == '0' && digits[last-1] != '.' {
		last--
	}
	digits = digits[:last+1]
	switch {
	case way == 1 && digits[last] > '0':
		digits[last]--
		digits = append(digits, '9')
	case way == 2:
		digits = append(digits, "0001"...)
	}
	return string(digits) + exponent
}

// long spells a number with up to a few thousand digits that cancel out
// against the exponent in part.
func (g *generator) long() {
	before, after := g.r.IntN(1500), g.r.IntN(1500)
	g.put(strconv.Itoa(1 + g.r.IntN(9)))
	if g.r.IntN(2) == 0 {
		g.digits(g.r.IntN(20))
	}
	if g.r.IntN(2) == 0 {
		g.put(strings.Repeat("0", before))
	} else {
		g.digits(before)
	}
	if g.r.IntN(2) == 0 {
		g.put("." + strings.Repeat("0", after))
		g.digits(1 + g.r.IntN(20))
	}
	g.put("e" + strconv.Itoa(g.r.IntN(700)-350-before))
}

// deep writes a text of many levels.
func (g *generator) deep() {
	n := 1 + g.r.IntN(400)
	var open []byte
	for range n {
		if g.r.IntN(2) == 0 {
			g.put("[")
			open = append(open, ']')
			continue
		}
		// The way down goes through the middle of an object whose order changes.
		g.put("{")
		if g.r.IntN(2) == 0 {
			g.key(1)
			g.put(":1e20,")
		}
		g.key(1)
		g.put(":")
		open = append(open, '}')
	}
	g.number()
	for i := len(open) - 1; i >= 0; i-- {
		if g.r.IntN(3) == 0 {
			if open[i] == '}' {
				g.put(",")
				g.key(1)
				g.put(":")
			} else {
				g.put(",")
			}
			g.number()
		}
		g.space()
		g.b = append(g.b, open[i])
	}
}

// crowd writes an object of many members, for the lookup of large ones.
func (g *generator) crowd() {
	n, span := 10+g.r.IntN(400), 1+g.r.IntN(800)
	g.put("{")
	for i := range n {
		if i > 0 {
			g.put(",")
		}
		key := strconv.Itoa(g.r.IntN(span))
		if g.r.IntN(2) == 0 {
			key = "k" + key
		}
		g.quoted([]rune(key))
		g.put(":")
		if g.r.IntN(20) == 0 {
			g.object(10)
		} else {
			g.number()
		}
	}
	g.put("}")
}

// mutate changes a few bytes, mostly into ones that mean something.
func (g *generator) mutate(b []byte) []byte {
	const telling = `{}[]:,"\/-+.eE0123456789abfnrtu '` + "\x00\x0b\x1f\x7f\n\t"
	for range 1 + g.r.IntN(3) {
		i := g.r.IntN(len(b) + 1)
		c := telling[g.r.IntN(len(telling))]
		switch g.r.IntN(5) {
		case 0:
			b = append(b[:i], append([]byte{c}, b[i:]...)...)
		case 1:
			if i < len(b) {
				b[i] = c
			}
		case 2:
			if i < len(b) {
				b = append(b[:i], b[i+1:]...)
			}
		case 3:
			b = b[:i]
		default:
			j := g.r.IntN(len(b) + 1)
			if i > j {
				i, j = j, i
			}
			b = append(b, b[i:j]...)
		}
	}
	return b
}
