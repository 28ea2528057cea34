package tracker

import (
	"context"
	"encoding/base64"
	"fmt"

	"github.com/caddy-replicate/replicate-webhook/internal/ecmajson"
	"github.com/caddy-replicate/replicate-webhook/internal/lifecycle"
	"github.com/caddy-replicate/replicate-webhook/internal/prediction"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// Lookup finds a tracked prediction by its API and id. Errors:
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

// Observe commits what is new about p now that it was seen as s, and gives p as
// it is then. Most of the time nothing is, and nothing is written. The commit
// is made also when ctx is cancelled.
//
// Errors: ErrNonsense when s is another prediction, store.ErrUnavailable.
func (t *Tracker) Observe(ctx context.Context, p store.Prediction, s *prediction.Snapshot) (store.Prediction, error) {
	if s.ID != p.ID {
		return p, fmt.Errorf("observing prediction %s: %w", p.ID, ErrNonsense)
	}
	happened := lifecycle.Happenings(&p, s, t.now())
	if len(happened) == 0 {
		return p, nil
	}
	err := t.commit(ctx, func(ctx context.Context, st store.Store) error {
		if err := st.Observe(ctx, p.Ref, p.ID, happened); err != nil {
			return err
		}
		for _, h := range happened {
			p.Happened |= h.Event
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
// Errors: store.ErrNotFound for a token that is not known, ErrNonsense for a
// body that is not the prediction's, store.ErrUnavailable.
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
			return fmt.Errorf("%w: %w", ErrNonsense, err)
		}
		id := s.ID
		if id == "" {
			// The token has said which prediction it is; some servers
			// do not give ids.
			id = p.ID
		}
		if !prediction.ValidID(id) || p.ID != "" && id != p.ID {
			return fmt.Errorf("%w: its id is not that of the callback", ErrNonsense)
		}
		happened := lifecycle.Happenings(&p, s, t.now())
		if len(happened) == 0 && p.ID != "" {
			return nil
		}
		return st.Observe(ctx, p.Ref, id, happened)
	})
}

// giveUp declares p failed for want of a final status.
func (t *Tracker) giveUp(ctx context.Context, st store.Store, p *store.Prediction, last *prediction.Snapshot, why string) error {
	s := prediction.Snapshot{ID: p.ID}
	if last != nil {
		s = *last
	}
	s.Status, s.Output = "failed", nil
	s.Error = ecmajson.AppendString(nil, fmt.Sprintf("tracking was given up: no final status within %s of creation (%s)", t.polling.GiveUp, why))
	s.CompletedAt = ""
	return st.Observe(ctx, p.Ref, p.ID, lifecycle.Happenings(p, &s, t.now()))
}
