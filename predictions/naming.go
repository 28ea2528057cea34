package predictions

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/caddy-replicate/replicate-webhook/internal/ecmajson"
)

// ourMembers are the members that a create is searched for.
var ourMembers = []string{memberURL, memberEvents, memberTest}

// isOurs reports whether a member or form field is one of ours.
func isOurs(name string) bool {
	for _, m := range ourMembers {
		if name == m {
			return true
		}
	}
	return false
}

// finder finds a member of ours in a text as the most lenient parsers would read
// it, while it streams by: with single or no quotes, comments, commas too many, or
// anything in the place of a value, in UTF-8 or UTF-16. Members of an object in
// the text's object are not ours.
type finder struct {
	// member is the first that was found.
	member string

	state findState
	depth int
	quote byte
	skip  bool // an escaped character follows
	star  bool // in a comment: the last byte was an asterisk
	token []byte
	ready bool // token is whole: a colon makes it a key
}

type findState uint8

const (
	beforeText findState = iota
	inObject
	inQuotes
	afterSlash // perhaps of a comment
	inLine     // a comment to the end of the line
	inBlock    // a comment to its end
	inLines    // no object: keys stand at the beginning of lines
	notOurs
)

// maxName is the longest spelling of a name of ours, with all of it escaped.
const maxName = 6 * len(memberEvents)

// Write searches p. It gives no error.
func (f *finder) Write(p []byte) (int, error) {
	for _, c := range p {
		if f.member != "" || f.state == notOurs {
			break
		}
		if c != 0 { // of UTF-16
			f.step(c)
		}
	}
	return len(p), nil
}

func (f *finder) step(c byte) {
	switch f.state {
	case beforeText:
		switch {
		case isSpace(c), c >= 0x80: // a byte order mark
		case c == '{':
			f.state, f.depth = inObject, 1
		case c == '[', c == '"':
			f.state = notOurs
		default:
			f.state = inLines
			f.line(c)
		}
	case inObject:
		f.object(c)
	case inQuotes:
		switch {
		case f.skip:
			f.skip = false
			f.keep(c)
		case c == f.quote:
			f.state, f.ready = inObject, true
		default:
			f.skip = c == '\\'
			f.keep(c)
		}
	case afterSlash:
		switch f.state = inObject; c {
		case '/':
			f.state = inLine
		case '*':
			f.state, f.star = inBlock, false
		default:
			f.object(c)
		}
	case inLine:
		if c == '\n' {
			f.state = inObject
		}
	case inBlock:
		if f.star && c == '/' {
			f.state = inObject
		}
		f.star = c == '*'
	case inLines:
		f.line(c)
	}
}

// object takes a byte outside of quotes and comments.
func (f *finder) object(c byte) {
	switch {
	case isSpace(c):
		f.ready = f.ready || len(f.token) > 0
	case c == '"' || c == '\'':
		f.state, f.quote, f.ready, f.token = inQuotes, c, false, f.token[:0]
	case c == '/':
		f.state = afterSlash
	case c == '#':
		f.state = inLine
	case c == '{' || c == '[':
		f.depth++
		f.token, f.ready = f.token[:0], false
	case c == '}' || c == ']':
		if f.depth--; f.depth == 0 {
			f.state = notOurs
		}
		f.token, f.ready = f.token[:0], false
	case c == ':':
		if f.depth == 1 {
			f.key()
		}
		f.token, f.ready = f.token[:0], false
	case c == ',':
		f.token, f.ready = f.token[:0], false
	default:
		if f.ready {
			f.token, f.ready = f.token[:0], false
		}
		f.keep(c)
	}
}

// line takes a byte of a text that is no object.
func (f *finder) line(c byte) {
	switch {
	case c == '\n':
		f.token, f.ready = f.token[:0], false
	case f.ready, len(f.token) == 0 && isSpace(c):
	case c == ':' || c == '=':
		f.token = bytes.Trim(f.token, " \t\r\"'")
		f.key()
		f.ready = true // what follows on the line is the value
	default:
		f.keep(c)
	}
}

func (f *finder) keep(c byte) {
	if len(f.token) <= maxName {
		f.token = append(f.token, c)
	}
}

func (f *finder) key() {
	if name := unescape(f.token); isOurs(name) {
		f.member = name
	}
}

// unescape reads the escapes of a key as JSON and JavaScript have them. What is
// no escape stands for itself.
func unescape(key []byte) string {
	if bytes.IndexByte(key, '\\') < 0 {
		return string(key)
	}
	var out []byte
	for i := 0; i < len(key); i++ {
		if key[i] != '\\' || i+1 == len(key) {
			out = append(out, key[i])
			continue
		}
		i++
		digits := 0
		switch key[i] {
		case 'u':
			digits = 4
		case 'x':
			digits = 2
		}
		if digits > 0 && i+digits < len(key) {
			if code, err := strconv.ParseUint(string(key[i+1:i+1+digits]), 16, 32); err == nil {
				out = append(out, string(rune(code))...)
				i += digits
				continue
			}
		}
		out = append(out, key[i])
	}
	return string(out)
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

// namedIn returns the member of ours that a body names, or empty: a member of an
// object, or a field of a form.
func namedIn(body []byte, contentType string) string {
	media, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		media, _, _ = strings.Cut(strings.ToLower(contentType), ";")
		media = strings.TrimSpace(media)
	}
	var f finder
	_, _ = f.Write(body)
	multi := strings.HasPrefix(media, "multipart/")
	switch form := media == "application/x-www-form-urlencoded"; {
	case f.state != inLines || !multi && !form:
		return f.member
	case multi:
		return namedInParts(body, params["boundary"])
	}
	return namedInForm(string(body))
}

func namedInForm(form string) string {
	for field := range strings.FieldsFuncSeq(form, func(c rune) bool { return c == '&' || c == ';' || c == '\n' || c == '\r' }) {
		key, _, _ := strings.Cut(field, "=")
		if name, err := url.QueryUnescape(key); err == nil {
			key = name
		}
		if name := fieldName(key); isOurs(name) {
			return name
		}
	}
	return ""
}

// fieldName is the name of a field without the brackets of a list.
func fieldName(key string) string {
	name, _, _ := strings.Cut(strings.TrimSpace(key), "[")
	return name
}

func namedInParts(body []byte, boundary string) string {
	if boundary == "" {
		first, _, _ := bytes.Cut(bytes.TrimLeft(body, "\r\n"), []byte("\n"))
		boundary = strings.TrimPrefix(strings.TrimSpace(string(first)), "--")
	}
	parts := multipart.NewReader(bytes.NewReader(body), boundary)
	for {
		part, err := parts.NextRawPart()
		if err != nil {
			return ""
		}
		if name := fieldName(part.FormName()); isOurs(name) {
			return name
		}
		if part.FormName() == "" {
			var f finder
			if _, _ = io.Copy(&f, part); f.member != "" {
				return f.member
			}
		}
	}
}

// cannotAct is the refusal of a body that names a member of ours and is no JSON.
func cannotAct(member string, body []byte, err error) *problem {
	p := unprocessable("%s can't be acted on: the body can't be read: %v%s", member, err, advice(body, err))
	p.member = member
	return p
}

// advice says where a body leaves JSON, and what to write in its place.
func advice(body []byte, err error) string {
	if bytes.HasPrefix(body, []byte("\ufeff")) {
		return ": send it without a byte order mark"
	}
	if head := body[:min(len(body), 4)]; bytes.IndexByte(head, 0) >= 0 || bytes.HasPrefix(head, []byte("\xff\xfe")) || bytes.HasPrefix(head, []byte("\xfe\xff")) {
		return ": send it in UTF-8"
	}
	var syntax *ecmajson.SyntaxError
	switch {
	case errors.Is(err, ecmajson.ErrUTF8):
		return ": send it in UTF-8"
	case !errors.As(err, &syntax):
		return ""
	case syntax.Offset >= len(body):
		return ": is it whole?"
	}
	before := bytes.TrimRight(body[:syntax.Offset], " \t\r\n")
	at := body[syntax.Offset:]
	where := fmt.Sprintf(" (line %d, column %d)", 1+bytes.Count(body[:syntax.Offset], []byte("\n")), syntax.Offset-bytes.LastIndexByte(body[:syntax.Offset], '\n'))
	switch c := at[0]; {
	case (c == '}' || c == ']') && bytes.HasSuffix(before, []byte(",")):
		return where + ": leave the comma before it out"
	case c < 0x20:
		return where + fmt.Sprintf(": write it as \\u%04x", c)
	case c == 'N', c == 'I', c == '-', c == 'u':
		return where + ": write null for a value that is no number"
	case c == 'T', c == 'F':
		return where + ": write true and false"
	case c == '\'':
		return where + ": write strings and names in double quotes"
	case c == '/', c == '#':
		return where + ": leave comments out"
	case bytes.HasSuffix(before, []byte("{")), bytes.HasSuffix(before, []byte(",")):
		return where + ": write names in double quotes"
	}
	return where
}

// mediaProblem is the refusal of a body that names a member of ours and is not
// sent as JSON.
func mediaProblem(member string, h http.Header) *problem {
	p := &problem{status: http.StatusUnsupportedMediaType, member: member}
	if identity(h) {
		p.detail = fmt.Sprintf("%s can't be acted on in a body of type %.64q: send JSON, with Content-Type: application/json", member, strings.Join(h["Content-Type"], ", "))
	} else {
		p.detail = fmt.Sprintf("%s can't be acted on in a body with Content-Encoding %.64q: send it without", member, strings.Join(h["Content-Encoding"], ", "))
	}
	return p
}
