package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/rules"
)

// Ready implements store.Tracking.
func (s *Store) Ready() error {
	if err := s.closed(); err != nil {
		return err
	}
	return s.probe(context.Background())
}

// Reserve implements store.Tracking.
func (s *Store) Reserve(ctx context.Context, p store.Prediction) (int64, error) {
	p.ID, p.Happened, p.Webhook = "", 0, store.WebhookPending
	p.Webhook = rules.WebhookFor(&p)
	var ref int64
	j := new(job)
	j.do = func(u *unit) error {
		if u.byRef[ref] != nil {
			return nil // an earlier run has committed it after all
		}
		t, err := u.insertPrediction(p, ref)
		if err == nil {
			ref = t.Ref
			j.refs = []int64{ref}
			u.touch(t)
		}
		return err
	}
	err := s.commit(ctx, j)
	if err != nil {
		return 0, err
	}
	return ref, nil
}

// Abandon implements store.Tracking.
func (s *Store) Abandon(ctx context.Context, ref int64) error {
	return s.commit(ctx, &job{refs: []int64{ref}, do: func(u *unit) error {
		if t, err := u.find(ref); err == nil && t.ID == "" {
			t.gone = true
			u.touch(t)
		}
		return nil
	}})
}

// Track implements store.Tracking.
func (s *Store) Track(ctx context.Context, p *store.Prediction, happened []store.Happening) error {
	asked := *p // what the caller does with p after an error is no business of the writer's
	asked.Happened, asked.Webhook = 0, store.WebhookPending
	var tracked store.Prediction
	err := s.commit(ctx, &job{
		refs: []int64{asked.Ref}, keys: [][]byte{rules.PredictionKey(asked.API, asked.ID)},
		do: func(u *unit) error {
			t, err := u.track(asked, happened)
			if err == nil {
				u.settle(t)
				tracked = t.Prediction
			}
			return err
		},
	})
	if err == nil {
		*p = tracked
	}
	return err
}

func (u *unit) track(p store.Prediction, happened []store.Happening) (*tracked, error) {
	known, err := u.findKey(p.API, p.ID)
	if err != nil {
		return nil, err
	}
	if known == nil && p.Ref == 0 {
		return u.insertTracked(p, happened)
	}
	was := known
	if was == nil {
		was = u.byRef[p.Ref]
	}
	before := ""
	if was != nil {
		before = was.URL
	}
	if known == nil || known.Ref == p.Ref {
		if known, err = u.complement(p); err != nil {
			return nil, err
		}
	} else {
		u.replaceWebhook(known, &p)
	}
	u.redirect(known, before)
	return known, u.emit(known, happened)
}

func (u *unit) insertTracked(p store.Prediction, happened []store.Happening) (*tracked, error) {
	p.Webhook = rules.WebhookFor(&p)
	wanted := rules.Advance(&p, happened)
	if p.Happened.Has(event.Terminal) && p.Webhook == store.WebhookPending && len(wanted) == 0 {
		p.Webhook = store.WebhookDelivered // there is nothing to send
	}
	t, err := u.insertPrediction(p, 0)
	if err != nil {
		return nil, err
	}
	u.poll(t)
	return t, u.deliver(t, wanted)
}

// insertPrediction adds a row. A token that another has, or an id that another
// node tracks in this moment, fails the transaction.
// ref is the number that an earlier run gave it, or 0: under the same number it
// can't be added twice.
func (u *unit) insertPrediction(p store.Prediction, ref int64) (*tracked, error) {
	if ref == 0 {
		var err error
		if ref, err = u.number(); err != nil {
			return nil, err
		}
	}
	p.Ref = ref
	t := &tracked{Prediction: p, fresh: true}
	u.byRef[ref] = t
	if k := rules.PredictionKey(p.API, p.ID); k != nil {
		u.byKey[string(k)] = t
	}
	return t, nil
}

// poll makes this node ask for a prediction, if anybody has to.
func (u *unit) poll(t *tracked) {
	if !t.Happened.Has(event.Terminal) && t.PollPath != "" {
		t.poller = u.me
	}
}

// complement completes a reserved prediction.
func (u *unit) complement(p store.Prediction) (*tracked, error) {
	t, err := u.find(p.Ref)
	if err != nil {
		return nil, err
	}
	known := t.Prediction
	p.Happened, p.Webhook, p.Token, p.CreatedAt = known.Happened, known.Webhook, known.Token, known.CreatedAt
	if known.Webhook == store.WebhookDisabled {
		p.URL = "" // its receiver said 410 before the create was answered
	}
	p.Webhook = rules.WebhookFor(&p)
	if p.Happened.Has(event.Terminal) {
		p.Credential, p.Events = nil, known.Events
	}
	t.Prediction, t.dirty = p, true
	u.byKey[string(rules.PredictionKey(p.API, p.ID))] = t
	u.poll(t)
	return t, nil
}

// replaceWebhook gives a prediction that is tracked already the webhook of p.
// Where p was reserved for it, as for a create that an API answered with a
// prediction it had made before, callbacks find the tracked one from now on.
func (u *unit) replaceWebhook(known *tracked, p *store.Prediction) {
	if p.Ref != 0 {
		if r, err := u.find(p.Ref); err == nil && r.ID == "" {
			r.gone = true
			u.touch(r)
		}
		if known.Token == nil && p.Token != nil {
			known.Token = p.Token
		}
	}
	known.setWebhook(p.URL, p.Events)
}

// setWebhook sets a new URL and filter. After the terminal event the filter has
// no say any more, and is kept: the webhook status follows from what was wanted
// then.
func (t *tracked) setWebhook(url string, events event.Set) {
	t.URL, t.dirty = url, true
	if !t.Happened.Has(event.Terminal) {
		t.Events = events
	}
	t.Webhook = rules.WebhookFor(&t.Prediction)
}

// Observe implements store.Tracking.
func (s *Store) Observe(ctx context.Context, ref int64, id string, happened []store.Happening) error {
	if len(happened) == 0 && id == "" {
		return nil
	}
	return s.commit(ctx, &job{refs: []int64{ref}, do: func(u *unit) error {
		t, err := u.find(ref)
		if err != nil {
			return err
		}
		if t.ID == "" && id != "" {
			other, err := u.findKey(t.API, id)
			switch {
			case err != nil:
				return err
			case other != nil:
				return store.ErrNotFound // the id is another prediction's
			}
			t.ID, t.dirty = id, true
			u.byKey[string(rules.PredictionKey(t.API, id))] = t
		}
		if err := u.emit(t, happened); err != nil {
			return err
		}
		u.settle(t)
		return nil
	}})
}

// SetWebhook implements store.Tracking.
func (s *Store) SetWebhook(ctx context.Context, ref int64, url string, events event.Set) error {
	return s.commit(ctx, &job{refs: []int64{ref}, do: func(u *unit) error {
		t, err := u.find(ref)
		if err != nil {
			return err
		}
		before := t.URL
		t.setWebhook(url, events)
		u.redirect(t, before)
		u.settle(t)
		return nil
	}})
}

// emit takes in what is new among what happened to a prediction.
func (u *unit) emit(t *tracked, happened []store.Happening) error {
	before := t.Happened
	wanted := rules.Advance(&t.Prediction, happened)
	if t.Happened != before {
		t.dirty = true
		if t.Happened.Has(event.Terminal) && t.Webhook == store.WebhookPending && len(wanted) == 0 {
			t.Webhook = t.webhookByStarted()
		}
	}
	return u.deliver(t, wanted)
}

// webhookByStarted is the webhook status of a prediction whose terminal event
// is not to be sent: that of its started event's delivery.
func (t *tracked) webhookByStarted() store.WebhookStatus {
	first := t.started()
	switch {
	case first == nil:
		return store.WebhookDelivered
	case first.state == statePending:
		return store.WebhookPending
	case first.state == stateFailed:
		return store.WebhookFailed
	}
	return store.WebhookDelivered
}

// deliver adds the deliveries of new events.
func (u *unit) deliver(t *tracked, wanted []store.Happening) error {
	for _, h := range wanted {
		if h.Event.Has(event.Terminal) {
			u.supersede(t)
		}
		if _, err := u.insert(t, h.Event, h.Payload, 0); err != nil {
			return err
		}
	}
	return nil
}

// supersede gives up a started event that has failed, now that the terminal
// event is known. One that was not tried yet or is being tried is left alone.
func (u *unit) supersede(t *tracked) {
	first := t.started()
	if first == nil || first.state != statePending || first.attempts == 0 || u.claimed(first) {
		return
	}
	first.end(stateSuperseded, u.now)
}

// end closes a delivery.
func (d *delivery) end(state int16, now int64) {
	d.state, d.due, d.dirty = state, now, true
}

// redirect makes a prediction's pending deliveries go to its URL, or nowhere if
// it has none. If it had another one before, they are due at once: what the old
// receiver has done to be left alone is nothing to the new one. Those under way
// follow when their attempt is over.
func (u *unit) redirect(t *tracked, before string) {
	if t.URL == "" {
		u.cancelPending(t)
		return
	}
	if t.URL == before {
		return
	}
	lane := store.LaneOf(t.Client, t.URL).String()
	for _, d := range t.deliveries {
		if d.state == statePending {
			d.endpoint, d.due, d.dirty = lane, min(d.due, u.now), true
			u.withdraw(d)
		}
	}
}

// cancelPending cancels a prediction's pending deliveries. The attempt that is
// under way at one is its last.
func (u *unit) cancelPending(t *tracked) {
	for _, d := range t.deliveries {
		if d.state == statePending {
			u.withdraw(d)
			d.end(stateCanceled, u.now)
		}
	}
}

// Prediction implements store.Tracking.
func (s *Store) Prediction(ctx context.Context, api, id string) (store.Prediction, error) {
	return s.findPrediction(ctx, "p.key = $1", rules.PredictionKey(api, id))
}

// ByToken implements store.Tracking.
func (s *Store) ByToken(ctx context.Context, token []byte) (store.Prediction, error) {
	return s.findPrediction(ctx, "p.token = $1", token)
}

func (s *Store) findPrediction(ctx context.Context, where string, arg any) (p store.Prediction, err error) {
	err = s.read(ctx, func(ctx context.Context, conn *pgx.Conn) error {
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

// Secret implements store.Tracking.
func (s *Store) Secret(ctx context.Context, name string, make func() ([]byte, error)) ([]byte, error) {
	var sealed []byte
	read := func(ctx context.Context, conn *pgx.Conn) error {
		err := conn.QueryRow(ctx, "SELECT sealed FROM webhook_secrets WHERE name = $1", name).Scan(&sealed)
		if errors.Is(err, pgx.ErrNoRows) {
			return store.ErrNotFound
		}
		return err
	}
	if err := s.read(ctx, read); !errors.Is(err, store.ErrNotFound) {
		return sealed, err
	}
	made, err := make()
	if err != nil {
		return nil, err
	}
	err = s.read(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		err := execute(ctx, conn, "INSERT INTO webhook_secrets (name, sealed) VALUES ($1, $2) ON CONFLICT DO NOTHING", name, made)
		if err != nil {
			return err
		}
		return read(ctx, conn)
	})
	return sealed, err
}
