package webhook

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-replicate/replicate-webhook/internal/budget"
)

// firstRead is the buffer a body starts with, unless it says it is shorter. It
// grows as bytes arrive, never because a header promises them.
const firstRead = 16 << 10

// ReadBody reads the body within its limits of size, time and the budget. The
// time limit stays on the connection unless the body was read to its end: of a
// request that is refused, net/http reads on before it closes the connection,
// for as long as it may.
func ReadBody(w http.ResponseWriter, r *http.Request, limit int64, timeout time.Duration, charge *budget.Charge) ([]byte, *Refusal) {
	deadline := LimitRead(w, timeout)
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
			// net/http watches the connection for its end while the app works.
			UnlimitRead(w)
			return body, nil
		case errors.Is(err, os.ErrDeadlineExceeded) || err == nil && !time.Now().Before(deadline):
			return nil, &Refusal{http.StatusRequestTimeout, "read_timeout", errors.New("the body did not arrive in time"), Closing()}
		case err != nil:
			return nil, &Refusal{http.StatusBadRequest, "read", fmt.Errorf("reading the body: %w", err), Closing()}
		}
	}
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
