package main

import (
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	for _, tc := range []struct {
		values []float64
		want   float64
	}{
		{[]float64{3}, 3},
		{[]float64{5, 1, 3}, 3},
		{[]float64{4, 1, 2, 3}, 2.5},
	} {
		if got := median(tc.values); got != tc.want {
			t.Errorf("median of %v is %v, want %v", tc.values, got, tc.want)
		}
	}
}

func TestQuantile(t *testing.T) {
	sorted := make([]time.Duration, 100)
	for i := range sorted {
		sorted[i] = time.Duration(i + 1)
	}
	for _, tc := range []struct {
		q    float64
		want time.Duration
	}{{0, 1}, {0.5, 50}, {0.99, 99}, {0.999, 100}, {1, 100}} {
		if got := quantile(sorted, tc.q); got != tc.want {
			t.Errorf("quantile %v is %v, want %v", tc.q, got, tc.want)
		}
	}
}

func TestRatiosAreOfTheSameRound(t *testing.T) {
	got := ratios(spread{10, 1}, spread{20, 4})
	if len(got) != 2 || got[0] != 0.5 || got[1] != 0.25 {
		t.Errorf("got %v, want 0.5 and 0.25", got)
	}
}

func TestCount(t *testing.T) {
	for n, want := range map[float64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", -1000: "-1,000"} {
		if got := count(n); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
