package testenv

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/textwrap"
)

// width is the width of a summary's lines, where words allow.
const width = 79

// Main runs the tests of the package that the go command runs last, then waits
// for the packages that run beside it and writes the summary to the go
// command's own standard error. It returns the exit status.
func Main(m *testing.M) int {
	status := m.Run()
	dir := workDir()
	if dir == "" {
		return status
	}
	forbidCaching()
	limit := timeout()
	if limit == 0 {
		limit = 9 * time.Minute
	}
	waitForOthers(limit)
	skips, err := recorded(dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, "reading which tests were skipped:", err)
		return max(status, 1)
	}
	out, err := parentOutput()
	if err != nil {
		fmt.Fprintln(os.Stderr, "writing the summary of skipped tests:", err)
		return status // shown by go test -v
	}
	defer func() { _ = out.Close() }()
	if err := write(out, skips); err != nil {
		fmt.Fprintln(os.Stderr, "writing the summary of skipped tests:", err)
	}
	return status
}

// waitForOthers waits until the go command runs no other process, and has
// printed their results. The go command starts tests in the order in which it
// prints them, so none starts after the last one did.
func waitForOthers(limit time.Duration) {
	const steady = 4 // ticks without activity
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	end := time.After(limit)
	last, same := "", 0
	for same < steady {
		select {
		case <-tick.C:
		case <-end:
			return
		}
		parent := os.Getppid()
		now := activity(parent)
		if now == last && !hasOtherChildren(parent) {
			same++
		} else {
			last, same = now, 0
		}
	}
}

// write writes the summary at once, so that it is not mixed with other output.
func write(w io.Writer, skips []skip) error {
	var b strings.Builder
	b.WriteString(strings.Repeat("-", width) + "\n")
	if len(skips) == 0 {
		b.WriteString("No test was skipped.\n")
		_, err := io.WriteString(w, b.String())
		return err
	}
	type reason struct{ needs, remedy string }
	tests := map[reason]map[string][]string{} // by package
	for _, s := range skips {
		r := reason{s.Needs, s.Remedy}
		if tests[r] == nil {
			tests[r] = map[string][]string{}
		}
		tests[r][s.Package] = append(tests[r][s.Package], s.Test)
	}
	fmt.Fprintf(&b, "%s skipped, because this machine lacks what they need:\n", counted(len(skips)))
	for _, r := range slices.SortedFunc(maps.Keys(tests), func(a, b reason) int {
		return strings.Compare(a.needs+a.remedy, b.needs+b.remedy)
	}) {
		n := 0
		for _, names := range tests[r] {
			n += len(names)
		}
		b.WriteString("\n")
		wrap(&b, "", fmt.Sprintf("%s needed %s", counted(n), r.needs))
		wrap(&b, "  ", "to run them: "+r.remedy)
		for _, p := range slices.Sorted(maps.Keys(tests[r])) {
			names := tests[r][p]
			slices.Sort(names)
			wrap(&b, "  ", p+": "+strings.Join(slices.Compact(names), " "))
		}
	}
	b.WriteString("\nAll other tests ran. Tests that were skipped run again each time.\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func counted(n int) string {
	if n == 1 {
		return "1 test"
	}
	return fmt.Sprintf("%d tests", n)
}

// wrap writes the text in lines that begin with the indent, all but the first
// with two spaces more.
func wrap(b *strings.Builder, indent, text string) {
	lines := textwrap.Lines(text, width-len(indent)-2)
	b.WriteString(indent + strings.Join(lines, "\n"+indent+"  ") + "\n")
}
