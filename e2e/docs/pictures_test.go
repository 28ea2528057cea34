package docs_test

import (
	"maps"
	"regexp"
	"slices"
	"testing"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// TestPicturesForLightAndDarkAreOne tests that the two drawings of the README differ in
// their colors alone.
func TestPicturesForLightAndDarkAreOne(t *testing.T) {
	color := regexp.MustCompile(`#[0-9a-f]{6}`)
	light, dark := read(t, "docs/images/halves-light.svg"), read(t, "docs/images/halves-dark.svg")
	if light == dark || color.ReplaceAllString(light, "") != color.ReplaceAllString(dark, "") {
		t.Error("halves-light.svg and halves-dark.svg show different pictures")
	}
}

// TestStateDiagramsHaveTheStates tests that the diagrams of docs/concepts.md show the states
// of deliveries and of events, and no others.
func TestStateDiagramsHaveTheStates(t *testing.T) {
	const page = "docs/concepts.md"
	want := map[string]map[string]bool{"delivery": {}, "event": {"running": true}}
	for s := range store.DeliveryRefused + 1 {
		if _, ok := store.ParseDeliveryState(s.String()); ok {
			want["delivery"][s.String()] = true
		}
		if name := s.EventState(); name != "" {
			want["event"][name] = true
		}
	}
	transition := regexp.MustCompile(`(?m)^ +(\[\*\]|\w+) --> (\[\*\]|\w+)`)
	for _, b := range parseBlocks(page, read(t, page)) {
		name := b.noted("states")
		if name == "" {
			continue
		}
		shown := make(map[string]bool)
		for _, m := range transition.FindAllStringSubmatch(b.text, -1) {
			for _, state := range m[1:] {
				if state != "[*]" {
					shown[state] = true
				}
			}
		}
		if got, states := slices.Sorted(maps.Keys(shown)), slices.Sorted(maps.Keys(want[name])); !slices.Equal(got, states) {
			t.Errorf("%s shows %q, the states of one are %q", b.name(), got, states)
		}
		delete(want, name)
	}
	for name := range want {
		t.Errorf("%s has no diagram of the states of one %s", page, name)
	}
}
