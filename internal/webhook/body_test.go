package webhook_test

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

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-replicate/replicate-webhook/internal/body"
	"github.com/caddy-replicate/replicate-webhook/internal/webhook"
)

// TestUnreadableBodies: each way in which a body can end too early has a reason of
// its own, with the status that the sender gets.
func TestUnreadableBodies(t *testing.T) {
	for name, c := range map[string]struct {
		err    error
		status int
		reason string
	}{
		"another handler's limit":        {&http.MaxBytesError{Limit: 7}, 413, "outer_limit"},
		"the same as a handler's error":  {caddyhttp.Error(413, &http.MaxBytesError{Limit: 7}), 413, "outer_limit"},
		"another handler's error":        {caddyhttp.Error(422, errors.New("no")), 422, "outer_limit"},
		"a handler's error of no status": {caddyhttp.HandlerError{Err: errors.New("no")}, 400, "read"},
		"a timeout of the server":        {fmt.Errorf("read: %w", os.ErrDeadlineExceeded), 408, "read_timeout"},
		"the end of the connection":      {io.ErrUnexpectedEOF, 400, "incomplete"},
		"a reset":                        {fmt.Errorf("read: %w", syscall.ECONNRESET), 499, "client_gone"},
		"an encoding that is not valid":  {errors.New("malformed chunked encoding"), 400, "read"},
	} {
		t.Run(name, func(t *testing.T) {
			broken := io.MultiReader(bytes.NewReader([]byte("abc")), iotest.ErrReader(c.err))
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", broken)
			w := httptest.NewRecorder()
			_, refused := webhook.ReadBody(w, r, 100, time.Hour, body.NewBudget(1<<20).For("192.0.2.1"))
			if refused == nil || refused.Status != c.status || refused.Reason != c.reason {
				t.Fatalf("got %+v, want %d for %s", refused, c.status, c.reason)
			}
			if w.Header().Get("Connection") != "close" {
				t.Error("the connection is kept with a body that is not at its end")
			}
		})
	}
}
