package ecmajson

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// costlyTexts returns texts of about size bytes that each need much work a byte
// of one kind. The bench's scenario "hostile" searches for such texts.
func costlyTexts(size int) map[string]string {
	r := rand.New(rand.NewPCG(1, 1))
	fill := func(open string, item func() string, end string) string {
		var b strings.Builder
		b.WriteString(open)
		for first := true; b.Len() < size; first = false {
			if !first {
				b.WriteByte(',')
			}
			b.WriteString(item())
		}
		return b.String() + end
	}
	same := func(open, item, end string) string { return fill(open, func() string { return item }, end) }
	format := func(open, format string, end string) string {
		return fill(open, func() string { return fmt.Sprintf(format, r.IntN(1_000_000)) }, end)
	}
	return map[string]string{
		"short exponents":            same("[", "1e9", "]"),
		"the least double":           same("[", "5e-324", "]"),
		"subnormal doubles":          fill("[", func() string { return fmt.Sprintf("%de-3%d", r.IntN(100), 10+r.IntN(14)) }, "]"),
		"halfway":                    same("[", "9007199254740993", "]"),
		"halfway, more digits":       same("[", "9007199254740993.0000001", "]"),
		"half of the least double":   same("[", "2.47032822920623272088284396434e-324", "]"),
		"doubles of 17 digits":       fill("[", func() string { return fmt.Sprint(r.NormFloat64()) }, "]"),
		"halfway in full":            same("[", overflow, "]"),
		"many digits, small":         same("[", strings.Repeat("7", 760)+"e-1080", "]"),
		"zeros before digits":        same("[", "0."+strings.Repeat("0", 400)+"1", "]"),
		"escapes":                    `["` + strings.Repeat(`\n`, size/2) + `"]`,
		"escapes that are not short": `["` + strings.Repeat(`\u000A`, size/6) + `"]`,
		"lone surrogates":            `["` + strings.Repeat(`\uD800`, size/6) + `"]`,
		"white space":                same("[", " 0 ", "]"),
		"one key":                    same("{", `"":0`, "}"),
		"names":                      format("{", `"a%06d":0`, "}"),
		"indices":                    format("{", `"%d":0`, "}"),
		"names that repeat":          fill("{", func() string { return fmt.Sprintf(`"%05d":1e9`, r.IntN(100_000)) }, "}"),
		"keys and objects":           fill("{", func() string { return fmt.Sprintf(`"%06d":{"a":0,"a":0},"ea":0`, r.IntN(1_000_000)) }, "}"),
		"indices, long numbers":      format("{", `"%d":1e9`, "}"),
		"small objects":              same("[", `{"b":0,"1":0}`, "]"),
		"nested objects":             same("[", strings.Repeat(`{"b":0,"1":`, 1000)+"0"+strings.Repeat("}", 1000), "]"),
		"depth":                      same("[", strings.Repeat("[", 9000)+strings.Repeat("]", 9000), "]"),
	}
}

// leastTime returns the time that the text takes when nothing interferes: the
// least of many short runs.
func leastTime(t testing.TB, text string, sel *Selector) time.Duration {
	src, least := []byte(text), time.Hour
	for range 40 {
		start := time.Now()
		if _, err := Parse(src, Limits{}, sel); err != nil {
			t.Fatal(err)
		}
		least = min(least, time.Since(start))
	}
	return least
}

// TestNoTextIsSlowToParse compares with a text of short numbers, the most usual
// text that is not a string. The times are of one machine at one moment, so the
// comparison holds on any. Other processes only add to a time, so a text is slow if
// it is in every one of several comparisons.
func TestNoTextIsSlowToParse(t *testing.T) {
	const size, most, tries = 32 << 10, 25, 8
	sel := benchSelector()
	short := "[" + strings.Repeat("0.5,", size/4) + "1]"
	for name, text := range costlyTexts(size) {
		t.Run(name, func(t *testing.T) {
			least := math.Inf(1)
			for try := 0; try < tries && least > most; try++ {
				plain := float64(leastTime(t, short, sel)) / float64(len(short))
				least = min(least, float64(leastTime(t, text, sel))/float64(len(text))/plain)
			}
			t.Logf("%.1f times the time of short numbers", least)
			if least > most {
				t.Errorf("takes %.1f times the time of short numbers, want at most %d", least, most)
			}
		})
	}
}

func BenchmarkCostlyTexts(b *testing.B) {
	sel := benchSelector()
	for name, text := range costlyTexts(1 << 20) {
		b.Run(name, func(b *testing.B) {
			src := []byte(text)
			b.SetBytes(int64(len(src)))
			for b.Loop() {
				if _, err := Parse(src, Limits{}, sel); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
