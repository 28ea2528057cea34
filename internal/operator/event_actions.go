package operator

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/caddy-replicate/replicate-webhook/store"
)

// EventAction is what an operator can do with an event.
type EventAction string

// The actions.
const (
	// ActionRetry makes a waiting event due now.
	ActionRetry EventAction = "retry"
	// ActionDiscard ends a waiting event.
	ActionDiscard EventAction = "discard"
	// ActionReplay makes an event that has ended wait again.
	ActionReplay EventAction = "replay"
)

// EventChange is an event with which something was done.
type EventChange struct {
	ID     string      `json:"id"`
	Action EventAction `json:"action"`
}

// ChangeEvent does something with an event. The error is ErrNotFound,
// ErrUnavailable, ErrEnded with retry and discard, or ErrWaiting or ErrNoBody with
// replay.
func (s *Service) ChangeEvent(ctx context.Context, a EventAction, id string) (EventChange, error) {
	err := s.use(func(o store.Store) error { return a.do(ctx, o, id) })
	switch {
	case err == nil:
		return EventChange{ID: id, Action: a}, nil
	case errors.Is(err, ErrEnded):
		err = fmt.Errorf("%w: replay has it forwarded again", err)
	case errors.Is(err, ErrWaiting):
		err = fmt.Errorf("%w: it is forwarded without a replay, and retry makes it due now", err)
	case errors.Is(err, ErrNoBody):
		err = fmt.Errorf("%w: its body was deleted to make room, or it was only recorded", err)
	}
	return EventChange{}, err
}

func (a EventAction) do(ctx context.Context, in store.Inbox, id string) error {
	switch a {
	case ActionRetry:
		return in.RetryEvent(ctx, id)
	case ActionDiscard:
		return in.DiscardEvent(ctx, id)
	}
	return in.ReplayEvent(ctx, id)
}

// EventBulk says what a call of ChangeEvents did with one page of events.
type EventBulk struct {
	Action EventAction `json:"action"`
	// Matched events that were looked at.
	Matched int `json:"matched"`
	// Changed ones, or those that would be in a dry run.
	Changed int `json:"changed"`
	// Unchanged are those that ended meanwhile, or wait again.
	Unchanged int `json:"unchanged"`
	// NoBody are those that can't be replayed: their body was deleted to make
	// room, or they were only recorded.
	NoBody int `json:"no_body"`
	// DryRun: nothing was changed.
	DryRun bool `json:"dry_run"`
	// Next is the cursor to go on with, empty when all is done.
	Next string `json:"next"`
}

// Add takes the counts of a further call in.
func (b *EventBulk) Add(o EventBulk) {
	b.Matched += o.Matched
	b.Changed += o.Changed
	b.Unchanged += o.Unchanged
	b.NoBody += o.NoBody
	b.Next = o.Next
}

// Progress returns how many events were looked at, and Next.
func (b *EventBulk) Progress() (matched int, next string) { return b.Matched, b.Next }

// ChangeEvents does something with what matches, newest first, in calls like those
// of RedeliverAll. The default states are waiting and running, and failed for a
// replay. The error is an *InvalidError or ErrUnavailable; with ErrUnavailable the
// counts say what was done before.
func (s *Service) ChangeEvents(ctx context.Context, a EventAction, q EventQuery, dry bool) (EventBulk, error) {
	out := EventBulk{Action: a, DryRun: dry}
	f, err := q.filter(s.conf.Now())
	if err != nil {
		return out, err
	}
	if err := f.narrow(a); err != nil {
		return out, err
	}
	var mu sync.Mutex
	out.Next, err = s.everyRow(ctx, f.DeliveryFilter, func(o store.Store, r *store.DeliveryRow) error {
		if !f.selects(r) {
			return nil
		}
		err := error(nil)
		switch {
		case a == ActionReplay && !r.Replayable:
			err = ErrNoBody
		case !dry:
			err = a.do(ctx, o, r.ID)
		}
		mu.Lock()
		defer mu.Unlock()
		switch {
		case errors.Is(err, ErrNotFound): // forgotten meanwhile
			return nil
		case errors.Is(err, ErrEnded), errors.Is(err, ErrWaiting):
			out.Unchanged++
		case errors.Is(err, ErrNoBody):
			out.NoBody++
		case err != nil:
			return err
		default:
			out.Changed++
		}
		out.Matched++
		return nil
	})
	return out, err
}

// narrow makes a filter select no events but those with which something can be
// done. The error is an *InvalidError.
func (f *eventFilter) narrow(a EventAction) error {
	waits := f.State != nil && *f.State == store.DeliveryPending
	switch {
	case f.State == nil:
		state := store.DeliveryPending
		if a == ActionReplay {
			state = store.DeliveryFailed
		}
		f.State = &state
	case a == ActionReplay && waits:
		return invalid("state", "is %s: those events are forwarded without a replay", f.state)
	case a != ActionReplay && !waits:
		return invalid("state", "is %s: those events have ended, and only waiting or running ones can be changed by %s", f.state, a)
	}
	return nil
}
