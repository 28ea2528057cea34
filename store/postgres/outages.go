package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/ledger"
)

// outages is the part of the store that implements store.Outages.
type outages struct{ s *Store }

// Outages implements store.Outages. They are those that any node has found.
func (w *outages) Outages(ctx context.Context) (out []store.Outage, err error) {
	err = w.s.read(ctx, func(ctx context.Context, conn *pgx.Conn) (err error) {
		out, err = collect(ctx, conn, func(row pgx.CollectableRow) (o store.Outage, err error) {
			var lane, reason []byte
			var since int64
			err = row.Scan(&lane, &since, &reason)
			o.Lane, o.Since, o.Reason = store.ParseLane(string(lane)), w.s.fromDatabase(timeOf(since)), string(reason)
			return o, err
		}, "SELECT lane, since, reason FROM webhook_outages")
		return err
	})
	return out, err
}

// BeginOutage implements store.Outages.
func (w *outages) BeginOutage(ctx context.Context, o store.Outage) error {
	return w.s.read(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return execute(ctx, conn, "INSERT INTO webhook_outages (lane, since, reason) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
			[]byte(o.Lane.String()), w.s.toDatabase(o.Since).UnixMilli(), []byte(o.Reason))
	})
}

// EndOutage implements store.Outages.
func (w *outages) EndOutage(ctx context.Context, lane store.Lane) error {
	return w.s.read(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return execute(ctx, conn, "DELETE FROM webhook_outages WHERE lane = $1", []byte(lane.String()))
	})
}

// Witness implements store.Outages. It is about all nodes together.
func (w *outages) Witness(ctx context.Context, grace time.Duration) (spans []store.Span, err error) {
	err = w.s.read(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		found, err := collect(ctx, conn, func(row pgx.CollectableRow) (p store.Span, err error) {
			var began, ended int64
			err = row.Scan(&began, &ended)
			p.Began, p.Ended = timeOf(began), timeOf(ended)
			return p, err
		}, "SELECT began, ended FROM webhook_presence ORDER BY began")
		if err != nil {
			return err
		}
		spans = store.Witnessed(found, timeOf(w.s.now().UnixMilli()), grace)
		spans = spans[max(0, len(spans)-ledger.MaxSpans):]
		last := spans[len(spans)-1]
		b := newBatch()
		b.Queue("DELETE FROM webhook_presence WHERE began < $1 OR began > $2", spans[0].Began.UnixMilli(), last.Began.UnixMilli())
		b.Queue("INSERT INTO webhook_presence (began, ended) VALUES ($1, $2) ON CONFLICT (began) DO UPDATE SET ended = excluded.ended",
			last.Began.UnixMilli(), last.Ended.UnixMilli())
		return conn.SendBatch(ctx, b).Close()
	})
	for i := range spans {
		spans[i].Began, spans[i].Ended = w.s.fromDatabase(spans[i].Began), w.s.fromDatabase(spans[i].Ended)
	}
	return spans, err
}
