package poller

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/prediction"
	"github.com/caddy-replicate/replicate-webhook/internal/retryafter"
	"github.com/caddy-replicate/replicate-webhook/internal/seal"
	"github.com/caddy-replicate/replicate-webhook/internal/upstream"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// finding is the kind of a poll's result.
type finding uint8

const (
	found              finding = iota // the prediction
	missing                           // 404
	refused                           // 401 or 403
	rateLimited                       // 429
	unavailable                       // no response, or 5xx
	unexpectedResponse                // any other response
	unreadable                        // not asked: its credential can't be opened
	noAPI                             // not asked: it has no API
	stopped                           // cut off by the end of Run
)

// result is the outcome of a poll.
type result struct {
	finding finding
	s       *prediction.Snapshot // of found
	status  int                  // of HTTP, 0 for none
	wait    time.Duration        // asked for by Retry-After
	err     error                // for the log; it holds no secret
	large   bool                 // a place in Poller.large is held
}

// reason returns what the last poll found, for a prediction's error.
func (r *result) reason() string {
	switch {
	case r.finding == found:
		return fmt.Sprintf("its status is still %q", r.s.Status)
	case r.finding == unreadable:
		return "the token to ask with could not be read"
	case r.finding == noAPI:
		return "no callback told of one"
	case r.finding == unexpectedResponse:
		return "the API's response was not the prediction"
	case r.status != 0:
		return fmt.Sprintf("the API responded with %d", r.status)
	}
	return "the API did not respond"
}

// ask makes one poll.
func (p *Poller) ask(ctx context.Context, pred *store.Prediction) result {
	if pred.API == "" {
		return result{finding: noAPI}
	}
	authorization, err := p.authorization(pred)
	if errors.Is(err, seal.ErrUnreadable) {
		// Asking without it would only count as an attack.
		return result{finding: unreadable, err: err}
	}
	p.polls.Add(1)
	resp, err := p.conf.Client.Get(ctx, pred.API+pred.PollPath, authorization, p.conf.UserAgent)
	if err != nil {
		if ctx.Err() != nil {
			return result{finding: stopped}
		}
		return result{finding: unavailable, err: err}
	}
	defer resp.Body.Close()
	r := result{finding: findingOf(resp.StatusCode), status: resp.StatusCode}
	if r.finding != found {
		r.wait = p.retryAfter(resp)
		return r
	}
	body, err := p.read(ctx, resp.Body, &r)
	if err == nil {
		r.s, err = prediction.ParseID(body, pred.ID)
	}
	switch r.err = err; {
	case err == nil:
	case ctx.Err() != nil:
		r.finding = stopped
	case errors.Is(err, upstream.ErrTooLarge), errors.Is(err, prediction.ErrUnexpected):
		r.finding = unexpectedResponse
	default:
		r.finding = unavailable
	}
	return r
}

// findingOf returns what a status says.
func findingOf(status int) finding {
	switch {
	case status == http.StatusOK:
		return found
	case status == http.StatusNotFound:
		return missing
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return refused
	case status == http.StatusTooManyRequests:
		return rateLimited
	case status >= 500:
		return unavailable
	}
	return unexpectedResponse
}

// retryAfter returns how long a response asks to wait: at least 1 s, or 0 if it
// does not ask. A 429 always asks.
func (p *Poller) retryAfter(resp *http.Response) time.Duration {
	wait, asked := retryafter.Wait(resp.Header, p.conf.Now())
	switch {
	case asked:
		return max(wait, time.Second)
	case resp.StatusCode == http.StatusTooManyRequests:
		return defaultRetryAfter
	}
	return 0
}

// Polls run side by side, so that their responses together could take any amount
// of memory. Beyond smallResponse bytes no more than maxLarge of them are held at
// once.
const (
	smallResponse = 1 << 20
	maxLarge      = 2
)

// read reads a response of at most upstream.MaxPrediction bytes. For a large one
// it takes a place in p.large, which the result holds on to.
func (p *Poller) read(ctx context.Context, r io.Reader, of *result) ([]byte, error) {
	body, err := upstream.ReadAll(r, smallResponse)
	if !errors.Is(err, upstream.ErrTooLarge) {
		return body, err
	}
	select {
	case p.large <- struct{}{}:
		of.large = true
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	rest, err := upstream.ReadAll(r, upstream.MaxPrediction-int64(len(body)))
	return append(body, rest...), err
}
