package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/groupcommit"
	"github.com/caddy-replicate/replicate-webhook/store/internal/ledger"
)

// job is an operation on predictions and their deliveries. Those of a group
// share a transaction: what they are about is read and locked, each does its
// part in memory, and what has changed is written.
type job struct {
	// refs and keys name the predictions it is about.
	refs []int64
	keys [][]byte
	// do may run more than once, each time from the beginning, also after a
	// commit whose outcome is not known: then it finds its own work done. It
	// returns an error that refusal knows before it has changed anything.
	do func(*unit) error
	// after runs once the job is committed.
	after   func()
	refused error
}

// numbersPerJob is the most rows that a job adds.
const numbersPerJob = 4

// tracked is a prediction with those of its deliveries that matter: what is
// pending or held, and the first of the started event. Where Ref is an order number,
// it is the inbound events of that, in their order.
type tracked struct {
	ledger.Entry[row]
	poller        int64
	gone, touched bool
}

// delivery is a delivery, with the columns that the ledger does not use.
type delivery = ledger.Delivery[row]

type row struct {
	nonce, created int64
	// endpoint is the lane that it waits in, as text.
	endpoint string
	// owner is the node that has claimed it, and lease the number of the
	// claim.
	owner, lease int64
	// idle reports that no node had claimed it when it was read.
	idle bool
	// in is what an inbound event has beside that.
	in *inboundRow
}

// unit is a group's transaction.
type unit struct {
	s     *Store
	ctx   context.Context
	conn  *pgx.Conn
	me    int64
	lease int64
	tx    ledger.Tx[row]

	byRef   map[int64]*tracked
	byKey   map[string]*tracked
	touched []*tracked // in the order in which they were
	numbers []int64

	attempts []attemptRow
	// taken counts the deliveries that are claimed ahead, by endpoint.
	// leasedAny reports that there are any.
	taken     map[string]int
	leasedAny bool
	withdrawn []*leased
	ended     []*leased // claims that end when it is committed

	answers []answered // responses to creates

	// counts is what it changes of inboxes, by scope, and storing what stores events
	// in the transaction, nil in a unit of jobs.
	counts  map[string]*tally
	storing *storing
}

type attemptRow struct {
	id         int64
	delivery   *delivery
	prediction int64
	store.Attempt
}

// newJobs returns the batcher that runs jobs.
func (s *Store) newJobs() *groupcommit.Batcher[*job] {
	return groupcommit.New(groupcommit.Options[*job]{
		Commit: func(jobs []*job) error { return transact(s, jobs, outageWait, s.runUnit) },
		Finish: func(j *job, err error) error {
			if err != nil {
				return err
			}
			if j.after != nil && j.refused == nil {
				j.after()
			}
			return j.refused
		},
	})
}

// commit adds a job to the next group and waits until it is committed.
func (s *Store) commit(ctx context.Context, j *job) error {
	if err := s.closed(); err != nil {
		return err
	}
	// A request that waits for its job has begun already: it waits for the
	// database, too.
	if err := s.await(ctx, outageWait); err != nil {
		return err
	}
	err := s.jobs.Do(ctx, j)
	switch {
	case err == nil, errors.Is(err, store.ErrUnavailable), ledger.IsRefusal(err):
		return err
	}
	return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
}

// runUnit runs jobs in one transaction.
func (s *Store) runUnit(ctx context.Context, conn *pgx.Conn, jobs []*job) error {
	return s.newUnit(ctx, conn).run(func(u *unit) error {
		if err := u.begin(jobs); err != nil {
			return err
		}
		for _, j := range jobs {
			j.refused = j.do(u)
			if j.refused != nil && !ledger.IsRefusal(j.refused) {
				return j.refused
			}
		}
		return nil
	})
}

func (s *Store) newUnit(ctx context.Context, conn *pgx.Conn) *unit {
	u := &unit{
		s: s, ctx: ctx, conn: conn, me: s.nodes.id.Load(), lease: s.queue.newLease(),
		byRef: make(map[int64]*tracked), byKey: make(map[string]*tracked), taken: make(map[string]int),
	}
	u.tx = ledger.Tx[row]{Now: s.now().UnixMilli(), Withdraw: u.withdraw}
	return u
}

// run runs the work of the transaction, which it has to begin, and commits.
func (u *unit) run(work func(*unit) error) (err error) {
	defer func() {
		if err != nil {
			u.undo()
			_, _ = u.conn.Exec(u.ctx, "ROLLBACK")
		}
	}()
	if err := work(u); err != nil {
		return err
	}
	if err := u.flush(); err != nil {
		if u.leasedAny {
			u.s.queue.lose(u.lease)
		}
		return err
	}
	u.apply()
	return nil
}

// undo returns to the lanes what was withdrawn from them.
func (u *unit) undo() {
	if len(u.withdrawn) == 0 {
		return
	}
	q := &u.s.queue
	q.put(u.withdrawn)
	u.withdrawn = nil
	q.mu.Lock()
	defer q.mu.Unlock()
	q.signal() // ClaimDeliveries may have been called in between
}

// apply updates this node's memory after the commit.
func (u *unit) apply() {
	var ready []*leased
	for _, t := range u.touched {
		switch {
		case ledger.IsInbound(t.Ref):
		case t.poller == u.me && !t.gone:
			u.s.polls.Update(&t.Prediction)
		default:
			u.s.polls.Remove(t.Ref)
		}
		for _, d := range t.Deliveries {
			switch {
			case d.State != store.DeliveryPending && d.Changed != 0 && d.Row.idle:
				u.s.queue.look(0) // the delivery that was due next may have ended
			case d.State != store.DeliveryPending || d.Held:
			case d.Claimed && d.Row.owner == u.me && d.Row.lease == u.lease:
				ready = append(ready, &leased{n: d.N, prediction: t.Ref, owner: u.me, lease: u.lease, due: d.Due, endpoint: d.Row.endpoint})
			case !d.Claimed && (d.Fresh || d.Changed != 0):
				u.s.queue.look(d.Due)
				if d.Due <= u.tx.Now {
					u.s.notifyPeers()
				}
			}
		}
	}
	u.s.queue.put(ready)
	u.s.inbox.changed(u.counts)
	for _, i := range u.ended {
		u.s.queue.endClaim(i)
	}
	q := &u.s.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	q.signal()
}

// find returns a prediction by its ref.
func (u *unit) find(ref int64) (*tracked, error) {
	t := u.byRef[ref]
	if t == nil || t.gone {
		return nil, store.ErrNotFound
	}
	return t, nil
}

// findKey returns the prediction with an ID of an API, nil when there is none.
func (u *unit) findKey(api, id string) (*tracked, error) {
	key := ledger.PredictionKey(api, id)
	if key == nil {
		return nil, nil
	}
	t, looked := u.byKey[string(key)]
	if !looked {
		if err := u.load(nil, [][]byte{key}, 0, false); err != nil {
			return nil, err
		}
		t = u.byKey[string(key)]
	}
	if t != nil && t.gone {
		return nil, nil
	}
	return t, nil
}

// number returns the number of a new row.
func (u *unit) number() (int64, error) {
	if len(u.numbers) == 0 {
		rows, err := u.conn.Query(u.ctx, nextNumbers, numbersPerJob)
		if err != nil {
			return 0, err
		}
		if u.numbers, err = pgx.CollectRows(rows, pgx.RowTo[int64]); err != nil {
			return 0, err
		}
	}
	n := u.numbers[0]
	u.numbers = u.numbers[1:]
	return n, nil
}

// touch records that a job was about a prediction.
func (u *unit) touch(t *tracked) {
	if !t.touched {
		t.touched = true
		u.touched = append(u.touched, t)
	}
}

// withdraw ends this node's claim on a delivery that it does not attempt yet. It
// reports false if an attempt may be under way.
func (u *unit) withdraw(d *delivery) bool {
	if !d.Claimed {
		return true
	}
	if d.Row.owner != u.me {
		return false
	}
	if d.Row.lease != u.lease {
		i := u.s.queue.withdraw(d.N, d.Row.lease)
		if i == nil {
			return false
		}
		u.withdrawn = append(u.withdrawn, i)
	}
	d.Claimed = false
	d.Changed |= ledger.Place
	return true
}

// finish ends a job on a prediction: it numbers new deliveries, and claims ahead
// those that may be attempted.
func (u *unit) finish(t *tracked) error {
	u.touch(t)
	t.narrow()
	for _, d := range t.Deliveries {
		if d.Fresh && d.N == 0 {
			n, err := u.number()
			if err != nil {
				return err
			}
			d.N, d.Row.nonce, d.Row.created = n, int64(rand.Uint64()), u.tx.Now
		}
		if d.Lane != (store.Lane{}) {
			d.Row.endpoint, d.Lane = d.Lane.String(), store.Lane{}
		}
		// Events are claimed by nodes that have the inbox of their scope, of which
		// this one need not be.
		ready := d.State == store.DeliveryPending && !d.Held && !d.Claimed && d.Due <= u.tx.Now && d.Row.in == nil
		if endpoint := d.Row.endpoint; ready && (d.Fresh || d.Changed.Has(ledger.Order)) && u.taken[endpoint] < u.s.queue.room(endpoint) {
			u.taken[endpoint]++
			u.leasedAny = true
			d.Claimed, d.Row.owner, d.Row.lease = true, u.me, u.lease
			d.Changed |= ledger.Place
		}
	}
	return nil
}
