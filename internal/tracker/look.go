package tracker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/prediction"
	"github.com/caddy-replicate/replicate-webhook/internal/seal"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// found is what a poll found.
type found uint8

const (
	seen       found = iota // a prediction
	missing                 // 404
	refused                 // 401 or 403
	limited                 // 429
	unwell                  // no answer, or 5xx
	nonsense                // any other answer
	unreadable              // it could not be asked: its credential can't be opened
	unasked                 // it has no API
	stopped                 // cut off by Stop
)

// result is a poll's outcome.
type result struct {
	found  found
	s      *prediction.Snapshot // for seen
	status int                  // of HTTP, 0 for none
	wait   time.Duration        // asked for by Retry-After
	err    error                // for a log; it holds no secret
	big    bool                 // a place among the big answers is held
}

// why says in a prediction's error what the last poll found.
func (r *result) why() string {
	switch {
	case r.found == seen:
		return fmt.Sprintf("its status is still %q", r.s.Status)
	case r.found == unreadable:
		return "the token to ask with could not be read"
	case r.found == unasked:
		return "no callback told of one"
	case r.found == nonsense:
		return "the API's answer was not the prediction"
	case r.status != 0:
		return fmt.Sprintf("the API answered %d", r.status)
	}
	return "the API did not answer"
}

// askAbout makes one poll.
func (t *Tracker) askAbout(ctx context.Context, p *store.Prediction) result {
	if p.API == "" {
		return result{found: unasked}
	}
	authorization, err := t.authorization(p)
	if errors.Is(err, seal.ErrUnreadable) {
		// Asking without it would only count as an attack.
		return result{found: unreadable, err: err}
	}
	t.polls.Add(1)
	resp, err := t.get(ctx, p.API+p.PollPath, authorization, t.userAgent)
	if ctx.Err() != nil {
		if err == nil {
			_ = resp.Body.Close()
		}
		return result{found: stopped}
	}
	if err != nil {
		return result{found: unwell, err: err}
	}
	defer drop(resp)
	r := result{status: resp.StatusCode, wait: retryAfter(resp.Header, t.now())}
	switch {
	case r.status == http.StatusOK:
		r.wait = 0
	case r.status == http.StatusNotFound:
		r.found = missing
		return r
	case r.status == http.StatusUnauthorized, r.status == http.StatusForbidden:
		r.found = refused
		return r
	case r.status == http.StatusTooManyRequests:
		r.found = limited
		if r.wait == 0 {
			r.wait = defaultPause
		}
		return r
	case r.status >= 500:
		r.found = unwell
		return r
	default:
		r.found = nonsense
		return r
	}
	body, err := t.readAnswer(ctx, resp.Body, &r)
	switch {
	case ctx.Err() != nil:
		r.found = stopped
	case errors.Is(err, errTooLarge):
		r.found, r.err = nonsense, err
	case err != nil:
		r.found, r.err = unwell, err
	default:
		r.s, r.err = prediction.Parse(body)
		if r.err == nil && r.s.ID != p.ID {
			r.s, r.err = nil, fmt.Errorf("%w: its id is another", ErrNonsense)
		}
		if r.err != nil {
			r.found = nonsense
		}
	}
	return r
}

// Polls run side by side, so that their answers together could take any amount
// of memory. Beyond smallAnswer bytes they are read and kept by so many at a time.
const (
	smallAnswer = 1 << 20
	bigAnswers  = 2
)

// readAnswer reads a poll's answer of at most maxPrediction bytes. For a big one
// it takes a place that its result holds on to.
func (t *Tracker) readAnswer(ctx context.Context, r io.Reader, of *result) ([]byte, error) {
	body, err := readAll(r, smallAnswer)
	if !errors.Is(err, errTooLarge) {
		return body, err
	}
	select {
	case t.big <- struct{}{}:
		of.big = true
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	rest, err := readAll(r, maxPrediction-int64(len(body)))
	return append(body, rest...), err
}
