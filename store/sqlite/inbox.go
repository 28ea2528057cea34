package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/ledger"
)

// inbox is the part of the store that keeps inbound events.
type inbox struct {
	s     *Store
	boxes boxes
	// raiseAfter is when raise may look up more. It is guarded by raising, which
	// each call of raise holds.
	raising    sync.Mutex
	raiseAfter time.Time
}

var _ store.Inbox = (*inbox)(nil)

// SetPaused implements store.Inbox.
func (b *inbox) SetPaused(ctx context.Context, scope string, paused bool) error {
	var spans []store.Span
	return b.s.run(ctx, op{
		write: func(g *group) (err error) {
			if spans, err = g.pause(scope, paused); err != nil || spans == nil {
				return err
			}
			_, err = g.box(scope) // it is listed from now on
			return err
		},
		after: func() {
			if spans == nil {
				return
			}
			b.boxes.mu.Lock()
			b.boxes.pauses[scope] = spans
			b.boxes.mu.Unlock()
			b.s.queue.setPaused(store.InboxLane(scope), paused)
		},
	})
}

// pause writes a change, and returns the pauses of the scope with it, nil without a
// change.
func (w *eventWrites) pause(scope string, paused bool) ([]store.Span, error) {
	stored, err := w.pairs("SELECT began, ended FROM pauses WHERE scope = ? ORDER BY began", scope)
	if err != nil {
		return nil, err
	}
	var spans []store.Span
	for _, p := range stored {
		spans = append(spans, store.Span{Began: timeOf(p[0]), Ended: timeOf(p[1])})
	}
	open := !ledger.PausedSince(spans).IsZero()
	switch now := w.g.now(); {
	case open == paused:
		return nil, nil
	case paused:
		if n := len(stored); n > 0 {
			now = max(now, stored[n-1][1]) // the clock may have been set back
		}
		if n := len(spans) - ledger.MaxSpans + 1; n > 0 {
			spans = spans[n:]
		}
		spans = append(spans, store.Span{Began: timeOf(now)})
		return spans, errors.Join(
			w.g.exec("DELETE FROM pauses WHERE scope = ? AND began < ?", scope, spans[0].Began.UnixMilli()),
			w.g.exec("INSERT INTO pauses (scope, began, ended) VALUES (?, ?, 0) ON CONFLICT DO UPDATE SET ended = 0", scope, now))
	default:
		last := &spans[len(spans)-1]
		now = max(now, last.Began.UnixMilli())
		last.Ended = timeOf(now)
		return spans, w.g.exec("UPDATE pauses SET ended = ? WHERE scope = ? AND ended = 0", now, scope)
	}
}

// Paused implements store.Inbox.
func (b *inbox) Paused(scope string) bool { return !ledger.PausedSince(b.Pauses(scope)).IsZero() }

// Pauses implements store.Inbox.
func (b *inbox) Pauses(scope string) []store.Span {
	b.boxes.mu.Lock()
	defer b.boxes.mu.Unlock()
	return b.boxes.pauses[scope] // it is replaced, and never changed
}

// Inboxes implements store.Inbox.
func (b *inbox) Inboxes(ctx context.Context) ([]store.InboxState, error) {
	if err := b.s.closed(); err != nil {
		return nil, err
	}
	var out []store.InboxState
	for _, box := range b.list() {
		st := store.InboxState{Scope: box.scope, PausedAt: ledger.PausedSince(b.Pauses(box.scope)), Bytes: box.bytes}
		for i, n := range box.events {
			st.Events[i] = int(n)
		}
		if st.Events[store.DeliveryPending] > 0 {
			var err error
			if st.OldestWaiting, err = b.oldest(ctx, box); err != nil {
				return nil, b.s.readError(err)
			}
		}
		out = append(out, st)
	}
	return out, nil
}

// list returns copies of the inboxes, by scope.
func (b *inbox) list() (out []box) {
	b.boxes.mu.Lock()
	defer b.boxes.mu.Unlock()
	for _, box := range b.boxes.byScope {
		out = append(out, *box)
	}
	slices.SortFunc(out, func(a, b box) int { return cmp.Compare(a.scope, b.scope) })
	return out
}

// oldest returns when the oldest waiting event of an inbox was accepted. It goes on
// where the last call ended, since older ones wait again only when they are
// replayed.
func (b *inbox) oldest(ctx context.Context, of box) (at time.Time, err error) {
	from := max(of.oldest, ledger.FirstEvent)
	var n, created int64
	err = b.s.db.QueryRowContext(ctx, "SELECT n, created FROM deliveries INDEXED BY deliveries_pending WHERE state = 0 AND n >= ? AND scope = ? ORDER BY n LIMIT 1", from, of.id).Scan(&n, &created)
	if errors.Is(err, sql.ErrNoRows) {
		return at, nil // it has ended since
	}
	if err != nil {
		return at, err
	}
	b.boxes.mu.Lock()
	defer b.boxes.mu.Unlock()
	if box := b.boxes.byID[of.id]; box.oldest == of.oldest {
		box.oldest = n
	}
	return timeOf(created), nil
}

// RetryEvent implements store.Inbox.
func (b *inbox) RetryEvent(ctx context.Context, id string) error {
	return b.operate(ctx, id, func(g *group, d *delivery, _ *storedEvent) error {
		return ledger.Line[row]{d}.Retry(g.ledger(), d)
	})
}

// DiscardEvent implements store.Inbox.
func (b *inbox) DiscardEvent(ctx context.Context, id string) error {
	return b.operate(ctx, id, func(g *group, d *delivery, _ *storedEvent) error {
		return ledger.Line[row]{d}.Discard(g.ledger(), d)
	})
}

// ReplayEvent implements store.Inbox.
func (b *inbox) ReplayEvent(ctx context.Context, id string) error {
	return b.operate(ctx, id, func(g *group, d *delivery, s *storedEvent) error {
		return (&ledger.Line[row]{}).Replay(g.ledger(), d, s.whole && !s.recorded)
	})
}

// operate commits what an operator does to an event.
func (b *inbox) operate(ctx context.Context, id string, do func(*group, *delivery, *storedEvent) error) error {
	if err := b.s.closed(); err != nil {
		return err
	}
	return b.s.commit(ctx, func(g *group) error {
		e, d, s, err := g.event(id)
		if err != nil {
			return err
		}
		if err := do(g, d, s); err != nil {
			return err
		}
		return g.write(e)
	})
}

// orderNumbers returns the numbers that the events of a prediction may have, in one
// scope or in all.
func (b *inbox) orderNumbers(scope, prediction string) (out []any) {
	for _, box := range b.list() {
		if scope == "" || scope == box.scope {
			for _, n := range ledger.OrderNumbers(box.scope, prediction) {
				out = append(out, n)
			}
		}
	}
	return out
}
