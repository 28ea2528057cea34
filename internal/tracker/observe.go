package tracker

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"

	"github.com/caddy-replicate/replicate-webhook/internal/lifecycle"
	"github.com/caddy-replicate/replicate-webhook/internal/prediction"
	"github.com/caddy-replicate/replicate-webhook/internal/upstream"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// Lookup returns a tracked prediction by its API and id. Errors:
// store.ErrNotFound, store.ErrUnavailable.
func (t *Tracker) Lookup(ctx context.Context, api, id string) (p store.Prediction, err error) {
	if !prediction.ValidID(id) {
		return p, store.ErrNotFound
	}
	err = t.use(func(s store.Store) error {
		p, err = s.Prediction(ctx, api, id)
		return err
	})
	return p, err
}

// CheckAccess asks the API whether the sender of headers h may see a prediction,
// see upstream.Client.CheckPrediction. It asks where the prediction was created,
// if it is tracked.
//
// Errors: those of CheckPrediction, store.ErrUnavailable.
func (t *Tracker) CheckAccess(ctx context.Context, api upstream.API, h http.Header, id string) error {
	path, err := t.pathOf(ctx, api, id)
	if err != nil {
		return err
	}
	return t.conf.Client.CheckPrediction(ctx, api, h, path, id)
}

// Fetch is CheckAccess that returns the prediction too, see
// upstream.Client.FetchPrediction.
//
// Errors: those of CheckAccess, upstream.ErrNoRoom.
func (t *Tracker) Fetch(ctx context.Context, api upstream.API, h http.Header, id string, take func(bytes int) bool) (*prediction.Snapshot, error) {
	path, err := t.pathOf(ctx, api, id)
	if err != nil {
		return nil, err
	}
	return t.conf.Client.FetchPrediction(ctx, api, h, path, id, take)
}

// pathOf returns where an API has a prediction.
func (t *Tracker) pathOf(ctx context.Context, api upstream.API, id string) (string, error) {
	if api.URL == "" {
		return "", upstream.ErrNoAPI
	}
	p, err := t.Lookup(ctx, api.URL, id)
	switch {
	case err == nil && p.PollPath != "":
		return p.PollPath, nil
	case err != nil && !errors.Is(err, store.ErrNotFound):
		return "", err
	}
	return Predictions + "/" + id, nil
}

// Observe commits what is new about p now that it was seen as s, and returns p as
// it is then. Most of the time nothing is new, and nothing is written. The commit
// is made also when ctx is cancelled.
//
// Errors: prediction.ErrUnexpected when s is another prediction,
// store.ErrUnavailable.
func (t *Tracker) Observe(ctx context.Context, p store.Prediction, s *prediction.Snapshot) (store.Prediction, error) {
	if s.ID != p.ID {
		return p, fmt.Errorf("observing prediction %s: %w", p.ID, prediction.ErrUnexpected)
	}
	events := lifecycle.Events(&p, s, t.conf.Now(), t.conf.Callback)
	if len(events) == 0 {
		return p, nil
	}
	err := t.commit(ctx, func(ctx context.Context, st store.Store) error {
		if err := st.Observe(ctx, p.Ref, p.ID, events); err != nil {
			return err
		}
		for _, e := range events {
			p.Seen |= e.Kind
		}
		// What follows for the webhook's status is for the store to say.
		// Not to know that yet is no failure: the events are committed.
		if now, err := st.Prediction(ctx, p.API, p.ID); err == nil {
			p = now
		}
		return nil
	})
	if err != nil {
		return p, fmt.Errorf("observing prediction %s: %w", p.ID, err)
	}
	return p, nil
}

// Callback takes the body of an API's own webhook, which named its prediction
// by token. Bodies that tell nothing new, because they are late or of a state
// in between, are accepted. When it returns nil, everything is committed.
//
// Errors: store.ErrNotFound for a token that is not known,
// prediction.ErrUnexpected for a body that is not the prediction's,
// store.ErrUnavailable.
func (t *Tracker) Callback(ctx context.Context, token string, body []byte) error {
	if len(token) != base64.RawURLEncoding.EncodedLen(tokenBytes) {
		return store.ErrNotFound
	}
	return t.commit(ctx, func(ctx context.Context, st store.Store) error {
		p, err := st.ByToken(ctx, tokenSum(token))
		if err != nil {
			return err
		}
		s, err := prediction.Parse(body)
		if err != nil {
			return fmt.Errorf("%w: %w", prediction.ErrUnexpected, err)
		}
		id := s.ID
		if id == "" {
			// The token has said which prediction it is; some servers
			// do not give ids.
			id = p.ID
		}
		if !prediction.ValidID(id) || p.ID != "" && id != p.ID {
			return fmt.Errorf("%w: its id is not that of the callback", prediction.ErrUnexpected)
		}
		events := lifecycle.Events(&p, s, t.conf.Now(), t.conf.Callback)
		if len(events) > 0 || p.ID == "" {
			if err := st.Observe(ctx, p.Ref, id, events); err != nil {
				return err
			}
			p.ID = id
		}
		t.progress(p, s)
		return nil
	})
}
