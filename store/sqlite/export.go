package sqlite

import (
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"

	"github.com/gofrs/flock"

	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/ledger"
	"github.com/caddy-replicate/replicate-webhook/store/internal/move"
)

// Export reads a whole file, for a copy. It holds the file's lock, so that no Caddy
// uses it meanwhile. It implements move.Source.
type Export struct {
	lock *flock.Flock
	db   *sql.DB
	// version is that of the file, which is not changed by being read.
	version int
}

// OpenExport opens an existing file. The errors are those of Open.
func OpenExport(path string) (*Export, error) {
	x := &Export{}
	err := func() (err error) {
		path, err := locate(path)
		if err != nil {
			return err
		}
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			return errors.New("is not there: name the file, which Caddy keeps as replicate_webhook/webhook.db in its data directory unless told otherwise")
		}
		if x.lock, err = lockFile(path); err != nil {
			return err
		}
		if err := prepareFile(path); err != nil {
			return err
		}
		if x.db, err = openDB(path); err != nil {
			return withRecoveryHint(err)
		}
		return withRecoveryHint(x.db.QueryRow("PRAGMA user_version").Scan(&x.version))
	}()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("store %s %w", path, err), x.Close())
	}
	return x, nil
}

// Close closes the file and unlocks it.
func (x *Export) Close() error {
	var errs []error
	if x.db != nil {
		errs = append(errs, x.db.Close())
	}
	if x.lock != nil {
		errs = append(errs, x.lock.Close())
	}
	return errors.Join(errs...)
}

// walk returns the rows of a query.
func walk[T any](x *Export, query string, scan func(*sql.Rows) (T, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		rows, err := x.db.Query(query)
		if err != nil {
			yield(none, withRecoveryHint(err))
			return
		}
		defer rows.Close()
		for rows.Next() {
			v, err := scan(rows)
			if !yield(v, withRecoveryHint(err)) || err != nil {
				return
			}
		}
		if err := rows.Err(); err != nil {
			yield(none, withRecoveryHint(err))
		}
	}
}

// Entries implements move.Source. An event may have been accepted, forgotten
// and accepted again: its newest entry counts.
func (x *Export) Entries() (iter.Seq2[move.Entry, error], error) {
	entries := make(map[store.Key]move.Entry)
	rows, err := x.db.Query("SELECT id, scope, expires, signed, sum, entries FROM dedup")
	if err != nil {
		return nil, withRecoveryHint(err)
	}
	defer rows.Close()
	for rows.Next() {
		var id, sum int64
		var scope string
		var row entryRow
		if err := rows.Scan(&id, &scope, &row.expires, &row.signed, &sum, &row.entries); err != nil {
			return nil, withRecoveryHint(err)
		}
		if row.sum(scope) != sum || len(row.entries)%entrySize != 0 {
			return nil, withRecoveryHint(&checksumError{id})
		}
		row.each(func(k store.Key, expires int64) {
			e := entries[k]
			entries[k] = move.Entry{Key: k, Scope: scope, Expires: max(e.Expires, expires), Signed: max(e.Signed, row.signed)}
		})
	}
	return func(yield func(move.Entry, error) bool) {
		for _, e := range entries {
			if !yield(e, nil) {
				return
			}
		}
	}, withRecoveryHint(rows.Err())
}

// Marks implements move.Source.
func (x *Export) Marks() iter.Seq2[move.Mark, error] {
	return walk(x, "SELECT scope, signed FROM purged", func(rows *sql.Rows) (m move.Mark, err error) {
		return m, rows.Scan(&m.Scope, &m.Signed)
	})
}

// Predictions implements move.Source.
func (x *Export) Predictions() iter.Seq2[store.Prediction, error] {
	return walk(x, "SELECT "+predictionColumns+" FROM predictions ORDER BY ref", func(rows *sql.Rows) (store.Prediction, error) {
		return scanPrediction(rows)
	})
}

// Payloads implements move.Source.
func (x *Export) Payloads() iter.Seq2[move.Payload, error] {
	return walk(x, "SELECT n, body FROM payloads ORDER BY n", func(rows *sql.Rows) (p move.Payload, err error) {
		return p, rows.Scan(&p.N, &p.Body)
	})
}

// Deliveries implements move.Source.
func (x *Export) Deliveries() iter.Seq2[move.Delivery, error] {
	payload := "d.payload" // which payload a delivery shares
	if x.version < 2 {
		payload = "0"
	}
	query := fmt.Sprintf(`SELECT d.n, d.nonce, d.prediction, d.event, d.redelivery, d.state, d.attempts, d.due, d.created, p.client, p.url, %[1]s
		FROM deliveries d JOIN predictions p ON p.ref = d.prediction WHERE EXISTS (SELECT 1 FROM payloads b WHERE b.n = iif(%[1]s = 0, d.n, %[1]s)) ORDER BY d.n`, payload)
	return walk(x, query, func(rows *sql.Rows) (d move.Delivery, err error) {
		var client, url string
		err = rows.Scan(&d.N, &d.Nonce, &d.Prediction, &d.Event, &d.Redelivery, &d.State, &d.Attempts, &d.Due, &d.Created, &client, &url, &d.Payload)
		d.Endpoint = store.LaneOf(client, url).String()
		return d, err
	})
}

// Events implements move.Source.
func (x *Export) Events() iter.Seq2[move.Event, error] {
	if x.version < 3 {
		return func(func(move.Event, error) bool) {}
	}
	return walk(x, `SELECT d.n, d.nonce, d.prediction, d.redelivery, d.state, d.attempts, d.due, d.created, s.scope, d.name, d.refusals, d.expires,
		b.prediction, max(d.n, d.place), b.since, b.overtaken, b.recorded, b.head, b.body
		FROM deliveries d JOIN inbound b ON b.n = d.n JOIN inboxes s ON s.id = d.scope ORDER BY d.n`, func(rows *sql.Rows) (e move.Event, err error) {
		d, in := &e.Delivery, &e.Inbound
		err = rows.Scan(&d.N, &d.Nonce, &d.Prediction, &d.Redelivery, &d.State, &d.Attempts, &d.Due, &d.Created, &in.Scope, &in.Name, &e.Refusals, &e.Expires,
			&in.PredictionID, &e.Place, &e.Since, &e.Overtaken, &e.Recorded, &in.Head, &in.Body)
		in.ID, in.Ordered = ledger.EventID(d.N, d.Nonce), ledger.IsOrdered(d.Prediction)
		return e, err
	})
}

// Pauses implements move.Source.
func (x *Export) Pauses() iter.Seq2[move.Pause, error] {
	if x.version < 3 {
		return func(func(move.Pause, error) bool) {}
	}
	return walk(x, "SELECT scope, began, ended FROM pauses ORDER BY scope, began", func(rows *sql.Rows) (p move.Pause, err error) {
		return p, rows.Scan(&p.Scope, &p.Began, &p.Ended)
	})
}

// Rotations implements move.Source.
func (x *Export) Rotations() iter.Seq2[store.Rotation, error] {
	if x.version < 3 {
		return func(func(store.Rotation, error) bool) {}
	}
	return walk(x, "SELECT generation, client, until FROM rotations ORDER BY generation", func(rows *sql.Rows) (store.Rotation, error) {
		return scanRotation(rows)
	})
}

// Attempts implements move.Source.
func (x *Export) Attempts() iter.Seq2[move.Attempt, error] {
	return walk(x, "SELECT id, delivery, prediction, event, url, status, number, at, took, response, error, exception FROM attempts ORDER BY id", func(rows *sql.Rows) (a move.Attempt, err error) {
		var at int64
		err = rows.Scan(&a.ID, &a.Delivery, &a.Prediction, &a.Event, &a.URL, &a.Status, &a.Number, &at, &a.Took, &a.Response, &a.Error, &a.Exception)
		a.At = timeOf(at)
		return a, err
	})
}

// Secrets implements move.Source.
func (x *Export) Secrets() iter.Seq2[move.Secret, error] {
	return walk(x, "SELECT name, sealed FROM secrets", func(rows *sql.Rows) (s move.Secret, err error) {
		return s, rows.Scan(&s.Name, &s.Sealed)
	})
}

// Creates implements move.Source.
func (x *Export) Creates() iter.Seq2[move.Create, error] {
	if x.version < 3 {
		return func(func(move.Create, error) bool) {}
	}
	return walk(x, "SELECT key, caller, digest, expires, nonce, ref, status, prediction, answer FROM creates ORDER BY n", func(rows *sql.Rows) (c move.Create, err error) {
		var key, caller, digest []byte
		err = rows.Scan(&key, &caller, &digest, &c.Expires, &c.Nonce, &c.Ref, &c.Status, &c.ID, &c.Sealed)
		copy(c.Key[:], key)
		copy(c.Caller[:], caller)
		copy(c.Digest[:], digest)
		return c, err
	})
}

// Interface guard.
var _ move.Source = (*Export)(nil)
