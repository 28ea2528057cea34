package dashboard

import (
	"fmt"
	"html/template"
	"strings"
	"unicode"
	"unicode/utf8"
)

// visible replaces the characters of a page that can't be seen, such as U+202E, by
// their numbers: they may reverse or hide a part of a text, which looks like another
// one then. The pages have none of their own, so that all of them are from outside.
func visible(page []byte) []byte {
	var out []byte // nil as long as nothing is replaced
	done := 0
	for i := 0; i < len(page); {
		r, size := utf8.DecodeRune(page[i:])
		if invisible(r) && !(r == '\r' && i+1 < len(page) && page[i+1] == '\n') {
			out = fmt.Appendf(append(out, page[done:i]...), "[U+%04X]", r)
			done = i + size
		}
		i += size
	}
	if out == nil {
		return page
	}
	return append(out, page[done:]...)
}

// invisible reports whether a character is a control or format character, a
// separator of lines, or a filler. Line feeds and tabs are not.
func invisible(r rune) bool {
	switch r {
	case '\n', '\t':
		return false
	case 0x115f, 0x1160, 0x3164, 0xffa0: // Hangul fillers
		return true
	}
	return r > unicode.MaxLatin1 && unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp) || unicode.IsControl(r) || r == 0xad
}

// attr returns an attribute whose value scripts and forms get as it is: all but
// plain characters are written by their numbers, which visible does not replace.
func attr(name, value string) template.HTMLAttr {
	var b strings.Builder
	b.WriteString(name + `="`)
	for _, r := range value {
		if r < utf8.RuneSelf && (unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune(" ._:/-", r)) {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, "&#x%x;", r)
		}
	}
	b.WriteByte('"')
	return template.HTMLAttr(b.String())
}
