package predictions

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-replicate/replicate-webhook/internal/ecmajson"
	"github.com/caddy-replicate/replicate-webhook/internal/tracker"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// problem is an error as the API's clients know it:
//
//	{"title":"…","detail":"…","status":422}
//
// as application/problem+json (RFC 9457).
type problem struct {
	status int
	detail string // for clients
	// retry is how long to wait, in seconds, for a 429 or 503.
	retry int
	// closing ends the connection: part of the request is unread, and
	// net/http would otherwise read on before it answers.
	closing bool
	cause   error // for the log; nil where detail says it all
	// member is the member of ours that it is about, or empty.
	member string
}

func (p *problem) Error() string {
	if p.cause != nil {
		return p.cause.Error()
	}
	return p.detail
}

func (p *problem) Unwrap() error { return p.cause }

func unprocessable(format string, args ...any) *problem {
	return &problem{status: http.StatusUnprocessableEntity, detail: fmt.Sprintf(format, args...)}
}

func notFound(detail string) *problem {
	return &problem{status: http.StatusNotFound, detail: detail}
}

// storeRetry and budgetRetry are the Retry-After of 503s, in seconds.
const (
	storeRetry  = 5
	budgetRetry = 1
)

func (p *problem) write(w http.ResponseWriter) {
	body := []byte(`{"title":`)
	body = ecmajson.AppendString(body, http.StatusText(p.status))
	body = append(body, `,"detail":`...)
	body = ecmajson.AppendString(body, p.detail)
	body = append(body, `,"status":`...)
	body = strconv.AppendInt(body, int64(p.status), 10)
	body = append(body, '}', '\n')
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if p.retry > 0 {
		h.Set("Retry-After", strconv.Itoa(p.retry))
	}
	if p.closing {
		h.Set("Connection", "close")
	}
	w.WriteHeader(p.status)
	_, _ = w.Write(body)
}

// problemOf is err as a client may see it. What is wrong inside is not the
// client's business, so the details are our own words.
func problemOf(err error) *problem {
	var p *problem
	switch {
	case errors.As(err, &p):
		return p
	case errors.Is(err, tracker.ErrNoUpstream):
		return &problem{status: http.StatusNotImplemented, cause: err,
			detail: "this API can't be asked who may see a prediction, so this request is not available"}
	case errors.Is(err, tracker.ErrUpstream):
		return &problem{status: http.StatusBadGateway, detail: "the prediction API could not be asked", cause: err}
	case errors.Is(err, store.ErrNotFound):
		return &problem{status: http.StatusNotFound, detail: "there is no such prediction with a webhook", cause: err}
	case errors.Is(err, store.ErrDisabled):
		return &problem{status: http.StatusConflict, detail: "the webhook of the prediction is disabled", cause: err}
	}
	// store.ErrUnavailable, and whatever else keeps us from committing.
	return &problem{status: http.StatusServiceUnavailable, retry: storeRetry,
		detail: "webhooks can't be stored at the moment", cause: err}
}

// fail answers with an error. The API's own refusals are passed back as they
// are.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, err error) error {
	if errors.Is(err, context.Canceled) && r.Context().Err() != nil {
		w.WriteHeader(statusClientGone)
		return nil
	}
	if c := h.logger.Check(zapcore.DebugLevel, "request refused"); c != nil {
		c.Write(zap.String("method", r.Method), zap.String("path", r.URL.Path), zap.Error(err))
	}
	var refused *tracker.Refused
	if errors.As(err, &refused) {
		header := w.Header()
		for name, values := range refused.Header {
			header[name] = values
		}
		header.Set("Content-Length", strconv.Itoa(len(refused.Body)))
		w.WriteHeader(refused.Status)
		_, _ = w.Write(refused.Body)
		return nil
	}
	p := problemOf(err)
	if p.status == http.StatusServiceUnavailable && p.cause != nil {
		h.logger.Error("answering 503", zap.String("path", r.URL.Path), zap.Error(err))
	}
	p.write(w)
	return nil
}

// statusClientGone is what Caddy logs for a request whose client went away.
const statusClientGone = 499
