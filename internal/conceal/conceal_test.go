package conceal

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"html"
	"net/url"
	"strings"
	"testing"
	"unicode/utf16"
)

const (
	fakeToken   = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"
	callbackURL = "https://hooks.example/cb"
	secretURL   = callbackURL + "/" + fakeToken
)

// hiding are the ways to know what is hidden: the token, its sum, or its base
// alone.
func hiding() map[string]*URL {
	sum := sha256.Sum256([]byte(fakeToken))
	return map[string]*URL{
		"token": {Base: callbackURL + "/", Token: fakeToken},
		"sum":   {Base: callbackURL + "/", Sum: sum[:]},
		"base":  {Base: callbackURL + "/"},
	}
}

// spellings are the ways in which texts write a URL.
func spellings() map[string]string {
	u16 := func(s string, swap bool) string {
		var b []byte
		for _, c := range utf16.Encode([]rune(s)) {
			if swap {
				b = append(b, byte(c>>8), byte(c))
			} else {
				b = append(b, byte(c), byte(c>>8))
			}
		}
		return string(b)
	}
	unicode := func(s string) string {
		var b strings.Builder
		for _, c := range s {
			fmt.Fprintf(&b, `\u%04X`, c)
		}
		return b.String()
	}
	percent := func(s string) string {
		var b strings.Builder
		for i := range len(s) {
			fmt.Fprintf(&b, "%%%02x", s[i])
		}
		return b.String()
	}
	entities := strings.NewReplacer("/", "&#x2F;", ":", "&#58;", "_", "&lowbar;")
	slashes := strings.NewReplacer("/", `\/`)
	return map[string]string{
		"plain":                 secretURL,
		"upper-case host":       strings.Replace(secretURL, "hooks.example", "HOOKS.Example", 1),
		"slashes escaped":       slashes.Replace(secretURL),
		"slashes as \\u002f":    strings.ReplaceAll(secretURL, "/", `\u002f`),
		"escaped twice":         strings.ReplaceAll(secretURL, "/", `\\\/`),
		"all escaped":           unicode(secretURL),
		"in a query":            url.QueryEscape(secretURL),
		"in a query of a query": url.QueryEscape(url.QueryEscape(secretURL)),
		"all percent":           percent(secretURL),
		"HTML":                  html.EscapeString(secretURL),
		"HTML entities":         entities.Replace(secretURL),
		"UTF-16LE":              u16(secretURL, false),
		"UTF-16BE":              u16(secretURL, true),
	}
}

func TestNoSpellingOfACallbackPasses(t *testing.T) {
	for spelling, text := range spellings() {
		for know, h := range hiding() {
			for _, around := range [][2]string{{"", ""}, {"see ", " for more"}, {`{"webhook":"`, `","id":"p"}`}, {`{"detail":"webhook \"`, `\" is not reachable"}`}, {"<", ">"}, {"hhh", "?x=1"}} {
				t.Run(spelling+", "+know+", "+around[0], func(t *testing.T) {
					body := around[0] + text + around[1]
					got, found := h.Conceal([]byte(body))
					if !found || len(got) != len(body) || !strings.HasPrefix(string(got), around[0][:len(around[0])/2]) || !strings.HasSuffix(string(got), around[1][len(around[1])/2:]) {
						t.Fatalf("%q became %q", body, got)
					}
					if left := strings.Trim(string(got[len(around[0]):len(got)-len(around[1])]), "*nul \"\x00"); left != "" {
						t.Fatalf("of %q, %q is left", body, left)
					}
				})
			}
		}
	}
}

func TestACallbackAsAJSONStringBecomesNull(t *testing.T) {
	for _, h := range hiding() {
		got, _ := h.Conceal([]byte(`{"webhook":"` + secretURL + `","id":"p"}`))
		var p map[string]any
		if err := json.Unmarshal(got, &p); err != nil || p["id"] != "p" || p["webhook"] != nil {
			t.Fatalf("got %s, %v", got, err)
		}
	}
}

// What an API says of a callback that failed is often its path alone.
func TestATokenIsHiddenWithoutItsHost(t *testing.T) {
	for know, h := range hiding() {
		got, found := h.Conceal([]byte("POST /cb/" + fakeToken + ": connection refused"))
		if found != (know != "base") || found && string(got) == "" || found && bytes.Contains(got, []byte(fakeToken)) {
			t.Errorf("%s: %s", know, got)
		}
	}
	got, _ := hiding()["token"].Conceal([]byte("token=" + fakeToken + "0"))
	if want := "token=" + strings.Repeat("*", TokenLen) + "0"; string(got) != want {
		t.Errorf("got %s", got)
	}
}

func TestOtherURLsPass(t *testing.T) {
	for _, h := range hiding() {
		for _, text := range []string{
			callbackURL, callbackURL + "/", `"` + callbackURL + `/own"`, callbackURL + "/" + fakeToken[:42] + `"`,
			"https://other.example/cb/own", strings.Repeat("h", 100), strings.Repeat("https://", 50), `"h`, `\`, `%`, `&`, "%2", `\u00`, "",
			callbackURL + "/" + strings.Repeat("x", 44) + ".",
		} {
			if strings.HasPrefix(text, callbackURL+"/"+fakeToken[:42]) {
				text += " "
			}
			if got, found := h.Conceal([]byte(text)); found || string(got) != text {
				t.Errorf("%q became %q", text, got)
			}
		}
	}
}

// A response may be cut anywhere, and come in any pieces: nobody gets enough of
// a token to guess the rest.
func TestNoPartOfATokenPassesWhereAResponseIsCut(t *testing.T) {
	for spelling, text := range spellings() {
		for know, h := range hiding() {
			body := `{"id":"p","webhook":"` + text + `","x":1}`
			want, _ := h.Conceal([]byte(body))
			for cut := 0; cut <= len(body); cut += 1 + len(body)/80 {
				var out []byte
				c := Writer{h: h, emit: func(p []byte) error { out = append(out, p...); return nil }}
				_, _ = c.Write([]byte(body[:cut/2]))
				for i := cut / 2; i < cut; i += 3 {
					_, _ = c.Write([]byte(body[i:min(i+3, cut)]))
				}
				_ = c.Close()
				if len(out) != cut {
					t.Fatalf("%s, %s: %d bytes of %d passed", spelling, know, len(out), cut)
				}
				for i := range out {
					if out[i] != want[i] && out[i] != '*' && body[i] != out[i] {
						t.Fatalf("%s, %s, cut at %d: got %q", spelling, know, cut, out)
					}
				}
				if shown := longestShown(spelling, string(out)); shown > minToken {
					t.Fatalf("%s, %s, cut at %d: %d characters of the token are in %q", spelling, know, cut, shown, out)
				}
			}
		}
	}
}

// longestShown is how many characters of the token, from its first, a text shows.
func longestShown(spelling, text string) int {
	whole := spellings()[spelling]
	var ends []int // of each character
	for i := 0; i < len(whole); {
		_, width, v := symbol([]byte(whole[i:]))
		if v != yes {
			break
		}
		i += width
		ends = append(ends, i)
	}
	start := ends[len(callbackURL)]
	for n := TokenLen; n > 0; n-- {
		if strings.Contains(text, whole[start:ends[len(callbackURL)+n]]) {
			return n
		}
	}
	return 0
}

// FuzzConceal holds that the pieces in which a text comes change nothing, nor its
// length, and that nothing hidden is left.
func FuzzConceal(f *testing.F) {
	for _, text := range spellings() {
		f.Add([]byte(`{"webhook":"`+text+`"}`), uint8(7))
		f.Add([]byte(text), uint8(1))
	}
	f.Fuzz(func(t *testing.T, text []byte, size uint8) {
		for know, h := range hiding() {
			want, _ := h.Conceal(text)
			if len(want) != len(text) || bytes.Contains(want, []byte(fakeToken)) && know == "token" || bytes.Contains(want, []byte(secretURL+`"`)) {
				t.Fatalf("%s: %q became %q", know, text, want)
			}
			var out []byte
			c := Writer{h: h, emit: func(p []byte) error { out = append(out, p...); return nil }}
			for rest := text; len(rest) > 0; {
				n := min(len(rest), int(size)+1)
				if _, err := c.Write(rest[:n:n]); err != nil {
					t.Fatal(err)
				}
				if len(c.tail) > 40*(len(h.Base)+TokenLen+2) {
					t.Fatalf("%d bytes are held", len(c.tail))
				}
				rest = rest[n:]
			}
			if err := c.Close(); err != nil || !bytes.Equal(out, want) {
				t.Fatalf("%s: in pieces of %d, %q became %q, want %q", know, size, text, out, want)
			}
		}
	})
}

func BenchmarkConceal(b *testing.B) {
	body := []byte(`{"output":"data:image/png;base64,` + strings.Repeat("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg/h", 10_000) + `"}`)
	for know, h := range hiding() {
		b.Run(know, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				if _, found := h.Conceal(body); found {
					b.Fatal("found")
				}
			}
		})
	}
}
