package secret

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// prefix begins a secret of the Standard Webhooks specification.
const prefix = "whsec_"

var (
	assignment = regexp.MustCompile(`^(?:(?:export|set|env)\s+)?[A-Z][A-Z0-9_]{2,}(?:\s*=\s*[^=\s]|:\s+\S)|^(?i:[a-z0-9_.-]*(?:secret|token|key))(?:\s*=\s*[^=\s]|:\s+\S)`)
	variable   = regexp.MustCompile(`^\$(?:[A-Za-z_][A-Za-z0-9_]*|\{[^{}]*\})$`)
)

// Check reports whether an expanded secret is what its owner meant, rather than
// what is pasted along with it: quotes, a name before it, a blank at an end, the
// response that holds it, or what stands in the place of it in an example. Such a
// secret would verify nothing, and look right, or be known to everybody.
//
// The error says what is wrong without quoting any of the secret.
func Check(value string) error {
	first, _ := utf8.DecodeRuneInString(value)
	last, _ := utf8.DecodeLastRuneInString(value)
	trimmed := strings.TrimFunc(value, isInvisible)
	hidden := strings.IndexFunc(value, isZeroWidth)
	switch {
	case value == "":
		return errors.New("it is empty")
	case trimmed == "":
		return errors.New("it consists of blanks alone")
	case strings.ContainsRune(value, 0) || !utf8.ValidString(value):
		return errors.New("it is not UTF-8 text: save its file as UTF-8, or write the key in base64 or hexadecimal digits")
	case first == '\ufeff':
		return errors.New("it begins with a byte order mark: save its file as UTF-8 without one")
	case isInvisible(first):
		return errors.New("it begins with " + blankName(first) + ": remove that")
	case isInvisible(last):
		return errors.New("it ends in " + blankName(last) + ": remove that")
	case strings.ContainsAny(value, "\r\n"):
		return errors.New("it has more than one line: leave out what is not the secret")
	case strings.IndexFunc(value, unicode.IsControl) >= 0:
		return errors.New("it holds a control character: remove that")
	case hidden >= 0:
		r, _ := utf8.DecodeRuneInString(value[hidden:])
		return errors.New("it holds " + blankName(r) + ": remove that")
	case hasFoldedPrefix(value, "bearer "):
		return errors.New("it begins with Bearer, as a header does: leave that out")
	case strings.ContainsRune(quotes, first) && strings.ContainsRune(quotes, last) && len(value) > 1:
		return errors.New("it is in quotes: leave them out")
	case first == '{' && strings.Contains(value, `"`):
		return errors.New(`it is JSON: take only the value of "key" out of it, without quotes`)
	case hasFoldedPrefix(value, "v1,") || hasFoldedPrefix(value, "v1a,"):
		return errors.New("it begins with v1, as signatures do: leave that out, a secret begins with whsec_")
	case assignment.MatchString(value):
		return errors.New("it begins with a name and = or a colon: leave out all that is before the secret")
	case variable.MatchString(value):
		return errVariable
	}
	if err := checkPlaceholder(value); err != nil {
		return err
	}
	return checkPrefix(value)
}

var errVariable = errors.New("it is the name of a variable that nothing has expanded: write {env.NAME} in a Caddyfile")

// checkPrefix finds a whsec_ that is not at the beginning, or is spelled in another
// way.
func checkPrefix(value string) error {
	at := strings.Index(strings.ToLower(value), prefix)
	switch {
	case strings.HasPrefix(value, prefix):
		if strings.ContainsFunc(value, unicode.IsSpace) {
			return errors.New("it holds a blank: a secret that begins with whsec_ is one word")
		}
		return nil
	case at == 0:
		return errors.New("it begins with whsec_ in capital letters: write them small")
	case at > 0:
		return errors.New("it has something before whsec_: leave that out")
	case hasFoldedPrefix(value, "whsec-") || hasFoldedPrefix(value, "whsec:") || hasFoldedPrefix(value, "whsec "):
		return errors.New("it begins with whsec, and no underscore after it: a secret begins with whsec_")
	}
	return nil
}

func hasFoldedPrefix(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

// quotes are those of keyboards, of shells and of word processors.
const quotes = "\"'`\u2018\u2019\u201c\u201d\u201e\u00ab\u00bb"

// isInvisible reports whether r does not show at the end of a line.
func isInvisible(r rune) bool {
	return unicode.IsSpace(r) || isZeroWidth(r)
}

// isZeroWidth reports whether r does not show anywhere.
func isZeroWidth(r rune) bool {
	return r == '\ufeff' || r == '\u200b' || r == '\u200c' || r == '\u200d' || r == '\u2060'
}

func blankName(r rune) string {
	switch r {
	case '\n', '\r':
		return "a line break"
	case ' ':
		return "a blank"
	case '\t':
		return "a tab"
	case '\ufeff':
		return "a byte order mark"
	}
	return fmt.Sprintf("the invisible character U+%04X", r)
}
