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
	// maxRead is how much of a response body is read. The connection of a
	// longer response is closed.
	maxRead = 64 << 10
	// maxKept is how much of the body is kept in the delivery log.
	maxKept = 4 << 10
	// maxLocation is how much of a redirect's target is quoted.
	maxLocation = 256
)

// result is the outcome of one delivery attempt.
type result struct {
	outcome    Outcome
	status     int           // 0 without a response
	response   string        // the beginning of the body
	text       string        // why it failed, for the client
	cause      error         // the same for the operator, where there is more to say
	retryAfter time.Duration // what the receiver asks for
	exception  bool          // see store.Attempt.Exception
	unsigned   bool          // nothing was sent: the secrets are not available now
	refused    bool          // see store.Outcome.Refused
	abandoned  bool          // it ended with its configuration, and says nothing
}

// failed records that an error ended the attempt.
func (r *result) failed(ctx context.Context, err error, at phase, timeout time.Duration) {
	if ctx.Err() == nil {
		timeout = 0
	}
	r.outcome, r.text = explain(err, at, timeout)
	r.cause = err
}

// final reports that no other attempt follows, whatever the schedule says.
func (r *result) final() bool { return r.outcome.success() || r.outcome == OutcomeGone }

// err returns the failure as an error, nil for a success.
func (r *result) err() error {
	switch {
	case r.outcome.success():
		return nil
	case r.cause != nil:
		return r.cause
	}
	return errors.New(r.text)
}

// read records a response and closes its body.
//
// The status decides. A body that is too long changes nothing, since the status
// said all. But a 2xx whose body breaks off or outlasts the attempt is not a
// complete response, and fails.
func (r *result) read(ctx context.Context, resp *http.Response, now time.Time, timeout time.Duration) {
	defer resp.Body.Close()
	r.status = resp.StatusCode
	r.outcome = ofStatus(r.status)
	// After 101 there is a connection, not a body.
	if r.status != http.StatusSwitchingProtocols {
		var err error
		r.response, err = readBody(resp)
		if err != nil && r.outcome.success() {
			r.failed(ctx, err, reading, timeout)
			return
		}
	}
	switch location := resp.Header.Get("Location"); {
	case r.outcome.success():
		if resp.Header.Get("X-Replicate-Duplicate") == "true" {
			r.outcome = OutcomeDuplicate
		}
		return
	case r.outcome == OutcomeRedirect && location != "" && !r.exception:
		r.text = "redirect to " + Printable([]byte(location[:min(len(location), maxLocation)]), true) + " not followed"
	case r.outcome == OutcomeRedirect && location != "":
		// The target of an internal receiver's redirect is for the operator
		// alone.
		r.text = "redirect not followed"
	default:
		r.text = "status " + strconv.Itoa(r.status)
	}
	r.retryAfter, _ = retryafter.Wait(resp.Header, now)
}

var buffers = sync.Pool{New: func() any { return new([maxKept]byte) }}

// readBody reads up to maxRead and returns the beginning as text. A connection
// can be used again only if the body was read to its end. Where the end is known
// to be beyond maxRead, readBody stops at once.
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
			return Printable(buf[:n], false), nil
		}
		if err != nil {
			return Printable(buf[:n], true), err
		}
	}
	text := Printable(buf[:n], true)
	if resp.ContentLength > maxRead {
		return text, nil
	}
	if _, err := io.CopyN(io.Discard, resp.Body, maxRead-maxKept); err != nil && err != io.EOF {
		return text, err
	}
	return text, nil
}

// Printable returns text that every store, terminal and web page accepts:
// invalid UTF-8 and control characters other than tab and line feed are replaced
// by U+FFFD, carriage returns are removed, and the text is at most maxKept bytes
// long. If the text was cut, half a character at its end is removed.
func Printable(b []byte, cut bool) string {
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

// trimPartial removes a character at the end whose last bytes are missing.
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
