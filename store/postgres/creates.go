package postgres

import (
	"context"
	"errors"
	"math/rand/v2"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/ledger"
	"github.com/caddy-replicate/replicate-webhook/store/internal/quota"
)

// createsSchema holds creates that carry an Idempotency-Key. Times are by the
// database's clock. status is 0 until the response is committed.
const createsSchema = `
CREATE TABLE webhook_creates (
	key        uuid    PRIMARY KEY,
	n          bigint  GENERATED ALWAYS AS IDENTITY UNIQUE,
	caller     uuid    NOT NULL,
	digest     bytea   NOT NULL,
	expires    bigint  NOT NULL,
	nonce      bigint  NOT NULL,
	ref        bigint  NOT NULL,
	status     integer NOT NULL,
	prediction bytea   NOT NULL,
	answer     bytea
);
CREATE INDEX webhook_creates_caller ON webhook_creates (caller, expires);
CREATE INDEX webhook_creates_expires ON webhook_creates (expires);
`

// creates implements store.Creates.
type creates struct {
	s     *Store
	quota *quota.Quota
}

func (c *creates) init(s *Store) {
	c.s, c.quota = s, quota.New(int64(s.opts.MaxCreates), s.opts.Now)
}

const (
	findCreate = `SELECT c.caller, c.digest, c.expires, c.nonce, c.ref, c.status, CASE c.status WHEN 0 THEN coalesce(p.id, '') ELSE c.prediction END, c.answer
		FROM webhook_creates c LEFT JOIN webhook_predictions p ON p.ref = c.ref WHERE c.key = $1 AND c.expires + 0 > $2`
	countCreates = "SELECT count(*) FROM webhook_creates WHERE caller = $1 AND expires > $2"
	// insertCreate returns a row if the create has begun. It may be run again.
	insertCreate = `INSERT INTO webhook_creates AS c (key, caller, digest, expires, nonce, ref, status, prediction) VALUES ($1, $2, $3, $4, $5, $6, 0, '')
		ON CONFLICT (key) DO UPDATE SET caller = excluded.caller, digest = excluded.digest, expires = excluded.expires, nonce = excluded.nonce, ref = excluded.ref,
			status = 0, prediction = '', answer = NULL
		WHERE c.expires <= $7 OR c.nonce = excluded.nonce RETURNING nonce`
	answerCreates = `UPDATE webhook_creates c SET status = $3, prediction = $4, answer = $5 WHERE c.key = $1 AND c.nonce = $2`
	dropCreate    = "DELETE FROM webhook_creates WHERE key = $1 AND nonce = $2"
	purgeCreates  = `DELETE FROM webhook_creates WHERE key = ANY(ARRAY(SELECT key FROM webhook_creates WHERE expires <= $1 ORDER BY expires LIMIT $2 FOR UPDATE SKIP LOCKED)) RETURNING true`
)

// Create implements store.Creates.
func (c *creates) Create(ctx context.Context, key store.Key) (store.Create, error) {
	var out store.Create
	err := c.s.read(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		found, err := collect(ctx, conn, func(row pgx.CollectableRow) (out store.Create, err error) {
			var digest, id []byte
			var expires int64
			var caller [16]byte
			err = row.Scan(&caller, &digest, &expires, &out.Nonce, &out.Ref, &out.Status, &id, &out.Sealed)
			out.Caller, out.ID, out.Expires = caller, string(id), c.s.fromDatabase(timeOf(expires))
			copy(out.Digest[:], digest)
			return out, err
		}, findCreate, [16]byte(key), c.s.now().UnixMilli())
		if err == nil && len(found) == 0 {
			err = store.ErrNotFound
		}
		if err == nil {
			out = found[0]
		}
		return err
	})
	out.Key = key
	return out, err
}

// BeginCreate implements store.Creates.
func (c *creates) BeginCreate(ctx context.Context, create *store.Create, reserve *store.Prediction) error {
	now := c.s.now().UnixMilli()
	if err := c.quota.Take(create.Caller, func() (n int64, err error) {
		err = c.s.read(ctx, func(ctx context.Context, conn *pgx.Conn) error {
			counts, err := collect(ctx, conn, pgx.RowTo[int64], countCreates, [16]byte(create.Caller), now)
			if err == nil {
				n = counts[0]
			}
			return err
		})
		return n, err
	}); err != nil {
		return err
	}
	err := c.begin(ctx, create, reserve, now)
	if err != nil {
		c.quota.Return(create.Caller)
	}
	return err
}

// begin reserves the prediction before the create is there: a create that names one
// is never without.
func (c *creates) begin(ctx context.Context, create *store.Create, reserve *store.Prediction, now int64) error {
	begun := *create
	begun.Nonce = int64(rand.Uint64())
	create.Nonce = begun.Nonce
	if reserve != nil {
		ref, err := c.s.Reserve(ctx, *reserve)
		if err != nil {
			return err
		}
		reserve.Ref, begun.Ref = ref, ref
	}
	var inserted []int64
	err := c.s.read(ctx, func(ctx context.Context, conn *pgx.Conn) (err error) {
		inserted, err = collect(ctx, conn, pgx.RowTo[int64], insertCreate, [16]byte(begun.Key), [16]byte(begun.Caller), begun.Digest[:],
			c.s.toDatabase(begun.Expires).UnixMilli(), begun.Nonce, begun.Ref, now)
		return err
	})
	if err == nil && len(inserted) == 0 {
		err = store.ErrCreateKnown
	}
	if err != nil {
		if reserve != nil {
			err = errors.Join(err, c.s.Abandon(ctx, reserve.Ref))
		}
		return err
	}
	*create = begun
	return nil
}

// AnswerCreate implements store.Creates.
func (c *creates) AnswerCreate(ctx context.Context, create *store.Create, a store.CreateAnswer) error {
	key, nonce := create.Key, create.Nonce
	return c.s.commit(ctx, &job{do: func(u *unit) error {
		u.answers = append(u.answers, answered{key, nonce, a})
		return nil
	}})
}

// TrackCreate implements store.Creates.
func (c *creates) TrackCreate(ctx context.Context, p *store.Prediction, events []store.Event, create *store.Create, answer func(store.Prediction) store.CreateAnswer) error {
	asked, key, nonce := *p, create.Key, create.Nonce
	var tracked store.Prediction
	err := c.s.commit(ctx, &job{
		refs: []int64{asked.Ref}, keys: [][]byte{ledger.PredictionKey(asked.API, asked.ID)},
		do: func(u *unit) error {
			t, err := u.track(asked, events)
			if err != nil {
				return err
			}
			tracked = t.Prediction
			u.answers = append(u.answers, answered{key, nonce, answer(tracked)})
			return u.finish(t)
		},
	})
	if err == nil {
		*p = tracked
	}
	return err
}

// answered is a response to be committed.
type answered struct {
	key   store.Key
	nonce int64
	store.CreateAnswer
}

func (u *unit) queueAnswers(b *pgx.Batch) {
	for _, a := range u.answers {
		b.Queue(answerCreates, [16]byte(a.key), a.nonce, int32(a.Status), []byte(a.ID), a.Sealed)
	}
}

// DropCreate implements store.Creates.
func (c *creates) DropCreate(ctx context.Context, create *store.Create) error {
	err := c.s.read(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return execute(ctx, conn, dropCreate, [16]byte(create.Key), create.Nonce)
	})
	if err == nil {
		c.quota.Return(create.Caller)
	}
	return err
}

// purgeCreatesLimit is how many creates one transaction purges.
const purgeCreatesLimit = 500

// purge deletes creates that have expired.
func (c *creates) purge(now int64) error {
	_, err := c.s.purge(purgeCreatesLimit, func(ctx context.Context, conn *pgx.Conn) (int, error) {
		gone, err := collect(ctx, conn, pgx.RowTo[bool], purgeCreates, now, purgeCreatesLimit)
		return len(gone), err
	})
	return err
}

// Interface guard.
var _ store.Creates = (*creates)(nil)
