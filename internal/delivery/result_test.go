package delivery

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"
)

func TestPrintable(t *testing.T) {
	for name, c := range map[string]struct {
		in   string
		cut  bool
		want string
	}{
		"plain":           {"OK\n\tyes", false, "OK\n\tyes"},
		"carriage return": {"a\r\nb", false, "a\nb"},
		"control":         {"a\x00\x1b[2Jb\x7f", false, "a\ufffd\ufffd[2Jb\ufffd"},
		"C1":              {"a\u0085b", false, "a\ufffdb"},
		"invalid":         {"a\xffb\xc3", false, "a\ufffdb\ufffd"},
		"cut character":   {"a€"[:3], true, "a"},
		"cut at its end":  {"a€", true, "a€"},
		"empty":           {"", true, ""},
		"only a start":    {"\xe2", true, ""},
		"continuations":   {"\x80\x80\x80\x80\x80", true, "\ufffd\ufffd\ufffd\ufffd\ufffd"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Printable([]byte(c.in), c.cut); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	if got := Printable([]byte(strings.Repeat("\xff", maxKept)), true); len(got) > maxKept || !utf8.ValidString(got) {
		t.Errorf("replacing grew the text to %d bytes", len(got))
	}
}

// counted counts what is read of a body.
type counted struct {
	io.Reader
	n      int
	closed bool
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += n
	return n, err
}
func (c *counted) Close() error { c.closed = true; return nil }

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

func TestReadBodyBounds(t *testing.T) {
	for name, c := range map[string]struct {
		body   io.Reader
		length int64
		read   int // at most
		kept   int
	}{
		"empty":           {strings.NewReader(""), 0, 0, 0},
		"short":           {strings.NewReader("hello"), 5, 5, 5},
		"in single bytes": {iotest.OneByteReader(strings.NewReader("hello")), -1, 5, 5},
		"4 KiB":           {strings.NewReader(strings.Repeat("x", maxKept)), -1, maxKept, maxKept},
		"40 KiB":          {strings.NewReader(strings.Repeat("x", 40<<10)), -1, 40 << 10, maxKept},
		"endless":         {endless{}, -1, maxRead, maxKept},
		"known too long":  {endless{}, 1 << 20, maxKept, maxKept},
	} {
		t.Run(name, func(t *testing.T) {
			body := &counted{Reader: c.body}
			text, err := readBody(&http.Response{Body: body, ContentLength: c.length})
			if err != nil || len(text) != c.kept || body.n > c.read {
				t.Errorf("kept %d, read %d, error %v", len(text), body.n, err)
			}
		})
	}
	broken := errors.New("broken")
	for _, after := range []int{0, 10, maxKept, maxKept + 10} {
		body := &counted{Reader: io.MultiReader(strings.NewReader(strings.Repeat("x", after)), iotest.ErrReader(broken))}
		if text, err := readBody(&http.Response{Body: body, ContentLength: -1}); !errors.Is(err, broken) || len(text) != min(after, maxKept) {
			t.Errorf("broken after %d: kept %d, error %v", after, len(text), err)
		}
	}
}
