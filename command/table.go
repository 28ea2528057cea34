package command

import (
	"strings"
	"unicode/utf8"

	"github.com/caddy-replicate/replicate-webhook/internal/textwrap"
)

// column is one of a table's.
type column struct {
	title string
	// least is the width to which the column may be cut to make the table fit, 0 for
	// not at all.
	least int
}

// cell is a value and its color.
type cell struct {
	text  string
	color color
}

// table is rows that are written under titles, or one value a line where the
// terminal is too narrow for that.
type table struct {
	columns []column
	rows    [][]cell
}

// gap separates columns.
const gap = 2

func (t *table) add(cells ...cell) {
	for i := range cells {
		cells[i].text = clean(cells[i].text)
		if cells[i].text == "" {
			cells[i].text = "-"
		}
	}
	t.rows = append(t.rows, cells)
}

func (t *table) write(to *terminal) {
	if widths, ok := t.fit(to.width); ok {
		t.wide(to, widths)
	} else {
		t.narrow(to)
	}
}

// fit returns the widths of the columns, and false when they are too many for
// the width even when cut.
func (t *table) fit(width int) ([]int, bool) {
	widths := make([]int, len(t.columns))
	total := gap * (len(t.columns) - 1)
	for i, c := range t.columns {
		widths[i] = utf8.RuneCountInString(c.title)
		for _, row := range t.rows {
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i].text))
		}
		total += widths[i]
	}
	if width == 0 {
		return widths, true
	}
	for total > width {
		// The widest of those that may be cut gives a character.
		widest := -1
		for i, c := range t.columns {
			if c.least > 0 && widths[i] > max(c.least, utf8.RuneCountInString(c.title)) && (widest < 0 || widths[i] > widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			return nil, false
		}
		widths[widest]--
		total--
	}
	return widths, true
}

func (t *table) wide(to *terminal, widths []int) {
	line := make([]cell, len(t.columns))
	for i, c := range t.columns {
		line[i] = cell{c.title, dim}
	}
	for _, row := range append([][]cell{line}, t.rows...) {
		var b strings.Builder
		for i, c := range row {
			text := cut(c.text, widths[i])
			b.WriteString(to.paint(c.color, text))
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(text)+gap))
			}
		}
		to.printf("%s\n", b.String())
	}
}

func cut(s string, width int) string {
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	return string([]rune(s)[:width-1]) + "…"
}

// narrow writes a row as a paragraph.
func (t *table) narrow(to *terminal) {
	for n, row := range t.rows {
		if n > 0 {
			to.printf("\n")
		}
		facts := make([]fact, len(row))
		for i, c := range row {
			facts[i] = fact{strings.ToLower(t.columns[i].title), c}
		}
		to.facts(facts)
	}
}

// fact is a value with its name.
type fact struct {
	name  string
	value cell
}

// facts writes names and values one below the other. Values that are too long
// go on in the next line, and nothing of them is lost.
func (t *terminal) facts(list []fact) {
	indent := 0
	for _, f := range list {
		indent = max(indent, utf8.RuneCountInString(f.name)+gap)
	}
	for _, f := range list {
		room := 0
		if t.width > 0 {
			room = max(t.width-indent, 10)
		}
		lead := t.paint(dim, f.name) + strings.Repeat(" ", indent-utf8.RuneCountInString(f.name))
		for _, line := range textwrap.Lines(clean(f.value.text), room) {
			t.printf("%s%s\n", lead, t.paint(f.value.color, line))
			lead = strings.Repeat(" ", indent)
		}
	}
}
