package ecmajson

import "testing"

func TestAppendString(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"empty", "", `""`},
		{"short escapes", "\b\f\n\r\t\"\\/", `"\b\f\n\r\t\"\\/"`},
		{"controls", "\x00\x0b\x1f\x7f", "\"\\u0000\\u000b\\u001f\x7f\""},
		{"nothing else", "<>&'\u2028\u2029\ufeff😀", "\"<>&'\u2028\u2029\ufeff😀\""},
		{"invalid bytes", "a\xffb\xed\xa0\x80", "\"a\ufffdb\ufffd\ufffd\ufffd\""},
		{"replacement character itself", "\ufffd", "\"\ufffd\""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := string(AppendString([]byte("x"), c.in)); got != "x"+c.want {
				t.Errorf("got %s", got)
			}
		})
	}
}
