package postgres

import (
	"bytes"
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// credentials are the rows that have one: it is erased with the terminal event.
// They are found by the index of predictions that are asked for.
const credentials = "FROM webhook_predictions WHERE " + polled + " AND credential IS NOT NULL"

// sealedValues is the part of the store that implements store.Secrets but for Secret.
type sealedValues struct{ s *Store }

// CountSealed implements store.Secrets.
func (c *sealedValues) CountSealed(ctx context.Context, n int) (counts map[string]int, err error) {
	err = c.s.read(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		counts = make(map[string]int)
		secrets, err := sealedSecrets(ctx, conn)
		if err != nil {
			return err
		}
		for _, v := range secrets {
			counts[string(v.Sealed[:min(n, len(v.Sealed))])]++
		}
		rows, err := conn.Query(ctx, "SELECT substr(credential, 1, $1) AS prefix, count(*) "+credentials+" GROUP BY prefix"+
			" UNION ALL SELECT substr(answer, 1, $1) AS prefix, count(*) FROM webhook_creates WHERE answer IS NOT NULL GROUP BY prefix", n)
		if err != nil {
			return err
		}
		var prefix []byte
		var count int
		_, err = pgx.ForEachRow(rows, []any{&prefix, &count}, func() error {
			counts[string(prefix)] += count
			return nil
		})
		return err
	})
	return counts, err
}

func sealedSecrets(ctx context.Context, conn *pgx.Conn) (values []store.SealedValue, err error) {
	rows, err := conn.Query(ctx, "SELECT name, sealed FROM webhook_secrets")
	if err != nil {
		return nil, err
	}
	var v store.SealedValue
	_, err = pgx.ForEachRow(rows, []any{&v.Name, &v.Sealed}, func() error {
		if !store.IsMarker(v.Name) {
			values = append(values, store.SealedValue{Name: v.Name, Sealed: bytes.Clone(v.Sealed)})
		}
		return nil
	})
	return values, err
}

// ListSealed implements store.Secrets.
func (c *sealedValues) ListSealed(ctx context.Context, prefix []byte, after int64, limit int) (values []store.SealedValue, next int64, err error) {
	err = c.s.read(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		values, next = nil, 0
		if after == 0 {
			secrets, err := sealedSecrets(ctx, conn)
			if err != nil {
				return err
			}
			for _, v := range secrets {
				if !bytes.HasPrefix(v.Sealed, prefix) {
					values = append(values, v)
				}
			}
		}
		if after < 0 {
			var err error
			values, next, err = sealedAnswers(ctx, conn, prefix, -after-1, limit)
			return err
		}
		rows, err := conn.Query(ctx, "SELECT ref, api, id, credential "+credentials+
			" AND ref > $1 AND substr(credential, 1, $2) <> $3 ORDER BY ref LIMIT $4", after, len(prefix), prefix, limit)
		if err != nil {
			return err
		}
		found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (store.SealedValue, error) {
			var v store.SealedValue
			var api, id []byte
			err := row.Scan(&v.Ref, &api, &id, &v.Sealed)
			v.API, v.ID = string(api), string(id)
			return v, err
		})
		if next = -1; len(found) == limit && limit > 0 { // responses follow the last
			next = found[limit-1].Ref
		}
		values = append(values, found...)
		return err
	})
	return values, next, err
}

// sealedAnswers lists responses to creates with a higher number. The after of those
// that follow number n is -n-1.
func sealedAnswers(ctx context.Context, conn *pgx.Conn, prefix []byte, after int64, limit int) (values []store.SealedValue, next int64, err error) {
	rows, err := conn.Query(ctx, "SELECT n, key, answer FROM webhook_creates WHERE n > $1 AND answer IS NOT NULL AND substr(answer, 1, $2) <> $3 ORDER BY n LIMIT $4",
		after, len(prefix), prefix, limit)
	if err != nil {
		return nil, 0, err
	}
	var n int64
	values, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (v store.SealedValue, err error) {
		var key [16]byte
		err = row.Scan(&n, &key, &v.Sealed)
		v.Create = key
		return v, err
	})
	if len(values) == limit && limit > 0 {
		next = -n - 1
	}
	return values, next, err
}

// resealCredentials locks the rows in the order in which all others do.
const resealCredentials = `WITH j AS (
	SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bytea[]) AS j (ref, old, new)
), mine AS (
	SELECT p.ref FROM webhook_predictions p JOIN j ON j.ref = p.ref AND j.old = p.credential ORDER BY p.ref FOR UPDATE OF p
) UPDATE webhook_predictions p SET credential = j.new FROM j, mine WHERE p.ref = mine.ref AND j.ref = p.ref AND p.credential = j.old`

// Reseal implements store.Secrets.
func (c *sealedValues) Reseal(ctx context.Context, values []store.Resealed) error {
	var b pgx.Batch
	var refs []int64
	var before, after [][]byte
	for _, v := range values {
		if v.Create != (store.Key{}) {
			b.Queue("UPDATE webhook_creates SET answer = $1 WHERE key = $2 AND answer = $3", v.New, [16]byte(v.Create), v.Sealed)
			continue
		}
		if v.Ref == 0 {
			b.Queue("UPDATE webhook_secrets SET sealed = $1 WHERE name = $2 AND sealed = $3", v.New, v.Name, v.Sealed)
			continue
		}
		refs, before, after = append(refs, v.Ref), append(before, v.Sealed), append(after, v.New)
	}
	if len(refs) > 0 {
		b.Queue(resealCredentials, refs, before, after)
	}
	return c.s.read(ctx, func(ctx context.Context, conn *pgx.Conn) error { return conn.SendBatch(ctx, &b).Close() })
}
