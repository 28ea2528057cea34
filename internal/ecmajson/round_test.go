package ecmajson

import (
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
)

// formOf returns what strconv makes of a literal that it can read: the way that
// is slow for some literals, and known to be right.
func formOf(t testing.TB, lit string) string {
	t.Helper()
	f, err := strconv.ParseFloat(lit, 64)
	if err != nil && !math.IsInf(f, 0) {
		t.Fatal(err)
	}
	switch abs := math.Abs(f); {
	case math.IsInf(f, 0):
		return "null"
	case f == 0:
		return "0"
	case abs >= 1e-6 && abs < 1e21:
		return strconv.FormatFloat(f, 'f', -1, 64)
	}
	s := strconv.FormatFloat(f, 'e', -1, 64)
	// strconv writes at least two digits of exponent.
	return strings.Replace(strings.Replace(s, "e-0", "e-", 1), "e+0", "e+", 1)
}

func checkForm(t *testing.T, lit string) {
	t.Helper()
	d, err := Parse([]byte(lit), Limits{}, nil)
	if err != nil {
		t.Fatalf("%s: %v", lit, err)
	}
	if got, want := string(d.Bytes()), formOf(t, lit); got != want {
		t.Errorf("%s becomes %s, want %s", lit, got, want)
	}
}

// anyDouble returns a finite double with random bits, often a subnormal one or
// one at a power of two, where roundings are hardest.
func anyDouble(r *rand.Rand) float64 {
	for {
		b := r.Uint64() &^ (1 << 63)
		switch r.IntN(5) {
		case 0:
			b &= 1<<52 - 1
		case 1:
			b &= 1<<r.IntN(53) - 1
		case 2:
			b &^= 1<<52 - 1
			b += r.Uint64N(3) - 1
		}
		if f := math.Float64frombits(b); !math.IsInf(f, 0) && !math.IsNaN(f) {
			return f
		}
	}
}

// halfway returns the decimal digits of the number halfway from f to the next
// greater double, and the power of ten of the last of them.
func halfway(f float64) (digits string, exp int) {
	b := math.Float64bits(f)
	e, m := int(b>>52), b&(1<<52-1)
	if e == 0 {
		e = 1
	} else {
		m |= 1 << 52
	}
	h, e := new(big.Int).SetUint64(2*m+1), e-1076
	if e >= 0 {
		return h.Lsh(h, uint(e)).String(), 0
	}
	return h.Mul(h, new(big.Int).Exp(big.NewInt(5), big.NewInt(int64(-e)), nil)).String(), e
}

// TestNumbersAreRoundedToTheNearestDouble compares with strconv for literals
// around the numbers that lie halfway between two doubles, cut short at any
// length, and for the shortest and the exact digits of doubles.
func TestNumbersAreRoundedToTheNearestDouble(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 5))
	for range 1500 {
		f := anyDouble(r)
		checkForm(t, strconv.FormatFloat(f, 'e', -1, 64))
		checkForm(t, strconv.FormatFloat(f, 'e', r.IntN(25), 64))
		digits, exp := halfway(f)
		checkForm(t, fmt.Sprintf("%se%d", digits, exp))
		checkForm(t, fmt.Sprintf("%s1e%d", digits, exp-1))
		// Halfway less one at the end.
		below, _ := new(big.Int).SetString(digits, 10)
		checkForm(t, fmt.Sprintf("%se%d", below.Sub(below, big.NewInt(1)), exp))
		n := 1 + r.IntN(min(len(digits), 60))
		checkForm(t, fmt.Sprintf("%se%d", digits[:n], exp+len(digits)-n))
		checkForm(t, fmt.Sprintf("%s.%se%d", digits[:n], digits[n:]+"0", exp+len(digits)-n))
	}
}

// TestNumbersOfEveryShape does so for digits and exponents of any number.
func TestNumbersOfEveryShape(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 7))
	digits := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = "0123456789000999"[r.IntN(16)]
		}
		return string(b)
	}
	for range 50000 {
		lit := []string{"", "-"}[r.IntN(2)]
		if r.IntN(3) == 0 {
			lit += "0"
		} else {
			lit += strconv.Itoa(1+r.IntN(9)) + digits(r.IntN(45))
		}
		if r.IntN(2) == 0 {
			lit += "." + digits(1+r.IntN(45))
		}
		switch r.IntN(5) {
		case 0, 1:
			lit += fmt.Sprintf("e%d", r.IntN(700)-350)
		case 2:
			lit += fmt.Sprintf("E%+d", r.IntN(60)-30)
		case 3:
			lit += fmt.Sprintf("e-3%02d", r.IntN(30))
		}
		checkForm(t, lit)
	}
}

func TestPowersOfTen(t *testing.T) {
	for i, p := range powers() {
		q := i + minPower
		if p.hi>>63 != 1 {
			t.Errorf("10^%d begins with %x", q, p.hi)
		}
		got := new(big.Int).SetUint64(p.hi)
		got.Lsh(got, 64).Add(got, new(big.Int).SetUint64(p.lo))
		// p × 2^(log2-127) ≤ 10^q < (p+1) × 2^(log2-127), all as fractions.
		scale := new(big.Rat).SetFrac(big.NewInt(1), big.NewInt(1))
		two := new(big.Int).Lsh(big.NewInt(1), uint(max(127-log2(q), log2(q)-127)))
		if log2(q) < 127 {
			scale.SetFrac(big.NewInt(1), two)
		} else {
			scale.SetInt(two)
		}
		exact := new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(max(q, -q))), nil))
		if q < 0 {
			exact.Inv(exact)
		}
		low := new(big.Rat).Mul(new(big.Rat).SetInt(got), scale)
		high := new(big.Rat).Mul(new(big.Rat).SetInt(got.Add(got, big.NewInt(1))), scale)
		if low.Cmp(exact) > 0 || high.Cmp(exact) <= 0 {
			t.Errorf("10^%d is not in its bracket", q)
		}
	}
}
