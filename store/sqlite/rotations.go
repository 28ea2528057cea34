package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"sync"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/ledger"
)

// rotations implements store.Rotations.
type rotations struct {
	s    *Store
	mu   sync.Mutex
	list ledger.Rotations
}

var _ store.Rotations = (*rotations)(nil)

func scanRotation(rows *sql.Rows) (r store.Rotation, err error) {
	var until int64
	err = rows.Scan(&r.Generation, &r.Client, &until)
	r.Until = timeOf(until)
	return r, err
}

// readRotations reads rotations, which come newest first, and returns them with the
// newest generation.
func readRotations(rows *sql.Rows) (list ledger.Rotations, last int64, err error) {
	defer rows.Close()
	list = make(ledger.Rotations)
	for rows.Next() {
		r, err := scanRotation(rows)
		if err != nil {
			return nil, 0, err
		}
		list[r.Client] = append(list[r.Client], r)
		last = max(last, r.Generation)
	}
	return list, last, errors.Join(rows.Err(), rows.Close())
}

func (w *rotations) loadRotations(db *sql.DB) error {
	rows, err := db.Query("SELECT generation, client, until FROM rotations ORDER BY generation DESC")
	if err == nil {
		w.list, _, err = readRotations(rows)
	}
	return err
}

// RotateKey implements store.Rotations.
func (w *rotations) RotateKey(ctx context.Context, client string, overlap time.Duration) (store.Rotation, error) {
	if err := w.s.closed(); err != nil {
		return store.Rotation{}, err
	}
	var list []store.Rotation
	err := w.s.run(ctx, op{
		write: func(g *group) (err error) {
			list, err = g.rotate(client, overlap)
			return err
		},
		after: func() {
			if list == nil {
				return // it was refused
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			w.list[client] = list
		},
	})
	if err != nil {
		return store.Rotation{}, err
	}
	return list[0], nil
}

// rotate writes a rotation, and returns those of the client with it. It reads them
// from the file, which has those of the same transaction, too.
func (g *group) rotate(client string, overlap time.Duration) ([]store.Rotation, error) {
	rows, err := g.query("SELECT generation, client, until FROM rotations WHERE client IN (?, ?) OR generation = (SELECT max(generation) FROM rotations) ORDER BY generation DESC", client, store.EveryClient)
	if err != nil {
		return nil, err
	}
	stored, last, err := readRotations(rows)
	if err != nil {
		return nil, err
	}
	list, err := stored.Rotate(last, client, timeOf(g.now()), overlap)
	if err != nil {
		return nil, err
	}
	return list, errors.Join(
		g.exec("DELETE FROM rotations WHERE client = ? AND generation < ?", client, list[len(list)-1].Generation),
		g.exec("INSERT INTO rotations (generation, client, until) VALUES (?, ?, ?)", list[0].Generation, client, list[0].Until.UnixMilli()))
}

// KeyGenerations implements store.Rotations.
func (w *rotations) KeyGenerations(client string) []int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.list.Generations(client, w.s.opts.Now)
}
