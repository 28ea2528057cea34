package sqlite

import (
	"database/sql"
	"math"
	"sync"

	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/ledger"
)

// boxes are the inboxes of all scopes, in memory: what bounds them, and what
// operators see of them. Each transaction adds its changes when it is committed.
type boxes struct {
	mu      sync.Mutex
	byScope map[string]*box
	byID    map[int64]*box
	pauses  map[string][]store.Span
	lastID  int64 // the writer's
}

// box is the inbox of a scope. Its id, scope and lane never change; the rest is guarded by
// the mutex of boxes.
type box struct {
	id    int64
	scope string
	lane  store.Lane
	tally
	// lowest is no later than the first expiry of an entry whose event waits. It is
	// the highest number when none waits. since is the same for the events that
	// were accepted since lowest was last looked up.
	lowest, since int64
	// oldest is no higher than the lowest number of a waiting event.
	oldest int64
}

func newBox(id int64, scope string) *box {
	return &box{id: id, scope: scope, lane: store.InboxLane(scope), lowest: math.MaxInt64, since: math.MaxInt64, oldest: math.MaxInt64}
}

// tally is what is counted of an inbox: its events by state, the bytes of their
// heads and bodies, and how many of them are of ended events.
type tally struct {
	events       [len(store.InboxState{}.Events)]int64
	bytes, ended int64
}

func (t *tally) add(o *tally) {
	for i, n := range o.events {
		t.events[i] += n
	}
	t.bytes += o.bytes
	t.ended += o.ended
}

// count counts an event of a state and size, n times.
func (t *tally) count(state store.DeliveryState, size, n int64) {
	t.events[state] += n
	t.bytes += n * size
	if state != store.DeliveryPending {
		t.ended += n * size
	}
}

// boxChange is what a transaction changes in an inbox.
type boxChange struct {
	box *box
	tally
	// lowest is the first expiry of an entry whose event began to wait, and
	// oldest the lowest number of such an event.
	lowest, oldest int64
}

// usage returns what the inbox holds in the transaction. It is called by the writer,
// which alone changes that.
func (c *boxChange) usage() ledger.Usage {
	b := c.box
	return ledger.Usage{
		Waiting: b.events[store.DeliveryPending] + c.events[store.DeliveryPending],
		Bytes:   b.bytes + c.bytes, Ended: b.ended + c.ended,
	}
}

// waits notes an event that begins to wait.
func (c *boxChange) waits(n, expires int64) {
	c.lowest, c.oldest = min(c.lowest, expires), min(c.oldest, n)
}

// box returns what the transaction changes in the inbox of a scope, which is made if
// there is none.
func (w *eventWrites) box(scope string) (*boxChange, error) {
	if c := w.g.boxes[scope]; c != nil {
		return c, nil
	}
	b := w.g.w.boxes.find(scope)
	if b == nil {
		w.g.w.boxes.lastID++
		b = newBox(w.g.w.boxes.lastID, scope)
		if err := w.g.exec("INSERT INTO inboxes (id, scope) VALUES (?, ?)", b.id, scope); err != nil {
			return nil, err
		}
	}
	return w.change(b), nil
}

// boxOf returns the same by the number of the inbox.
func (w *eventWrites) boxOf(id int64) *boxChange {
	for _, c := range w.g.boxes {
		if c.box.id == id {
			return c
		}
	}
	w.g.w.boxes.mu.Lock()
	defer w.g.w.boxes.mu.Unlock()
	return w.change(w.g.w.boxes.byID[id])
}

func (w *eventWrites) change(b *box) *boxChange {
	c := &boxChange{box: b, lowest: math.MaxInt64, oldest: math.MaxInt64}
	set(&w.g.boxes, b.scope, c)
	return c
}

// flushBoxes writes the counts that the transaction changes.
func (w *eventWrites) flushBoxes() error {
	for _, c := range w.g.boxes {
		if c.tally == (tally{}) {
			continue
		}
		e := &c.events
		if err := w.g.exec("UPDATE inboxes SET waiting = waiting + ?, accepted = accepted + ?, failed = failed + ?, discarded = discarded + ?, refused = refused + ?, bytes = bytes + ?, ended = ended + ? WHERE id = ?",
			e[store.DeliveryPending], e[store.DeliveryDelivered], e[store.DeliveryFailed], e[store.DeliveryCanceled], e[store.DeliveryRefused], c.bytes, c.ended, c.box.id); err != nil {
			return err
		}
	}
	return nil
}

// apply adds what a transaction has changed.
func (s *boxes) apply(changes map[string]*boxChange) {
	if len(changes) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range changes {
		b := c.box
		s.register(b)
		waited := b.events[store.DeliveryPending] > 0
		b.add(&c.tally)
		b.since, b.oldest = min(b.since, c.lowest), min(b.oldest, c.oldest)
		switch {
		case b.events[store.DeliveryPending] == 0:
			b.lowest, b.oldest = math.MaxInt64, math.MaxInt64
		case waited:
			b.lowest = min(b.lowest, c.lowest)
		default:
			b.lowest, b.oldest = c.lowest, c.oldest
		}
	}
}

func (s *boxes) register(b *box) {
	if s.byScope == nil {
		s.byScope, s.byID = make(map[string]*box), make(map[int64]*box)
	}
	s.byScope[b.scope], s.byID[b.id] = b, b
}

// find returns the inbox of a scope, nil if there is none.
func (s *boxes) find(scope string) *box {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byScope[scope]
}

// scope returns that of an inbox.
func (s *boxes) scope(id int64) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.byID[id]; b != nil {
		return b.scope
	}
	return ""
}

// expiry returns the time up to which entries of a scope have expired: now, or
// before the first expiry of an entry whose event waits. Entries that expire
// later are kept, also those of other events: it is enough that none is deleted
// too early.
func (s *boxes) expiry(scope string, now int64) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.byScope[scope]; b != nil {
		return min(now, b.lowest-1)
	}
	return now
}

// behind returns the inboxes with entries that are kept although they have expired.
func (s *boxes) behind(now int64) (out []*box) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.byScope {
		if b.lowest <= now {
			out = append(out, b)
		}
	}
	return out
}

// load reads the inboxes and when they were paused.
func (s *boxes) load(db *sql.DB) error {
	rows, err := db.Query("SELECT id, scope, waiting, accepted, failed, discarded, refused, bytes, ended FROM inboxes")
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		b := newBox(0, "")
		e := &b.events
		if err := rows.Scan(&b.id, &b.scope, &e[store.DeliveryPending], &e[store.DeliveryDelivered], &e[store.DeliveryFailed],
			&e[store.DeliveryCanceled], &e[store.DeliveryRefused], &b.bytes, &b.ended); err != nil {
			return err
		}
		b.lane, b.oldest = store.InboxLane(b.scope), 0
		if e[store.DeliveryPending] > 0 {
			b.lowest = 0 // until it is looked up
		}
		s.register(b)
		s.lastID = max(s.lastID, b.id)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	return s.loadPauses(db)
}

func (s *boxes) loadPauses(db *sql.DB) error {
	rows, err := db.Query("SELECT scope, began, ended FROM pauses ORDER BY scope, began")
	if err != nil {
		return err
	}
	defer rows.Close()
	s.pauses = make(map[string][]store.Span)
	for rows.Next() {
		var scope string
		var began, ended int64
		if err := rows.Scan(&scope, &began, &ended); err != nil {
			return err
		}
		s.pauses[scope] = append(s.pauses[scope], store.Span{Began: timeOf(began), Ended: timeOf(ended)})
	}
	return rows.Err()
}

// total returns how many events there are.
func (s *boxes) total() (n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.byScope {
		for _, events := range b.events {
			n += events
		}
	}
	return n
}
