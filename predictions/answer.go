package predictions

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
	"sync"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-replicate/replicate-webhook/internal/prediction"
)

// answerMode is what is done with an answer of the upstream.
type answerMode uint8

const (
	undecided answerMode = iota
	streaming            // it passes as it comes
	holding              // it is kept, until it is complete
	trailing             // it passes but for its last byte, and is scanned
)

// answer is the ResponseWriter behind which a prediction is expected. It holds
// what may be one, and lets everything else pass.
type answer struct {
	*caddyhttp.ResponseWriterWrapper
	// holds judges an answer by its header.
	holds func(status int, h http.Header) bool
	// limit is the largest answer held, in bytes. A larger one passes.
	limit int64
	// scan makes one that is larger pass in the mode trailing.
	scan bool

	mode   answerMode
	status int
	buf    *bytes.Buffer
	// scanner has seen what passed in the mode trailing.
	scanner *prediction.Scanner
	last    []byte // the byte kept back, or none
}

// holdsPrediction is the usual judgement: a success in JSON.
func holdsPrediction(status int, h http.Header) bool {
	return status >= 200 && status <= 299 && status != http.StatusNoContent && isJSON(h.Get("Content-Type"), false)
}

var answers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// keptAnswer is the largest buffer that goes back to the pool.
const keptAnswer = 256 << 10

func (h *Handler) newAnswer(w http.ResponseWriter, scan bool) *answer {
	return &answer{
		ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w},
		holds:                 holdsPrediction,
		limit:                 h.maxBody,
		scan:                  scan,
	}
}

// WriteHeader decides on the first final status. Informational ones pass.
func (a *answer) WriteHeader(status int) {
	if status < 200 && status != http.StatusSwitchingProtocols {
		a.ResponseWriterWrapper.WriteHeader(status)
		return
	}
	if a.mode != undecided {
		return
	}
	a.status = status
	if a.holds(status, a.Header()) {
		a.mode = holding
		a.buf = answers.Get().(*bytes.Buffer)
		return
	}
	a.mode = streaming
	a.ResponseWriterWrapper.WriteHeader(status)
}

func (a *answer) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	if a.mode == holding {
		if int64(a.buf.Len()+len(p)) <= a.limit {
			return a.buf.Write(p)
		}
		if err := a.overflow(); err != nil {
			return 0, err
		}
	}
	if a.mode == trailing {
		return a.trail(p)
	}
	return a.ResponseWriterWrapper.Write(p)
}

// overflow lets an answer go that turns out to be too large to hold.
func (a *answer) overflow() error {
	a.mode = streaming
	if a.scan {
		a.mode = trailing
		a.scanner = new(prediction.Scanner)
	}
	a.ResponseWriterWrapper.WriteHeader(a.status)
	held := a.buf.Bytes()
	defer a.free()
	var err error
	if a.mode == trailing {
		_, err = a.trail(held)
	} else {
		_, err = a.ResponseWriterWrapper.Write(held)
	}
	return err
}

// trail passes p on one byte late.
func (a *answer) trail(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	_, _ = a.scanner.Write(p)
	if err := a.finish(); err != nil {
		return 0, err
	}
	n := len(p) - 1
	if n > 0 {
		if n, err := a.ResponseWriterWrapper.Write(p[:n]); err != nil {
			return n, err
		}
	}
	a.last = append(a.last, p[n])
	return len(p), nil
}

// finish lets the byte go that was kept back.
func (a *answer) finish() error {
	if len(a.last) == 0 {
		return nil
	}
	_, err := a.ResponseWriterWrapper.Write(a.last)
	a.last = a.last[:0]
	return err
}

// ReadFrom keeps the fast path of copying an answer that passes.
func (a *answer) ReadFrom(r io.Reader) (int64, error) {
	a.WriteHeader(http.StatusOK)
	if a.mode == streaming {
		return a.ResponseWriterWrapper.ReadFrom(r)
	}
	return io.Copy(struct{ io.Writer }{a}, r)
}

// FlushError flushes what passes. What is held is not sent by a flush.
func (a *answer) FlushError() error {
	a.WriteHeader(http.StatusOK)
	if a.mode == holding {
		return nil
	}
	return http.NewResponseController(a.ResponseWriter).Flush()
}

// pass sends what was held as it came.
func (a *answer) pass() {
	a.ResponseWriterWrapper.WriteHeader(a.status)
	_, _ = a.ResponseWriterWrapper.Write(a.buf.Bytes())
	a.free()
}

// send sends body in the place of what was held.
func (a *answer) send(body []byte) {
	h := a.Header()
	for _, name := range []string{
		// They describe the bytes that are not sent.
		"Content-Encoding", "Etag", "Content-Digest", "Repr-Digest", "Digest", "Content-Md5", "Accept-Ranges",
		// The length is known: there is nothing for a trailer to follow.
		"Trailer",
	} {
		h.Del(name)
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	a.ResponseWriterWrapper.WriteHeader(a.status)
	_, _ = a.ResponseWriterWrapper.Write(body)
	a.free()
}

func (a *answer) free() {
	if a.buf != nil && a.buf.Cap() <= keptAnswer {
		a.buf.Reset()
		answers.Put(a.buf)
	}
	a.buf = nil
}

// Interface guards.
var (
	_ http.ResponseWriter = (*answer)(nil)
	_ io.ReaderFrom       = (*answer)(nil)
)
