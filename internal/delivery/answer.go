package delivery

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/caddy-replicate/replicate-webhook/internal/retryafter"
)

const (
	// maxRead is how much of an answer's body is read. A connection whose
	// answer is longer is closed.
	maxRead = 64 << 10
	// maxKept is how much of it is kept in the delivery log.
	maxKept = 4 << 10
	// maxLocation is how much of a redirect's target is quoted.
	maxLocation = 256
)

// answer is what came of an attempt.
type answer struct {
	kind       kind
	status     int           // 0 without an answer
	response   string        // the beginning of the body
	text       string        // why it failed, for the client
	cause      error         // the same for the operator, where there is more to say
	retryAfter time.Duration // what the receiver asks for
	exception  bool          // see store.Attempt.Exception
	unsigned   bool          // nothing was sent: the secrets can't be had now
}

// failed makes an answer of an error.
func (a *answer) failed(ctx context.Context, err error, at phase, timeout time.Duration) {
	if ctx.Err() == nil {
		timeout = 0
	}
	a.kind, a.text = explain(err, at, timeout)
	a.cause = err
}

// err is the failure as an error, nil for a success.
func (a *answer) err() error {
	switch {
	case a.kind.success():
		return nil
	case a.cause != nil:
		return a.cause
	}
	return errors.New(a.text)
}

// read takes in a response and closes its body.
//
// The status decides. A body that is too long changes nothing, since its sender
// has said what it had to; but a 2xx whose body breaks off or outlasts the
// attempt is no complete answer, and fails.
func (a *answer) read(ctx context.Context, resp *http.Response, now time.Time, timeout time.Duration) {
	defer resp.Body.Close()
	a.status = resp.StatusCode
	a.kind = ofStatus(a.status)
	// Behind 101 there is a connection, not a body.
	if a.status != http.StatusSwitchingProtocols {
		var err error
		a.response, err = readBody(resp)
		if err != nil && a.kind.success() {
			a.failed(ctx, err, reading, timeout)
			return
		}
	}
	switch location := resp.Header.Get("Location"); {
	case a.kind.success():
		if resp.Header.Get("X-Replicate-Duplicate") == "true" {
			a.kind = kindDuplicate
		}
		return
	case a.kind == kindRedirect && location != "" && !a.exception:
		a.text = "redirect to " + printable([]byte(location[:min(len(location), maxLocation)]), true) + " not followed"
	case a.kind == kindRedirect && location != "":
		// Where an internal receiver sends people is the operator's to know.
		a.text = "redirect not followed"
	default:
		a.text = "status " + strconv.Itoa(a.status)
	}
	a.retryAfter, _ = retryafter.Wait(resp.Header, now)
}

var buffers = sync.Pool{New: func() any { return new([maxKept]byte) }}

// readBody reads up to maxRead and gives the beginning as text. Reading on to
// the end is what lets the connection be used again; where the end is known to
// be out of reach it stops at once.
func readBody(resp *http.Response) (string, error) {
	if resp.ContentLength == 0 {
		return "", nil
	}
	buf := buffers.Get().(*[maxKept]byte)
	defer buffers.Put(buf)
	n := 0
	for n < len(buf) {
		m, err := resp.Body.Read(buf[n:])
		n += m
		if err == io.EOF {
			return printable(buf[:n], false), nil
		}
		if err != nil {
			return printable(buf[:n], true), err
		}
	}
	text := printable(buf[:n], true)
	if resp.ContentLength > maxRead {
		return text, nil
	}
	if _, err := io.CopyN(io.Discard, resp.Body, maxRead-maxKept); err != nil && err != io.EOF {
		return text, err
	}
	return text, nil
}

// printable makes text that every store, terminal and web page can take:
// invalid UTF-8 and control characters other than tab and line feed become
// U+FFFD, carriage returns go, and the result is at most maxKept bytes. The cut
// end of a text may be half a character, which goes too.
func printable(b []byte, cut bool) string {
	if cut {
		b = trimPartial(b)
	}
	plain := true
	for _, c := range b {
		if c >= utf8.RuneSelf || c == 0x7f || c < ' ' && c != '\n' && c != '\t' {
			plain = false
			break
		}
	}
	if plain {
		return string(b)
	}
	var out strings.Builder
	for len(b) > 0 {
		r, size := utf8.DecodeRune(b)
		b = b[size:]
		switch {
		case r == '\r':
			continue
		case unicode.IsControl(r) && r != '\n' && r != '\t':
			r = utf8.RuneError
		}
		if out.Len()+utf8.RuneLen(r) > maxKept {
			break
		}
		out.WriteRune(r)
	}
	return out.String()
}

// trimPartial takes off a character of which only the first bytes are there.
func trimPartial(b []byte) []byte {
	for i := len(b) - 1; i >= 0 && i >= len(b)-utf8.UTFMax; i-- {
		if utf8.RuneStart(b[i]) {
			if !utf8.FullRune(b[i:]) {
				return b[:i]
			}
			break
		}
	}
	return b
}
