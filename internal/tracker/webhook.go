package tracker

import (
	"context"
	"crypto/rand"
	"fmt"

	"github.com/caddy-replicate/replicate-webhook/internal/ecmajson"
	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/internal/lifecycle"
	"github.com/caddy-replicate/replicate-webhook/internal/prediction"
	"github.com/caddy-replicate/replicate-webhook/internal/upstream"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// SetWebhook changes the webhook of a prediction from the next attempt on, or
// none: an empty url disables it. events of 0 keeps the filter. It returns p as
// it is then.
//
// Errors: those of CheckURL, store.ErrNotFound, store.ErrUnavailable.
func (t *Tracker) SetWebhook(ctx context.Context, p store.Prediction, url string, events event.Set) (store.Prediction, error) {
	if url != "" {
		if err := t.conf.CheckURL(url); err != nil {
			return p, err
		}
	}
	if events == 0 {
		events = p.Events
	}
	events = p.Events.With(events)
	err := t.use(func(s store.Store) error {
		if err := s.SetWebhook(ctx, p.Ref, url, events); err != nil {
			return err
		}
		now, err := s.Prediction(ctx, p.API, p.ID)
		if err == nil {
			p = now
		}
		return err
	})
	if err != nil {
		return p, fmt.Errorf("setting webhook of %s: %w", p.ID, err)
	}
	return p, nil
}

// Log returns a prediction's delivery log as its client may see it, newest first,
// from before the given row (0: the newest). Responses of receivers that only an
// exception of the operator's admitted are left out: they would show a client
// what is inside the operator's network.
//
// Errors: store.ErrUnavailable.
func (t *Tracker) Log(ctx context.Context, p store.Prediction, before int64, limit int) (rows []store.Attempt, err error) {
	err = t.use(func(s store.Store) error {
		rows, err = s.Attempts(ctx, p.Ref, before, limit)
		return err
	})
	for i := range rows {
		if rows[i].Exception {
			rows[i].Response = ""
		}
	}
	return rows, err
}

// Redeliver sends the event again that a row of the log was about, as a new
// delivery of the same payload. It returns the delivery's ID.
//
// Errors: store.ErrNotFound, store.ErrDisabled, store.ErrUnavailable.
func (t *Tracker) Redeliver(ctx context.Context, p store.Prediction, attempt int64) (delivery string, err error) {
	err = t.use(func(s store.Store) error {
		delivery, err = s.Redeliver(ctx, p.Ref, attempt)
		return err
	})
	return delivery, err
}

// TestPrefix begins the ids of test mode's predictions.
const TestPrefix = "test_"

// Test tracks a prediction that no API knows of, for a client that is setting
// its receiver up: it is finished already, and both its events are delivered
// at once. The prediction is in Body, in the form of an API.
//
// input is JSON, nil for {}. Errors: those of CheckURL, one of ecmajson for an
// input that is not JSON, store.ErrUnavailable.
func (t *Tracker) Test(ctx context.Context, c *Capture, fail bool, input []byte, version string) (store.Prediction, error) {
	if err := t.conf.CheckURL(c.URL); err != nil {
		return store.Prediction{}, err
	}
	if len(input) == 0 {
		input = []byte("{}")
	}
	d, err := ecmajson.Parse(input, ecmajson.Limits{}, nil)
	if err != nil {
		return store.Prediction{}, fmt.Errorf("reading input: %w", err)
	}
	p := t.predictionOf(c)
	p.ID, p.Test = TestPrefix+rand.Text(), true
	p.Body = testBody(p.ID, version, d.Bytes(), fail, prediction.FormatTime(p.CreatedAt))
	s, err := prediction.Parse(p.Body)
	if err != nil {
		return store.Prediction{}, err
	}
	events := lifecycle.Events(&p, s, t.conf.Now(), t.conf.Callback)
	if err := t.use(func(st store.Store) error { return st.Track(ctx, &p, events) }); err != nil {
		return store.Prediction{}, fmt.Errorf("tracking test prediction: %w", err)
	}
	return p, nil
}

// testBody returns a finished prediction with the members that clients of the API
// rely on. input is in ECMAScript form.
func testBody(id, version string, input []byte, fail bool, at string) []byte {
	b := []byte(`{"id":`)
	b = ecmajson.AppendString(b, id)
	b = append(b, `,"version":`...)
	b = ecmajson.AppendString(b, version)
	b = append(b, `,"input":`...)
	b = append(b, input...)
	b = append(b, `,"logs":"",`...)
	if fail {
		b = append(b, `"output":null,"error":"test mode: this prediction fails as asked","status":"failed"`...)
	} else {
		b = append(b, `"output":"test mode: this prediction was not run","error":null,"status":"succeeded"`...)
	}
	for _, name := range []string{`,"created_at":`, `,"started_at":`, `,"completed_at":`} {
		b = append(b, name...)
		b = ecmajson.AppendString(b, at)
	}
	return append(b, `,"metrics":{"predict_time":0}}`...)
}

// TestPrediction returns a prediction of test mode to the caller that made it.
// For others it is not found.
//
// Errors: store.ErrNotFound, store.ErrUnavailable.
func (t *Tracker) TestPrediction(ctx context.Context, api upstream.API, c upstream.Caller, id string) (store.Prediction, error) {
	p, err := t.Lookup(ctx, api.URL, id)
	if err == nil && (!p.Test || p.Client != c.Identity) {
		err = store.ErrNotFound
	}
	if err != nil {
		return store.Prediction{}, err
	}
	return p, nil
}
