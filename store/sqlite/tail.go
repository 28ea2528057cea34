package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"math"
	"slices"

	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/ledger"
)

// A million events may wait for an app that is down. Of those of a scope the queue has
// the first ones of the line, with all that were tried. The rest is the scope's tail:
// it is only in the database, and is read in pages as the line moves. Since pages are
// in the order of the line, an event in memory has all before it in memory, too.
//
// A page is read and taken in by the writer, so that no event is accepted, replayed
// or discarded in between.

// window says how much of the waiting events is in memory.
type window struct {
	// most is the number of events of all scopes beyond which a new one goes to
	// its scope's tail.
	most int
	// page is how many events are read at a time, of up to scan rows.
	page, scan int
	// low is how few events of a scope may be ready before a page is read.
	low int
}

func (w window) withDefaults() window {
	if w == (window{}) {
		return window{most: 32_768, page: 4096, scan: 16_384, low: 1024}
	}
	return w
}

// tail is the part of a scope's line that is not in memory. It is guarded by the
// queue's mutex.
type tail struct {
	lane  store.Lane
	scope int64
	// after is the place of the last event in memory.
	after int64
}

// page is what was read of a tail.
type page struct {
	tail  *tail
	items []*item
	// to is the place up to which the page was read. end reports that there is
	// nothing behind it.
	to  int64
	end bool
}

// holdsBack reports whether a new event is not to be in memory.
func (q *queue) holdsBack(i *item, key store.Lane) bool {
	return q.tails[key] != nil || q.inbound >= q.window.most && q.items[i.n] == nil
}

// startTail has a scope's line go on with event n outside of memory.
func (q *queue) startTail(key store.Lane, scope, n int64) {
	if q.tails[key] == nil {
		q.tails[key] = &tail{lane: key, scope: scope, after: n - 1}
	}
}

// short returns the tails of which a page is to be read, because fewer events of the
// scope than low are ready, or none is due.
func (q *queue) short(now int64, low int) (out []*tail) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for key, t := range q.tails {
		if l := q.lanes[key]; !q.paused[key] && (l == nil || len(l.items) < low || !l.due(now)) {
			out = append(out, t)
		}
	}
	return out
}

// addPage takes in a page.
func (q *queue) addPage(p *page) {
	for _, i := range p.items {
		if q.items[i.n] == nil {
			q.add(i, p.tail.lane)
		}
	}
	if p.tail.after = p.to; p.end {
		delete(q.tails, p.tail.lane)
	}
}

// take claims up to limit due items, also of tails.
func (b *inbox) take(ctx context.Context, limit int, slots func(store.Lane) store.Slots) (taken []*item, next int64, err error) {
	q, clock := b.s.queue, b.s.opts.clock
	if !q.hasTails() {
		taken, next = q.take(clock, limit, slots)
		return taken, next, nil
	}
	given := make(map[store.Lane]store.Slots) // by the one call for each lane
	low := q.window.low
	for again := false; ; again, low = true, 1 {
		filled, err := b.refill(ctx, low)
		if err != nil || again && !filled {
			return taken, next, err
		}
		var more []*item
		more, next = q.take(clock, limit-len(taken), func(l store.Lane) store.Slots {
			left, asked := given[l]
			if !asked {
				left = slots(l)
				given[l] = left
			}
			left.N -= q.count(taken, l)
			return left
		})
		taken = append(taken, more...)
		if len(taken) == limit {
			return taken, next, nil
		}
	}
}

func (q *queue) hasTails() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.tails) > 0
}

// count returns how many of claimed items were taken from a lane.
func (q *queue) count(taken []*item, key store.Lane) (n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, i := range taken {
		if i.lane != nil && i.lane.key == key {
			n++
		}
	}
	return n
}

// refill reads a page of each tail of which fewer events than low are ready: more than
// one where all rows of a page are of other scopes. It reports whether there are any
// events in them.
func (b *inbox) refill(ctx context.Context, low int) (bool, error) {
	for {
		tails := b.s.queue.short(b.s.opts.clock.Now(), low)
		if len(tails) == 0 {
			return false, nil
		}
		if n, err := b.readPages(ctx, tails); n > 0 || err != nil {
			return n > 0, err
		}
	}
}

// readPages reads a page of each tail, and returns how many events they have.
func (b *inbox) readPages(ctx context.Context, tails []*tail) (n int, err error) {
	err = b.s.commit(ctx, func(g *group) error {
		n = 0
		for _, t := range tails {
			if slices.ContainsFunc(g.pages, func(p *page) bool { return p.tail == t }) {
				continue // by another engine
			}
			p, err := b.readPage(g.query, t)
			if err != nil {
				return err
			}
			g.pages, n = append(g.pages, p), n+len(p.items)
		}
		return nil
	})
	return n, err
}

// loadTails reads the first page of each scope, when the store is opened.
func (b *inbox) loadTails() error {
	for _, box := range b.list() {
		if box.events[store.DeliveryPending] == 0 {
			continue
		}
		t := &tail{lane: box.lane, scope: box.id, after: ledger.FirstEvent - 1}
		p, err := b.readPage(b.s.db.Query, t)
		if err != nil {
			return err
		}
		b.s.queue.tails[t.lane] = t
		b.s.queue.addPage(p)
	}
	return nil
}

const (
	pageColumns   = "SELECT n, place, scope, due, prediction, attempts, refusals FROM deliveries INDEXED BY "
	selectWaiting = pageColumns + "deliveries_pending WHERE state = 0 AND n > ? AND place = 0 ORDER BY n LIMIT ?"
	// selectReplayed is of those whose place is not their number.
	selectReplayed = pageColumns + "deliveries_replayed WHERE state = 0 AND place > 0 AND place > ? AND place <= ? ORDER BY place LIMIT ?"
)

// waitingRow is a row of an event that waits.
type waitingRow struct {
	n, place, scope, due, prediction int64
	attempts                         int32
	refusals                         int
}

// at is where the event is in its line.
func (r *waitingRow) at() int64 { return max(r.n, r.place) }

// readPage reads a page of a tail.
func (b *inbox) readPage(query func(string, ...any) (*sql.Rows, error), t *tail) (*page, error) {
	q := b.s.queue
	q.mu.Lock()
	after := t.after
	q.mu.Unlock()
	w := &q.window
	var line []waitingRow
	to, end, err := readWaiting(query, selectWaiting, w.scan, func(r *waitingRow) bool {
		if r.scope == t.scope {
			line = append(line, *r)
		}
		return len(line) < w.page
	}, after)
	if err != nil {
		return nil, err
	}
	p := &page{tail: t, to: max(to, after), end: end}
	if end {
		to = math.MaxInt64
	}
	lastReplayed, end, err := readWaiting(query, selectReplayed, w.scan, func(r *waitingRow) bool {
		if r.scope == t.scope {
			line = append(line, *r)
		}
		return true
	}, after, to)
	if err != nil {
		return nil, err
	}
	if end {
		p.to = max(p.to, lastReplayed)
	} else {
		p.to, p.end = lastReplayed, false
		line = slices.DeleteFunc(line, func(r waitingRow) bool { return r.at() > lastReplayed })
	}
	slices.SortFunc(line, func(a, b waitingRow) int { return cmp.Compare(a.at(), b.at()) })
	p.items, err = b.items(line)
	return p, err
}

// readWaiting calls f with up to limit rows of a query whose last argument is the
// limit, until f returns false. It returns where the last of them is in its line, and
// whether there are no others.
func readWaiting(query func(string, ...any) (*sql.Rows, error), text string, limit int, f func(*waitingRow) bool, args ...any) (last int64, end bool, err error) {
	rows, err := query(text, append(args, limit)...)
	if err != nil {
		return 0, false, err
	}
	defer rows.Close()
	n := 0
	for rows.Next() {
		var r waitingRow
		if err := rows.Scan(&r.n, &r.place, &r.scope, &r.due, &r.prediction, &r.attempts, &r.refusals); err != nil {
			return 0, false, err
		}
		n, last = n+1, r.at()
		if !f(&r) {
			return last, false, nil
		}
	}
	return last, n < limit, rows.Err()
}

// items returns rows as the queue has them.
func (b *inbox) items(rows []waitingRow) ([]*item, error) {
	wall := b.s.opts.Now()
	now := wall.UnixMilli()
	shift := b.s.opts.clock.At(wall) - now // to the clock's scale
	items := make([]*item, len(rows))
	for k, r := range rows {
		if r.due > now {
			var err error
			if r.due, err = b.s.waiting(r.n, r.prediction, r.due, r.attempts, now); err != nil {
				return nil, err
			}
		}
		items[k] = &item{
			n: r.n, due: r.due + shift, prediction: r.prediction, attempts: r.attempts,
			redelivery: r.place > 0, yields: ledger.LetsOthersGo(r.refusals),
		}
	}
	return items, nil
}
