package webhook

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-replicate/replicate-webhook/internal/budget"
)

// firstRead is the buffer a body starts with, unless it says it is shorter. It
// grows as bytes arrive, never because a header promises them.
const firstRead = 16 << 10

// ReadBody reads the body within its limits of size, time and the budget. A body
// that is not read to its end is given up with its connection: see Abandon.
func ReadBody(w http.ResponseWriter, r *http.Request, limit int64, timeout time.Duration, charge *budget.Charge) ([]byte, *Refusal) {
	deadline := LimitRead(w, timeout)
	body, refused := readAll(r, limit, deadline, charge)
	if refused != nil {
		Abandon(w, r)
		return nil, refused
	}
	// net/http watches the connection for its end while the app works.
	UnlimitRead(w)
	return body, nil
}

func readAll(r *http.Request, limit int64, deadline time.Time, charge *budget.Charge) ([]byte, *Refusal) {
	size := int64(firstRead)
	if r.ContentLength >= 0 {
		// One byte more than there is lets the last Read say so.
		size = min(size, r.ContentLength+1)
	}
	body := make([]byte, 0, size)
	for {
		if len(body) == cap(body) {
			body = slices.Grow(body, len(body))
		}
		n, err := r.Body.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		switch {
		case int64(len(body)) > limit:
			return nil, TooLarge(limit)
		case !charge.Take(n):
			return nil, Busy()
		case err == io.EOF:
			return body, nil
		case err != nil:
			return nil, unreadable(r, err, deadline)
		case !time.Now().Before(deadline):
			return nil, tooSlow("the body did not arrive in time: see read_timeout")
		}
	}
}

// unreadable returns the refusal of a body that could not be read. Handlers before
// the edge may have limits of their own, whose status it keeps, so that the log
// says what the sender got.
func unreadable(r *http.Request, err error, deadline time.Time) *Refusal {
	var tooLarge *http.MaxBytesError
	var before caddyhttp.HandlerError
	switch {
	case errors.As(err, &tooLarge):
		return &Refusal{http.StatusRequestEntityTooLarge, "outer_limit",
			fmt.Errorf("the body is over %d bytes, the limit of a handler before this one: see request_body", tooLarge.Limit), nil}
	case errors.As(err, &before) && before.StatusCode >= 400:
		return &Refusal{before.StatusCode, "outer_limit", fmt.Errorf("a handler before this one ended the body: %w", err), nil}
	case errors.Is(err, os.ErrDeadlineExceeded) && !time.Now().Before(deadline):
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

// LimitRead bounds the time for which the request's body is read.
func LimitRead(w http.ResponseWriter, timeout time.Duration) (deadline time.Time) {
	deadline = time.Now().Add(timeout)
	_ = http.NewResponseController(w).SetReadDeadline(deadline)
	return deadline
}

// UnlimitRead takes the bound away.
func UnlimitRead(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
}

// ClientAddress is the sender's address, as trusted_proxies have it.
func ClientAddress(r *http.Request) string {
	if ip, ok := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string); ok && ip != "" {
		return ip
	}
	return r.RemoteAddr
}
