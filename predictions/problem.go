package predictions

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-replicate/replicate-webhook/internal/body"
	"github.com/caddy-replicate/replicate-webhook/internal/ecmajson"
	"github.com/caddy-replicate/replicate-webhook/internal/upstream"
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
	// retry is the Retry-After of a 429 or 503, in seconds.
	retry int
	// closing ends the connection: part of the request is unread, and
	// net/http would otherwise read on before it responds.
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
	text := []byte(`{"title":`)
	text = ecmajson.AppendString(text, http.StatusText(p.status))
	text = append(text, `,"detail":`...)
	text = ecmajson.AppendString(text, p.detail)
	text = append(text, `,"status":`...)
	text = strconv.AppendInt(text, int64(p.status), 10)
	text = append(text, '}', '\n')
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Content-Length", strconv.Itoa(len(text)))
	if p.retry > 0 {
		h.Set("Retry-After", strconv.Itoa(p.retry))
	}
	if p.closing {
		body.CloseAfter(w)
	}
	w.WriteHeader(p.status)
	_, _ = w.Write(text)
}

// problemOf returns err as a client may see it. What is wrong inside is not the
// client's business, so the details are our own words.
func problemOf(err error) *problem {
	var p *problem
	if errors.As(err, &p) {
		return p
	}
	if p = keyProblem(err); p != nil {
		return p
	}
	switch {
	case errors.Is(err, upstream.ErrNoAPI):
		return &problem{status: http.StatusNotImplemented, cause: err,
			detail: "this API can't be asked who may see a prediction, so this request is not available"}
	case errors.Is(err, upstream.ErrFailed):
		return &problem{status: http.StatusBadGateway, detail: "the prediction API could not be asked" + failedRequest(err), cause: err}
	case errors.Is(err, upstream.ErrNoRoom):
		return &problem{status: http.StatusServiceUnavailable, retry: budgetRetry, detail: "too many bytes are being held at the moment", cause: err}
	case errors.Is(err, store.ErrNotFound):
		return &problem{status: http.StatusNotFound, detail: "there is no such prediction with a webhook", cause: err}
	case errors.Is(err, store.ErrDisabled):
		return &problem{status: http.StatusConflict, detail: "the webhook of the prediction is disabled", cause: err}
	}
	// store.ErrUnavailable, and whatever else keeps us from committing.
	return &problem{status: http.StatusServiceUnavailable, retry: storeRetry,
		detail: "webhooks can't be stored at the moment", cause: err}
}

// failedRequest describes the request that failed, as far as a client may know it.
func failedRequest(err error) string {
	var u *upstream.Error
	if !errors.As(err, &u) {
		return ""
	}
	// The path is that of the client's own request, or of its account.
	if u.Status == 0 {
		return ": no response to GET " + u.Path
	}
	return fmt.Sprintf(": its response to GET %s (status %d) is of no use", u.Path, u.Status)
}

// fail responds with an error. The API's own refusals are passed back as they
// are.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, err error) error {
	if errors.Is(err, context.Canceled) && r.Context().Err() != nil {
		w.WriteHeader(body.StatusClientClosedRequest)
		return nil
	}
	var refused *upstream.Refusal
	if errors.As(err, &refused) {
		h.logRefusal(r, "passing the prediction API's refusal back", refused.Status, "", err)
		header := w.Header()
		for name, values := range refused.Header {
			header[name] = values
		}
		body, _ := h.anyCallback().Conceal(refused.Body)
		header.Set("Content-Length", strconv.Itoa(len(body)))
		w.WriteHeader(refused.Status)
		_, _ = w.Write(body)
		return nil
	}
	p := problemOf(err)
	h.logRefusal(r, "request refused", p.status, p.about(), err)
	p.write(w)
	return nil
}

// about returns the member of ours that the problem is about, or empty.
func (p *problem) about() string {
	if p.member != "" {
		return p.member
	}
	for _, m := range [...]string{memberURL, nativeEvents, memberEvents, memberTest} {
		if strings.HasPrefix(p.detail, m) {
			return m
		}
	}
	return ""
}

// logRefusal logs why a request is refused: each kind once a minute, with the
// number of those that were left out, and all at DEBUG.
func (h *Handler) logRefusal(r *http.Request, what string, status int, member string, err error) {
	level := zapcore.WarnLevel
	skipped, ok := h.refusals.Allow(strconv.Itoa(status)+" "+member, time.Now())
	if !ok {
		level = zapcore.DebugLevel
	}
	if c := h.logger.Check(level, what); c != nil {
		api := h.upstream.URL
		if api == "" {
			api = apiOff
		}
		c.Write(zap.String("api", api), zap.Int("status", status), zap.String("member", member),
			zap.String("method", r.Method), zap.String("path", r.URL.Path), zap.Int("skipped", skipped), zap.Error(err))
	}
}
