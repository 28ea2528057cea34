package sqlite

import (
	"context"
	"database/sql"
	"errors"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// totals are running counts, so that reading them costs the same however much is
// stored. They are counted when the store is opened, and each transaction adds its
// changes when it is committed.
type totals struct {
	deliveries [len(store.Counts{}.Deliveries)]int64
	tracked    int64
}

// load counts what is stored. There may be many delivered ones: their number is
// that of all, which SQLite counts without reading rows, less that of the others and
// of the inbound events.
func (t *totals) load(db *sql.DB, events int64) error {
	rows, err := db.Query("SELECT state, count(*) FROM deliveries INDEXED BY deliveries_unsent WHERE state >= 2 AND n < " + firstEventText + " GROUP BY state")
	if err != nil {
		return err
	}
	defer rows.Close()
	var others int64
	for rows.Next() {
		var state int
		var n int64
		if err := rows.Scan(&state, &n); err != nil {
			return err
		}
		t.deliveries[state] = n
		others += n
	}
	var all int64
	if err := errors.Join(rows.Err(),
		db.QueryRow("SELECT count(*) FROM deliveries INDEXED BY deliveries_pending WHERE state = 0 AND n < "+firstEventText).Scan(&t.deliveries[store.DeliveryPending]),
		db.QueryRow("SELECT count(*) FROM predictions INDEXED BY predictions_tracked WHERE happened < 2 AND key IS NOT NULL").Scan(&t.tracked),
		db.QueryRow("SELECT count(*) FROM deliveries").Scan(&all),
	); err != nil {
		return err
	}
	t.deliveries[store.DeliveryDelivered] = all - events - others - t.deliveries[store.DeliveryPending]
	return nil
}

func (t *totals) add(o *totals) {
	for i := range t.deliveries {
		t.deliveries[i] += o.deliveries[i]
	}
	t.tracked += o.tracked
}

// Counts implements store.Inspector.
func (h *history) Counts(ctx context.Context) (store.Counts, error) {
	if err := h.s.closed(); err != nil {
		return store.Counts{}, err
	}
	var c store.Counts
	var oldest int64
	err := h.s.db.QueryRowContext(ctx, "SELECT created FROM deliveries INDEXED BY deliveries_pending WHERE state = 0 AND n < "+firstEventText+" ORDER BY n LIMIT 1").Scan(&oldest)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return c, h.s.readError(err)
	}
	c.OldestPending = timeOf(oldest)
	t := h.s.writer.counted()
	for i, n := range t.deliveries {
		c.Deliveries[i] = int(n)
	}
	c.Tracked = int(t.tracked)
	c.Entries = h.s.entries.count()
	return c, nil
}
