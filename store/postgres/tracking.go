package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/ledger"
)

// Ready implements store.Store.
func (s *Store) Ready() error {
	if err := s.closed(); err != nil {
		return err
	}
	return s.probe(context.Background())
}

// tracker is the part of the store that keeps and polls predictions.
type tracker struct{ s *Store }

// Reserve implements store.Predictions.
func (k *tracker) Reserve(ctx context.Context, p store.Prediction) (int64, error) {
	p = ledger.Reserved(p)
	var ref int64
	j := new(job)
	j.do = func(u *unit) error {
		if u.byRef[ref] != nil {
			return nil // an earlier run has committed it after all
		}
		t, err := u.insert(&ledger.Entry[row]{Prediction: p, Fresh: true}, ref)
		if err == nil {
			ref = t.Ref
			j.refs = []int64{ref}
			u.touch(t)
		}
		return err
	}
	err := k.s.commit(ctx, j)
	if err != nil {
		return 0, err
	}
	return ref, nil
}

// Abandon implements store.Predictions.
func (k *tracker) Abandon(ctx context.Context, ref int64) error {
	return k.s.commit(ctx, &job{refs: []int64{ref}, do: func(u *unit) error {
		if t, err := u.find(ref); err == nil && t.ID == "" {
			t.gone = true
			u.touch(t)
		}
		return nil
	}})
}

// Track implements store.Predictions.
func (k *tracker) Track(ctx context.Context, p *store.Prediction, events []store.Event) error {
	asked := *p // after an error the caller may change p while the job still runs
	var tracked store.Prediction
	err := k.s.commit(ctx, &job{
		refs: []int64{asked.Ref}, keys: [][]byte{ledger.PredictionKey(asked.API, asked.ID)},
		do: func(u *unit) error {
			t, err := u.track(asked, events)
			if err == nil {
				tracked, err = t.Prediction, u.finish(t)
			}
			return err
		},
	})
	if err == nil {
		*p = tracked
	}
	return err
}

func (u *unit) track(p store.Prediction, events []store.Event) (*tracked, error) {
	t, err := u.findKey(p.API, p.ID)
	if err != nil {
		return nil, err
	}
	if t == nil && p.Ref == 0 {
		t, err = u.insert(ledger.Track(&u.tx, p, events), 0)
		if err == nil {
			u.poll(t)
		}
		return t, err
	}
	if t != nil && t.Ref != p.Ref {
		if r, err := u.find(p.Ref); err == nil && r.ID == "" {
			r.gone = true
			u.touch(r)
		}
		t.Retrack(&u.tx, &p, events)
		return t, nil
	}
	if t, err = u.find(p.Ref); err != nil {
		return nil, err
	}
	t.Adopt(&u.tx, p, events)
	u.byKey[string(ledger.PredictionKey(p.API, p.ID))] = t
	u.poll(t)
	return t, nil
}

// insert adds a prediction. A token that another has, or an ID that another node
// tracks in this moment, fails the transaction. ref is the number that an earlier
// run assigned, or 0: a number can't be added twice.
func (u *unit) insert(e *ledger.Entry[row], ref int64) (*tracked, error) {
	if ref == 0 {
		var err error
		if ref, err = u.number(); err != nil {
			return nil, err
		}
	}
	e.Ref = ref
	t := &tracked{Entry: *e}
	u.byRef[ref] = t
	if k := ledger.PredictionKey(t.API, t.ID); k != nil {
		u.byKey[string(k)] = t
	}
	return t, nil
}

// poll makes this node poll a prediction that is to be polled.
func (u *unit) poll(t *tracked) {
	if ledger.Polled(&t.Prediction) {
		t.poller = u.me
	}
}

// change commits an operation on a prediction.
func (k *tracker) change(ctx context.Context, ref int64, operation func(*unit, *tracked) error) error {
	return k.s.commit(ctx, &job{refs: []int64{ref}, do: func(u *unit) error {
		t, err := u.find(ref)
		if err != nil {
			return err
		}
		if err := operation(u, t); err != nil {
			return err
		}
		return u.finish(t)
	}})
}

// Observe implements store.Predictions.
func (k *tracker) Observe(ctx context.Context, ref int64, id string, events []store.Event) error {
	if len(events) == 0 && id == "" {
		return nil
	}
	return k.s.change(ctx, ref, func(u *unit, t *tracked) error {
		if t.ID == "" && id != "" {
			other, err := u.findKey(t.API, id)
			switch {
			case err != nil:
				return err
			case other != nil:
				return store.ErrNotFound // the ID is another prediction's
			}
			t.Name(id)
			u.byKey[string(ledger.PredictionKey(t.API, id))] = t
		}
		t.Observe(&u.tx, events)
		return nil
	})
}

// SetWebhook implements store.Predictions.
func (k *tracker) SetWebhook(ctx context.Context, ref int64, url string, events event.Set) error {
	return k.s.change(ctx, ref, func(u *unit, t *tracked) error {
		t.SetWebhook(&u.tx, url, events)
		return nil
	})
}

// Prediction implements store.Predictions.
func (k *tracker) Prediction(ctx context.Context, api, id string) (store.Prediction, error) {
	return k.s.findPrediction(ctx, "p.key = $1", ledger.PredictionKey(api, id))
}

// ByToken implements store.Predictions.
func (k *tracker) ByToken(ctx context.Context, token []byte) (store.Prediction, error) {
	return k.s.findPrediction(ctx, "p.token = $1", token)
}

func (k *tracker) findPrediction(ctx context.Context, where string, arg any) (p store.Prediction, err error) {
	err = k.s.read(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		found, err := collect(ctx, conn, scanOnlyPrediction, "SELECT "+predictionColumns+" FROM webhook_predictions p WHERE "+where, arg)
		if err == nil && len(found) == 0 {
			err = store.ErrNotFound
		}
		if err == nil {
			p = found[0]
		}
		return err
	})
	return p, err
}

// Secret implements store.Secrets.
func (k *tracker) Secret(ctx context.Context, name string, make func() ([]byte, error)) ([]byte, error) {
	var sealed []byte
	read := func(ctx context.Context, conn *pgx.Conn) error {
		err := conn.QueryRow(ctx, "SELECT sealed FROM webhook_secrets WHERE name = $1", name).Scan(&sealed)
		if errors.Is(err, pgx.ErrNoRows) {
			return store.ErrNotFound
		}
		return err
	}
	if err := k.s.read(ctx, read); !errors.Is(err, store.ErrNotFound) {
		return sealed, err
	}
	made, err := make()
	if err != nil {
		return nil, err
	}
	err = k.s.read(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		err := execute(ctx, conn, "INSERT INTO webhook_secrets (name, sealed) VALUES ($1, $2) ON CONFLICT DO NOTHING", name, made)
		if err != nil {
			return err
		}
		return read(ctx, conn)
	})
	return sealed, err
}
