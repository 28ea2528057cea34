package postgres

import (
	"cmp"
	"context"
	"errors"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/ledger"
)

// inboxInterval is how often a node reads which inboxes are paused and which signing
// keys are rotated, and how long it bounds an inbox by what it knows of it itself:
// other nodes may have added to the inbox in between, so that its bounds may be exceeded
// by that.
const inboxInterval = 500 * time.Millisecond

// inbox is the part of the store that keeps inbound events. It implements store.Inbox.
type inbox struct {
	s *Store
	// reload is signaled when inboxes were paused or resumed, or a signing key
	// was rotated.
	reload chan struct{}
	// loading is held while pauses are read, so that they are taken in in order.
	loading sync.Mutex

	mu      sync.Mutex
	numbers map[*store.Inbound]*numbered
	usage   map[string]*inboxUsage
	// pauses are by the clock of the database. A list is replaced, and never
	// changed.
	pauses map[string][]store.Span
	// uneven reports that this node has added counts that were not merged.
	uneven bool
}

// inboxUsage is what the inbox of a scope held when it was read, with what this node has
// changed since.
type inboxUsage struct {
	ledger.Usage
	at time.Time
}

var _ store.Inbox = (*inbox)(nil)

func newInbox(s *Store) *inbox {
	return &inbox{
		s: s, reload: make(chan struct{}, 1), numbers: make(map[*store.Inbound]*numbered),
		usage: make(map[string]*inboxUsage), pauses: make(map[string][]store.Span),
	}
}

// dueAgain makes events due that wait for longer than a receiver can ask for: the
// clock of the database was ahead.
const dueAgain = "UPDATE webhook_deliveries SET due = $1 WHERE state = 0 AND n >= $2 AND due > $3"

// maxWait is the longest wait that a receiver can ask for.
const maxWait = time.Hour

// open reads what the node has to know of the inboxes.
func (b *inbox) open(ctx context.Context, conn *pgx.Conn) error {
	now := b.s.now()
	if err := execute(ctx, conn, dueAgain, now.UnixMilli(), int64(ledger.FirstEvent), now.Add(maxWait).UnixMilli()); err != nil {
		return err
	}
	b.loading.Lock()
	defer b.loading.Unlock()
	return b.load(ctx, conn)
}

// loop follows what other nodes pause and rotate, and merges counts.
func (b *inbox) loop() {
	defer b.s.working.Done()
	t := time.NewTicker(inboxInterval)
	defer t.Stop()
	for {
		select {
		case <-b.s.stop:
			return
		case <-b.reload:
		case <-t.C:
		}
		if b.s.available() != nil {
			continue
		}
		if err := errors.Join(b.loadPauses(), b.s.followRotations(), b.merge()); err != nil && b.s.closed() == nil && b.s.available() == nil {
			b.s.opts.Logger().Warn("reading which inboxes are paused and which signing keys are rotated", zap.String("store", b.s.name), zap.Error(err))
		}
	}
}

func (b *inbox) loadPauses() error {
	b.loading.Lock()
	defer b.loading.Unlock()
	return b.s.use(b.load)
}

// load reads the pauses. The caller holds loading.
func (b *inbox) load(ctx context.Context, conn *pgx.Conn) error {
	type pause struct {
		Scope        string
		Began, Ended int64
	}
	read, err := collect(ctx, conn, pgx.RowToStructByPos[pause], "SELECT scope, began, ended FROM webhook_inbox_pauses ORDER BY scope, began")
	if err != nil {
		return err
	}
	pauses := make(map[string][]store.Span)
	for _, p := range read {
		pauses[p.Scope] = append(pauses[p.Scope], store.Span{Began: timeOf(p.Began), Ended: timeOf(p.Ended)})
	}
	b.mu.Lock()
	changed := false
	for _, scopes := range []map[string][]store.Span{b.pauses, pauses} {
		for scope := range scopes {
			changed = changed || ledger.PausedSince(b.pauses[scope]) != ledger.PausedSince(pauses[scope])
		}
	}
	b.pauses = pauses
	b.mu.Unlock()
	if changed {
		b.s.queue.look(0)
	}
	return nil
}

// running returns the endpoints without those of scopes that are paused.
func (b *inbox) running(ready []readyEndpoint) []readyEndpoint {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.pauses) == 0 {
		return ready
	}
	return slices.DeleteFunc(ready, func(e readyEndpoint) bool {
		scope, inbound := store.ParseLane(e.name).Inbox()
		return inbound && !ledger.PausedSince(b.pauses[scope]).IsZero()
	})
}

const (
	lockPauses = "SELECT pg_advisory_xact_lock($1)"
	// beginPause keeps the last pauses. A clock that was set back begins no pause
	// before the last one.
	beginPause = `INSERT INTO webhook_inbox_pauses (scope, began, ended)
		SELECT $1, greatest($2, (SELECT max(ended) FROM webhook_inbox_pauses WHERE scope = $1)), 0
		WHERE NOT EXISTS (SELECT 1 FROM webhook_inbox_pauses WHERE scope = $1 AND ended = 0)
		ON CONFLICT (scope, began) DO UPDATE SET ended = 0`
	endPause    = "UPDATE webhook_inbox_pauses SET ended = greatest(began, $2) WHERE scope = $1 AND ended = 0"
	dropPauses  = "DELETE FROM webhook_inbox_pauses WHERE scope = $1 AND began < (SELECT began FROM webhook_inbox_pauses WHERE scope = $1 ORDER BY began DESC OFFSET $2 LIMIT 1)"
	noticePause = "SELECT pg_notify($1, 'p')"
)

// SetPaused implements store.Inbox.
func (b *inbox) SetPaused(ctx context.Context, scope string, paused bool) error {
	b.loading.Lock()
	defer b.loading.Unlock()
	return b.s.read(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		batch := newBatch()
		batch.Queue(lockPauses, b.locks([]int64{ledger.OrderNumber(scope, "pause", true)})[0])
		if now := b.s.now().UnixMilli(); paused {
			batch.Queue(beginPause, scope, now)
			batch.Queue(dropPauses, scope, ledger.MaxSpans-1)
		} else {
			batch.Queue(endPause, scope, now)
		}
		batch.Queue(noticePause, b.s.channel)
		if err := conn.SendBatch(ctx, batch).Close(); err != nil {
			return err
		}
		return b.load(ctx, conn)
	})
}

// Paused implements store.Inbox.
func (b *inbox) Paused(scope string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !ledger.PausedSince(b.pauses[scope]).IsZero()
}

// Pauses implements store.Inbox.
func (b *inbox) Pauses(scope string) []store.Span {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := slices.Clone(b.pauses[scope])
	for i := range out {
		out[i].Began, out[i].Ended = b.s.fromDatabase(out[i].Began), b.s.fromDatabase(out[i].Ended)
	}
	return out
}

// readInboxes reads what each scope has, with the time at which the oldest waiting
// event was accepted.
const readInboxes = `SELECT scope, sum(waiting)::bigint, sum(accepted)::bigint, sum(failed)::bigint, sum(discarded)::bigint, sum(refused)::bigint, sum(bytes)::bigint,
	coalesce((SELECT d.created FROM webhook_deliveries d WHERE d.n = (SELECT i.n FROM webhook_inbound i WHERE i.scope = c.scope AND i.ended = 0 ORDER BY i.n LIMIT 1)), 0)
	FROM webhook_inbox_counts c GROUP BY scope ORDER BY scope`

// Inboxes implements store.Inbox.
func (b *inbox) Inboxes(ctx context.Context) ([]store.InboxState, error) {
	paused := make(map[string]time.Time)
	b.mu.Lock()
	for scope, spans := range b.pauses {
		if at := ledger.PausedSince(spans); !at.IsZero() {
			paused[scope] = b.s.fromDatabase(at)
		}
	}
	b.mu.Unlock()
	var out []store.InboxState
	err := b.s.read(ctx, func(ctx context.Context, conn *pgx.Conn) (err error) {
		out, err = collect(ctx, conn, func(row pgx.CollectableRow) (st store.InboxState, err error) {
			var oldest int64
			e := &st.Events
			err = row.Scan(&st.Scope, &e[store.DeliveryPending], &e[store.DeliveryDelivered], &e[store.DeliveryFailed], &e[store.DeliveryCanceled], &e[store.DeliveryRefused], &st.Bytes, &oldest)
			st.OldestWaiting = b.s.fromDatabase(timeOf(oldest))
			return st, err
		}, readInboxes)
		return err
	})
	if err != nil {
		return nil, err
	}
	for i := range out {
		out[i].PausedAt = paused[out[i].Scope]
		delete(paused, out[i].Scope)
	}
	out = slices.DeleteFunc(out, func(st store.InboxState) bool { return st == store.InboxState{Scope: st.Scope} })
	for scope, at := range paused {
		out = append(out, store.InboxState{Scope: scope, PausedAt: at})
	}
	slices.SortFunc(out, func(a, b store.InboxState) int { return cmp.Compare(a.Scope, b.Scope) })
	return out, nil
}

// RetryEvent implements store.Inbox.
func (b *inbox) RetryEvent(ctx context.Context, id string) error {
	return b.operate(ctx, id, func(u *unit, t *tracked, d *delivery) error {
		if err := t.line(d).Retry(&u.tx, d); err != nil {
			return err
		}
		t.settle()
		return nil
	})
}

// DiscardEvent implements store.Inbox.
func (b *inbox) DiscardEvent(ctx context.Context, id string) error {
	return b.operate(ctx, id, func(u *unit, t *tracked, d *delivery) error { return t.line(d).Discard(&u.tx, d) })
}

const (
	nextEventNumber = "SELECT nextval('webhook_event_numbers')"
	// lockHead keeps the head and body of an event from being deleted.
	lockHead = "SELECT i.head IS NOT NULL AND EXISTS (SELECT 1 FROM webhook_payloads b WHERE b.n = i.n) FROM webhook_inbound i WHERE i.n = $1 FOR UPDATE"
)

// ReplayEvent implements store.Inbox.
func (b *inbox) ReplayEvent(ctx context.Context, id string) error {
	return b.operate(ctx, id, func(u *unit, t *tracked, d *delivery) error {
		var whole bool
		if err := u.conn.QueryRow(u.ctx, lockHead, d.N).Scan(&whole); err != nil {
			return err
		}
		line := t.line(d)
		if err := line.Replay(&u.tx, d, whole && !d.Row.in.recorded); err != nil {
			return err
		}
		if ledger.IsOrdered(t.Ref) {
			t.Deliveries = line
		}
		// Its entry may have been purged: none is kept for it.
		d.Row.in.expires, d.Row.in.keys = math.MaxInt64, nil
		return u.conn.QueryRow(u.ctx, nextEventNumber).Scan(&d.Row.in.place)
	})
}

// operate commits what an operator does to an event.
func (b *inbox) operate(ctx context.Context, id string, do func(*unit, *tracked, *delivery) error) error {
	if err := b.s.closed(); err != nil {
		return err
	}
	n, nonce, ok := ledger.ParseEventID(id)
	if !ok {
		return store.ErrNotFound
	}
	var number int64
	if err := b.s.read(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		err := conn.QueryRow(ctx, "SELECT prediction FROM webhook_deliveries WHERE n = $1 AND nonce = $2", n, nonce).Scan(&number)
		if errors.Is(err, pgx.ErrNoRows) {
			return store.ErrNotFound
		}
		return err
	}); err != nil {
		return err
	}
	done := false
	return b.s.commit(ctx, &job{refs: []int64{number}, do: func(u *unit) error {
		t, d, err := u.event(number, n, nonce)
		if err != nil {
			return err
		}
		err = do(u, t, d)
		switch {
		case err == nil:
			done = true
			return u.finish(t)
		case done && (errors.Is(err, store.ErrEnded) || errors.Is(err, store.ErrWaiting)):
			return nil // an earlier run has committed it after all
		}
		return err
	}})
}

// usageKnown reports whether this node knows what the inbox of a scope holds.
func (b *inbox) usageKnown(scope string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	u := b.usage[scope]
	return u != nil && time.Since(u.at) < inboxInterval
}

func (b *inbox) usageOf(scope string) ledger.Usage {
	b.mu.Lock()
	defer b.mu.Unlock()
	if u := b.usage[scope]; u != nil {
		return u.Usage
	}
	return ledger.Usage{}
}

const readUsage = "SELECT coalesce(sum(waiting), 0)::bigint, coalesce(sum(bytes), 0)::bigint, coalesce(sum(ended), 0)::bigint FROM webhook_inbox_counts WHERE scope = $1"

// readUsage reads what the inbox of a scope holds.
func (b *inbox) readUsage(ctx context.Context, conn *pgx.Conn, scope string) error {
	u := &inboxUsage{at: time.Now()}
	if err := conn.QueryRow(ctx, readUsage, scope).Scan(&u.Waiting, &u.Bytes, &u.Ended); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.usage[scope] = u
	return nil
}

// changed adds what a transaction has changed.
func (b *inbox) changed(counts map[string]*tally) {
	if len(counts) == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.uneven = true
	for scope, t := range counts {
		if u := b.usage[scope]; u != nil {
			u.Waiting += t.events[store.DeliveryPending]
			u.Bytes += t.bytes
			u.Ended += t.ended
		}
	}
}

const mergeCounts = `WITH gone AS (
	DELETE FROM webhook_inbox_counts WHERE (scope, id) IN (SELECT scope, id FROM webhook_inbox_counts ORDER BY scope, id LIMIT 10000 FOR UPDATE SKIP LOCKED) RETURNING *
) INSERT INTO webhook_inbox_counts (scope, waiting, accepted, failed, discarded, refused, bytes, ended)
	SELECT scope, sum(waiting), sum(accepted), sum(failed), sum(discarded), sum(refused), sum(bytes), sum(ended) FROM gone GROUP BY scope`

// merge makes one row of the rows of counts, if this node has added any.
func (b *inbox) merge() error {
	b.mu.Lock()
	uneven := b.uneven
	b.uneven = false
	b.mu.Unlock()
	if !uneven {
		return nil
	}
	return b.s.use(func(ctx context.Context, conn *pgx.Conn) error { return execute(ctx, conn, mergeCounts) })
}

// eventColumns are the columns of webhook_inbound that an attempt needs. They are NULL
// for a delivery to a client.
type eventColumns struct {
	replay                 bool
	scope                  *string
	name, prediction, head []byte
	refusals               *int
	overtaken              *bool
	since                  *int64
}

func (c *eventColumns) targets() []any {
	return []any{&c.replay, &c.scope, &c.name, &c.prediction, &c.refusals, &c.overtaken, &c.since, &c.head}
}

// fill sets what a delivery has of an event, whose body is its payload.
func (c *eventColumns) fill(d *store.Delivery) {
	if c.scope == nil {
		return
	}
	d.Inbound = &store.Inbound{
		ID: d.ID, Scope: *c.scope, Name: string(c.name), PredictionID: string(c.prediction), Ordered: ledger.IsOrdered(d.Prediction),
		Head: c.head, Body: d.Payload,
	}
	d.PredictionID, d.Replay, d.Refusals, d.Overtaken, d.WaitingSince = string(c.prediction), c.replay, *c.refusals, *c.overtaken, timeOf(*c.since)
}

// eventSpan is how many numbers one query of a list of events looks through: what a
// filter needs is in another table.
const eventSpan = 2000

// filter adds what a filter of events asks for beside what it asks for of all
// deliveries.
func (b *inbox) filter(w *scan, f store.DeliveryFilter) {
	const in = "EXISTS (SELECT 1 FROM webhook_inbound i WHERE i.n = r.n AND i."
	if f.Scope != "" {
		w.and(in+"scope = %s)", f.Scope)
	}
	if f.Name != "" {
		w.and(in+"name = %s)", []byte(f.Name))
	}
	if f.Prediction != "" {
		w.and(in+"prediction = %s)", []byte(f.Prediction))
	}
}

// orderNumbers returns the numbers that the events of a prediction may have, in one
// scope or in all.
func orderNumbers(ctx context.Context, conn *pgx.Conn, scope, prediction string) (out []int64, err error) {
	scopes := []string{scope}
	if scope == "" {
		if scopes, err = collect(ctx, conn, pgx.RowTo[string], "SELECT DISTINCT scope FROM webhook_inbox_counts"); err != nil {
			return nil, err
		}
	}
	for _, scope := range scopes {
		numbers := ledger.OrderNumbers(scope, prediction)
		out = append(out, numbers[:]...)
	}
	return out, nil
}

// list reads events by their numbers, newest first.
func (b *inbox) list(ctx context.Context, conn *pgx.Conn, numbers []int64, head, body string) ([]store.DeliveryRow, error) {
	return collect(ctx, conn, func(row pgx.CollectableRow) (r store.DeliveryRow, err error) {
		var nonce, due, created int64
		var state int16
		var in eventColumns
		var l last
		targets := append([]any{&r.N, &nonce, &r.Prediction, &state, &r.Attempts, &due, &created, &r.Claimed, &r.Replayable, &r.Payload}, in.targets()...)
		err = row.Scan(append(targets, l.targets()...)...)
		r.ID, r.State, r.Redelivery = ledger.EventID(r.N, nonce), store.DeliveryState(state), in.replay
		in.fill(&r.Delivery)
		r.Due, r.CreatedAt = timeOf(due), timeOf(created)
		l.fill(&r)
		return r, err
	}, `SELECT d.n, d.nonce, d.prediction, d.state, d.attempts, d.due, d.created, d.owner <> 0,
			i.head IS NOT NULL AND NOT i.recorded AND EXISTS (SELECT 1 FROM webhook_payloads b WHERE b.n = d.n), `+body+`,
			d.redelivery, i.scope, i.name, i.prediction, i.refusals, i.overtaken, i.since, `+head+`, `+lastColumns+`
		FROM webhook_deliveries d `+joinInbound+joinLast+` WHERE d.n = ANY($1) ORDER BY d.n DESC`, numbers)
}
