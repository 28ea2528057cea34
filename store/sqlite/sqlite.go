// Package sqlite is the embedded store: one file, one process.
//
// Claims are in memory alone, since the one process that owns the file loses them
// when it ends. Committed entries are on disk, and in memory as well, so that a
// lookup needs no query. A single writer puts everything that is waiting into one
// transaction (group commit) and fsyncs it before any caller hears of success.
package sqlite

import (
	"context"
	"database/sql"
	sqldriver "database/sql/driver"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/gofrs/flock"
	"go.uber.org/zap"

	"github.com/caddy-replicate/replicate-webhook/internal/clock"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/groupcommit"
	"github.com/caddy-replicate/replicate-webhook/store/internal/polling"
)

// Options say how to open a file.
type Options struct {
	// Path is that of the database file. Its directory is created if it is
	// missing.
	Path string
	// Logger returns the logger. It is called for each message, so that a store
	// that outlives a configuration uses the logger of the next one. Default:
	// no logging.
	Logger func() *zap.Logger
	// Now is the wall clock. If its times have monotonic readings, as those of
	// time.Now have, then setting the clock does not change when deliveries
	// are due. Default: time.Now.
	Now func() time.Time
	// PurgeEvery is how often expired entries are purged. Default: 10s.
	PurgeEvery time.Duration
	// MaxCreates is how many live creates a caller may have. Default:
	// store.MaxCreates.
	MaxCreates int

	clock  *clock.Clock // by Now
	window window       // tests make it small
}

// Store is an open database file. It implements store.Closer.
type Store struct {
	creates
	dedup
	finder
	history
	outages
	rotations
	sealedValues
	tracker

	opts     Options
	lock     *flock.Flock
	presence presence
	// keeper is a connection that neither writes nor checkpoints, and that is
	// closed last. SQLite checkpoints when the last connection closes. Without
	// keeper, closing a connection whose fsync failed would fsync the same
	// descriptor again.
	keeper *sql.DB
	db     *sql.DB // reads and checkpoints; the writer has its own
	// reader and eventReader are of claimed deliveries, createReader is of a create:
	// see selectDeliveries, selectEvents and selectCreate.
	reader, eventReader, createReader *sql.Stmt
	writer                            *writer
	queue                             *queue
	polls                             polling.Schedule
	*inbox

	stop     chan struct{}
	working  sync.WaitGroup
	closing  sync.Once
	closeErr error
}

// Open opens the file and creates it if there is none.
//
// Errors name the file and say what to do: it is in use by another process, is
// corrupt, is not a store, or was written by a newer version.
func Open(opts Options) (*Store, error) {
	if opts.Logger == nil {
		opts.Logger = zap.NewNop
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.PurgeEvery <= 0 {
		opts.PurgeEvery = 10 * time.Second
	}
	if opts.MaxCreates <= 0 {
		opts.MaxCreates = store.MaxCreates
	}
	opts.clock = clock.New(opts.Now)
	s := &Store{opts: opts, stop: make(chan struct{})}
	s.inbox = &inbox{s: s}
	s.creates.init(s)
	s.dedup.s, s.finder.s, s.history.s, s.outages.s, s.rotations.s, s.sealedValues.s, s.tracker.s = s, s, s, s, s, s, s
	if err := s.open(); err != nil {
		s.free()
		return nil, fmt.Errorf("store %s %w", opts.Path, err)
	}
	s.working.Add(2)
	go s.purgeLoop()
	go s.checkpointLoop()
	return s, nil
}

func (s *Store) open() error {
	path, err := locate(s.opts.Path)
	if err != nil {
		return err
	}
	s.opts.Path = path
	if s.lock, err = lockFile(path); err != nil {
		return err
	}
	if err := prepareFile(path); err != nil {
		return err
	}
	if err := migrate(path); err != nil {
		return withRecoveryHint(err)
	}
	if err := s.connect(); err != nil {
		return withRecoveryHint(err)
	}
	if err := s.entries.load(s.db); err != nil {
		return withRecoveryHint(err)
	}
	s.initClaims()
	if err := s.inbox.boxes.load(s.db); err != nil {
		return withRecoveryHint(err)
	}
	if err := s.loadRotations(s.db); err != nil {
		return withRecoveryHint(err)
	}
	s.polls.Init(s.opts.clock)
	if err := s.loadQueue(); err != nil {
		return withRecoveryHint(err)
	}
	if err := s.loadPolls(); err != nil {
		return withRecoveryHint(err)
	}
	for stmt, query := range map[**sql.Stmt]string{&s.reader: selectDeliveries, &s.eventReader: selectEvents, &s.createReader: selectCreate} {
		if *stmt, err = s.db.Prepare(query); err != nil {
			return withRecoveryHint(err)
		}
	}
	var t totals
	if err := t.load(s.db, s.inbox.boxes.total()); err != nil {
		return withRecoveryHint(err)
	}
	s.writer, err = newWriter(s.opts, &s.presence, s.queue, &s.polls, &s.inbox.boxes, t, s.claims.Open)
	return withRecoveryHint(err)
}

// connect opens the file and records which one it is. All further connections are
// to that file.
func (s *Store) connect() error {
	s.presence.path = s.opts.Path
	before, err := os.Lstat(s.opts.Path)
	if err != nil {
		return err
	}
	if s.keeper, err = openDB(s.opts.Path); err != nil {
		return err
	}
	s.keeper.SetMaxOpenConns(1)
	if err := s.presence.record(before); err != nil {
		return err
	}
	if s.db, err = s.presence.connect(); err != nil {
		return err
	}
	// Reads are rare, and each connection has a page cache of its own.
	s.db.SetMaxOpenConns(4)
	return nil
}

// Close commits what is waiting, empties the write-ahead log and unlocks the
// file.
func (s *Store) Close() error {
	s.closing.Do(func() {
		close(s.stop)
		s.working.Wait()
		s.claims.Close(groupcommit.ErrClosed)
		s.closeErr = s.free()
	})
	return s.closeErr
}

func (s *Store) free() error {
	var errs []error
	if s.writer != nil {
		errs = append(errs, s.writer.close())
	}
	for _, stmt := range []*sql.Stmt{s.reader, s.eventReader, s.createReader} {
		if stmt != nil {
			errs = append(errs, stmt.Close())
		}
	}
	if s.db != nil {
		errs = append(errs, s.db.Close())
	}
	if s.keeper != nil {
		errs = append(errs, s.keeper.Close())
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(errs...)
}

// purgeLoop purges expired entries, a small batch in each transaction, so that
// commits need not wait for long.
func (s *Store) purgeLoop() {
	defer s.working.Done()
	t := time.NewTicker(s.opts.PurgeEvery)
	defer t.Stop()
	// The first purge is at once: much may have expired while the store was
	// closed, and a process may be restarted more often than PurgeEvery.
	for ; ; s.wait(t) {
		select {
		case <-s.stop:
			return
		default:
		}
		if s.writer.available() != nil {
			continue
		}
		if err := errors.Join(s.Purge(), s.Compact()); err != nil && !errors.Is(err, groupcommit.ErrClosed) {
			s.opts.Logger().Error("purging and merging entries", zap.String("store", s.opts.Path), zap.Error(err))
		}
	}
}

// wait waits for the next tick, or until the store is closed.
func (s *Store) wait(t *time.Ticker) {
	select {
	case <-s.stop:
	case <-t.C:
	}
}

// Purge purges all entries and creates that have expired.
func (s *Store) Purge() error {
	return errors.Join(s.purge(s.purgeBatch), s.purge(s.creates.purgeBatch))
}

// purge purges until nothing more has expired.
func (s *Store) purge(batch func() (more bool, err error)) error {
	for {
		more, err := batch()
		if err != nil || !more {
			return err
		}
		select {
		case <-s.stop:
			return nil
		default:
		}
	}
}

// checkpointEvery is how often the write-ahead log is copied into the database. At
// the edge's highest rate about 8 MB of log are written in a second.
const checkpointEvery = time.Second

// checkpointLoop keeps the log short. It has a connection of its own, so that the
// writer does not stop for it.
func (s *Store) checkpointLoop() {
	defer s.working.Done()
	t := time.NewTicker(checkpointEvery)
	defer t.Stop()
	var seen int64
	for {
		select {
		case <-s.stop:
			return
		case <-t.C:
		}
		commits := s.writer.commits.Load()
		if commits == seen {
			continue
		}
		seen = commits
		if s.presence.check() != nil {
			continue // the writer reports it
		}
		if err := s.checkpoint(); err != nil {
			s.opts.Logger().Warn("copying the write-ahead log", zap.String("store", s.opts.Path), zap.Error(err))
		}
	}
}

// checkpoint copies the log once. A connection whose checkpoint failed is closed,
// as the writer's are. The next checkpoint writes everything again that the failed
// one wrote, and then fsyncs.
func (s *Store) checkpoint() error {
	ctx := context.Background()
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return err
	}
	if _, err = conn.ExecContext(ctx, "PRAGMA wal_checkpoint(PASSIVE)"); err != nil {
		_ = conn.Raw(func(any) error { return sqldriver.ErrBadConn })
		return err
	}
	return conn.Close()
}

var _ store.Closer = (*Store)(nil)
