package ecmajson

import (
	"cmp"
	"math"
	"math/big"
	"math/bits"
	"sync"
)

// Package strconv reads most literals quickly, but takes microseconds for those
// of subnormal doubles and for those close to halfway between two doubles. The
// texts that are read here may be chosen by an attacker, so the time for the
// worst literal counts. The nearest double is found in two steps: 128 bits of
// the product of the first digits and a power of ten bracket the number; only
// when a halfway point lies within the bracket are the two compared exactly.

const (
	// A number whose first digit has the weight 10^minDecimal or less is zero,
	// one with 10^maxDecimal or more an infinity, when the comparison is strict.
	minDecimal = -324
	maxDecimal = 308
	// headDigits is the number of decimal digits that always fit into 64 bits.
	headDigits = 19
	// decisive is the number of significant digits that can matter: the decimals
	// halfway between two doubles have 767 or fewer.
	decisive = 770
	// exponentCap is larger than any exponent that the digits of a literal could
	// compensate for.
	exponentCap = 1 << 40
)

// significand is a number literal without its sign, read: its first digits, and
// where the others are.
type significand struct {
	head uint64 // the first digits, no more than headDigits
	exp  int64  // the weight of the first digit is 10^exp
	n    int    // significant digits, without trailing zeros
	lit  []byte // from the first significant digit on
}

// read reads lit, a number literal without a sign.
func (s *significand) read(lit []byte) {
	var (
		lead  = -1 // offset of the first digit that is not 0
		point = -1
		zeros = 0 // since the last digit that is not 0
		i     = 0
	)
	for ; i < len(lit); i++ {
		c := lit[i]
		switch {
		case c == '.':
			point = i
			continue
		case c > '9': // e or E
			goto exponent
		case c == '0':
			if lead >= 0 {
				zeros++
			}
			continue
		case lead < 0:
			lead = i
		}
		if s.n+zeros < headDigits {
			for ; zeros > 0; zeros-- {
				s.head *= 10
				s.n++
			}
			s.head = s.head*10 + uint64(c-'0')
			s.n++
			continue
		}
		if s.n < headDigits {
			// Only zeros are left for the head.
			for k := s.n; k < headDigits; k++ {
				s.head *= 10
			}
		}
		s.n += zeros + 1
		zeros = 0
	}
exponent:
	if lead < 0 {
		return
	}
	s.lit = lit[lead:]
	switch {
	case point < 0:
		s.exp = int64(i - 1 - lead)
	case lead < point:
		s.exp = int64(point - 1 - lead)
	default:
		s.exp = int64(point - lead)
	}
	if i == len(lit) {
		return
	}
	x, negative := int64(0), lit[i+1] == '-'
	for _, c := range lit[i+1:] {
		if isDigit(c) && x < exponentCap {
			x = x*10 + int64(c-'0')
		}
	}
	if negative {
		x = -x
	}
	s.exp += x
}

// nearest returns the double nearest to s, of two the even one. s is not 0, and
// s.exp is from minDecimal to maxDecimal.
func (s *significand) nearest() float64 {
	n := min(s.n, headDigits)
	q := int(s.exp) - (n - 1)
	power := &powers()[q-minPower]
	shift := bits.LeadingZeros64(s.head)
	m := s.head << shift

	// The number is v × 2^(e-126) or v × 2^(e-127), with v in [hi:lo, hi:lo+err).
	hi, mid := bits.Mul64(m, power.hi)
	carry, _ := bits.Mul64(m, power.lo)
	lo, c := bits.Add64(mid, carry, 0)
	hi += c
	errHi, errLo := uint64(0), uint64(2)
	if s.n > headDigits {
		// The digits that are left out are worth less than one more of the last.
		errLo, errHi = bits.Add64(power.hi<<shift, 1<<shift+2, 0)
		errHi += power.hi >> (64 - shift)
	}
	lead := 62 + int(hi>>63) // of hi
	e := log2(q) + 1 + lead - shift

	// keep is how many bits of v the double has room for, mantissa are those,
	// and rest:lo is what is left, to be compared with half.
	keep := 53
	if e < -1022 {
		keep = e + 1075
	}
	endLo, c := bits.Add64(lo, errLo, 0)
	endHi, c2 := bits.Add64(hi, errHi, c)
	if keep < 0 {
		// Less than half of the least double, unless the bracket reaches it.
		if keep == -1 && (c2 > 0 || endHi>>lead > 1) && s.compare(1, -1075) > 0 {
			return math.SmallestNonzeroFloat64
		}
		return 0
	}
	cut := lead + 1 - keep
	mantissa := hi >> cut
	rest := hi & (1<<cut - 1)
	half := uint64(1) << (cut - 1)
	up := false
	switch {
	case rest > half || rest == half && lo > 0:
		up = true
	case rest+errHi+c < half || rest+errHi+c == half && endLo == 0:
	default:
		switch s.compare(2*mantissa+1, e-keep) {
		case 0:
			up = mantissa&1 == 1
		case 1:
			up = true
		}
	}
	if up {
		mantissa++
	}
	// The leading bit of a normal double, and a carry out of the mantissa, add 1
	// to the exponent.
	return math.Float64frombits(min(uint64(max(e+1022, 0))<<52+mantissa, math.Float64bits(math.Inf(1))))
}

// compare compares the whole literal with h × 2^b exactly: -1 when it is less, 1
// when it is greater.
func (s *significand) compare(h uint64, b int) int {
	var x, y natural
	n := x.setDigits(s)
	y.mul(1, h)
	// x × 10^q with y × 2^b
	q := int(s.exp) - (n - 1)
	if q >= 0 {
		x.mulPower5(q)
	} else {
		y.mulPower5(-q)
	}
	if b -= q; b >= 0 {
		y.shift(b)
	} else {
		x.shift(-b)
	}
	return x.compare(&y)
}

// power is the first 128 bits of a power of ten: 10^q is at least
// hi:lo × 2^(log2(q)-127), and less than the next of these.
type power struct{ hi, lo uint64 }

const (
	minPower = minDecimal - (headDigits - 1)
	maxPower = maxDecimal
)

// log2 returns the exponent of the greatest power of two that is not greater
// than 10^q, for q from minPower to maxPower.
func log2(q int) int { return q * 217706 >> 16 }

// powers returns the powers of ten from minPower to maxPower.
var powers = sync.OnceValue(func() *[maxPower - minPower + 1]power {
	var table [maxPower - minPower + 1]power
	ten, low := big.NewInt(10), new(big.Int).SetUint64(math.MaxUint64)
	for i := range table {
		q := i + minPower
		p := new(big.Int).Exp(ten, big.NewInt(int64(max(q, -q))), nil)
		if shift := 127 - log2(q); q < 0 {
			p.Quo(new(big.Int).Lsh(big.NewInt(1), uint(shift)), p)
		} else if shift >= 0 {
			p.Lsh(p, uint(shift))
		} else {
			p.Rsh(p, uint(-shift))
		}
		table[i].lo = new(big.Int).And(p, low).Uint64()
		table[i].hi = p.Rsh(p, 64).Uint64()
	}
	return &table
})

// naturalWords is enough for decisive digits and one more, times a power of two
// that brings them to the size of the other side, and for that side: a power of
// five of up to decisive-minDecimal times 54 bits.
const naturalWords = 48

// natural is a natural number, the least significant word first.
type natural struct {
	words [naturalWords]uint64
	n     int
}

// mul multiplies by f and adds a.
func (x *natural) mul(f, a uint64) {
	for i := range x.n {
		hi, lo := bits.Mul64(x.words[i], f)
		var c uint64
		x.words[i], c = bits.Add64(lo, a, 0)
		a = hi + c
	}
	if a > 0 {
		x.words[x.n] = a
		x.n++
	}
}

// setDigits sets x, which is 0, to the digits of s, and returns how many these
// are. A last digit 1 stands for what follows the decisive ones.
func (x *natural) setDigits(s *significand) (n int) {
	group, count := uint64(0), 0
	for _, c := range s.lit {
		if c == '.' {
			continue
		}
		if n == s.n {
			break
		}
		if n == decisive {
			c = '1'
		}
		group = group*10 + uint64(c-'0')
		count++
		if n++; count == headDigits || n == s.n || n == decisive+1 {
			x.mul(pow(10, count), group)
			group, count = 0, 0
			if n == decisive+1 {
				break
			}
		}
	}
	return n
}

// pow returns b to the power n, which fits.
func pow(b uint64, n int) uint64 {
	p := uint64(1)
	for range n {
		p *= b
	}
	return p
}

// mulPower5 multiplies by 5^n.
func (x *natural) mulPower5(n int) {
	const most = 27 // 5^27 is the greatest that fits into a word
	for ; n >= most; n -= most {
		x.mul(7450580596923828125, 0)
	}
	x.mul(pow(5, n), 0)
}

// shift multiplies by 2^n.
func (x *natural) shift(n int) {
	words, n := n/64, n%64
	if n > 0 {
		x.mul(1<<n, 0)
	}
	copy(x.words[words:], x.words[:x.n])
	clear(x.words[:words])
	x.n += words
}

// compare returns -1 when x is less than y, 1 when it is greater, else 0.
func (x *natural) compare(y *natural) int {
	if c := cmp.Compare(x.n, y.n); c != 0 {
		return c
	}
	for i := x.n - 1; i >= 0; i-- {
		if c := cmp.Compare(x.words[i], y.words[i]); c != 0 {
			return c
		}
	}
	return 0
}
