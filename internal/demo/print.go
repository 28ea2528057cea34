package demo

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/caddy-replicate/replicate-webhook/internal/textwrap"
)

// printer writes what happens.
type printer struct {
	out   io.Writer
	color bool
	width int
}

// The escape sequences in use.
const (
	bold  = "1"
	dim   = "2"
	green = "32"
	cyan  = "36"
)

func (p printer) paint(style, text string) string {
	if !p.color || style == "" {
		return text
	}
	return "\x1b[" + style + "m" + text + "\x1b[0m"
}

// text writes a text behind a mark, broken between words where it is longer than
// a line.
func (p printer) text(mark, markStyle, text, style string) {
	indent := utf8.RuneCountInString(mark)
	lead := p.paint(markStyle, mark)
	for _, line := range textwrap.Lines(strings.TrimRight(text, " "), max(p.width-indent, 20)) {
		_, _ = fmt.Fprintln(p.out, lead+p.paint(style, line))
		lead = strings.Repeat(" ", indent)
	}
}

// title begins a step.
func (p printer) title(text string) {
	_, _ = fmt.Fprintln(p.out)
	p.text("", "", text, bold)
}

// sent writes a request, got its response.
func (p printer) sent(text string) { p.text("   → ", cyan, text, "") }
func (p printer) got(text string)  { p.text("   ← ", cyan, text, "") }

// fact writes something that was found to be true.
func (p printer) fact(format string, args ...any) {
	p.text("   ✓ ", green, fmt.Sprintf(format, args...), "")
}

// note writes a remark.
func (p printer) note(text string) { p.text("     ", "", text, dim) }

// short returns the beginning of a long value.
func short(text string, n int) string {
	if len(text) <= n {
		return text
	}
	return strings.ToValidUTF8(text[:n], "") + "…"
}
