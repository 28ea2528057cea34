package main

import (
	"bufio"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestReadAnswer(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		want       response
		rest       string
	}{
		{"plain", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP", response{status: 200}, "HTTP"},
		{"duplicate", "HTTP/1.1 200 OK\r\nX-Replicate-Duplicate: true\r\ncontent-length: 0\r\n\r\n", response{status: 200, duplicate: true}, ""},
		{"closing", "HTTP/1.1 401 Unauthorized\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", response{status: 401, closing: true}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := bufio.NewReader(strings.NewReader(tc.text))
			got, length, err := readResponse(r)
			_, _ = r.Discard(length)
			if err != nil || got != tc.want {
				t.Fatalf("got %+v, %v, want %+v", got, err, tc.want)
			}
			if rest, _ := io.ReadAll(r); string(rest) != tc.rest {
				t.Errorf("%q is left over, want %q", rest, tc.rest)
			}
		})
	}
}

func TestReadAnswerRefusesWhatItCannotRead(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		want       error
	}{
		{"chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", errChunked},
		{"no length", "HTTP/1.1 200 OK\r\n\r\n", errNoLength},
		{"cut short", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no", io.EOF},
		{"nothing", "", io.EOF},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := &client{r: bufio.NewReader(strings.NewReader(tc.text))}
			_, length, err := readResponse(c.r)
			if err == nil {
				_, err = c.readBody(length)
			}
			if !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}
