// Package conceal hides callback URLs in what leaves for clients and receivers. It keeps
// every length, and finds a URL in all spellings that texts about URLs have.
package conceal

import (
	"crypto/sha256"
	"crypto/subtle"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// TokenLen is the length of a callback token: 32 bytes in base64url.
const TokenLen = 43

// IsTokenByte reports whether a token may hold the character.
func IsTokenByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}

// URL describes what a text must not show: the callback URL that was made for a
// prediction and sent to the API as its webhook. Whoever knows it could announce events
// that never happened. A nil URL hides nothing.
type URL struct {
	// Base is the configured callback's URL with a slash at its end, or
	// empty. With neither Token nor Sum, every token that follows it is
	// hidden.
	Base string
	// Token is the one that was made for this prediction, if it is known.
	Token string
	// Sum is the token's SHA-256, where only that is known.
	Sum []byte
}

// New returns what hides the callback URLs that are made from a configured one, and the
// token with the sum. Either may be missing; it is nil without both.
func New(callback string, sum []byte) *URL {
	if callback == "" && sum == nil {
		return nil
	}
	if callback != "" {
		callback = strings.TrimRight(callback, "/") + "/"
	}
	return &URL{Base: callback, Sum: sum}
}

// minToken is the length from which on a part of a token at the end of a response
// that broke off is hidden.
const minToken = 8

// verdict is the result of matching a place in a response.
type verdict uint8

const (
	no verdict = iota
	yes
	more // what follows decides
)

// escapes begin a character that is not written as itself.
func escapes(c byte) bool { return c == '\\' || c == '%' || c == '&' || c == 0 }

// starts returns the bytes with which a match may begin.
func (h *URL) starts() (table [256]bool) {
	for i := range table {
		c := byte(i)
		table[i] = c == '"' || escapes(c) || c == '/' && h.Sum != nil ||
			h.Base != "" && lower(c) == lower(h.Base[0]) || h.Token != "" && c == h.Token[0]
	}
	return table
}

// follows reports whether c, which starts a match, may be followed by next. It
// spares most of the places that only begin like one.
func (h *URL) follows(c, next byte) bool {
	switch {
	case escapes(c), escapes(next):
		return true
	case c == '"':
		return h.Base != "" && lower(next) == lower(h.Base[0])
	case c == '/':
		return IsTokenByte(next)
	}
	return h.Base != "" && lower(next) == lower(h.Base[1]) || h.Token != "" && next == h.Token[1]
}

// match matches what begins at b[0], after the byte before. n is its length, and
// whole reports that it is a JSON string with its quotes.
func (h *URL) match(before byte, b []byte, final bool) (n int, whole bool, v verdict) {
	if b[0] == '"' {
		if before == '\\' {
			return 0, false, no
		}
		n, v = h.matchURL(b[1:], false)
		switch {
		case v == yes && n+1 < len(b) && b[n+1] == '"':
			return n + 2, true, yes
		case !final && (v == more || v == yes && n+1 == len(b)):
			return 0, false, more
		}
		return 0, false, no
	}
	n, v = h.matchURL(b, final)
	wait := v == more
	if v != yes && h.Token != "" {
		n, v = h.matchRun(b, 0, nil, final, minToken)
		wait = wait || v == more
	}
	if v != yes && h.Sum != nil {
		n, v = h.matchSegment(b)
		wait = wait || v == more
	}
	switch {
	case v == yes:
		return n, false, yes
	case wait && !final:
		return 0, false, more
	}
	return 0, false, no
}

// matchURL matches the base and a token after it.
func (h *URL) matchURL(b []byte, final bool) (int, verdict) {
	if h.Base == "" {
		return 0, no
	}
	at := 0
	for i := range len(h.Base) {
		c, n, v := symbol(b[at:])
		if v != yes {
			return 0, v
		}
		if lower(c) != lower(h.Base[i]) {
			return 0, no
		}
		at += n
	}
	return h.matchRun(b, at, nil, final, 1)
}

// matchSegment matches a path segment that has the token's sum.
func (h *URL) matchSegment(b []byte) (int, verdict) {
	c, n, v := symbol(b)
	if v == yes && c != '/' {
		v = no
	}
	if v != yes {
		return 0, v
	}
	return h.matchRun(b, n, h.Sum, false, 1)
}

// matchRun matches a token at b[at:]: the one that is known, or else one of the
// right length, with a sum where one is given. Of a token that ends with the
// response, so many characters suffice.
func (h *URL) matchRun(b []byte, at int, sum []byte, final bool, enough int) (int, verdict) {
	var token [TokenLen]byte
	for i := range token {
		if at < len(b) && IsTokenByte(b[at]) && (h.Token == "" || b[at] == h.Token[i]) {
			token[i] = b[at]
			at++
			continue
		}
		c, n, v := symbol(b[at:])
		switch {
		case v == more && final && i >= enough:
			return len(b), yes
		case v == more:
			return 0, more
		case !IsTokenByte(c), h.Token != "" && c != h.Token[i]:
			return 0, no
		}
		token[i] = c
		at += n
	}
	if h.Token != "" {
		return at, yes
	}
	switch c, _, v := symbol(b[at:]); {
	case v == more && !final:
		return 0, more
	case v == yes && IsTokenByte(c):
		return 0, no // longer than any of ours
	case sum != nil && !sumFits(token[:], sum):
		return 0, no
	}
	return at, yes
}

func sumFits(token, sum []byte) bool {
	got := sha256.Sum256(token)
	return subtle.ConstantTimeCompare(got[:], sum) == 1
}

// The bounds of one symbol: escapes that are escaped again are read too.
const (
	maxSlashes = 8
	maxEntity  = 12
	maxPercent = 9
)

// symbol reads the character that b begins with, in the spellings that texts
// about URLs have: as it is, escaped as in JSON, in a URL or in HTML, and with
// the zero bytes of UTF-16. v is more when b may end in the middle of it.
func symbol(b []byte) (c byte, n int, v verdict) {
	zeros := 0
	for zeros < len(b) && zeros < 3 && b[zeros] == 0 {
		zeros++
	}
	b = b[zeros:]
	if len(b) == 0 {
		return 0, 0, more
	}
	switch b[0] {
	case '\\':
		c, n, v = jsonEscape(b)
	case '%':
		c, n, v = urlEscape(b)
	case '&':
		c, n, v = htmlEscape(b)
	}
	switch v {
	case more:
		return 0, 0, more
	case yes:
		return c, zeros + n, yes
	}
	return b[0], zeros + 1, yes
}

func jsonEscape(b []byte) (c byte, n int, v verdict) {
	k := 1
	for k < len(b) && k < maxSlashes && b[k] == '\\' {
		k++
	}
	switch {
	case k == len(b) && k < maxSlashes:
		return 0, 0, more
	case k == len(b):
		return 0, 0, no
	case b[k] == '/':
		return '/', k + 1, yes
	case b[k] != 'u':
		return 0, 0, no
	}
	return hexEscape(b, k+1, 4)
}

func urlEscape(b []byte) (c byte, n int, v verdict) {
	at := 1
	for at < maxPercent && len(b) >= at+2 && b[at] == '2' && b[at+1] == '5' {
		// The escape of a percent sign, if two more digits follow.
		if next := b[at+2 : min(len(b), at+4)]; len(next) > 0 && !isHex(next[0]) || len(next) > 1 && !isHex(next[1]) {
			break
		} else if len(next) < 2 {
			return 0, 0, more
		}
		at += 2
	}
	return hexEscape(b, at, 2)
}

// hexEscape reads width hexadecimal digits at b[at:].
func hexEscape(b []byte, at, width int) (c byte, n int, v verdict) {
	end := min(len(b), at+width)
	for _, d := range b[min(at, end):end] {
		if !isHex(d) {
			return 0, 0, no
		}
	}
	if end < at+width {
		return 0, 0, more
	}
	code, err := strconv.ParseUint(string(b[at:end]), 16, 32)
	if err != nil || code > 0x7f {
		return 0, 0, no
	}
	return byte(code), end, yes
}

var entities = map[string]byte{"sol": '/', "colon": ':', "period": '.', "lowbar": '_', "hyphen": '-'}

func htmlEscape(b []byte) (c byte, n int, v verdict) {
	for i := 1; i < len(b) && i < maxEntity; i++ {
		switch d := b[i]; {
		case d == ';':
			name := string(b[1:i])
			if c, ok := entities[name]; ok {
				return c, i + 1, yes
			}
			digits, base := name, 10
			if len(digits) < 2 || digits[0] != '#' {
				return 0, 0, no
			}
			if digits = digits[1:]; lower(digits[0]) == 'x' {
				digits, base = digits[1:], 16
			}
			code, err := strconv.ParseUint(digits, base, 32)
			if err != nil || code > 0x7f {
				return 0, 0, no
			}
			return byte(code), i + 1, yes
		case d != '#' && !IsTokenByte(d):
			return 0, 0, no
		}
	}
	if len(b) < maxEntity {
		return 0, 0, more
	}
	return 0, 0, no
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || lower(c) >= 'a' && lower(c) <= 'f'
}

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// Writer hides what is hidden in what is written through it. It keeps every length, so
// that a Content-Length stays right. Close must be called at the end.
type Writer struct {
	h    *URL
	emit func([]byte) error
	// tail has the bytes that are not decided yet, and before the byte before
	// them.
	tail   []byte
	before byte
	// found reports that something was hidden.
	found bool
	// starts is h.starts, once it is needed.
	starts *[256]bool
}

// NewWriter returns a writer that calls emit with what may be shown.
func NewWriter(h *URL, emit func([]byte) error) *Writer { return &Writer{h: h, emit: emit} }

// Write passes p on as far as it is decided. A token that is cut by the end of p
// waits for what follows.
func (c *Writer) Write(p []byte) (int, error) {
	b := p
	if len(c.tail) > 0 {
		b = append(c.tail, p...)
	}
	if err := c.scan(b, false); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close passes the rest on. A part of a token at the end is hidden too.
func (c *Writer) Close() error { return c.scan(c.tail, true) }

func (c *Writer) scan(b []byte, final bool) error {
	if c.starts == nil {
		table := c.h.starts()
		c.starts = &table
	}
	done, before := 0, c.before
	for i := 0; i < len(b); i++ {
		if !c.starts[b[i]] || i+1 < len(b) && !c.h.follows(b[i], b[i+1]) {
			continue
		}
		if i > 0 {
			before = b[i-1]
		}
		n, whole, v := c.h.match(before, b[i:], final)
		switch v {
		case no:
			continue
		case more:
			c.before = before
			err := c.pass(b[done:i])
			c.tail = append([]byte(nil), b[i:]...)
			return err
		}
		if err := c.pass(b[done:i]); err != nil {
			return err
		}
		c.found = true
		if err := c.emit(cover(n, whole)); err != nil {
			return err
		}
		i += n - 1
		done = i + 1
	}
	if len(b) > 0 {
		c.before = b[len(b)-1]
	}
	c.tail = nil
	return c.pass(b[done:])
}

func (c *Writer) pass(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	return c.emit(b)
}

// cover takes the place of n bytes: null for a whole JSON string.
func cover(n int, whole bool) []byte {
	b := make([]byte, n)
	fill := byte('*')
	if whole {
		fill = ' '
	}
	for i := range b {
		b[i] = fill
	}
	if whole {
		copy(b, "null")
	}
	return b
}

// Conceal returns text without what is hidden, and whether that was in it. A
// text without is returned itself.
func (h *URL) Conceal(text []byte) ([]byte, bool) {
	if h == nil {
		return text, false
	}
	var out []byte
	c := Writer{h: h, emit: func(p []byte) error { out = append(out, p...); return nil }}
	probe := Writer{h: h, emit: func([]byte) error { return nil }}
	if _ = probe.scan(text, true); !probe.found {
		return text, false
	}
	_ = c.scan(text, true)
	return out, true
}

// ConcealHeader does so for the values of a header.
func (h *URL) ConcealHeader(header http.Header) {
	if h == nil {
		return
	}
	for _, values := range header {
		for i, v := range values {
			if clean, found := h.Conceal([]byte(v)); found {
				values[i] = string(clean)
			}
		}
	}
}

// Interface guards.
var _ io.WriteCloser = (*Writer)(nil)
