package operator

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// Redelivery is the new delivery of an old one's event.
type Redelivery struct {
	ID string `json:"id"`
	Of string `json:"of"`
}

// Redeliver commits a new delivery of the event of an old one, whatever has
// become of that. It shares the old one's payload.
// ErrNotFound, ErrDisabled, ErrUnavailable.
func (s *Service) Redeliver(ctx context.Context, id string) (out Redelivery, err error) {
	err = s.use(func(o store.Store) error {
		again, err := o.RedeliverDelivery(ctx, id)
		out = Redelivery{ID: again, Of: id}
		return err
	})
	if err != nil {
		return Redelivery{}, err
	}
	return out, nil
}

// Bulk is the result of a call of RedeliverAll for one page of deliveries.
type Bulk struct {
	// Matched deliveries that were looked at.
	Matched int `json:"matched"`
	// Redelivered ones, or those that would be in a dry run.
	Redelivered int `json:"redelivered"`
	// Overtaken are those whose event is on its way again or has arrived by
	// a later delivery.
	Overtaken int `json:"overtaken"`
	// Disabled are those whose prediction's webhook is disabled.
	Disabled int `json:"disabled"`
	// DryRun: nothing was redelivered.
	DryRun bool `json:"dry_run"`
	// Next is the cursor to go on with, empty when all is done.
	Next string `json:"next"`
}

// Add takes the counts of a further call in.
func (b *Bulk) Add(o Bulk) {
	b.Matched += o.Matched
	b.Redelivered += o.Redelivered
	b.Overtaken += o.Overtaken
	b.Disabled += o.Disabled
	b.Next = o.Next
}

// Progress returns how many deliveries were looked at, and Next.
func (b *Bulk) Progress() (matched int, next string) { return b.Matched, b.Next }

const (
	// bulkTime bounds one call, so that its response comes while somebody is
	// waiting for it.
	bulkTime = 2 * time.Second
	// bulkCommits is the number of redeliveries committed at a time: stores
	// commit what comes together as one.
	bulkCommits = 32
)

// RedeliverAll redelivers what matches, newest first: up to the query's limit
// in one call, which also ends after two seconds. Call it again with Next as
// the cursor until that is empty. The default state is failed; pending
// deliveries are on their way already. An event that has been delivered since,
// or is pending, is left alone. The error is an *InvalidError or
// ErrUnavailable; with ErrUnavailable the counts say what was done before.
func (s *Service) RedeliverAll(ctx context.Context, q DeliveryQuery, dry bool) (Bulk, error) {
	out := Bulk{DryRun: dry}
	if q.State == "" {
		q.State = store.DeliveryFailed.String()
	}
	f, err := q.filter(s.conf.Now())
	if err != nil {
		return out, err
	}
	if *f.State == store.DeliveryPending {
		return out, invalid("state", "is pending: those deliveries are on their way already")
	}
	var mu sync.Mutex
	// After an error the same rows come again: those that were redelivered are
	// overtaken then.
	out.Next, err = s.everyRow(ctx, f, func(o store.Store, r *store.DeliveryRow) error {
		again, err := false, error(nil)
		if r.URL != "" {
			again, err = s.redeliverRow(ctx, o, r, dry)
		}
		mu.Lock()
		defer mu.Unlock()
		switch {
		case errors.Is(err, store.ErrNotFound): // forgotten meanwhile
			return nil
		case r.URL == "", errors.Is(err, store.ErrDisabled):
			out.Disabled++
		case err != nil:
			return err
		case again:
			out.Redelivered++
		default:
			out.Overtaken++
		}
		out.Matched++
		return nil
	})
	return out, err
}

// everyRow calls do with the rows that a filter selects, newest first: with as many
// as its limit says, and until bulkTime has passed. do is called for several rows
// at a time. next is the cursor to go on with, empty when there are no more; after
// an error of do it is where that page began.
func (s *Service) everyRow(ctx context.Context, f store.DeliveryFilter, do func(store.Store, *store.DeliveryRow) error) (next string, err error) {
	left := f.Limit
	next = cursor(f.Before)
	err = s.use(func(o store.Store) error {
		for began := time.Now(); ; {
			f.Limit = min(left, bulkCommits)
			rows, more, err := o.ListDeliveries(ctx, f)
			if err != nil {
				return err
			}
			errs := make([]error, len(rows))
			var wg sync.WaitGroup
			for i := range rows {
				wg.Go(func() { errs[i] = do(o, &rows[i]) })
			}
			wg.Wait()
			if err := errors.Join(errs...); err != nil {
				return err
			}
			left -= len(rows)
			f.Before, next = more, cursor(more)
			if more == 0 || left <= 0 || time.Since(began) > bulkTime {
				return nil
			}
		}
	})
	return next, err
}

// redeliverRow redelivers one, unless a later delivery of its event makes that
// needless.
func (s *Service) redeliverRow(ctx context.Context, o store.Store, r *store.DeliveryRow, dry bool) (bool, error) {
	later, _, err := o.ListDeliveries(ctx, store.DeliveryFilter{Prediction: r.PredictionID, Event: r.Event, Limit: MaxLimit})
	if err != nil {
		return false, err
	}
	for _, l := range later {
		if l.Prediction != r.Prediction || l.N <= r.N {
			continue
		}
		// Of several in the same state the newest represents all.
		if l.State == store.DeliveryPending || l.State == store.DeliveryDelivered || l.State == r.State {
			return false, nil
		}
	}
	if dry {
		return true, nil
	}
	_, err = o.RedeliverDelivery(ctx, r.ID)
	return err == nil, err
}
