// Package webhook verifies one webhook: from the body that arrived to what may
// be passed on.
package webhook

import (
	"errors"
	"fmt"
	"net/http"
)

// Refusal is an answer that is given in place of passing a request on.
type Refusal struct {
	Status int
	// Reason is a short label, one of a bounded set.
	Reason string
	Cause  error
	Header map[string]string
}

func (f *Refusal) Error() string { return f.Cause.Error() }

func (f *Refusal) Unwrap() error { return f.Cause }

// Closing ends the connection, since part of the body may be unread: net/http
// would otherwise read on before it answers. All 401s have it, so that they
// look the same.
func Closing() map[string]string { return map[string]string{"Connection": "close"} }

// Unauthorized is a 401. They all look the same to the sender.
func Unauthorized(reason string, cause error) *Refusal {
	return &Refusal{http.StatusUnauthorized, reason, cause, Closing()}
}

// Invalid is a 400: signed, but not a webhook.
func Invalid(reason string, cause error) *Refusal {
	return &Refusal{http.StatusBadRequest, reason, cause, nil}
}

// TooLarge is a 413.
func TooLarge(limit int64) *Refusal {
	return &Refusal{http.StatusRequestEntityTooLarge, "too_large", fmt.Errorf("the body is over %d bytes", limit), Closing()}
}

// Busy is a 503 for want of buffer space.
func Busy() *Refusal {
	return &Refusal{http.StatusServiceUnavailable, "budget", errors.New("too many request bytes are buffered: see body_budget"),
		map[string]string{"Retry-After": "1", "Connection": "close"}}
}
