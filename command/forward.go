package command

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/caddy-replicate/replicate-webhook/admin/client"
	"github.com/caddy-replicate/replicate-webhook/internal/operator"
)

// forwardTimeout is how long the receiver of a forwarded event has to respond.
const forwardTimeout = time.Minute

// forwarded is the result of an event that was sent from here.
type forwarded struct {
	ID string `json:"id"`
	// Status is 0 where there was no response.
	Status  int     `json:"status"`
	Seconds float64 `json:"seconds"`
	Error   string  `json:"error,omitempty"`
}

// forward sends events to a URL: those named, or without any those that the filter
// selects, oldest first. It ends where nothing listens at the URL.
func forward(ctx context.Context, t *terminal, c *client.Client, q operator.EventQuery, ids []string, to string, dry bool) error {
	if err := checkTarget(to); err != nil {
		return fmt.Errorf("--forward-to: %w", err)
	}
	if len(ids) == 0 {
		var err error
		if ids, err = selected(ctx, c, q); err != nil {
			return err
		}
	}
	if dry {
		if !t.document(operator.EventBulk{Action: operator.ActionReplay, Matched: len(ids), Changed: len(ids), DryRun: true}) {
			t.printf("%d would be sent\n", len(ids))
		}
		return nil
	}
	receiver := newReceiverClient(false, forwardTimeout)
	defer receiver.CloseIdleConnections()
	refusals := 0
	done := []forwarded{}
	var failed error
	for _, id := range ids {
		r, err := c.ForwardRequest(ctx, id)
		if code := exitCode(err); code == exitNotFound || code == exitRefused {
			// Forgotten meanwhile, or without a body.
			failed = errors.Join(failed, notFound(fmt.Errorf("%s: %w", id, err), "event", id))
			continue
		}
		if err != nil {
			return err
		}
		resp, err := post(ctx, receiver, r.Method, to, r.Header, r.Body)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		out := forwarded{ID: id, Status: resp.Status, Seconds: resp.Seconds}
		if err != nil {
			out.Error = err.Error()
		}
		done = append(done, out)
		if !t.json {
			t.forwarded(&out)
			_ = t.flush()
		}
		if err != nil && resp.Status == 0 {
			failed = errors.Join(failed, refused("sending %s to %s: %w", id, to, err))
			break
		}
		if resp.Status < 200 || resp.Status > 299 {
			refusals++
		}
	}
	t.document(done)
	if refusals > 0 {
		failed = errors.Join(failed, refused("%d of %d events had no 2xx", refusals, len(done)))
	}
	return failed
}

// selected returns the ids of the events that a filter selects, oldest first.
func selected(ctx context.Context, c *client.Client, q operator.EventQuery) (ids []string, err error) {
	if q.State == "" {
		q.State = "failed"
	}
	q.Limit = operator.MaxLimit
	for {
		page, err := c.Events(ctx, q)
		if err != nil {
			return nil, err
		}
		for i := range page.Results {
			ids = append(ids, page.Results[i].ID)
		}
		if q.Cursor = page.Next; q.Cursor == "" {
			slices.Reverse(ids)
			return ids, nil
		}
	}
}

func (t *terminal) forwarded(f *forwarded) {
	text, c := fmt.Sprintf("%d %s", f.Status, http.StatusText(f.Status)), green
	if f.Status < 200 || f.Status > 299 {
		c = red
	}
	if f.Status == 0 {
		text = f.Error
	}
	t.printf("%s  %s  %dms\n", f.ID, t.paint(c, clean(text)), int(f.Seconds*1000))
}
