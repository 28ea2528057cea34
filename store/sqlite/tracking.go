package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/groupcommit"
	"github.com/caddy-replicate/replicate-webhook/store/internal/ledger"
)

// predictionColumns is what scanPrediction reads.
const predictionColumns = "ref, api, id, client, url, events, poll_path, credential, token, traceparent, test, body, created, happened, webhook"

func scanPrediction(row interface{ Scan(...any) error }) (store.Prediction, error) {
	var p store.Prediction
	var created int64
	err := row.Scan(&p.Ref, &p.API, &p.ID, &p.Client, &p.URL, &p.Events, &p.PollPath, &p.Credential, &p.Token,
		&p.Traceparent, &p.Test, &p.Body, &created, &p.Seen, &p.Webhook)
	p.CreatedAt = timeOf(created)
	if errors.Is(err, sql.ErrNoRows) {
		err = store.ErrNotFound
	}
	return p, err
}

const selectPrediction = "SELECT " + predictionColumns + " FROM predictions WHERE "

// closed returns an error once Close has begun.
func (s *Store) closed() error {
	select {
	case <-s.stop:
		return fmt.Errorf("%w: %w", store.ErrUnavailable, groupcommit.ErrClosed)
	default:
		return nil
	}
}

// Ready implements store.Store.
func (s *Store) Ready() error {
	if err := s.closed(); err != nil {
		return err
	}
	return s.writer.available()
}

// commit commits what write writes.
func (s *Store) commit(ctx context.Context, write func(*group) error) error {
	return s.run(ctx, op{write: write})
}

// run commits an op. Its write returns one of the errors of store before it has
// written anything, so that the other ops of its transaction go on.
func (s *Store) run(ctx context.Context, o op) error {
	var refused error
	write := o.write
	o.write = func(g *group) error {
		if refused = write(g); ledger.IsRefusal(refused) {
			return nil
		}
		return refused
	}
	err := s.writer.do(ctx, &o)
	switch {
	case err == nil:
		return refused
	case errors.Is(err, store.ErrUnavailable):
		return err
	}
	return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
}

// tracker implements store.Predictions.
type tracker struct{ s *Store }

// Reserve implements store.Predictions.
func (t *tracker) Reserve(ctx context.Context, p store.Prediction) (int64, error) {
	err := t.s.commit(ctx, func(g *group) error { return g.reserve(&p) })
	if err != nil {
		return 0, err
	}
	return p.Ref, nil
}

// reserve adds a prediction whose ID is not known, and sets its Ref.
func (g *group) reserve(p *store.Prediction) error {
	*p = ledger.Reserved(*p)
	inserted, err := g.insertPrediction(p)
	if err == nil && !inserted {
		err = errors.New("callback token is taken")
	}
	return err
}

// Abandon implements store.Predictions.
func (t *tracker) Abandon(ctx context.Context, ref int64) error {
	return t.s.commit(ctx, func(g *group) error { return g.deleteReserved(ref) })
}

// Track implements store.Predictions.
func (t *tracker) Track(ctx context.Context, p *store.Prediction, events []store.Event) error {
	asked := *p // after an error the caller may change p while the op still runs
	var now store.Prediction
	err := t.s.commit(ctx, func(g *group) error {
		e, err := g.track(asked, events)
		if err == nil {
			now = e.Prediction
		}
		return err
	})
	if err == nil {
		*p = now
	}
	return err
}

func (g *group) track(p store.Prediction, events []store.Event) (*tracked, error) {
	if p.Ref == 0 {
		e := &tracked{Entry: *ledger.Track(g.ledger(), p, events)}
		inserted, err := g.insertPrediction(&e.Prediction)
		if err != nil {
			return nil, err
		}
		if inserted {
			e.Fresh, e.Changed = false, 0
			return e, g.write(g.remember(e))
		}
	}
	e, err := g.load("key = ?", ledger.PredictionKey(p.API, p.ID))
	adopt := errors.Is(err, store.ErrNotFound) && p.Ref != 0
	if adopt {
		e, err = g.entry(p.Ref)
	}
	if err == nil {
		err = g.addPending(e)
	}
	switch {
	case err != nil:
		return nil, err
	case adopt, e.Ref == p.Ref:
		e.Adopt(g.ledger(), p, events)
	default:
		e.Retrack(g.ledger(), &p, events)
		err = g.deleteReserved(p.Ref)
	}
	if err != nil {
		return nil, err
	}
	return e, g.write(e)
}

// changed runs a statement and returns how many rows it changed.
func (g *group) changed(query string, args ...any) (int64, error) {
	stmt, err := g.stmt(query)
	if err != nil {
		return 0, err
	}
	res, err := stmt.Exec(args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// prediction reads the prediction that a condition selects.
func (g *group) prediction(where string, arg any) (store.Prediction, error) {
	stmt, err := g.stmt(selectPrediction + where)
	if err != nil {
		return store.Prediction{}, err
	}
	return scanPrediction(stmt.QueryRow(arg))
}

// Observe implements store.Predictions.
func (t *tracker) Observe(ctx context.Context, ref int64, id string, events []store.Event) error {
	if len(events) == 0 && id == "" {
		return nil
	}
	return t.s.commit(ctx, func(g *group) error {
		e, err := g.entry(ref)
		if err != nil {
			return err
		}
		if e.ID == "" && id != "" {
			switch _, err := g.prediction("key = ?", ledger.PredictionKey(e.API, id)); {
			case err == nil:
				return store.ErrNotFound // the ID is another prediction's
			case !errors.Is(err, store.ErrNotFound):
				return err
			}
			e.Name(id)
		}
		e.Observe(g.ledger(), events)
		return g.write(e)
	})
}

// SetWebhook implements store.Predictions.
func (t *tracker) SetWebhook(ctx context.Context, ref int64, url string, events event.Set) error {
	return t.s.commit(ctx, func(g *group) error {
		e, err := g.entry(ref)
		if err == nil {
			err = g.addPending(e)
		}
		if err != nil {
			return err
		}
		e.SetWebhook(g.ledger(), url, events)
		return g.write(e)
	})
}

// Prediction implements store.Predictions.
func (t *tracker) Prediction(ctx context.Context, api, id string) (store.Prediction, error) {
	return t.findPrediction(ctx, "key = ?", ledger.PredictionKey(api, id))
}

// ByToken implements store.Predictions.
func (t *tracker) ByToken(ctx context.Context, token []byte) (store.Prediction, error) {
	return t.findPrediction(ctx, "token = ?", token)
}

func (t *tracker) findPrediction(ctx context.Context, where string, arg any) (store.Prediction, error) {
	p, err := scanPrediction(t.s.db.QueryRowContext(ctx, selectPrediction+where, arg))
	return p, t.s.readError(err)
}

// readError returns err, marked as ErrUnavailable unless it is ErrNotFound or the
// context's.
func (s *Store) readError(err error) error {
	switch {
	case err == nil, errors.Is(err, store.ErrNotFound), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	}
	return fmt.Errorf("%w: reading %s: %w", store.ErrUnavailable, s.opts.Path, err)
}

// Secret implements store.Secrets.
func (t *tracker) Secret(ctx context.Context, name string, make func() ([]byte, error)) ([]byte, error) {
	read := func() (sealed []byte, err error) {
		err = t.s.db.QueryRowContext(ctx, "SELECT sealed FROM secrets WHERE name = ?", name).Scan(&sealed)
		return sealed, err
	}
	sealed, err := read()
	if !errors.Is(err, sql.ErrNoRows) {
		return sealed, t.s.readError(err)
	}
	made, err := make()
	if err != nil {
		return nil, err
	}
	err = t.s.commit(ctx, func(g *group) error {
		return g.exec("INSERT INTO secrets (name, sealed) VALUES (?, ?) ON CONFLICT DO NOTHING", name, made)
	})
	if err != nil {
		return nil, err
	}
	sealed, err = read()
	return sealed, t.s.readError(err)
}
