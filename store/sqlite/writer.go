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
	"github.com/caddy-replicate/replicate-webhook/store/internal/groupcommit"
	"github.com/caddy-replicate/replicate-webhook/store/internal/ledger"
	"github.com/caddy-replicate/replicate-webhook/store/internal/polling"
)

const (
	// reopenInterval is how often a writer that failed tries whether the disk
	// takes writes again.
	reopenInterval = time.Second
	// The delay and the siblings are described at groupcommit.Options.
	commitDelay    = 250 * time.Microsecond
	maxCommitDelay = 5 * time.Millisecond
	commitSiblings = 1
)

// op is one thing to be committed. Its functions run in the writer's goroutine.
type op struct {
	// write does the work within the group's transaction. An error of its
	// own (not the database's) undoes this op alone. It may run twice: in
	// the group, and again by itself when another op spoiled the group.
	write func(*group) error
	// after runs when the op is durable, before its caller hears of it.
	// Optional.
	after func()
	// ends means that it ends a claim, of an event or of a delivery.
	ends bool
}

// writer commits everything that is waiting as one transaction.
type writer struct {
	opts     Options
	presence *presence
	queue    *queue
	polls    *polling.Schedule
	boxes    *boxes
	batch    *groupcommit.Batcher[*op]

	// claims returns the number of open claims. Each of them, and each claimed
	// delivery, is likely to become an op that ends it; ending counts those
	// that have.
	claims func() int64
	ending atomic.Int64

	db    *sql.DB
	conn  *sql.Conn
	stmts map[string]*sql.Stmt
	// wide reports that the connection's page cache is wideCache.
	wide bool

	// The highest numbers given, counted by the writer's goroutine. Those of
	// a transaction that failed are not given again.
	lastRef, lastDelivery, lastEvent, lastAttempt int64

	// totals count what is committed.
	totalsMu sync.Mutex
	totals   totals

	// down holds why the last commit failed, nil while the disk takes
	// writes.
	down atomic.Pointer[error]
	// logEmpty means that the log was emptied since a file was missed.
	logEmpty bool
	commits  atomic.Int64
}

func newWriter(opts Options, p *presence, q *queue, polls *polling.Schedule, b *boxes, t totals, claims func() int64) (*writer, error) {
	w := &writer{opts: opts, presence: p, queue: q, polls: polls, boxes: b, claims: claims, totals: t}
	if err := w.connect(); err != nil {
		return nil, err
	}
	if err := w.restore(); err != nil {
		return nil, errors.Join(err, w.disconnect())
	}
	w.batch = groupcommit.New(groupcommit.Options[*op]{
		Commit:      w.commit,
		Finish:      w.finish,
		Check:       w.look,
		CommitDelay: commitDelay, MaxCommitDelay: maxCommitDelay, CommitSiblings: commitSiblings, Siblings: w.siblings,
		CheckInterval: reopenInterval,
	})
	return w, nil
}

// restore reads the highest numbers in use.
func (w *writer) restore() error {
	highest := func(dst *int64, column, table string) error {
		return w.conn.QueryRowContext(context.Background(), "SELECT coalesce(max("+column+"), 0) FROM "+table).Scan(dst)
	}
	var event, place int64
	err := errors.Join(
		highest(&w.lastRef, "ref", "predictions"),
		highest(&w.lastDelivery, "n", "deliveries WHERE n < "+firstEventText),
		highest(&event, "n", "deliveries"),
		highest(&place, "place", "deliveries INDEXED BY deliveries_replayed WHERE place > 0 AND state = 0"),
		highest(&w.lastAttempt, "id", "attempts"),
	)
	// An event that is replayed takes a number for its place.
	w.lastEvent = max(event, place, ledger.FirstEvent-1)
	return err
}

// do hands an op in and waits until it is durable. If ctx ends first, the op may
// still become durable, and its after runs.
func (w *writer) do(ctx context.Context, o *op) error {
	if o.ends {
		w.ending.Add(1)
	}
	done, err := w.batch.Add(ctx, o)
	if err != nil {
		return w.finish(o, err)
	}
	return w.batch.Wait(ctx, done)
}

// finish takes an op out of those that end claims.
func (w *writer) finish(o *op, err error) error {
	if o.ends {
		w.ending.Add(-1)
	}
	return err
}

// siblings returns the number of ops that are still to come for the claims that
// are open. It counts those of requests that will fail, too.
func (w *writer) siblings() int64 { return w.claims() + w.queue.claimed.Load() - w.ending.Load() }

// available returns the reason why nothing can be committed now, or nil.
func (w *writer) available() error {
	if err := w.down.Load(); err != nil {
		return *err
	}
	return nil
}

// close commits what was handed in and closes the file.
func (w *writer) close() error {
	w.batch.Close()
	return w.disconnect()
}

// commit commits one group. A group of no ops finds out whether writing works.
func (w *writer) commit(ops []*op) error {
	start := time.Now()
	err := w.transact(ops)
	switch {
	case err == nil:
		w.commits.Add(1)
	case w.broken(err):
		return w.fail(err)
	default:
		return err
	}
	// The group is durable, and of no use in a file that nobody will find. What
	// is in memory follows the file, but the callers hear of no success.
	if moved := w.presence.check(); moved != nil {
		err = w.fail(moved)
	} else {
		metrics.ObserveCommit(len(ops), time.Since(start))
		if w.down.Swap(nil) != nil {
			w.opts.Logger().Info("store takes writes again", zap.String("store", w.opts.Path))
		}
	}
	for _, o := range ops {
		if o.after != nil {
			o.after()
		}
	}
	return err
}

// fail notes that nothing can be committed, because of err. It returns the error for
// callers.
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

// look checks whether the files are still in place, and whether a writer that failed
// can write again.
func (w *writer) look() {
	if err := w.presence.check(); err != nil {
		_ = w.fail(err)
		return
	}
	w.logEmpty = false
	if w.available() != nil {
		_ = w.commit(nil)
	}
}

// emptyLog copies the log into the database that is open, wherever that was moved
// to, and empties the log, before any caller hears of the loss. All that was
// acknowledged is then in that file. And at the next start SQLite finds nothing to
// copy into a database that was put in its place.
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

// transact runs the ops in one transaction. After any failure of the database the
// connection is closed: it can't be known how much of the transaction a failed
// fsync left in the log. The next transaction overwrites that before it fsyncs.
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
	g.entryWrites.g, g.eventWrites.g, g.deletions.g = g, g, g
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
	w.fitCache()
	w.totalsMu.Lock()
	defer w.totalsMu.Unlock()
	w.totals.add(&g.totals)
	return nil
}

// counted returns the totals of all that is committed.
func (w *writer) counted() totals {
	w.totalsMu.Lock()
	defer w.totalsMu.Unlock()
	return w.totals
}

// broken reports whether an error is the database's, and not one that an op returned.
func (w *writer) broken(err error) bool {
	var e *driver.Error
	return errors.As(err, &e) || isMoved(err) || errors.Is(err, sqldriver.ErrBadConn) || errors.Is(err, sql.ErrConnDone) || w.conn == nil
}

// connect opens the writer's connection, unless it is open.
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
	w.db, w.conn, w.stmts, w.wide = db, conn, make(map[string]*sql.Stmt), false
	return nil
}

// wideCache is the page cache of the writer's connection while more events wait than
// are in memory: each event is also in an index by prediction, in any page of it.
const wideCache = "cache_size(-24000)"

// fitCache chooses the page cache for the commits to come.
func (w *writer) fitCache() {
	wide, pragma := w.queue.hasTails(), narrowCache
	if wide == w.wide {
		return
	}
	if wide {
		pragma = wideCache
	}
	// Another size would do as well.
	_, _ = w.conn.ExecContext(context.Background(), "PRAGMA "+pragma)
	w.wide = wide
}

// disconnect closes the writer's connection, if it is open.
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
	w *writer
	entryWrites
	eventWrites
	deletions
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

// stmt returns a prepared query. Each query is prepared once for a connection, since
// parsing it takes longer than running it.
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
