package sqlite

import (
	"bytes"
	"context"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// credentials selects the rows that have one: it is deleted with the terminal
// event.
const credentials = "FROM predictions INDEXED BY predictions_tracked WHERE happened < 2 AND credential IS NOT NULL"

// sealedValues implements store.Secrets.
type sealedValues struct{ s *Store }

// CountSealed implements store.Secrets.
func (w *sealedValues) CountSealed(ctx context.Context, n int) (map[string]int, error) {
	counts := make(map[string]int)
	secrets, err := w.sealedSecrets(ctx)
	if err != nil {
		return nil, err
	}
	for _, v := range secrets {
		counts[string(v.Sealed[:min(n, len(v.Sealed))])]++
	}
	rows, err := w.s.db.QueryContext(ctx, "SELECT substr(credential, 1, ?1) AS prefix, count(*) "+credentials+" GROUP BY prefix"+
		" UNION ALL SELECT substr(answer, 1, ?1) AS prefix, count(*) FROM creates WHERE answer IS NOT NULL GROUP BY prefix", n)
	if err != nil {
		return nil, w.s.readError(err)
	}
	defer rows.Close()
	for rows.Next() {
		var prefix []byte
		var count int
		if err := rows.Scan(&prefix, &count); err != nil {
			return nil, w.s.readError(err)
		}
		counts[string(prefix)] += count
	}
	return counts, w.s.readError(rows.Err())
}

func (w *sealedValues) sealedSecrets(ctx context.Context) (values []store.SealedValue, err error) {
	if err := w.s.closed(); err != nil {
		return nil, err
	}
	rows, err := w.s.db.QueryContext(ctx, "SELECT name, sealed FROM secrets")
	if err != nil {
		return nil, w.s.readError(err)
	}
	defer rows.Close()
	for rows.Next() {
		var v store.SealedValue
		if err := rows.Scan(&v.Name, &v.Sealed); err != nil {
			return nil, w.s.readError(err)
		}
		if !store.IsMarker(v.Name) {
			values = append(values, v)
		}
	}
	return values, w.s.readError(rows.Err())
}

// ListSealed implements store.Secrets.
func (w *sealedValues) ListSealed(ctx context.Context, prefix []byte, after int64, limit int) (values []store.SealedValue, next int64, err error) {
	if after == 0 {
		secrets, err := w.sealedSecrets(ctx)
		if err != nil {
			return nil, 0, err
		}
		for _, v := range secrets {
			if !bytes.HasPrefix(v.Sealed, prefix) {
				values = append(values, v)
			}
		}
	} else if err := w.s.closed(); err != nil {
		return nil, 0, err
	}
	if after < 0 {
		return w.sealedAnswers(ctx, prefix, -after-1, limit)
	}
	rows, err := w.s.db.QueryContext(ctx, "SELECT ref, api, id, credential "+credentials+
		" AND ref > ? AND substr(credential, 1, ?) <> ? ORDER BY ref LIMIT ?", after, len(prefix), prefix, limit)
	if err != nil {
		return nil, 0, w.s.readError(err)
	}
	defer rows.Close()
	found := 0
	for ; rows.Next(); found++ {
		var v store.SealedValue
		if err := rows.Scan(&v.Ref, &v.API, &v.ID, &v.Sealed); err != nil {
			return nil, 0, w.s.readError(err)
		}
		values, next = append(values, v), v.Ref
	}
	if found < limit {
		next = -1 // responses follow
	}
	return values, next, w.s.readError(rows.Err())
}

// sealedAnswers lists responses to creates with a higher number. The after of those
// that follow number n is -n-1.
func (w *sealedValues) sealedAnswers(ctx context.Context, prefix []byte, after int64, limit int) (values []store.SealedValue, next int64, err error) {
	rows, err := w.s.db.QueryContext(ctx, "SELECT n, key, answer FROM creates WHERE n > ? AND answer IS NOT NULL AND substr(answer, 1, ?) <> ? ORDER BY n LIMIT ?",
		after, len(prefix), prefix, limit)
	if err != nil {
		return nil, 0, w.s.readError(err)
	}
	defer rows.Close()
	for rows.Next() {
		var v store.SealedValue
		var n int64
		var key []byte
		if err := rows.Scan(&n, &key, &v.Sealed); err != nil {
			return nil, 0, w.s.readError(err)
		}
		copy(v.Create[:], key)
		if values = append(values, v); len(values) == limit {
			next = -n - 1
		}
	}
	return values, next, w.s.readError(rows.Err())
}

// Reseal implements store.Secrets.
func (w *sealedValues) Reseal(ctx context.Context, values []store.Resealed) error {
	return w.s.commit(ctx, func(g *group) error {
		for _, v := range values {
			query, key := "UPDATE predictions SET credential = ?1 WHERE ref = ?2 AND credential = ?3", any(v.Ref)
			switch {
			case v.Ref != 0:
			case v.Create != store.Key{}:
				query, key = "UPDATE creates SET answer = ?1 WHERE key = ?2 AND answer = ?3", v.Create[:]
			default:
				query, key = "UPDATE secrets SET sealed = ?1 WHERE name = ?2 AND sealed = ?3", any(v.Name)
			}
			if err := g.exec(query, v.New, key, v.Sealed); err != nil {
				return err
			}
		}
		return nil
	})
}
