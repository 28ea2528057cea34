package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/rules"
)

// predictionColumns is what scanPrediction reads.
const predictionColumns = "ref, api, id, client, url, events, poll_path, credential, token, traceparent, test, body, created, happened, webhook"

func scanPrediction(row interface{ Scan(...any) error }) (store.Prediction, error) {
	var p store.Prediction
	var created int64
	err := row.Scan(&p.Ref, &p.API, &p.ID, &p.Client, &p.URL, &p.Events, &p.PollPath, &p.Credential, &p.Token,
		&p.Traceparent, &p.Test, &p.Body, &created, &p.Happened, &p.Webhook)
	p.CreatedAt = timeOf(created)
	if errors.Is(err, sql.ErrNoRows) {
		err = store.ErrNotFound
	}
	return p, err
}

const selectPrediction = "SELECT " + predictionColumns + " FROM predictions WHERE "

// closed is an error once Close has begun.
func (s *Store) closed() error {
	select {
	case <-s.stop:
		return fmt.Errorf("%w: %w", store.ErrUnavailable, errClosed)
	default:
		return nil
	}
}

// Ready implements store.Tracking.
func (s *Store) Ready() error {
	if err := s.closed(); err != nil {
		return err
	}
	return s.writer.available()
}

// commit runs an op of tracking.
func (s *Store) commit(ctx context.Context, write func(*group) error, after func(error)) error {
	return s.run(ctx, op{write: write, after: after})
}

// run commits an op. What its write refuses it refuses before it has written
// anything, so that the others of its transaction are not troubled.
func (s *Store) run(ctx context.Context, o op) error {
	var refused error
	write, after := o.write, o.after
	o.write = func(g *group) error {
		refused = write(g)
		if errors.Is(refused, store.ErrNotFound) || errors.Is(refused, store.ErrDisabled) {
			return nil
		}
		return refused
	}
	o.after = func(err error) {
		if err == nil {
			err = refused
		}
		if after != nil {
			after(err)
		}
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

// Reserve implements store.Tracking.
func (s *Store) Reserve(ctx context.Context, p store.Prediction) (int64, error) {
	p.ID, p.Happened, p.Webhook = "", 0, store.WebhookPending
	p.Webhook = rules.WebhookFor(&p)
	err := s.commit(ctx, func(g *group) error {
		inserted, err := g.insertPrediction(&p)
		if err == nil && !inserted {
			err = errors.New("callback token is taken")
		}
		return err
	}, nil)
	if err != nil {
		return 0, err
	}
	return p.Ref, nil
}

// Abandon implements store.Tracking.
func (s *Store) Abandon(ctx context.Context, ref int64) error {
	return s.commit(ctx, func(g *group) error {
		return g.exec("DELETE FROM predictions WHERE ref = ? AND key IS NULL", ref)
	}, nil)
}

// Track implements store.Tracking.
func (s *Store) Track(ctx context.Context, p *store.Prediction, happened []store.Happening) error {
	asked := *p // what the caller does with p after an error is no business of the writer's
	asked.Happened, asked.Webhook = 0, store.WebhookPending
	var tracked store.Prediction
	var c *change
	err := s.commit(ctx, func(g *group) (err error) {
		c.undo(s.queue)
		c = &change{}
		tracked, err = g.track(c, asked, happened)
		return err
	}, func(err error) { s.apply(c, err) })
	if err == nil {
		*p = tracked
	}
	return err
}

func (g *group) track(c *change, p store.Prediction, happened []store.Happening) (store.Prediction, error) {
	if p.Ref == 0 {
		if inserted, err := g.insertTracked(c, p, happened); err != nil || inserted {
			return c.prediction, err
		}
	}
	known, err := g.prediction(selectPrediction+"key = ?", rules.PredictionKey(p.API, p.ID))
	before := known.URL
	switch {
	case err == nil && known.Ref == p.Ref, errors.Is(err, store.ErrNotFound) && p.Ref != 0:
		known, before, err = g.complement(p)
	case err == nil:
		err = g.replaceWebhook(&known, &p)
	}
	if err != nil {
		return p, err
	}
	if err := g.redirect(c, &known, before); err != nil {
		return p, err
	}
	err = g.emit(c, &known, happened)
	return c.prediction, err
}

// insertTracked reports false when a prediction of that id is there.
func (g *group) insertTracked(c *change, p store.Prediction, happened []store.Happening) (bool, error) {
	p.Webhook = rules.WebhookFor(&p)
	wanted := rules.Advance(&p, happened)
	if p.Happened.Has(event.Terminal) && p.Webhook == store.WebhookPending && len(wanted) == 0 {
		p.Webhook = store.WebhookDelivered // there is nothing to send
	}
	inserted, err := g.insertPrediction(&p)
	if err != nil || !inserted {
		return false, err
	}
	return true, g.deliver(c, &p, wanted)
}

// complement completes a reserved prediction. It returns the URL that it was
// reserved with.
func (g *group) complement(p store.Prediction) (_ store.Prediction, before string, _ error) {
	known, err := g.prediction(selectPrediction+"ref = ?", p.Ref)
	if err != nil {
		return p, "", err
	}
	p.Happened, p.Webhook, p.Token, p.CreatedAt = known.Happened, known.Webhook, known.Token, known.CreatedAt
	if known.Webhook == store.WebhookDisabled {
		p.URL = "" // its receiver said 410 before the create was answered
	}
	p.Webhook = rules.WebhookFor(&p)
	if p.Happened.Has(event.Terminal) {
		p.Credential, p.Events = nil, known.Events
	}
	if known.ID == "" {
		g.named(&p)
	}
	return p, known.URL, g.exec("UPDATE predictions SET key = ?, api = ?, id = ?, client = ?, url = ?, events = ?, poll_path = ?, credential = ?, traceparent = ?, test = ?, body = ?, webhook = ? WHERE ref = ?",
		rules.PredictionKey(p.API, p.ID), p.API, p.ID, p.Client, p.URL, p.Events, p.PollPath, p.Credential, p.Traceparent, p.Test, p.Body, p.Webhook, p.Ref)
}

// replaceWebhook gives a prediction that is tracked already the webhook of p.
// Where p was reserved for it, as for a create that an API answered with a
// prediction it had made before, callbacks find the tracked one from now on.
func (g *group) replaceWebhook(known, p *store.Prediction) error {
	if p.Ref != 0 {
		if err := g.exec("DELETE FROM predictions WHERE ref = ? AND key IS NULL", p.Ref); err != nil {
			return err
		}
		if known.Token == nil && p.Token != nil {
			known.Token = p.Token
			if err := g.exec("UPDATE OR IGNORE predictions SET token = ? WHERE ref = ?", p.Token, known.Ref); err != nil {
				return err
			}
		}
	}
	return g.setWebhook(known, p.URL, p.Events)
}

// setWebhook writes a new URL and filter. After the terminal event the filter
// has no say any more, and is kept: the webhook status follows from what was
// wanted then.
func (g *group) setWebhook(p *store.Prediction, url string, events event.Set) error {
	p.URL = url
	if !p.Happened.Has(event.Terminal) {
		p.Events = events
	}
	p.Webhook = rules.WebhookFor(p)
	return g.exec("UPDATE predictions SET url = ?, events = ?, webhook = ? WHERE ref = ?", p.URL, p.Events, p.Webhook, p.Ref)
}

// insertPrediction reports false when a prediction of that id or token is
// there.
func (g *group) insertPrediction(p *store.Prediction) (bool, error) {
	g.w.lastRef++
	p.Ref = g.w.lastRef
	n, err := g.changed("INSERT INTO predictions (ref, key, api, id, client, url, events, poll_path, credential, token, traceparent, test, body, created, happened, webhook) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
		p.Ref, rules.PredictionKey(p.API, p.ID), p.API, p.ID, p.Client, p.URL, p.Events, p.PollPath, p.Credential, p.Token,
		p.Traceparent, p.Test, p.Body, p.CreatedAt.UnixMilli(), p.Happened, p.Webhook)
	if n == 1 && p.ID != "" {
		g.named(p)
	}
	return n == 1, err
}

// changed runs a statement and tells how many rows it changed.
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

func (g *group) prediction(query string, args ...any) (store.Prediction, error) {
	stmt, err := g.stmt(query)
	if err != nil {
		return store.Prediction{}, err
	}
	return scanPrediction(stmt.QueryRow(args...))
}

// Observe implements store.Tracking.
func (s *Store) Observe(ctx context.Context, ref int64, id string, happened []store.Happening) error {
	if len(happened) == 0 && id == "" {
		return nil
	}
	var c *change
	return s.commit(ctx, func(g *group) error {
		c.undo(s.queue)
		c = &change{}
		p, err := g.prediction(selectPrediction+"ref = ?", ref)
		if err != nil {
			return err
		}
		if p.ID == "" && id != "" {
			p.ID = id
			n, err := g.changed("UPDATE OR IGNORE predictions SET id = ?, key = ? WHERE ref = ?", id, rules.PredictionKey(p.API, id), ref)
			if err != nil {
				return err
			}
			if n == 0 {
				return store.ErrNotFound // the id is another prediction's
			}
			g.named(&p)
		}
		return g.emit(c, &p, happened)
	}, func(err error) { s.apply(c, err) })
}

// SetWebhook implements store.Tracking.
func (s *Store) SetWebhook(ctx context.Context, ref int64, url string, events event.Set) error {
	var c *change
	return s.commit(ctx, func(g *group) error {
		c = &change{}
		p, err := g.prediction(selectPrediction+"ref = ?", ref)
		if err != nil {
			return err
		}
		before := p.URL
		if err := g.setWebhook(&p, url, events); err != nil {
			return err
		}
		return g.redirect(c, &p, before)
	}, func(err error) { s.apply(c, err) })
}

// Prediction implements store.Tracking.
func (s *Store) Prediction(ctx context.Context, api, id string) (store.Prediction, error) {
	return s.findPrediction(ctx, "key = ?", rules.PredictionKey(api, id))
}

// ByToken implements store.Tracking.
func (s *Store) ByToken(ctx context.Context, token []byte) (store.Prediction, error) {
	return s.findPrediction(ctx, "token = ?", token)
}

func (s *Store) findPrediction(ctx context.Context, where string, arg any) (store.Prediction, error) {
	p, err := scanPrediction(s.db.QueryRowContext(ctx, selectPrediction+where, arg))
	return p, s.readError(err)
}

// readError marks what went wrong with the database, as opposed to what is not
// there or was not waited for.
func (s *Store) readError(err error) error {
	switch {
	case err == nil, errors.Is(err, store.ErrNotFound), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	}
	return fmt.Errorf("%w: reading %s: %w", store.ErrUnavailable, s.opts.Path, err)
}

// Secret implements store.Tracking.
func (s *Store) Secret(ctx context.Context, name string, make func() ([]byte, error)) ([]byte, error) {
	read := func() (sealed []byte, err error) {
		err = s.db.QueryRowContext(ctx, "SELECT sealed FROM secrets WHERE name = ?", name).Scan(&sealed)
		return sealed, err
	}
	sealed, err := read()
	if !errors.Is(err, sql.ErrNoRows) {
		return sealed, s.readError(err)
	}
	made, err := make()
	if err != nil {
		return nil, err
	}
	err = s.commit(ctx, func(g *group) error {
		return g.exec("INSERT INTO secrets (name, sealed) VALUES (?, ?) ON CONFLICT DO NOTHING", name, made)
	}, nil)
	if err != nil {
		return nil, err
	}
	sealed, err = read()
	return sealed, s.readError(err)
}
