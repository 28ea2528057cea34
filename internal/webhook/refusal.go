// Package webhook verifies one webhook: from the body that arrived to what may
// be passed on.
package webhook

import (
	"fmt"
	"net/http"
)

// StatusClientGone is what Caddy logs for a request whose client went away.
const StatusClientGone = 499

// Refusal is a response that is given in place of passing a request on.
type Refusal struct {
	Status int
	// Reason is a short label, one of a bounded set.
	Reason string
	Cause  error
	Header map[string]string
}

func (f *Refusal) Error() string { return f.Cause.Error() }

func (f *Refusal) Unwrap() error { return f.Cause }

// Unauthorized is a 401. They all look the same to the sender, except that those
// given before the body was read end the connection.
func Unauthorized(reason string, cause error) *Refusal {
	return &Refusal{http.StatusUnauthorized, reason, cause, nil}
}

// Invalid is a 400: signed, but not a webhook.
func Invalid(reason string, cause error) *Refusal {
	return &Refusal{http.StatusBadRequest, reason, cause, nil}
}

// TooLarge is a 413.
func TooLarge(limit int64) *Refusal {
	return &Refusal{http.StatusRequestEntityTooLarge, "too_large", fmt.Errorf("the body is over %d bytes: see max_body", limit), nil}
}

// Busy is a 503 for want of buffer space.
func Busy(cause error) *Refusal {
	return &Refusal{http.StatusServiceUnavailable, "budget", cause, map[string]string{"Retry-After": "1"}}
}

// ClientGone is for a sender that no longer waits for a response.
func ClientGone(cause error) *Refusal {
	return &Refusal{StatusClientGone, "client_gone", cause, nil}
}
