package event

import (
	"fmt"
	"slices"
	"strings"
)

// What a client that wants webhooks as the API itself sends them can want besides.
const (
	// Output and Logs say what a prediction has put out so far, while it runs.
	Output Set = 1 << (iota + 3)
	Logs
	// Native marks the events of such a client. A set with it also holds the
	// filter that the client gave.
	Native

	Progress = Output | Logs
)

// filterShift is where the number of the filter begins in a set: its index in filters.
const filterShift = 6

// nativeNames are the events of the API's own webhooks.
var nativeNames = []string{"start", "output", "logs", "completed"}

// filters are all filters there are, in a fixed order: numbers of them are stored. The
// first one is that of a client that gave none.
var filters = func() (all [][]string) {
	var extend func(filter []string)
	extend = func(filter []string) {
		all = append(all, filter)
		for _, name := range nativeNames {
			if !slices.Contains(filter, name) {
				extend(append(slices.Clip(filter), name))
			}
		}
	}
	extend(nil)
	return all
}()

// ForFilter returns the set of a client that wants the API's own webhooks, with the
// events that its filter names: start is Started, completed is Terminal. No filter
// names output and completed. The error says which names there are.
func ForFilter(names []string) (Set, error) {
	var filter []string
	for _, name := range names {
		if !slices.Contains(nativeNames, name) {
			return 0, fmt.Errorf("%.64q is not an event of a webhook: use %s", name, strings.Join(nativeNames, ", "))
		}
		if !slices.Contains(filter, name) {
			filter = append(filter, name)
		}
	}
	n := slices.IndexFunc(filters, func(f []string) bool { return slices.Equal(f, filter) })
	s := Native | Set(n)<<filterShift
	if filter == nil {
		filter = []string{"output", "completed"}
	}
	for i, e := range []Set{Started, Output, Logs, Terminal} {
		if slices.Contains(filter, nativeNames[i]) {
			s |= e
		}
	}
	return s, nil
}

// Filter returns the filter of a set with Native, in the client's order, nil for none.
// It must not be changed.
func (s Set) Filter() []string {
	if n := int(s >> filterShift); n < len(filters) {
		return filters[n]
	}
	return nil
}

// NamesProgress reports whether the filter of a set names output or logs.
func (s Set) NamesProgress() bool { return s.Has(Progress) && s.Filter() != nil }

// With returns the set with other events, as the same client wants them.
func (s Set) With(events Set) Set { return s&^All | events&All }

// NativeName returns the event's name in the API's own webhooks: completed for both
// terminal ones. It is empty unless the set is of one event.
func (s Set) NativeName() string {
	switch s {
	case Started:
		return "start"
	case Completed, Failed:
		return "completed"
	case Output:
		return "output"
	case Logs:
		return "logs"
	}
	return ""
}
