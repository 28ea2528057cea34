package event

import (
	"slices"
	"strings"
	"testing"
)

// Sets are stored in 15 bits, and the number of each filter is for good.
func TestFiltersAreStored(t *testing.T) {
	seen := make(map[Set]bool)
	for _, filter := range filters {
		s, err := ForFilter(filter)
		if err != nil {
			t.Fatal(err)
		}
		if s >= 1<<15 || seen[s] || !s.Has(Native) {
			t.Errorf("%v: %b", filter, s)
		}
		seen[s] = true
		if got := s.Filter(); !slices.Equal(got, filter) {
			t.Errorf("%v is read back as %v", filter, got)
		}
		if s.Has(Started) != slices.Contains(filter, "start") || s.Has(Terminal) != (filter == nil || slices.Contains(filter, "completed")) ||
			s.Has(Output) != (filter == nil || slices.Contains(filter, "output")) || s.Has(Logs) != slices.Contains(filter, "logs") {
			t.Errorf("%v: %b", filter, s)
		}
		if got := s.With(Started); got.Has(Terminal) || !got.Has(Native) || !slices.Equal(got.Filter(), filter) {
			t.Errorf("%v with started alone: %b", filter, got)
		}
	}
	if len(seen) != 65 {
		t.Errorf("%d filters", len(seen))
	}
	for filter, want := range map[string]Set{
		"": Native | Output | Terminal, "start": Native | Started | 1<<filterShift, "completed": Native | Terminal | 49<<filterShift,
		"completed start": Native | All | 50<<filterShift,
	} {
		var names []string
		for name := range strings.FieldsSeq(filter) {
			names = append(names, name)
		}
		if got, err := ForFilter(names); got != want || err != nil {
			t.Errorf("%q: %b, %v", filter, got, err)
		}
	}
}

func TestForFilterNamesWhatThereIs(t *testing.T) {
	for _, name := range []string{"", "started", "Start", "prediction.completed", "complete"} {
		if s, err := ForFilter([]string{"start", name}); err == nil {
			t.Errorf("%q: %b", name, s)
		}
	}
	if s, err := ForFilter([]string{"start", "start"}); err != nil || !slices.Equal(s.Filter(), []string{"start"}) {
		t.Errorf("twice: %v, %v", s.Filter(), err)
	}
}
