package body

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// TestReadStopsAtItsLimits returns the error of the limit that is reached, with
// what was read.
func TestReadStopsAtItsLimits(t *testing.T) {
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		body    io.Reader
		size    int64
		budget  int64
		timeout time.Duration
		want    []error
		got     int
	}{
		"in limits":                {body: strings.NewReader("abcdef"), size: 6, budget: 6, got: 6},
		"empty":                    {body: strings.NewReader(""), size: 6, budget: 6},
		"too large":                {body: strings.NewReader("abcdefg"), size: 6, budget: 7, want: []error{ErrTooLarge}, got: 7},
		"over the budget":          {body: strings.NewReader("abcdef"), size: 6, budget: 5, want: []error{ErrBudget}, got: 6},
		"over both":                {body: strings.NewReader("abcdefg"), size: 6, budget: 6, want: []error{ErrTooLarge, ErrBudget}, got: 7},
		"late":                     {body: strings.NewReader("abcdef"), size: 6, budget: 6, timeout: -1, want: []error{ErrTimeout, os.ErrDeadlineExceeded}, got: 4},
		"late, by the connection":  {body: iotest.ErrReader(os.ErrDeadlineExceeded), size: 6, budget: 6, timeout: -1, want: []error{ErrTimeout}},
		"another deadline":         {body: iotest.ErrReader(os.ErrDeadlineExceeded), size: 6, budget: 6, want: []error{os.ErrDeadlineExceeded}},
		"the body's own error":     {body: io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(broken)), size: 6, budget: 6, want: []error{broken}, got: 3},
		"too large and broken":     {body: iotest.DataErrReader(io.MultiReader(strings.NewReader("abcdefg"), iotest.ErrReader(broken))), size: 6, budget: 8, want: []error{ErrTooLarge, broken}, got: 7},
		"in pieces":                {body: iotest.OneByteReader(strings.NewReader("abcdef")), size: 6, budget: 6, got: 6},
		"in pieces, and too large": {body: iotest.OneByteReader(strings.NewReader("abcdefgh")), size: 6, budget: 7, want: []error{ErrTooLarge}, got: 7},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", io.NopCloser(c.body))
			r.ContentLength = -1
			if c.timeout == 0 {
				c.timeout = time.Hour
			}
			charge := NewBudget(clientShares * c.budget).For("192.0.2.1")
			got, err := Read(httptest.NewRecorder(), r, Limits{Size: c.size, Timeout: c.timeout, Charge: charge, First: 4})
			if len(got) != c.got || err == nil != (len(c.want) == 0) {
				t.Fatalf("got %q, %v", got, err)
			}
			for _, want := range c.want {
				if !errors.Is(err, want) {
					t.Errorf("the error is %v, want %v", err, want)
				}
			}
			if name == "another deadline" && errors.Is(err, ErrTimeout) {
				t.Error("a deadline of the server's counts as the limit's")
			}
		})
	}
}

// TestReadEndsWithASenderThatSendsNothing: the time limit holds on a connection
// over which nothing comes any more.
func TestReadEndsWithASenderThatSendsNothing(t *testing.T) {
	result := make(chan error, 1)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := Read(w, r, Limits{Size: 100, Timeout: 50 * time.Millisecond, Charge: NewBudget(clientShares * 100).For("192.0.2.1"), First: 4})
		result <- err
	}))
	t.Cleanup(s.Close)
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // before the server is closed
	if _, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc"); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-result:
		if !errors.Is(err, ErrTimeout) {
			t.Errorf("got %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the body is still waited for")
	}
}
