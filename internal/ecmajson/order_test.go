package ecmajson

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func TestSortByIndex(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	for _, n := range []int{0, 1, 2, 1000, 1024, 1025, 5000} {
		for _, bits := range []int{1, 8, 11, 12, 23, 32} {
			cells := make([]extent, n)
			for i := range cells {
				cells[i] = newExtent(uint32(r.Uint64N(1<<bits)), uint32(i))
			}
			want := slices.Sorted(slices.Values(cells))
			if sortByIndex(cells); !slices.Equal(cells, want) {
				t.Errorf("%d cells of %d bits are not sorted", n, bits)
			}
		}
	}
}

// TestLargeObjects compares objects of thousands of members, many repeated and
// many with an order of their own inside, with the plain meaning of the rules.
func TestLargeObjects(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 6))
	for _, distinct := range []int{40, 700, 5000, 1 << 30} {
		for _, n := range []int{17, 32, 33, 1000, 6000} {
			var in strings.Builder
			var names []string
			var indices []int
			last := make(map[string]string)
			for i := range n {
				k := r.IntN(distinct)
				key := fmt.Sprint(k)
				if r.IntN(2) == 0 {
					key = "k" + key
				}
				value := fmt.Sprint(i)
				form := value
				if r.IntN(3) == 0 {
					value = fmt.Sprintf(`{"b":%d,"1":1e3}`, i)
					form = fmt.Sprintf(`{"1":1000,"b":%d}`, i)
				}
				fmt.Fprintf(&in, `,"%s":%s`, key, value)
				if _, again := last[key]; !again {
					if key[0] == 'k' {
						names = append(names, key)
					} else {
						indices = append(indices, k)
					}
				}
				last[key] = form
			}
			slices.Sort(indices)
			var want strings.Builder
			for _, k := range indices {
				fmt.Fprintf(&want, `,"%d":%s`, k, last[fmt.Sprint(k)])
			}
			for _, key := range names {
				fmt.Fprintf(&want, `,"%s":%s`, key, last[key])
			}
			d := mustParse(t, "{"+in.String()[1:]+"}", Limits{}, nil)
			if got := string(d.Bytes()); got != "{"+want.String()[1:]+"}" {
				t.Errorf("%d members of %d keys come out wrong", n, distinct)
			}
			if _, _, found := d.DuplicateKey(); found != (len(last) < n) {
				t.Errorf("%d members of %d keys: repeated is %t", n, distinct, found)
			}
		}
	}
}
