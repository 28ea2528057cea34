package edge

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"

	"github.com/caddy-replicate/replicate-webhook/internal/body"
)

// firstRead is the size of the buffer that a body begins with.
const firstRead = 16 << 10

// read reads the body within its limits of size, time and the budget.
func (q *request) read() *Refusal {
	var err error
	q.raw, err = body.Read(q.w, q.r, body.Limits{Size: q.MaxBody, Timeout: q.ReadTimeout, Charge: q.charge, First: firstRead})
	if err == nil {
		return nil
	}
	refused := q.unreadable(err)
	refused.Unread = true
	return refused
}

func (e *Edge) tooLarge() *Refusal {
	return &Refusal{
		Status: http.StatusRequestEntityTooLarge, Outcome: OutcomeTooLarge,
		Cause: fmt.Errorf("the body is over %d bytes: see max_body", e.MaxBody), Unread: true,
	}
}

// unreadable returns the refusal of a body that could not be read. Handlers before
// the edge may have limits of their own. Their status is kept, so that the log
// says what the sender got.
func (q *request) unreadable(err error) *Refusal {
	var limit *http.MaxBytesError
	switch {
	case errors.Is(err, body.ErrTooLarge):
		return q.tooLarge()
	case errors.Is(err, body.ErrBudget):
		return retryLater(OutcomeBudget, err, "1")
	case errors.As(err, &limit):
		return &Refusal{
			Status: http.StatusRequestEntityTooLarge, Outcome: OutcomeOuterLimit,
			Cause: fmt.Errorf("the body is over %d bytes, the limit of a handler before this one: see request_body", limit.Limit),
		}
	}
	if status := q.StatusOf(err); status >= 400 {
		return &Refusal{Status: status, Outcome: OutcomeOuterLimit, Cause: fmt.Errorf("a handler before this one ended the body: %w", err)}
	}
	switch {
	case errors.Is(err, body.ErrTimeout):
		return tooSlow("the body did not arrive in time: see read_timeout")
	case errors.Is(err, os.ErrDeadlineExceeded):
		return tooSlow("the body did not arrive in time: see the server's timeouts")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return invalid(OutcomeIncomplete, errors.New("the sender ended the connection before the end of the body"))
	case q.r.Context().Err() != nil, errors.Is(err, syscall.ECONNRESET), errors.Is(err, net.ErrClosed):
		return clientGone(fmt.Errorf("reading the body: %w", err))
	}
	return invalid(OutcomeRead, fmt.Errorf("reading the body: %w", err))
}

func tooSlow(why string) *Refusal {
	return &Refusal{Status: http.StatusRequestTimeout, Outcome: OutcomeReadTimeout, Cause: errors.New(why)}
}
