package command

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"strings"
	"unicode/utf8"

	"github.com/caddy-replicate/replicate-webhook/internal/ecmajson"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
)

// A signature that does not match says nothing about why. What can be found out
// is whether it matches another spelling of the body, or another reading of the
// secret: then that is what the sender signed.

// spelling is a way in which the same JSON is written.
type spelling struct {
	name string
	of   func(body []byte) []byte // nil: there is no such spelling
}

var spellings = []spelling{
	{"without the line break at its end", func(b []byte) []byte { return bytes.TrimRight(b, "\r\n") }},
	{"without the white space around it", bytes.TrimSpace},
	{"with a line break at its end", func(b []byte) []byte { return append(bytes.Clone(b), '\n') }},
	{"without a byte order mark", func(b []byte) []byte { return bytes.TrimPrefix(b, []byte("\xef\xbb\xbf")) }},
	{"with line breaks of one character", func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")) }},
	{"as JSON.stringify writes it", stringified},
	{"without white space between its parts", compact},
	{"as Python's json.dumps writes it", pythonic(false)},
	{"as Python's json.dumps writes it, without ensure_ascii", pythonic(true)},
	{"as Go's json.Marshal writes it", func(b []byte) []byte { return marshaled(b, true) }},
	{"with its keys sorted", func(b []byte) []byte { return marshaled(b, false) }},
	{"as PHP's json_encode writes it", func(b []byte) []byte { return bytes.ReplaceAll(ascii(stringified(b)), []byte("/"), []byte(`\/`)) }},
	{"with all but ASCII escaped", func(b []byte) []byte { return ascii(compact(b)) }},
	{"indented by two spaces", func(b []byte) []byte { return indented(b, "  ") }},
	{"indented by four spaces", func(b []byte) []byte { return indented(b, "    ") }},
}

// reading is a way in which a secret is taken for a key.
type reading struct {
	name   string
	advice string
	of     func(secret string) []string
}

var readings = []reading{
	{"the secret with white space or a line break around it", "Whoever signed took the line break of a file for part of the secret: trim it there.",
		func(s string) []string {
			return []string{s + "\n", s + "\r\n", s + " ", " " + s, strings.TrimSpace(s)}
		}},
	{"the secret without its prefix whsec_", "X-Replicate-Signature is keyed with the secret as it is written, whsec_ included.",
		func(s string) []string { return []string{strings.TrimPrefix(s, "whsec_")} }},
	{"the bytes that the secret's base64 stands for", "X-Replicate-Signature is keyed with the secret as it is written; only webhook-signature decodes the base64.",
		func(s string) []string {
			if b, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(s, "whsec_")); err == nil {
				return []string{string(b)}
			}
			return nil
		}},
	{"the secret in quotes", "Quotes of an environment file became part of the secret: remove them.",
		func(s string) []string {
			return []string{`"` + s + `"`, "'" + s + "'", strings.Trim(s, `"'`)}
		}},
}

// explain finds out what was signed instead. replicate is the value of
// X-Replicate-Signature, if that is there and accepted.
func explain(claim *signature.Claim, replicate string, body []byte, secrets []signature.Secret, texts []string) (why, advice string) {
	for _, form := range spellings {
		if b := form.of(body); len(b) > 0 && !bytes.Equal(b, body) {
			if _, err := claim.Verify(secrets, b, nil); err == nil {
				return "the secret is right, but the body is not the one that was signed: that was the body " + form.name,
					"Something parsed the body and wrote it anew, or changed its white space, between signing and here. Verify the bytes as they arrive, before any parser, and sign the bytes that are sent."
			}
		}
	}
	for _, text := range texts {
		for _, r := range readings {
			for _, other := range r.of(text) {
				if other == text {
					continue
				}
				for _, b := range [][]byte{body, stringified(body)} {
					if len(b) > 0 && digestOf(other, b) == strings.TrimPrefix(replicate, "sha256=") {
						return "it was signed with " + r.name, r.advice
					}
				}
			}
		}
	}
	return "neither the secret nor any usual spelling of the body fits the signature: it was made with another secret, or for another body",
		"Compare the sender's secret with this one, by its first and last characters. If they are the same, the body was changed on the way."
}

func digestOf(key string, body []byte) string {
	m := hmac.New(sha256.New, []byte(key))
	m.Write(body)
	return hex.EncodeToString(m.Sum(nil))
}

func stringified(b []byte) []byte {
	doc, err := ecmajson.Parse(b, ecmajson.Limits{}, nil)
	if err != nil {
		return nil
	}
	return doc.Bytes()
}

func compact(b []byte) []byte {
	var out bytes.Buffer
	if json.Compact(&out, b) != nil {
		return nil
	}
	return out.Bytes()
}

func indented(b []byte, indent string) []byte {
	var out bytes.Buffer
	if json.Indent(&out, b, "", indent) != nil {
		return nil
	}
	return out.Bytes()
}

// marshaled returns the body as a program writes it that has read it into a
// map: with sorted keys.
func marshaled(b []byte, escapeHTML bool) []byte {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil {
		return nil
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(escapeHTML)
	if e.Encode(v) != nil {
		return nil
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n"))
}

// pythonic puts a space behind each comma and colon.
func pythonic(unicode bool) func([]byte) []byte {
	return func(b []byte) []byte {
		var out []byte
		quoted, escaped := false, false
		for _, c := range compact(b) {
			out = append(out, c)
			switch {
			case escaped:
				escaped = false
			case quoted && c == '\\':
				escaped = true
			case c == '"':
				quoted = !quoted
			case !quoted && (c == ',' || c == ':'):
				out = append(out, ' ')
			}
		}
		if !unicode {
			out = ascii(out)
		}
		return out
	}
}

// ascii escapes all but ASCII.
func ascii(b []byte) []byte {
	out := make([]byte, 0, len(b))
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if r < utf8.RuneSelf {
			out = append(out, b[0])
		} else {
			// Beyond the basic plane two escapes, as UTF-16 has it.
			for _, u := range utf16Of(r) {
				out = append(out, '\\', 'u')
				for shift := 12; shift >= 0; shift -= 4 {
					out = append(out, "0123456789abcdef"[u>>shift&0xf])
				}
			}
		}
		b = b[n:]
	}
	return out
}

func utf16Of(r rune) []rune {
	if r < 0x10000 {
		return []rune{r}
	}
	r -= 0x10000
	return []rune{0xd800 + r>>10, 0xdc00 + r&0x3ff}
}
