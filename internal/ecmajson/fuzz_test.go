package ecmajson

import (
	"bytes"
	"encoding/json"
	"errors"
	"regexp"
	"testing"
)

// FuzzParse checks what has to hold for any text: an error of a known kind or a
// form that is a fixed point and valid JSON, with consistent selected values.
func FuzzParse(f *testing.F) {
	for _, v := range loadVectors(f, "jsonstringify.json") {
		f.Add([]byte(v.Input))
	}
	for _, v := range loadVectors(f, "jsonstringify-invalid.json") {
		f.Add([]byte(v.Input))
	}
	paths := [][]string{{"a"}, {"a", "b"}, {"a", "1"}, {"1"}, {"1", "1"}, {""}, {"", ""}, {"b"}, {"b", "a"}, {"event"}, {"prediction", "id"}}
	sel := NewSelector(paths...)
	lim := Limits{MaxDepth: 500, Members: true}
	f.Fuzz(func(t *testing.T, src []byte) {
		before := bytes.Clone(src)
		d, err := Parse(src, lim, sel)
		if !bytes.Equal(src, before) {
			t.Fatal("the source was changed")
		}
		valid := json.Valid(src)
		if err != nil {
			var se *SyntaxError
			switch {
			case errors.As(err, &se):
				if valid {
					t.Fatalf("refused valid text: %v", err)
				}
				if se.Offset < 0 || se.Offset > len(src) {
					t.Fatalf("offset %d of %d", se.Offset, len(src))
				}
			case !errors.Is(err, ErrUTF8) && !errors.Is(err, ErrDepth) && !errors.Is(err, ErrLiteral):
				t.Fatalf("unknown error %v", err)
			}
			return
		}
		if !valid || !json.Valid(d.Bytes()) {
			t.Fatalf("accepted %q as %q", src, d.Bytes())
		}
		if d.Canonical() != bytes.Equal(src, d.Bytes()) {
			t.Fatalf("Canonical is %v", d.Canonical())
		}
		again, err := Parse(d.Bytes(), lim, sel)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(again.Bytes(), d.Bytes()) || !again.Canonical() || again.Kind() == Missing {
			t.Fatalf("%q is no fixed point, becomes %q", d.Bytes(), again.Bytes())
		}
		if key, off, found := again.DuplicateKey(); found {
			t.Fatalf("%q repeated at %d of %q", key, off, d.Bytes())
		}
		if key, off, found := d.DuplicateKey(); found && keyAt(src, off) != key {
			t.Fatalf("no %q at %d", key, off)
		}
		sameValue(t, src, d.Bytes())
		for i := range paths {
			v, w := d.Value(i), again.Value(i)
			if !bytes.Equal(v.Raw(), w.Raw()) || v.Kind() == Missing != (v.Raw() == nil) {
				t.Fatalf("path %d is %q, then %q", i, v.Raw(), w.Raw())
			}
			if v.Kind() == Missing {
				continue
			}
			part, err := Parse(src[v.Start:v.End], lim, nil)
			if err != nil || !bytes.Equal(part.Bytes(), v.Raw()) || part.Kind() != v.Kind() {
				t.Fatalf("path %d is %q, on its own %q", i, v.Raw(), src[v.Start:v.End])
			}
		}
		for _, m := range d.Members() {
			if keyAt(src, m.KeyStart) != m.Key || !json.Valid(src[m.ValueStart:m.ValueEnd]) {
				t.Fatalf("member %+v", m)
			}
		}
	})
}

var longDigits = regexp.MustCompile(`[0-9.]{400}`)

// sameValue compares the meaning of a text and its form by encoding/json, which
// takes the last of repeated keys as well and orders keys on its own. Numbers it
// cannot hold or gets wrong for their length, and lone surrogates, which it
// replaces and so may make two keys one, are not compared.
func sameValue(t *testing.T, src, form []byte) {
	var a, b any
	if longDigits.Match(src) || json.Unmarshal(src, &a) != nil || bytes.Contains(form, []byte(`\ud`)) {
		return
	}
	if err := json.Unmarshal(form, &b); err != nil {
		t.Fatal(err)
	}
	x, errA := json.Marshal(a)
	y, errB := json.Marshal(b)
	if errA != nil || errB != nil {
		t.Fatal(errA, errB)
	}
	// encoding/json keeps the sign of zero.
	if !bytes.Equal(x, y) && !bytes.Contains(x, []byte("-0")) {
		t.Fatalf("%q means %s, its form %s", src, x, y)
	}
}
