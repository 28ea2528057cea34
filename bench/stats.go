package main

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// median returns the middle of the values, NaN when there are none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(values))
	mid := len(s) / 2
	if len(s)%2 == 1 {
		return s[mid]
	}
	return (s[mid-1] + s[mid]) / 2
}

// quantile returns the smallest latency that at least the share q does not
// exceed. The latencies must be sorted.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	i := int(math.Ceil(q*float64(len(sorted)))) - 1
	return sorted[min(max(i, 0), len(sorted)-1)]
}

// spread is one number per round. Its median is what counts; its extremes say
// how much the machine swung.
type spread []float64

// paired combines the two sides' values of each round. Only values of the same
// round are compared: a slow disk or a busy neighbor then slows both.
func paired(a, b spread, combine func(a, b float64) float64) spread {
	out := make(spread, 0, min(len(a), len(b)))
	for i := range min(len(a), len(b)) {
		out = append(out, combine(a[i], b[i]))
	}
	return out
}

// ratios divides round by round.
func ratios(a, b spread) spread {
	return paired(a, b, func(a, b float64) float64 { return a / b })
}

// differences subtracts round by round.
func differences(a, b spread) spread {
	return paired(a, b, func(a, b float64) float64 { return a - b })
}

func (s spread) median() float64 { return median(s) }

// format returns "median (least–greatest)" with each number in the given verb.
func (s spread) format(verb string) string {
	if len(s) == 0 {
		return "–"
	}
	middle := fmt.Sprintf(verb, s.median())
	if len(s) == 1 {
		return middle
	}
	return fmt.Sprintf("%s ("+verb+"–"+verb+")", middle, slices.Min(s), slices.Max(s))
}

// count writes a number with its thousands apart.
func count(n float64) string {
	digits := fmt.Sprintf("%.0f", math.Abs(n))
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	if n < 0 {
		return "-" + digits
	}
	return digits
}

// millis writes a duration in milliseconds.
func millis(d time.Duration) string {
	return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond))
}
