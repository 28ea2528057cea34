package sqlite

import (
	"context"
	"errors"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// loadPolls reads which predictions are polled. All are due at once; the tracker
// limits how many it polls at a time.
func (t *tracker) loadPolls() error {
	rows, err := t.s.db.Query("SELECT ref FROM predictions INDEXED BY predictions_tracked WHERE happened < 2 AND poll_path <> ''")
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var ref int64
		if err := rows.Scan(&ref); err != nil {
			return err
		}
		t.s.polls.Add(ref)
	}
	return rows.Err()
}

// ClaimPolls implements store.Polls.
func (t *tracker) ClaimPolls(ctx context.Context, limit int) ([]store.Prediction, time.Time, error) {
	if err := t.s.closed(); err != nil {
		return nil, time.Time{}, err
	}
	taken, next := t.s.polls.Take(limit)
	out := make([]store.Prediction, 0, len(taken))
	for _, p := range taken {
		found, err := t.s.findPrediction(ctx, "ref = ?", p.Ref)
		if errors.Is(err, store.ErrNotFound) {
			t.s.polls.Remove(p.Ref)
			continue
		}
		if err != nil {
			again := t.s.opts.Now().Add(claimAgain)
			for _, p := range taken {
				t.s.polls.Again(p.Ref, again, p.Failures)
			}
			return nil, again, err
		}
		found.PollFailures, found.Watched = int(p.Failures), p.Watched
		out = append(out, found)
	}
	return out, next, nil
}

// PollAgain implements store.Polls. The due time is kept in memory: after a
// restart all polls are due.
func (t *tracker) PollAgain(_ context.Context, p store.Prediction, due time.Time) error {
	if err := t.s.closed(); err != nil {
		return err
	}
	if t.s.polls.Again(p.Ref, due, int32(p.PollFailures)) {
		t.s.queue.mu.Lock()
		t.s.queue.signal()
		t.s.queue.mu.Unlock()
	}
	return nil
}
