package demo

import (
	"fmt"
	"io"
	"strings"
)

// printer writes what happens.
type printer struct {
	out   io.Writer
	color bool
}

// The escape sequences in use.
const (
	bold  = "1"
	dim   = "2"
	green = "32"
	cyan  = "36"
)

func (p printer) paint(style, text string) string {
	if !p.color {
		return text
	}
	return "\x1b[" + style + "m" + text + "\x1b[0m"
}

func (p printer) line(format string, args ...any) { _, _ = fmt.Fprintf(p.out, format+"\n", args...) }

// title begins a step.
func (p printer) title(text string) { p.line("\n%s", p.paint(bold, text)) }

// sent is a request, got its answer.
func (p printer) sent(text string) { p.line("   %s %s", p.paint(cyan, "→"), text) }
func (p printer) got(text string)  { p.line("   %s %s", p.paint(cyan, "←"), text) }

// fact is something that was found to be true.
func (p printer) fact(format string, args ...any) {
	p.line("   %s %s", p.paint(green, "✓"), fmt.Sprintf(format, args...))
}

// note is said beside.
func (p printer) note(text string) { p.line("     %s", p.paint(dim, strings.TrimRight(text, " "))) }

// short is the beginning of a long value.
func short(text string, n int) string {
	if len(text) <= n {
		return text
	}
	return strings.ToValidUTF8(text[:n], "") + "…"
}
