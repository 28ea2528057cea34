package main

import (
	"fmt"
	"io"
	"math"
	"strings"
	"unicode/utf8"
)

// section is what one scenario has to say.
type section struct {
	title    string
	text     string
	table    [][]string // the first row is the head
	lines    []string   // shown as they are
	notes    []string
	verdicts []verdict
}

// verdict is a target and whether it was met.
type verdict struct {
	name, want, got, state string
}

const (
	stateMet    = "met"
	stateNotMet = "not met"
)

func state(met bool) string {
	if met {
		return stateMet
	}
	return stateNotMet
}

// atLeast judges the median of ratios.
func (s *section) atLeast(name string, got spread, want float64) {
	s.atLeastOf(name, got, want, "%.3f")
}

// atLeastOf judges the median of numbers, shown with the given verb.
func (s *section) atLeastOf(name string, got spread, want float64, verb string) {
	s.verdicts = append(s.verdicts, verdict{name, fmt.Sprintf("≥ %g", want), got.format(verb), state(got.median() >= want)})
}

// atMost judges the median of numbers with a unit.
func (s *section) atMost(name string, got spread, want float64, unit string) {
	verb := "%.2f"
	if math.Abs(want) >= 100 {
		verb = "%.0f"
	}
	s.verdicts = append(s.verdicts, verdict{name, fmt.Sprintf("≤ %g %s", want, unit), got.format(verb) + " " + unit, state(got.median() <= want)})
}

// leftOut records a target that could not be measured.
func (s *section) leftOut(name, want, reason string) {
	s.verdicts = append(s.verdicts, verdict{name, want, "–", reason})
}

func verdictTable(verdicts []verdict) [][]string {
	rows := [][]string{{"target", "wanted", "measured", ""}}
	for _, v := range verdicts {
		rows = append(rows, []string{v.name, v.want, v.got, v.state})
	}
	return rows
}

// report is the whole.
type report struct {
	command  string
	machine  [][]string
	quick    bool
	sections []section
}

func (r *report) verdicts() []verdict {
	var all []verdict
	for _, s := range r.sections {
		all = append(all, s.verdicts...)
	}
	return all
}

// write writes the report as Markdown.
func (r *report) write(w io.Writer) error {
	var b strings.Builder
	b.WriteString("# Benchmark results\n\nWritten by `" + r.command + "`. [README.md](README.md) says what is compared and what the columns mean.\n")
	if r.quick {
		b.WriteString("\nThis was a quick run: it shows that the bench works, not how fast anything is.\n")
	}
	b.WriteString("\n")
	writeTable(&b, r.machine)
	if all := r.verdicts(); len(all) > 0 {
		b.WriteString("\n## Targets\n\n")
		writeTable(&b, verdictTable(all))
	}
	for _, s := range r.sections {
		s.write(&b)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (s *section) write(b *strings.Builder) {
	b.WriteString("\n## " + s.title + "\n\n" + s.text + "\n")
	if len(s.table) > 0 {
		b.WriteString("\n")
		writeTable(b, s.table)
	}
	if len(s.lines) > 0 {
		b.WriteString("\n```\n" + strings.Join(s.lines, "\n") + "\n```\n")
	}
	for _, n := range s.notes {
		b.WriteString("\n" + n + "\n")
	}
}

// print shows a section on the terminal as soon as it is there.
func (s *section) print(w io.Writer) {
	var b strings.Builder
	s.write(&b)
	if len(s.verdicts) > 0 {
		b.WriteString("\n")
		writeTable(&b, verdictTable(s.verdicts))
	}
	_, _ = io.WriteString(w, b.String())
}

// writeTable writes a Markdown table whose columns also stand straight as plain
// text.
func writeTable(b *strings.Builder, rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell), 3)
		}
	}
	for n, row := range rows {
		for i, cell := range row {
			b.WriteString("| " + cell + strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)) + " ")
		}
		b.WriteString("|\n")
		if n == 0 {
			for _, width := range widths {
				b.WriteString("|" + strings.Repeat("-", width+2))
			}
			b.WriteString("|\n")
		}
	}
}
