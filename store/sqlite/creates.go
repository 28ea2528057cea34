package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"math/rand/v2"

	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/quota"
)

// createsSchema holds creates that carry an Idempotency-Key. Times are Unix
// milliseconds. status is 0 until the response is committed.
const createsSchema = `
CREATE TABLE creates (
	n          INTEGER PRIMARY KEY,
	key        BLOB    NOT NULL UNIQUE,
	caller     BLOB    NOT NULL,
	digest     BLOB    NOT NULL,
	expires    INTEGER NOT NULL,
	nonce      INTEGER NOT NULL,
	ref        INTEGER NOT NULL,
	status     INTEGER NOT NULL,
	prediction TEXT    NOT NULL,
	answer     BLOB
);
CREATE INDEX creates_caller ON creates (caller, expires);
CREATE INDEX creates_expires ON creates (expires);
`

// creates implements store.Creates.
type creates struct {
	s     *Store
	quota *quota.Quota
}

func (c *creates) init(s *Store) {
	c.s, c.quota = s, quota.New(int64(s.opts.MaxCreates), s.opts.Now)
}

// now returns the time by which creates expire.
func (c *creates) now() int64 { return c.s.opts.clock.Settled().UnixMilli() }

// selectCreate reads a create by its key, if it has not expired. A create whose response
// is not committed has the id of the prediction that was reserved for it.
const selectCreate = `SELECT c.caller, c.digest, c.expires, c.nonce, c.ref, c.status, iif(c.status = 0, coalesce(p.id, ''), c.prediction), c.answer
	FROM creates c LEFT JOIN predictions p ON p.ref = c.ref WHERE c.key = ? AND c.expires > ?`

// Create implements store.Creates.
func (c *creates) Create(ctx context.Context, key store.Key) (store.Create, error) {
	if err := c.s.closed(); err != nil {
		return store.Create{}, err
	}
	var out store.Create
	var caller, digest []byte
	var expires int64
	err := c.s.createReader.QueryRowContext(ctx, key[:], c.now()).
		Scan(&caller, &digest, &expires, &out.Nonce, &out.Ref, &out.Status, &out.ID, &out.Sealed)
	if errors.Is(err, sql.ErrNoRows) {
		return store.Create{}, store.ErrNotFound
	}
	if err != nil {
		return store.Create{}, c.s.readError(err)
	}
	out.Key, out.Expires = key, timeOf(expires)
	copy(out.Caller[:], caller)
	copy(out.Digest[:], digest)
	return out, nil
}

// BeginCreate implements store.Creates.
func (c *creates) BeginCreate(ctx context.Context, create *store.Create, reserve *store.Prediction) error {
	now := c.now()
	if err := c.quota.Take(create.Caller, func() (n int64, err error) {
		err = c.s.db.QueryRowContext(ctx, "SELECT count(*) FROM creates WHERE caller = ? AND expires > ?", create.Caller[:], now).Scan(&n)
		return n, c.s.readError(err)
	}); err != nil {
		return err
	}
	var p store.Prediction
	if reserve != nil {
		p = *reserve
	}
	begun := *create // after an error the caller may change create while the op still runs
	begun.Nonce = int64(rand.Uint64())
	create.Nonce = begun.Nonce
	err := c.s.commit(ctx, func(g *group) error {
		known, err := g.changed("DELETE FROM creates WHERE key = ? AND expires <= ?", begun.Key[:], now)
		if err == nil && known == 0 {
			err = g.createKnown(begun.Key)
		}
		if err != nil {
			return err
		}
		if reserve != nil {
			if err := g.reserve(&p); err != nil {
				return err
			}
			begun.Ref = p.Ref
		}
		return g.exec("INSERT INTO creates (key, caller, digest, expires, nonce, ref, status, prediction) VALUES (?, ?, ?, ?, ?, ?, 0, '')",
			begun.Key[:], begun.Caller[:], begun.Digest[:], begun.Expires.UnixMilli(), begun.Nonce, begun.Ref)
	})
	if err != nil {
		c.quota.Return(create.Caller)
		return err
	}
	*create = begun
	if reserve != nil {
		*reserve = p
	}
	return nil
}

// createKnown returns store.ErrCreateKnown if there is a create of the key.
func (g *group) createKnown(key store.Key) error {
	stmt, err := g.stmt("SELECT EXISTS (SELECT 1 FROM creates WHERE key = ?)")
	if err != nil {
		return err
	}
	var known bool
	if err := stmt.QueryRow(key[:]).Scan(&known); err != nil {
		return err
	}
	if known {
		return store.ErrCreateKnown
	}
	return nil
}

// AnswerCreate implements store.Creates.
func (c *creates) AnswerCreate(ctx context.Context, create *store.Create, a store.CreateAnswer) error {
	key, nonce := create.Key, create.Nonce
	return c.s.commit(ctx, func(g *group) error { return g.answerCreate(key, nonce, a) })
}

func (g *group) answerCreate(key store.Key, nonce int64, a store.CreateAnswer) error {
	return g.exec("UPDATE creates SET status = ?, prediction = ?, answer = ? WHERE key = ? AND nonce = ?", a.Status, a.ID, a.Sealed, key[:], nonce)
}

// TrackCreate implements store.Creates.
func (c *creates) TrackCreate(ctx context.Context, p *store.Prediction, events []store.Event, create *store.Create, answer func(store.Prediction) store.CreateAnswer) error {
	asked, key, nonce := *p, create.Key, create.Nonce
	var now store.Prediction
	err := c.s.commit(ctx, func(g *group) error {
		e, err := g.track(asked, events)
		if err != nil {
			return err
		}
		now = e.Prediction
		return g.answerCreate(key, nonce, answer(now))
	})
	if err == nil {
		*p = now
	}
	return err
}

// DropCreate implements store.Creates.
func (c *creates) DropCreate(ctx context.Context, create *store.Create) error {
	key, nonce := create.Key, create.Nonce
	err := c.s.commit(ctx, func(g *group) error {
		return g.exec("DELETE FROM creates WHERE key = ? AND nonce = ?", key[:], nonce)
	})
	if err == nil {
		c.quota.Return(create.Caller)
	}
	return err
}

// purgeCreates is how many creates one transaction purges.
const purgeCreates = 200

// purgeBatch deletes creates that have expired. It reports whether there may be more.
func (c *creates) purgeBatch() (more bool, err error) {
	now := c.now()
	var found bool
	if err := c.s.db.QueryRow("SELECT EXISTS (SELECT 1 FROM creates WHERE expires <= ?)", now).Scan(&found); err != nil || !found {
		return false, c.s.readError(err)
	}
	err = c.s.commit(context.Background(), func(g *group) error {
		n, err := g.changed("DELETE FROM creates WHERE n IN (SELECT n FROM creates WHERE expires <= ? ORDER BY expires LIMIT ?)", now, purgeCreates)
		more = n == purgeCreates
		return err
	})
	return more, err
}

// Interface guard.
var _ store.Creates = (*creates)(nil)
