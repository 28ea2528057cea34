package ecmajson

import (
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
)

func TestAppendNumber(t *testing.T) {
	for _, c := range []struct {
		in   float64
		want string
	}{
		{0, "0"}, {math.Copysign(0, -1), "0"}, {1, "1"}, {-1.5, "-1.5"}, {1e20, "100000000000000000000"}, {1e21, "1e+21"},
		{1e-6, "0.000001"}, {1e-7, "1e-7"}, {-1.5e-9, "-1.5e-9"}, {1e-10, "1e-10"}, {1e100, "1e+100"}, {5e-324, "5e-324"},
		{math.MaxFloat64, "1.7976931348623157e+308"}, {math.Inf(1), "null"}, {math.Inf(-1), "null"}, {math.NaN(), "null"},
		{1 << 53, "9007199254740992"}, {0.30000000000000004, "0.30000000000000004"},
	} {
		t.Run(c.want, func(t *testing.T) {
			if got := string(appendNumber(nil, c.in)); got != c.want {
				t.Errorf("got %s", got)
			}
		})
	}
}

// overflow is the least magnitude that rounds to infinity, halfway between the
// largest double and 2**1024; it has 309 digits.
const overflow = "179769313486231580793728971405303415079934132710037826936173778980444968292764750946649017977587207096330286416692887910946555547851940402630657488671505820681908902000708383676273854845817711531764475730270069855571366959622842914819860834936475292719074168444365510704342711559699508093042880177904174497792"

func TestNumberBounds(t *testing.T) {
	zeros := strings.Repeat("0", 60000)
	for _, c := range []struct{ name, in, want string }{
		{"halfway to infinity", overflow, "null"},
		{"halfway with a point", overflow[:1] + "." + overflow[1:] + "e308", "null"},
		{"halfway cut short", overflow[:200] + "e109", "1.7976931348623157e+308"},
		{"halfway and more", overflow + ".0000", "null"},
		{"just below halfway", overflow[:306] + "791.9999", "1.7976931348623157e+308"},
		{"far below halfway", "179" + strings.Repeat("0", 306), "1.79e+308"},
		{"zeros against the exponent", "0." + zeros + "15e60001", "1.5"},
		{"zeros against a negative exponent", "15" + zeros + "e-60000", "15"},
		{"one digit, many zeros", "-1" + zeros + "e-60000", "-1"},
		{"many digits before the point", strings.Repeat("7", 900) + ".5e-899", "7.777777777777778"},
		{"decided by the last of many digits", "9007199254740993" + strings.Repeat("0", 1000) + "1e-1001", "9007199254740994"},
		{"exactly halfway, many zeros", "9007199254740993" + strings.Repeat("0", 1000) + "e-1000", "9007199254740992"},
		{"carry into 17 digits", "9999999999999999", "10000000000000000"},
		{"carry into 21 digits", "-99999999999999999999", "-100000000000000000000"},
		{"carry into an exponent", "999999999999999999999", "1e+21"},
		{"carry of a fraction", "9999999999999999.9", "10000000000000000"},
		{"carry in an array", "[0,9999999999999999,-99999999999999999]", "[0,10000000000000000,-100000000000000000]"},
		{"exponent without end", "1e" + strings.Repeat("9", 60000), "null"},
		{"negative exponent without end", "-1e-" + strings.Repeat("9", 60000), "0"},
		{"zero with any exponent", "0e" + strings.Repeat("9", 60000), "0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := mustParse(t, c.in, Limits{MaxNumber: 1 << 20}, nil)
			if got := string(d.Bytes()); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

// TestScannedFormFits holds the scanned form to the size of the source, on which
// the bound on memory rests, for literals of every shape.
func TestScannedFormFits(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	digits := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = "0123456789999990000"[r.IntN(19)]
		}
		return string(b)
	}
	for range 200000 {
		lit := strconv.Itoa(1+r.IntN(9)) + digits(r.IntN(22))
		if r.IntN(3) == 0 {
			lit = "0"
		}
		if r.IntN(2) == 0 {
			lit += "." + digits(1+r.IntN(22))
		}
		if r.IntN(2) == 0 {
			lit += "e" + strconv.Itoa(r.IntN(60)-30)
		}
		s := pool.Get().(*scratch)
		p := parser{scratch: s, src: []byte(lit), lim: Limits{}.withDefaults(), dup: -1, stop: -1, want: [3]int{-1, -1, -1}}
		end := p.run()
		p.flush(end)
		if got := p.text(end); len(got) > len(lit) {
			t.Errorf("%s is scanned as %q", lit, got)
		}
		s.release()
		f, err := strconv.ParseFloat(lit, 64)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := string(mustParse(t, lit, Limits{}, nil).Bytes()), string(appendNumber(nil, f)); got != want {
			t.Errorf("%s becomes %s, want %s", lit, got, want)
		}
	}
}

// appendNumber appends JSON.stringify(f): null for an infinity and for not a
// number, 0 for both zeros, otherwise the shortest digits that read back as f,
// with an exponent below 1e-6 and from 1e21 on.
//
// Source: ECMA-262 Number::toString, SerializeJSONProperty.
func appendNumber(dst []byte, f float64) []byte {
	abs := math.Abs(f)
	switch {
	case !(abs <= math.MaxFloat64):
		return append(dst, "null"...)
	case abs == 0:
		return append(dst, '0')
	}
	d := shortest(abs)
	d.negative = f < 0
	return d.append(dst)
}
