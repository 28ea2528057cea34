package main

import (
	"os"
	"strings"
	"testing"
	"time"
)

// TestMain lets the test binary be the children that the bench starts.
func TestMain(m *testing.M) {
	if serve := serving(os.Args[1:]); serve != nil {
		exitOn(serve())
		return
	}
	os.Exit(m.Run())
}

// testedScenarios are those that check more than responses.
const testedScenarios = "unique|drain|inbox-drain|create|receipt|waiting|hanging"

// TestScenarios runs the bench at a tiny size, for what it checks and not
// for its numbers: every event exactly once, signed, in order.
func TestScenarios(t *testing.T) {
	out := t.TempDir() + "/results.md"
	o, err := parseFlags([]string{
		"-quick", "-duration", "100ms", "-connections", "8", "-entries", "500", "-queued", "200", "-waiting", "100", "-hanging", "10",
		"-only", testedScenarios, "-dir", t.TempDir(), "-o", out,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	results, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(results), "\n## "); n != 8 { // one of them for the targets
		t.Errorf("%d sections were written, want 8", n)
	}
}

func TestReceiptsMustBeOfEachEventOnce(t *testing.T) {
	at := time.Now()
	good := []receipt{{5, false, at}, {6, false, at}, {6, true, at}, {5, true, at}}
	if _, err := expectOnce(good, 5, 7); err != nil {
		t.Error(err)
	}
	for name, bad := range map[string][]receipt{
		"twice":        append(good[:4:4], receipt{5, true, at}),
		"missing":      good[:3],
		"out of order": {good[2], good[1], good[0], good[3]},
		"of another":   append(good[:4:4], receipt{7, false, at}),
	} {
		if _, err := expectOnce(bad, 5, 7); err == nil {
			t.Errorf("%s goes unnoticed", name)
		}
	}
}
