package edge

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/body"
)

// statusError is an error of another handler, with a status.
type statusError struct {
	status int
	error
}

func (e statusError) Unwrap() error { return e.error }

func statusOf(err error) int {
	var s statusError
	_ = errors.As(err, &s)
	return s.status
}

// TestUnreadableBodies: each way in which a body can end too early has an outcome
// of its own, with the status that the sender gets.
func TestUnreadableBodies(t *testing.T) {
	for name, c := range map[string]struct {
		err     error
		status  int
		outcome Outcome
	}{
		"another handler's limit":        {&http.MaxBytesError{Limit: 7}, 413, OutcomeOuterLimit},
		"the same as a handler's error":  {statusError{413, &http.MaxBytesError{Limit: 7}}, 413, OutcomeOuterLimit},
		"another handler's error":        {statusError{422, errors.New("no")}, 422, OutcomeOuterLimit},
		"a handler's error of no status": {statusError{0, errors.New("no")}, 400, OutcomeRead},
		"a timeout of the server":        {fmt.Errorf("read: %w", os.ErrDeadlineExceeded), 408, OutcomeReadTimeout},
		"the end of the connection":      {io.ErrUnexpectedEOF, 400, OutcomeIncomplete},
		"a reset":                        {fmt.Errorf("read: %w", syscall.ECONNRESET), 499, OutcomeClientGone},
		"an encoding that is not valid":  {errors.New("malformed chunked encoding"), 400, OutcomeRead},
	} {
		t.Run(name, func(t *testing.T) {
			broken := io.MultiReader(bytes.NewReader([]byte("abc")), iotest.ErrReader(c.err))
			q := request{
				Edge:   New(Config{MaxBody: 100, ReadTimeout: time.Hour, StatusOf: statusOf}),
				w:      httptest.NewRecorder(),
				r:      httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", broken),
				charge: body.NewBudget(1 << 20).For("192.0.2.1"),
			}
			refused := q.read()
			if refused == nil || refused.Status != c.status || refused.Outcome != c.outcome {
				t.Fatalf("got %+v, want %d for %s", refused, c.status, c.outcome)
			}
			if !refused.Unread {
				t.Error("a body that is not at its end counts as read")
			}
		})
	}
}
