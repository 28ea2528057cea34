package predictions

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/body"
)

// TestSlowBodiesGiveUpTheirShare: a sender that stops in the middle of a body,
// or sends it drop by drop, keeps what it takes of the budget for a time only.
func TestSlowBodiesGiveUpTheirShare(t *testing.T) {
	all := body.NewBudget(8 << 10)
	results := make(chan error, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := readBodyIn(w, r, 1<<20, 100*time.Millisecond, all.For(r.RemoteAddr))
		if err == nil {
			_ = b.Close()
		}
		results <- err
	}))
	defer server.Close()
	for _, drops := range []bool{false, true} {
		t.Run(fmt.Sprintf("drops=%v", drops), func(t *testing.T) {
			conn, err := net.Dial("tcp", server.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"+strings.Repeat("x", 512))
			var p *problem
			for drops {
				if _, err := io.WriteString(conn, "x"); err != nil {
					break
				}
				select {
				case err = <-results:
					drops = false
					results <- err
				case <-time.After(10 * time.Millisecond):
				}
			}
			if err := <-results; !errors.As(err, &p) || p.status != http.StatusRequestTimeout || !p.closing {
				t.Fatalf("got %v, want 408", err)
			}
			c := all.For("127.0.0.1:1")
			defer c.Return()
			if !c.Take(1 << 10) {
				t.Error("the share was not given back")
			}
		})
	}
}

// TestIdleBodiesCostLittle: what a header promises is not allocated.
func TestIdleBodiesCostLittle(t *testing.T) {
	for _, length := range []int64{-1, 1 << 30} {
		r, w := io.Pipe()
		sizes := make(chan int, 1)
		req := httptest.NewRequest(http.MethodPost, "/", sizeReader{r, sizes})
		req.ContentLength = length
		go func() { _ = w.Close() }()
		b, err := readBody(httptest.NewRecorder(), req, 1<<30, body.NewBudget(1<<30).For(""))
		if err != nil {
			t.Fatal(err)
		}
		_ = b.Close()
		if n := <-sizes; n > smallBody {
			t.Errorf("length %d: the first buffer has %d bytes", length, n)
		}
	}
}

// sizeReader tells how much was asked for first.
type sizeReader struct {
	io.Reader
	sizes chan int
}

func (s sizeReader) Read(p []byte) (int, error) {
	select {
	case s.sizes <- len(p):
	default:
	}
	return s.Reader.Read(p)
}

// TestBodyThatBreaksOffBeyondTheLimit is refused like one that breaks off before it:
// there is no rest of it for the API.
func TestBodyThatBreaksOffBeyondTheLimit(t *testing.T) {
	for want, r := range map[int]io.Reader{
		http.StatusBadRequest:            iotest.DataErrReader(io.MultiReader(strings.NewReader("abcdef"), iotest.ErrReader(io.ErrUnexpectedEOF))),
		http.StatusRequestEntityTooLarge: http.MaxBytesReader(nil, io.NopCloser(strings.NewReader("abcdefg")), 6),
	} {
		req := httptest.NewRequest(http.MethodPost, "/", r)
		req.ContentLength = -1
		all := body.NewBudget(8 << 10)
		_, err := readBody(httptest.NewRecorder(), req, 5, all.For(""))
		var p *problem
		if !errors.As(err, &p) || p.status != want || !p.closing {
			t.Errorf("got %v, want %d", err, want)
		}
		if !all.For("").Take(1 << 10) {
			t.Error("the share was not given back")
		}
	}
}
