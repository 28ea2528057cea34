package sqlite

import (
	"context"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/ledger"
)

// outages implements store.Outages.
type outages struct{ s *Store }

// Outages implements store.Outages.
func (w *outages) Outages(ctx context.Context) ([]store.Outage, error) {
	rows, err := w.s.db.QueryContext(ctx, "SELECT lane, since, reason FROM outages")
	if err != nil {
		return nil, w.s.readError(err)
	}
	defer rows.Close()
	var out []store.Outage
	for rows.Next() {
		var o store.Outage
		var lane string
		var since int64
		if err := rows.Scan(&lane, &since, &o.Reason); err != nil {
			return nil, w.s.readError(err)
		}
		o.Lane, o.Since = store.ParseLane(lane), timeOf(since)
		out = append(out, o)
	}
	return out, w.s.readError(rows.Err())
}

// BeginOutage implements store.Outages.
func (w *outages) BeginOutage(ctx context.Context, o store.Outage) error {
	return w.s.commit(ctx, func(g *group) error {
		return g.exec("INSERT INTO outages (lane, since, reason) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", o.Lane.String(), o.Since.UnixMilli(), o.Reason)
	})
}

// EndOutage implements store.Outages.
func (w *outages) EndOutage(ctx context.Context, lane store.Lane) error {
	return w.s.commit(ctx, func(g *group) error {
		return g.exec("DELETE FROM outages WHERE lane = ?", lane.String())
	})
}

// Witness implements store.Outages.
func (w *outages) Witness(ctx context.Context, grace time.Duration) (spans []store.Span, err error) {
	err = w.s.commit(ctx, func(g *group) error {
		spans = nil
		rows, err := g.query("SELECT began, ended FROM presence ORDER BY began")
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var began, ended int64
			if err := rows.Scan(&began, &ended); err != nil {
				return err
			}
			spans = append(spans, store.Span{Began: timeOf(began), Ended: timeOf(ended)})
		}
		if err := rows.Err(); err != nil {
			return err
		}
		spans = store.Witnessed(spans, timeOf(g.now()), grace)
		spans = spans[max(0, len(spans)-ledger.MaxSpans):]
		last := spans[len(spans)-1]
		if err := g.exec("DELETE FROM presence WHERE began < ?1 OR began > ?2", spans[0].Began.UnixMilli(), last.Began.UnixMilli()); err != nil {
			return err
		}
		return g.exec("INSERT INTO presence (began, ended) VALUES (?1, ?2) ON CONFLICT (began) DO UPDATE SET ended = ?2", last.Began.UnixMilli(), last.Ended.UnixMilli())
	})
	return spans, err
}
