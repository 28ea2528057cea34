package ecmajson

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
)

// TestMemory bounds everything that is allocated in the course of a parse,
// garbage included, for texts made to need much of it.
func TestMemory(t *testing.T) {
	const size = 4 << 20
	fill := func(open, item, end string) string {
		n := (size - len(open) - len(end)) / len(item)
		return open + strings.TrimSuffix(strings.Repeat(item, n), ",") + end
	}
	counted := func(format string, width int) string {
		var b strings.Builder
		b.WriteString(`{"x":0`)
		for i := size / width; b.Len() < size; i-- {
			fmt.Fprintf(&b, format, i)
		}
		b.WriteString("}")
		return b.String()
	}
	nested := func(open, end string, depth int) string {
		unit := strings.Repeat(open, depth) + "0" + strings.Repeat(end, depth) + ","
		return fill("[", unit, "]")
	}
	for _, c := range []struct {
		name, in string
		lim      Limits
	}{
		{"open arrays", strings.Repeat("[", size), Limits{MaxDepth: 1 << 15}},
		{"open objects", strings.Repeat(`{"":`, size/4), Limits{MaxDepth: 1 << 15}},
		{"numbers", fill("[", "0,", "]"), Limits{}},
		{"long numbers", fill("[", "1e20,", "]"), Limits{}},
		{"long exponents", fill("[", "12e99,", "]"), Limits{}},
		{"overflows", fill("[", "2e308,", "]"), Limits{}},
		{"long literals", fill("[", strings.Repeat("9", 300)+".5,", "]"), Limits{}},
		{"empty objects", fill("[", "{},", "]"), Limits{}},
		{"white space", fill("[", "0 ,", "]"), Limits{}},
		{"escapes", fill(`["`, `\u00e9`, `"]`), Limits{}},
		{"lone surrogates", fill(`["`, `\uD800`, `"]`), Limits{}},
		{"one key repeated", fill("{", `"":0,`, "}"), Limits{}},
		{"two keys repeated", fill("{", `"a":0,"b":0,`, "}"), Limits{}},
		{"one key repeated, long numbers", fill("{", `"":1e20,`, "}"), Limits{}},
		{"small reordered objects", fill("[", `{"":0,"":0},`, "]"), Limits{}},
		{"small reordered objects, long numbers", fill("[", `{"a":1e20,"1":1e20},`, "]"), Limits{}},
		{"names", counted(`,"k%d":0`, 12), Limits{}},
		{"descending indices", counted(`,"%d":0`, 10), Limits{}},
		{"descending indices, long numbers", counted(`,"%d":1e20`, 13), Limits{}},
		{"objects around the size of a run", fill("[", "{"+strings.TrimSuffix(strings.Repeat(`"a":0,"1":0,`, 600), ",")+"},", "]"), Limits{}},
		{"nested reordered objects", nested(`{"b":0,"1":`, "}", 1000), Limits{}},
		{"nested repeated keys", nested(`{"":0,"":`, "}", 5000), Limits{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			src := []byte(c.in)
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			d, err := Parse(src, c.lim, nil)
			runtime.ReadMemStats(&after)
			if err != nil && !errors.Is(err, ErrDepth) {
				t.Fatal(err)
			}
			got := float64(after.TotalAlloc-before.TotalAlloc) / float64(len(src))
			t.Logf("%.2f times the input of %d bytes", got, len(src))
			if got > 6 {
				t.Errorf("allocated %.2f times the input", got)
			}
			runtime.KeepAlive(d)
		})
	}
}

// TestEmissionIsLinear counts the pieces written for nested objects that all
// change their order: a copy for each level would be quadratic.
func TestEmissionIsLinear(t *testing.T) {
	for _, depth := range []int{10, 100, 1000, 9000} {
		t.Run(fmt.Sprint(depth), func(t *testing.T) {
			in := strings.Repeat(`{"b":[],"1":`, depth) + "0" + strings.Repeat("}", depth)
			want := strings.Repeat(`{"1":`, depth) + "0" + strings.Repeat(`,"b":[]}`, depth)
			s := pool.Get().(*scratch)
			defer s.release()
			p := parser{scratch: s, src: []byte(in), lim: Limits{}.withDefaults(), dup: -1, stop: -1, want: [3]int{-1, -1, -1}}
			end := p.run()
			if end != len(in) {
				t.Fatal(p.err)
			}
			e := emitter{parser: &p, in: p.text(end)}
			if got := string(e.emit()); got != want {
				t.Fatal("wrong form")
			}
			if e.copied != len(in)-2*depth-depth {
				t.Errorf("%d bytes copied of %d", e.copied, len(in))
			}
			if e.pieces > 3*depth+1 {
				t.Errorf("%d pieces for %d levels", e.pieces, depth)
			}
		})
	}
}
