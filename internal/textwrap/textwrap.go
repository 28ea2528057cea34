// Package textwrap breaks text into lines for terminals.
package textwrap

import "strings"

// Lines breaks a text behind spaces into lines of at most width characters. Only
// a word that is longer than a line is broken itself. A width of 0 or less
// leaves the text in one line.
func Lines(text string, width int) []string {
	rest := []rune(text)
	var lines []string
	for width > 0 && len(rest) > width {
		n := width
		for i := width; i > 0; i-- {
			if rest[i] == ' ' {
				n = i + 1
				break
			}
		}
		lines = append(lines, strings.TrimRight(string(rest[:n]), " "))
		rest = rest[n:]
	}
	return append(lines, string(rest))
}
