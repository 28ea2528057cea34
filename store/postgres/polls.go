package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// Each tracked prediction is polled by one node: the one that tracked it, or the
// one that took it over from that. The node keeps in memory when a poll is due.

const readPredictions = "SELECT " + predictionColumns + " FROM webhook_predictions p WHERE p.ref = ANY($1)"

// ClaimPolls implements store.Polls.
func (k *tracker) ClaimPolls(ctx context.Context, limit int) ([]store.Prediction, time.Time, error) {
	if err := k.s.closed(); err != nil {
		return nil, time.Time{}, err
	}
	if err := k.s.available(); err != nil {
		return nil, k.s.opts.Now().Add(claimLater), err
	}
	taken, next := k.s.polls.Take(limit)
	if len(taken) == 0 {
		return nil, next, nil
	}
	refs := make([]int64, len(taken))
	for i, p := range taken {
		refs[i] = p.Ref
	}
	found := make(map[int64]store.Prediction, len(refs))
	me := k.s.nodes.id.Load()
	err := k.s.read(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		_, err := collect(ctx, conn, func(row pgx.CollectableRow) (bool, error) {
			p, poller, err := scanPrediction(row)
			if err == nil && poller == me && !p.Seen.Has(event.Terminal) {
				found[p.Ref] = p
			}
			return true, err
		}, readPredictions, refs)
		return err
	})
	if err != nil {
		again := k.s.opts.Now().Add(claimLater)
		for _, p := range taken {
			k.s.polls.Again(p.Ref, again, p.Failures)
		}
		return nil, again, err
	}
	out := make([]store.Prediction, 0, len(taken))
	for _, t := range taken {
		p, ok := found[t.Ref]
		if !ok {
			// Another node has observed its end, or polls it.
			k.s.polls.Remove(t.Ref)
			continue
		}
		p.PollFailures, p.Watched = int(t.Failures), t.Watched
		out = append(out, p)
	}
	return out, next, nil
}

// PollAgain implements store.Polls.
func (k *tracker) PollAgain(_ context.Context, p store.Prediction, due time.Time) error {
	if err := k.s.closed(); err != nil {
		return err
	}
	if k.s.polls.Again(p.Ref, due, int32(p.PollFailures)) {
		q := &k.s.queue
		q.mu.Lock()
		q.signal()
		q.mu.Unlock()
	}
	return nil
}
