package webhook

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-replicate/replicate-webhook/internal/body"
)

// firstRead is the buffer that a body begins with.
const firstRead = 16 << 10

// ReadBody reads the body within its limits of size, time and the budget. A body
// that is not read to its end is given up with its connection: see Abandon.
func ReadBody(w http.ResponseWriter, r *http.Request, limit int64, timeout time.Duration, charge *body.Charge) ([]byte, *Refusal) {
	raw, err := body.Read(w, r, body.Limits{Size: limit, Timeout: timeout, Charge: charge, First: firstRead})
	if err != nil {
		Abandon(w, r)
		return nil, unreadable(r, err, limit)
	}
	return raw, nil
}

// unreadable returns the refusal of a body that could not be read. Handlers before
// the edge may have limits of their own, whose status it keeps, so that the log
// says what the sender got.
func unreadable(r *http.Request, err error, limit int64) *Refusal {
	var tooLarge *http.MaxBytesError
	var before caddyhttp.HandlerError
	switch {
	case errors.Is(err, body.ErrTooLarge):
		return TooLarge(limit)
	case errors.Is(err, body.ErrBudget):
		return Busy(err)
	case errors.As(err, &tooLarge):
		return &Refusal{http.StatusRequestEntityTooLarge, "outer_limit",
			fmt.Errorf("the body is over %d bytes, the limit of a handler before this one: see request_body", tooLarge.Limit), nil}
	case errors.As(err, &before) && before.StatusCode >= 400:
		return &Refusal{before.StatusCode, "outer_limit", fmt.Errorf("a handler before this one ended the body: %w", err), nil}
	case errors.Is(err, body.ErrTimeout):
		return tooSlow("the body did not arrive in time: see read_timeout")
	case errors.Is(err, os.ErrDeadlineExceeded):
		return tooSlow("the body did not arrive in time: see the server's timeouts")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return Invalid("incomplete", errors.New("the sender ended the connection before the end of the body"))
	case r.Context().Err() != nil, errors.Is(err, syscall.ECONNRESET), errors.Is(err, net.ErrClosed):
		return ClientGone(fmt.Errorf("reading the body: %w", err))
	}
	return Invalid("read", fmt.Errorf("reading the body: %w", err))
}

func tooSlow(why string) *Refusal {
	return &Refusal{http.StatusRequestTimeout, "read_timeout", errors.New(why), nil}
}
