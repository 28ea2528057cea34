package upstream

import (
	"errors"
	"fmt"
	"net/http"
)

var (
	// ErrFailed: the API could not be asked, or gave no usable response.
	ErrFailed = errors.New("asking the prediction API")
	// ErrNoAPI: the configuration says that there is no API to ask.
	ErrNoAPI = errors.New("there is no prediction API to ask")
	// ErrNoRoom: the budget has no room for a response.
	ErrNoRoom = errors.New("no room for a response of the prediction API")
	// ErrTooLarge: the response is larger than anything that is read.
	ErrTooLarge = errors.New("the response is too large")
)

// Refusal is the API's own refusal, to be passed back to the client.
type Refusal struct {
	// Status is 400 to 499.
	Status int
	// Header has Content-Type, Retry-After and WWW-Authenticate, where the
	// API sent them.
	Header http.Header
	// Body is at most 64 KiB.
	Body []byte
}

// Error names the status.
func (r *Refusal) Error() string {
	return fmt.Sprintf("the prediction API responded with %d", r.Status)
}

// problem returns a refusal that the API need not be asked for.
func problem(status int, detail string) *Refusal {
	return &Refusal{
		Status: status,
		Header: http.Header{"Content-Type": {"application/problem+json"}},
		Body:   fmt.Appendf(nil, `{"title":%q,"detail":%q,"status":%d}`, http.StatusText(status), detail, status),
	}
}

// Error is the error of an API that could not be asked, or sent no usable response. It is
// ErrFailed.
type Error struct {
	// API and Path are what was asked for.
	API, Path string
	// Status is that of the response, 0 where there was none.
	Status int
	// Err is the cause, nil where the status says it.
	Err error
}

// Error names the API, the path, and the status or what went wrong.
func (e *Error) Error() string {
	text := fmt.Sprintf("%v %s: GET %s", ErrFailed, e.API, e.Path)
	if e.Status != 0 {
		text += fmt.Sprintf(" (status %d)", e.Status)
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap returns ErrFailed and the cause.
func (e *Error) Unwrap() []error { return []error{ErrFailed, e.Err} }
