package sqlite

import (
	"context"
	"database/sql"
	sqldriver "database/sql/driver"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	driver "modernc.org/sqlite"

	"github.com/caddy-replicate/replicate-webhook/internal/metrics"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/polling"
)

const (
	// maxGroup bounds one transaction: beyond it the fsync is no longer
	// what a commit costs.
	maxGroup = 1024
	// reopenEvery is how often a writer that failed looks whether the disk
	// takes writes again.
	reopenEvery = time.Second
)

// op is one thing to be committed. Its steps run in the writer's goroutine.
type op struct {
	// write does the work within the group's transaction. An error of its
	// own (not the database's) undoes this op alone. It may run twice: in
	// the group, and again by itself when another op spoilt the group.
	write func(*group) error
	// after runs when the outcome is known, before the caller hears of it.
	after func(error)
	// ends: it ends a claim, of an event or of a delivery.
	ends bool
	done chan error
}

// writer commits everything that is waiting as one transaction.
type writer struct {
	opts     Options
	presence *presence
	queue    *queue
	polls    *polling.Schedule
	ops      chan *op
	closed   chan struct{}
	stopped  chan struct{}

	// claims returns the number of open claims. Each of them, and each claimed
	// delivery, may become an op; waiting counts those that have.
	claims  func() int64
	waiting atomic.Int64
	resting atomic.Bool
	wake    chan struct{}

	db    *sql.DB
	conn  *sql.Conn
	stmts map[string]*sql.Stmt

	// The highest numbers given, counted by the writer's goroutine. Those of
	// a transaction that failed are not given again.
	lastRef, lastDelivery, lastAttempt int64

	// totals count what is committed.
	totalsMu sync.Mutex
	totals   totals

	// down holds why the last commit failed, nil while the disk takes
	// writes.
	down atomic.Pointer[error]
	// logEmpty: the log was emptied since a file was missed.
	logEmpty bool
	commits  atomic.Int64
}

func newWriter(opts Options, p *presence, q *queue, polls *polling.Schedule, t totals, claims func() int64) (*writer, error) {
	w := &writer{
		opts:     opts,
		presence: p,
		queue:    q,
		polls:    polls,
		claims:   claims,
		totals:   t,
		ops:      make(chan *op, maxGroup),
		closed:   make(chan struct{}),
		stopped:  make(chan struct{}),
		wake:     make(chan struct{}, 1),
	}
	if err := w.connect(); err != nil {
		return nil, err
	}
	if err := w.restore(); err != nil {
		return nil, errors.Join(err, w.disconnect())
	}
	go w.loop()
	return w, nil
}

// restore finds the highest numbers in use.
func (w *writer) restore() error {
	highest := func(dst *int64, column, table string) error {
		return w.conn.QueryRowContext(context.Background(), "SELECT coalesce(max("+column+"), 0) FROM "+table).Scan(dst)
	}
	return errors.Join(
		highest(&w.lastRef, "ref", "predictions"),
		highest(&w.lastDelivery, "n", "deliveries"),
		highest(&w.lastAttempt, "id", "attempts"),
	)
}

// do hands an op in and waits until it is durable. When ctx ends first the
// outcome is unknown to the caller, but not to the op's after.
func (w *writer) do(ctx context.Context, o *op) error {
	o.done = make(chan error, 1)
	select {
	case <-w.closed:
		return errClosed
	default:
	}
	w.account(o, 1)
	select {
	case w.ops <- o:
	case <-ctx.Done():
		w.account(o, -1)
		return ctx.Err()
	case <-w.closed:
		w.account(o, -1)
		return errClosed
	}
	if w.resting.Load() && w.worthwhile() {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
	select {
	case err := <-o.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-w.stopped:
		// The writer may have finished this op on its way out.
		select {
		case err := <-o.done:
			return err
		default:
			return errClosed
		}
	}
}

// account counts the ops that wait to end claims.
func (w *writer) account(o *op, by int64) {
	if o.ends {
		w.waiting.Add(by)
	}
}

// available says why nothing can be committed now, or nil.
func (w *writer) available() error {
	if err := w.down.Load(); err != nil {
		return *err
	}
	return nil
}

// close commits what was handed in and closes the file.
func (w *writer) close() error {
	close(w.closed)
	<-w.stopped
	return w.disconnect()
}

func (w *writer) loop() {
	defer close(w.stopped)
	retry := time.NewTicker(reopenEvery)
	defer retry.Stop()
	for {
		select {
		case o := <-w.ops:
			ops := w.gather(o)
			began := time.Now()
			w.commit(ops)
			w.rest(began, len(ops))
		case <-retry.C:
			w.look()
		case <-w.closed:
			for {
				select {
				case o := <-w.ops:
					w.commit(w.gather(o))
				default:
					return
				}
			}
		}
	}
}

// A commit costs as much for one op as for ten, so a busy store does better with
// fewer. After a group of n ops the next one begins n times restPerOp later, at
// most longestRest, and sooner when what comes last finds all others waiting. A
// store that commits ops one by one hardly waits, however many they are.
const (
	restPerOp   = 250 * time.Microsecond
	longestRest = 5 * time.Millisecond
	// quiet is how long nothing has come when nothing is thought to come
	// any more, where nothing is expected.
	quiet = 500 * time.Microsecond
)

// rest lets the next group fill, counted from when the last one of n ops began.
func (w *writer) rest(began time.Time, n int) {
	end := began.Add(min(time.Duration(n)*restPerOp, longestRest))
	if n < 2 || time.Until(end) <= 0 {
		return
	}
	select {
	case <-w.wake: // of an earlier rest
	default:
	}
	w.resting.Store(true)
	defer w.resting.Store(false)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for seen := -1; !w.worthwhile(); {
		left := time.Until(end)
		if w.expected() == 0 {
			// Only what comes can tell whether more will.
			if seen == len(w.ops) && seen > 0 {
				return
			}
			seen, left = len(w.ops), min(left, quiet)
		}
		if left <= 0 {
			return
		}
		timer.Reset(left)
		select {
		case <-w.wake:
		case <-timer.C:
		}
	}
}

// expected is how many ops will end claims, unless what they belong to fails.
func (w *writer) expected() int64 { return w.claims() + w.queue.claimed.Load() }

// worthwhile reports whether the ops that wait should wait no longer.
func (w *writer) worthwhile() bool {
	expected := w.expected()
	return len(w.ops) >= maxGroup/4 || expected > 0 && w.waiting.Load() >= expected
}

// gather takes along what else is waiting.
func (w *writer) gather(first *op) []*op {
	ops := []*op{first}
	for len(ops) < maxGroup {
		select {
		case o := <-w.ops:
			ops = append(ops, o)
		default:
			return ops
		}
	}
	return ops
}

// commit runs one group and tells every op how it went. A group of no ops finds
// out whether writing works.
func (w *writer) commit(ops []*op) {
	start := time.Now()
	err := w.transact(ops)
	told := err
	switch {
	case err == nil:
		w.commits.Add(1)
		// It is durable, and of no use in a file that nobody will find. The
		// memory follows the file, and the callers hear of no success.
		if moved := w.presence.check(); moved != nil {
			told = w.fail(moved)
			break
		}
		metrics.ObserveCommit(len(ops), time.Since(start))
		if w.down.Swap(nil) != nil {
			w.opts.Logger().Info("store takes writes again", zap.String("store", w.opts.Path))
		}
	case len(ops) > 1 && !w.broken(err):
		// One op of the group is at fault and must not fail the others.
		for _, o := range ops {
			w.commit([]*op{o})
		}
		return
	case w.broken(err):
		err = w.fail(err)
		told = err
	}
	for _, o := range ops {
		if o.after != nil {
			o.after(err)
		}
		w.account(o, -1)
		o.done <- told
	}
}

// fail notes that nothing can be committed, and why.
func (w *writer) fail(err error) error {
	if isMoved(err) {
		w.emptyLog(err)
	}
	err = fmt.Errorf("%w: committing to %s: %w", store.ErrUnavailable, w.opts.Path, err)
	if before := w.down.Swap(&err); before == nil || isMoved(err) && !isMoved(*before) {
		w.opts.Logger().Error("store takes no writes", zap.Error(err))
	}
	return err
}

// look finds out whether the files are still in their places, and whether a
// writer that failed can write again.
func (w *writer) look() {
	if err := w.presence.check(); err != nil {
		_ = w.fail(err)
		return
	}
	w.logEmpty = false
	if w.available() != nil {
		w.commit(nil)
	}
}

// emptyLog copies the log into the database that is open, wherever its name has
// gone, and empties it, before anybody hears of the loss. What was acknowledged
// is then whole in that file. And SQLite has nothing to copy, at the next start,
// into a database that was put in its place.
func (w *writer) emptyLog(cause error) {
	if w.logEmpty || w.conn == nil || errors.Is(cause, errEmptied) {
		return
	}
	var busy, frames, copied int
	err := w.conn.QueryRowContext(context.Background(), "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &frames, &copied)
	if err != nil {
		w.opts.Logger().Error("emptying the write-ahead log", zap.String("store", w.opts.Path), zap.Error(err))
		_ = w.disconnect()
	}
	w.logEmpty = err == nil && busy == 0
}

// transact runs the ops in one transaction. After any failure of the database
// the connection is given up: what a failed fsync left of the transaction in the
// log can't be known. The next one writes over it before it fsyncs.
func (w *writer) transact(ops []*op) (err error) {
	if w.available() != nil {
		if err := w.presence.check(); err != nil {
			return err
		}
	}
	if err := w.connect(); err != nil {
		return err
	}
	g := &group{w: w}
	defer func() {
		if err != nil {
			g.undo()
		}
		if err != nil && !isMoved(err) && (w.broken(err) || g.exec("ROLLBACK") != nil) {
			_ = w.disconnect()
		}
	}()
	if err := g.exec("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	if len(ops) == 0 {
		if err := g.exec(fmt.Sprintf("PRAGMA user_version=%d", schemaVersion)); err != nil {
			return err
		}
	}
	for _, o := range ops {
		if err := o.write(g); err != nil {
			return err
		}
	}
	if err := g.flush(); err != nil {
		return err
	}
	if err := g.exec("COMMIT"); err != nil {
		return err
	}
	g.apply()
	w.totalsMu.Lock()
	defer w.totalsMu.Unlock()
	w.totals.add(&g.totals)
	return nil
}

// counted gives the totals of all that is committed.
func (w *writer) counted() totals {
	w.totalsMu.Lock()
	defer w.totalsMu.Unlock()
	return w.totals
}

// broken tells an error of the database from one an op raised itself.
func (w *writer) broken(err error) bool {
	var e *driver.Error
	return errors.As(err, &e) || isMoved(err) || errors.Is(err, sqldriver.ErrBadConn) || errors.Is(err, sql.ErrConnDone) || w.conn == nil
}

func (w *writer) connect() error {
	if w.conn != nil {
		return nil
	}
	db, err := w.presence.connect()
	if err != nil {
		return err
	}
	db.SetMaxOpenConns(1)
	conn, err := db.Conn(context.Background())
	if err != nil {
		return errors.Join(err, db.Close())
	}
	w.db, w.conn, w.stmts = db, conn, make(map[string]*sql.Stmt)
	return nil
}

func (w *writer) disconnect() error {
	if w.conn == nil {
		return nil
	}
	var errs []error
	for _, stmt := range w.stmts {
		errs = append(errs, stmt.Close())
	}
	errs = append(errs, w.conn.Close(), w.db.Close())
	w.conn, w.db, w.stmts = nil, nil, nil
	return errors.Join(errs...)
}

// group is the transaction that ops write into.
type group struct {
	w       *writer
	entries map[string]*entryRow
	effects
	// totals are what this transaction adds to the writer's.
	totals totals
}

func (g *group) exec(query string, args ...any) error {
	stmt, err := g.stmt(query)
	if err != nil {
		return err
	}
	_, err = stmt.Exec(args...)
	return err
}

func (g *group) query(query string, args ...any) (*sql.Rows, error) {
	stmt, err := g.stmt(query)
	if err != nil {
		return nil, err
	}
	return stmt.Query(args...)
}

// stmt prepares each query once a connection: parsing costs more than running.
func (g *group) stmt(query string) (*sql.Stmt, error) {
	if stmt := g.w.stmts[query]; stmt != nil {
		return stmt, nil
	}
	stmt, err := g.w.conn.PrepareContext(context.Background(), query)
	if err != nil {
		return nil, err
	}
	g.w.stmts[query] = stmt
	return stmt, nil
}
