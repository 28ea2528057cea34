package ecmajson

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"testing"
)

type vector struct{ Name, Input, Output string }

func loadVectors(t testing.TB, name string) []vector {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	var vs []vector
	if err := json.Unmarshal(b, &vs); err != nil {
		t.Fatal(err)
	}
	if len(vs) == 0 {
		t.Fatalf("%s is empty", name)
	}
	return vs
}

func TestVectors(t *testing.T) {
	for _, v := range loadVectors(t, "jsonstringify.json") {
		t.Run(v.Name, func(t *testing.T) {
			src := []byte(v.Input)
			d, err := Parse(src, Limits{}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if string(d.Bytes()) != v.Output {
				t.Fatalf("got  %q\nwant %q", d.Bytes(), v.Output)
			}
			if string(src) != v.Input {
				t.Fatal("the source was changed")
			}
			if want := v.Input == v.Output; d.Canonical() != want {
				t.Errorf("Canonical is %v, want %v", d.Canonical(), want)
			}
			again, err := Parse([]byte(v.Output), Limits{}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if !again.Canonical() || string(again.Bytes()) != v.Output {
				t.Errorf("not a fixed point: %q", again.Bytes())
			}
		})
	}
}

func TestInvalidVectors(t *testing.T) {
	for _, v := range loadVectors(t, "jsonstringify-invalid.json") {
		t.Run(v.Name, func(t *testing.T) {
			d, err := Parse([]byte(v.Input), Limits{}, nil)
			if err == nil {
				t.Fatalf("accepted as %q", d.Bytes())
			}
			var se *SyntaxError
			if !errors.As(err, &se) {
				t.Fatalf("%v is no *SyntaxError", err)
			}
			if se.Offset < 0 || se.Offset > len(v.Input) || se.Msg == "" {
				t.Errorf("offset %d of %d, message %q", se.Offset, len(v.Input), se.Msg)
			}
			// What comes before the offset is a possible beginning: cut there, the
			// text only ends too early or is complete.
			if _, err := Parse([]byte(v.Input[:se.Offset]), Limits{}, nil); err != nil {
				var cut *SyntaxError
				if !errors.As(err, &cut) || cut.Offset != se.Offset {
					t.Errorf("offset %d, but the text before it fails with %v", se.Offset, err)
				}
			}
		})
	}
}

func TestSyntaxErrorOffset(t *testing.T) {
	for _, c := range []struct {
		name, in string
		off      int
		msg      string
	}{
		{"empty", "", 0, "unexpected end of text where a value should be"},
		{"byte order mark", "\ufeff{}", 0, "unexpected byte order mark where a value should be"},
		{"trailing comma", `[1,]`, 3, `unexpected ']' where a value should be`},
		{"trailing data", "{} {}", 3, `unexpected '{' after the value`},
		{"leading zero", "[01]", 2, `unexpected '1' after an array element`},
		{"literal name", "[nulL]", 4, `unexpected 'L' in a literal name`},
		{"cut literal name", "tru", 3, `unexpected end of text in a literal name`},
		{"control", "\"ab\ncd\"", 3, `unexpected '\n' in a string: controls have to be escaped`},
		{"hex digit", `"\u12g4"`, 5, `unexpected 'g' in an escape sequence: four hexadecimal digits have to follow \u`},
		{"second of a pair", `"\ud83d\u12x4"`, 11, `unexpected 'x' in an escape sequence: four hexadecimal digits have to follow \u`},
		{"escape", `"\a"`, 2, `unexpected 'a' in an escape sequence`},
		{"fraction", `1.`, 2, `unexpected end of text in a number`},
		{"no colon", `{"a" 1}`, 5, `unexpected '1' where a colon should be`},
		{"no key", `{"a":1,}`, 7, `unexpected '}' where a key should be`},
		{"no comma", `{"a":1 "b":2}`, 7, `unexpected '"' after an object member`},
		{"wrong bracket", `{"a":1]`, 6, `unexpected ']' after an object member`},
		{"outside of strings", "[\u00a01]", 1, `unexpected '\u00a0' where a value should be`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse([]byte(c.in), Limits{}, nil)
			var se *SyntaxError
			if !errors.As(err, &se) {
				t.Fatalf("got %v", err)
			}
			if se.Offset != c.off || se.Msg != c.msg {
				t.Errorf("got  %d %s\nwant %d %s", se.Offset, se.Msg, c.off, c.msg)
			}
		})
	}
}

func TestInvalidUTF8(t *testing.T) {
	for _, c := range []struct {
		name, in string
		off      string
	}{
		{"lone continuation", "\"\x80\"", "byte 1"},
		{"overlong slash", "\"ab\xc0\xaf\"", "byte 3"},
		{"overlong three", "\"\xe0\x80\xaf\"", "byte 1"},
		{"encoded high surrogate", "\"\xed\xa0\x80\"", "byte 1"},
		{"encoded low surrogate", "\"\xed\xbf\xbf\"", "byte 1"},
		{"encoded pair", "\"\xed\xa0\xbd\xed\xb8\x80\"", "byte 1"},
		{"beyond U+10FFFF", "\"\xf4\x90\x80\x80\"", "byte 1"},
		{"five bytes", "\"\xf8\x88\x80\x80\x80\"", "byte 1"},
		{"cut by the quote", "\"\xe6\x97\"", "byte 1"},
		{"cut by the end", "\"\xf0\x9f\x98", "byte 1"},
		{"after valid ones", "\"日本語\xff\"", "byte 10"},
		{"in a key", "{\"a\xff\":1}", "byte 3"},
		{"outside of strings", "[1,\xff]", "byte 3"},
		{"utf-16 mark", "\xff\xfe", "byte 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse([]byte(c.in), Limits{}, nil)
			if !errors.Is(err, ErrUTF8) {
				t.Fatalf("got %v", err)
			}
			if !bytes.HasSuffix([]byte(err.Error()), []byte(c.off)) {
				t.Errorf("%q does not end in %q", err, c.off)
			}
		})
	}
	t.Run("all valid code points", func(t *testing.T) {
		b := []byte{'"'}
		for r := rune(0x20); r <= 0x10ffff; r++ {
			if r != '"' && r != '\\' && !isSurrogate(r) {
				b = append(b, string(r)...)
			}
		}
		d, err := Parse(append(b, '"'), Limits{}, nil)
		if err != nil || !d.Canonical() {
			t.Fatalf("%v", err)
		}
	})
}
