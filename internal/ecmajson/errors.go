package ecmajson

import (
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"
)

// Errors of [Parse], for use with errors.Is. The error that is returned wraps
// one of them and names the byte offset in its text.
var (
	// ErrDepth: arrays and objects are nested deeper than Limits.MaxDepth.
	ErrDepth = errors.New("json is nested too deeply")
	// ErrLiteral: a number or string literal is longer than Limits allows.
	ErrLiteral = errors.New("json literal is too long")
	// ErrUTF8: the text is not valid UTF-8. Overlong forms and encoded
	// surrogates (ED A0 80 to ED BF BF) are invalid as well.
	ErrUTF8 = errors.New("json is not valid utf-8")
	// ErrSize: the text is larger than 1 GiB - 1 byte.
	ErrSize = errors.New("json text is too large")
)

// SyntaxError says where the text leaves the JSON grammar. Parse returns it as
// *SyntaxError.
type SyntaxError struct {
	// Offset is the byte offset of the first byte that cannot be there; the
	// length of the text when the text ends too early.
	Offset int
	// Msg says what is wrong, without the offset.
	Msg string
}

// Error returns the message with the byte offset.
func (e *SyntaxError) Error() string {
	return "json syntax error at byte " + strconv.Itoa(e.Offset) + ": " + e.Msg
}

// fail records err at offset i and returns -1, the position that means "stop".
func (p *parser) fail(err error, i int) int {
	p.err = fmt.Errorf("%w at byte %d", err, i)
	return -1
}

// syntax records a SyntaxError at offset i and returns -1.
func (p *parser) syntax(i int, msg string) int {
	p.err = &SyntaxError{Offset: i, Msg: msg}
	return -1
}

// unexpected records that the byte at i cannot be there: the end of the text,
// bytes that are not UTF-8, or a character the grammar has no place for.
// where completes "unexpected X <where>".
func (p *parser) unexpected(i int, where string) int {
	if i >= len(p.src) {
		return p.syntax(len(p.src), "unexpected end of text "+where)
	}
	r, n := utf8.DecodeRune(p.src[i:])
	if r == utf8.RuneError && n <= 1 {
		return p.fail(ErrUTF8, i)
	}
	if r == '\ufeff' {
		return p.syntax(i, "unexpected byte order mark "+where)
	}
	return p.syntax(i, "unexpected "+strconv.QuoteRuneToASCII(r)+" "+where)
}
