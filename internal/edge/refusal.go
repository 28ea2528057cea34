package edge

import (
	"net/http"

	"github.com/caddy-replicate/replicate-webhook/internal/body"
)

// Refusal is the error of a request that was not forwarded, or whose response was
// withheld. The caller of Serve responds with it.
type Refusal struct {
	Status  int
	Outcome Outcome
	// Cause is for the log. A sender is not told.
	Cause error
	// Header is added to the response.
	Header map[string]string
	// Unread means that part of the request's body was not read.
	Unread bool
}

func (f *Refusal) Error() string { return f.Cause.Error() }

func (f *Refusal) Unwrap() error { return f.Cause }

// unauthorized returns a 401. A sender cannot tell one from another, except that
// those that are sent before the body was read end the connection.
func unauthorized(o Outcome, cause error) *Refusal {
	return &Refusal{Status: http.StatusUnauthorized, Outcome: o, Cause: cause}
}

// invalid returns the 400 of a request that is signed, but is not a webhook.
func invalid(o Outcome, cause error) *Refusal {
	return &Refusal{Status: http.StatusBadRequest, Outcome: o, Cause: cause}
}

// retryLater returns a 503.
func retryLater(o Outcome, cause error, seconds string) *Refusal {
	return &Refusal{Status: http.StatusServiceUnavailable, Outcome: o, Cause: cause, Header: map[string]string{"Retry-After": seconds}}
}

func storeUnavailable(cause error) *Refusal { return retryLater(OutcomeStore, cause, "5") }

// clientGone returns the refusal of a sender that no longer waits for a response.
func clientGone(cause error) *Refusal {
	return &Refusal{Status: body.StatusClientClosedRequest, Outcome: OutcomeClientGone, Cause: cause}
}
