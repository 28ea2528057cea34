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
	"slices"
	"strings"

	"github.com/caddy-replicate/replicate-webhook/internal/ecmajson"
)

// memberSet are members that are captured, and that a create is searched for.
type memberSet []string

// The members of each way to ask for a webhook.
var (
	ownMembers    = memberSet{memberURL, memberEvents, memberTest}
	nativeMembers = memberSet{nativeURL, nativeEvents}
)

// finder returns what finds one of the members in a text.
func (m memberSet) finder() *ecmajson.KeyFinder { return ecmajson.NewKeyFinder(m...) }

// has reports whether a member or form field is one of them.
func (m memberSet) has(name string) bool { return slices.Contains(m, name) }

// mentioned reports whether a body could hold one of the members, without parsing it.
func (m memberSet) mentioned(body []byte) bool {
	return m.has(nativeURL) && bytes.Contains(body, []byte(nativeURL)) || mentions(body)
}

// namedIn returns the member that a body names, or empty: a member of an
// object, or a field of a form.
func (m memberSet) namedIn(body []byte, contentType string) string {
	media, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		media, _, _ = strings.Cut(strings.ToLower(contentType), ";")
		media = strings.TrimSpace(media)
	}
	f := m.finder()
	_, _ = f.Write(body)
	multi := strings.HasPrefix(media, "multipart/")
	switch form := media == "application/x-www-form-urlencoded"; {
	case !f.InLines() || !multi && !form:
		return f.Found()
	case multi:
		return m.namedInParts(body, params["boundary"])
	}
	return m.namedInForm(string(body))
}

func (m memberSet) namedInForm(form string) string {
	for field := range strings.FieldsFuncSeq(form, func(c rune) bool { return c == '&' || c == ';' || c == '\n' || c == '\r' }) {
		key, _, _ := strings.Cut(field, "=")
		if name, err := url.QueryUnescape(key); err == nil {
			key = name
		}
		if name := fieldName(key); m.has(name) {
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

func (m memberSet) namedInParts(body []byte, boundary string) string {
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
		if name := fieldName(part.FormName()); m.has(name) {
			return name
		}
		if part.FormName() == "" {
			f := m.finder()
			if _, _ = io.Copy(f, part); f.Found() != "" {
				return f.Found()
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

// advice returns where a body stops being valid JSON, and what to write instead.
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
		return where + ": write null for a value that is not a number"
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
