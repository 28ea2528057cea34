package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-replicate/replicate-webhook/store"
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
	// commit whose outcome nobody heard: then it finds its own work done. It
	// refuses with ErrNotFound or ErrDisabled before it has changed anything.
	do func(*unit) error
	// after runs when it is committed.
	after   func()
	refused error
	done    chan error
}

// numbersPerJob is how many rows a job may add at most.
const numbersPerJob = 4

// tracked is a prediction with those of its deliveries that matter: what is
// pending or held, and the first of the started event.
type tracked struct {
	ledger.Entry[row]
	poller        int64
	gone, touched bool
}

// delivery is a delivery, with what of its row is of no interest to the ledger.
type delivery = ledger.Delivery[row]

type row struct {
	nonce, created int64
	// endpoint is the lane it waits in, as text.
	endpoint string
	// owner is the node that has it, if it is claimed, and lease what it was
	// claimed with.
	owner, lease int64
	// idle: nobody had it when it was read.
	idle bool
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
	// taken counts what is taken ahead by endpoint, leasedAny says whether
	// anything is.
	taken     map[string]int
	leasedAny bool
	withdrawn []*leased
	ended     []*leased // claims that are over once it is committed
}

type attemptRow struct {
	id         int64
	delivery   *delivery
	prediction int64
	store.Attempt
}

// runJobs runs a group.
func (s *Store) runJobs(jobs []*job) {
	transact(s, jobs, outageWait, s.runUnit, func(j *job, err error) {
		if err == nil {
			if j.after != nil && j.refused == nil {
				j.after()
			}
			err = j.refused
		}
		j.done <- err
	})
}

// commit hands a job in and waits for it.
func (s *Store) commit(ctx context.Context, j *job) error {
	if err := s.closed(); err != nil {
		return err
	}
	// What a job is about was begun before.
	if err := s.await(ctx, outageWait); err != nil {
		return err
	}
	j.done = make(chan error, 1)
	err := s.jobs.add(ctx, j)
	if err == nil {
		err = s.jobs.wait(ctx, j.done)
	}
	switch {
	case err == nil, errors.Is(err, store.ErrUnavailable), errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrDisabled):
		return err
	}
	return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
}

// runUnit is one transaction of jobs.
func (s *Store) runUnit(ctx context.Context, conn *pgx.Conn, jobs []*job) (err error) {
	u := &unit{
		s: s, ctx: ctx, conn: conn, me: s.nodes.id.Load(), lease: s.queue.newLease(),
		byRef: make(map[int64]*tracked), byKey: make(map[string]*tracked), taken: make(map[string]int),
	}
	u.tx = ledger.Tx[row]{Now: s.now().UnixMilli(), Withdraw: u.withdraw}
	defer func() {
		if err != nil {
			u.undo()
			_, _ = conn.Exec(ctx, "ROLLBACK")
		}
	}()
	if err := u.begin(jobs); err != nil {
		return err
	}
	for _, j := range jobs {
		j.refused = j.do(u)
		if j.refused != nil && !errors.Is(j.refused, store.ErrNotFound) && !errors.Is(j.refused, store.ErrDisabled) {
			return j.refused
		}
	}
	if err := u.flush(); err != nil {
		if u.leasedAny {
			s.queue.lose(u.lease)
		}
		return err
	}
	u.apply()
	return nil
}

// undo puts back what was taken out of the lanes.
func (u *unit) undo() {
	u.s.queue.put(u.withdrawn)
	u.withdrawn = nil
}

// apply brings this node's memory up to what was committed.
func (u *unit) apply() {
	var ready []*leased
	for _, t := range u.touched {
		switch {
		case t.poller == u.me && !t.gone:
			u.s.polls.Update(&t.Prediction)
		default:
			u.s.polls.Remove(t.Ref)
		}
		for _, d := range t.Deliveries {
			switch {
			case d.State != store.DeliveryPending && d.Changed != 0 && d.Row.idle:
				u.s.queue.look(0) // what was next may be no more
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
	for _, i := range u.ended {
		u.s.queue.giveBack(i)
	}
	q := &u.s.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	q.signal()
}

// find gives a prediction by its ref.
func (u *unit) find(ref int64) (*tracked, error) {
	t := u.byRef[ref]
	if t == nil || t.gone {
		return nil, store.ErrNotFound
	}
	return t, nil
}

// findKey gives the prediction of an API's id, nil when there is none.
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

// number gives a number for a new row.
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

// touch marks a prediction that a job was about.
func (u *unit) touch(t *tracked) {
	if !t.touched {
		t.touched = true
		u.touched = append(u.touched, t)
	}
}

// withdraw frees a delivery that this node holds and does not attempt yet. It
// reports whether no attempt is under way.
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

// finish ends a job on a prediction: it numbers new deliveries, and takes those
// ahead that may go.
func (u *unit) finish(t *tracked) error {
	u.touch(t)
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
		ready := d.State == store.DeliveryPending && !d.Held && !d.Claimed && d.Due <= u.tx.Now
		if endpoint := d.Row.endpoint; ready && (d.Fresh || d.Changed.Has(ledger.Order)) && u.taken[endpoint] < u.s.queue.room(endpoint) {
			u.taken[endpoint]++
			u.leasedAny = true
			d.Claimed, d.Row.owner, d.Row.lease = true, u.me, u.lease
			d.Changed |= ledger.Place
		}
	}
	return nil
}
