package postgres

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/ledger"
)

// rotations implements store.Rotations.
type rotations struct {
	s *Store
	// loading is held while rotations are read, so that they are taken in in
	// order.
	loading sync.Mutex

	mu sync.Mutex
	// list is by the clock of the database.
	list ledger.Rotations
	last int64 // the newest generation
}

var _ store.Rotations = (*rotations)(nil)

const (
	readRotations = "SELECT generation, client, until FROM webhook_rotations ORDER BY generation DESC"
	lastRotation  = "SELECT coalesce(max(generation), 0) FROM webhook_rotations"
	// insertRotation does nothing if another rotation was faster, and
	// dropRotations neither, then.
	insertRotation = "INSERT INTO webhook_rotations (generation, client, until) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"
	dropRotations  = `DELETE FROM webhook_rotations WHERE client = $2 AND generation < $4
		AND EXISTS (SELECT 1 FROM webhook_rotations WHERE generation = $1 AND client = $2 AND until = $3)`
)

// followRotations takes in what other nodes rotated.
func (w *rotations) followRotations() error {
	w.loading.Lock()
	defer w.loading.Unlock()
	return w.s.use(func(ctx context.Context, conn *pgx.Conn) error {
		last, err := collect(ctx, conn, pgx.RowTo[int64], lastRotation)
		if err != nil || last[0] == w.last {
			return err
		}
		return w.loadRotations(ctx, conn)
	})
}

// loadRotations reads all rotations. The caller holds loading.
func (w *rotations) loadRotations(ctx context.Context, conn *pgx.Conn) error {
	read, err := collect(ctx, conn, func(row pgx.CollectableRow) (r store.Rotation, err error) {
		var client []byte
		var until int64
		err = row.Scan(&r.Generation, &client, &until)
		r.Client, r.Until = string(client), timeOf(until)
		return r, err
	}, readRotations)
	if err != nil {
		return err
	}
	list, last := make(ledger.Rotations), int64(0)
	for _, r := range read {
		list[r.Client] = append(list[r.Client], r)
		last = max(last, r.Generation)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.list, w.last = list, last
	return nil
}

// RotateKey implements store.Rotations.
func (w *rotations) RotateKey(ctx context.Context, client string, overlap time.Duration) (store.Rotation, error) {
	w.loading.Lock()
	defer w.loading.Unlock()
	// made is what was tried last: it is there if the connection broke after it
	// was committed.
	var made store.Rotation
	err := w.s.read(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		for {
			if err := w.loadRotations(ctx, conn); err != nil {
				return err
			}
			for _, r := range w.list[client] {
				if made.Generation == r.Generation && made.Until.Equal(r.Until) {
					return nil
				}
			}
			list, err := w.list.Rotate(w.last, client, w.s.now(), overlap)
			if err != nil {
				return err
			}
			made = list[0]
			args := []any{made.Generation, []byte(client), made.Until.UnixMilli()}
			batch := newBatch()
			batch.Queue(insertRotation, args...)
			batch.Queue(dropRotations, append(args, list[len(list)-1].Generation)...)
			batch.Queue(noticePause, w.s.channel)
			if err := conn.SendBatch(ctx, batch).Close(); err != nil {
				return err
			}
		}
	})
	if err != nil {
		return store.Rotation{}, err
	}
	made.Until = w.s.fromDatabase(made.Until)
	return made, nil
}

// KeyGenerations implements store.Rotations.
func (w *rotations) KeyGenerations(client string) []int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.list.Generations(client, w.s.now)
}
