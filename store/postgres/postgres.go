// Package postgres is the store that several Caddy nodes share: one database,
// any number of processes.
//
// Everything that nodes share is in the database. A node keeps its own requests,
// claims and attempts in memory and writes in groups: everything that is waiting
// becomes one transaction, and callers hear of success when that is on disk. What a
// node holds (a claim, a delivery, a prediction to poll) carries its id, and other
// nodes take it over once the node is gone: see nodes.go.
//
// The database's clock decides what is due and what has expired: see clock.go.
// Whether a node is alive does not depend on any clock.
//
// All operations on the database are safe to repeat, and are repeated on another
// connection when one breaks: see connect.go.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	passing "github.com/caddy-replicate/replicate-webhook/internal/clock"
	"github.com/caddy-replicate/replicate-webhook/store"
	"github.com/caddy-replicate/replicate-webhook/store/internal/groupcommit"
	"github.com/caddy-replicate/replicate-webhook/store/internal/ledger"
	"github.com/caddy-replicate/replicate-webhook/store/internal/polling"
)

// DefaultLease is how long a node that sends no heartbeats keeps what it holds.
// Including the time to notice, other nodes take over within 30 s.
const DefaultLease = 20 * time.Second

// Options say how to open a database.
type Options struct {
	// DSN names the database as libpq does: a URL or key=value pairs.
	DSN string
	// ListenDSN names the same database without a pooler in between, to listen
	// for notifications. Default: DSN, and no listening if that leads to a
	// pooler.
	ListenDSN string
	// MaxConns is the most connections of the node, at least MinMaxConns.
	// Default: DefaultMaxConns.
	MaxConns int
	// Logger returns the logger. It is called for each message, so that a store
	// that outlives a configuration uses the logger of the next one. Default:
	// no logging.
	Logger func() *zap.Logger
	// Now is the clock of the node. Default: time.Now.
	Now func() time.Time
	// DatabaseNow replaces the clock of the database, in tests. Optional.
	DatabaseNow func() time.Time
	// PurgeEvery is how often expired entries are purged. Default: 10s.
	PurgeEvery time.Duration
	// MaxCreates is how many live creates a caller may have. Default:
	// store.MaxCreates.
	MaxCreates int
	// Lease is how long a node that sends no heartbeats keeps what it holds. It
	// must be the same on all nodes. Default: DefaultLease.
	Lease time.Duration
}

// Store is an open database. It implements store.Closer.
type Store struct {
	clock
	creates
	dedup
	finder
	health
	history
	listener
	nodes
	outages
	rotations
	sealedValues
	tracker

	opts      Options
	name      string // of the database, in messages
	connector *connector
	pool      *pgxpool.Pool
	// shared bounds the connections of the pool that are used for work that does
	// not commit.
	shared chan struct{}
	keeper keeper

	queue queue
	polls polling.Schedule
	jobs  *groupcommit.Batcher[*job]
	*inbox

	stop     chan struct{}
	working  sync.WaitGroup
	closing  sync.Once
	closeErr error
}

// Open connects to the database and creates the tables if they are missing.
//
// Errors say what to do: the dsn is wrong, the server can't be reached or is a
// replica, rights are missing, the schema is of a newer build. No error contains the
// password.
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
	if opts.Lease <= 0 {
		opts.Lease = DefaultLease
	}
	if opts.MaxCreates <= 0 {
		opts.MaxCreates = store.MaxCreates
	}
	if opts.MaxConns <= 0 {
		opts.MaxConns = DefaultMaxConns
	}
	c, err := newConnector(opts.DSN)
	if err != nil {
		return nil, fmt.Errorf("store postgres: %w", err)
	}
	listen := c
	if opts.ListenDSN != "" {
		if listen, err = newConnector(opts.ListenDSN); err != nil {
			return nil, fmt.Errorf("store postgres: listen_%w", err)
		}
	}
	size := max(opts.MaxConns, MinMaxConns) - 2
	s := &Store{
		opts: opts, name: place(c.conf), connector: c, stop: make(chan struct{}),
		shared: make(chan struct{}, max(size-writers, 1)),
	}
	s.opts.MaxConns = size + 2
	s.polls.Init(passing.New(opts.Now))
	s.inbox = newInbox(s)
	s.clock.opts, s.clock.name = &s.opts, s.name
	s.creates.init(s)
	s.dedup.s, s.finder.s, s.history.s, s.outages.s, s.rotations.s, s.sealedValues.s, s.tracker.s = s, s, s, s, s, s, s
	s.health.init(s)
	s.nodes.s, s.nodes.lease = s, opts.Lease
	s.listener.init(s)
	if err := s.open(size); err != nil {
		s.keeper.close()
		if s.pool != nil {
			s.pool.Close()
		}
		return nil, fmt.Errorf("store postgres at %s %w", s.name, explain(err))
	}
	s.requests = s.newRequests()
	s.commits = s.newCommits()
	s.jobs = s.newJobs()
	s.working.Add(5)
	go s.keepLoop()
	go s.listenLoop(listen)
	go s.purgeLoop()
	go s.notifyLoop()
	go s.inbox.loop()
	if err := s.takeOver(); err != nil {
		return nil, errors.Join(fmt.Errorf("store postgres at %s: taking over what other nodes left: %w", s.name, err), s.Close())
	}
	return s, nil
}

// open makes the connections that the node needs, so that Open fails if the server
// has too few.
func (s *Store) open(size int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*groupTimeout)
	defer cancel()
	if err := s.keeper.use(ctx, s.connector, s.prepare); err != nil {
		return err
	}
	var err error
	if s.pool, err = s.connector.pool(context.Background(), size); err != nil {
		return err
	}
	taken := make([]*pgxpool.Conn, 0, writers)
	defer func() {
		for _, conn := range taken {
			conn.Release()
		}
	}()
	for range min(size, writers) {
		conn, err := s.pool.Acquire(ctx)
		if err != nil {
			return err
		}
		taken = append(taken, conn)
	}
	s.initClaims()
	s.queue.init()
	if err := s.keeper.use(ctx, s.connector, s.register); err != nil {
		return err
	}
	if err := s.keeper.use(ctx, s.connector, s.loadRotations); err != nil {
		return err
	}
	return s.keeper.use(ctx, s.connector, s.inbox.open)
}

// prepare checks the server and migrates the schema.
func (s *Store) prepare(ctx context.Context, conn *pgx.Conn) error {
	if err := s.checkServer(ctx, conn); err != nil {
		return err
	}
	return s.migrate(ctx, conn)
}

// checkServer returns an error for a server that can't be used.
func (s *Store) checkServer(ctx context.Context, conn *pgx.Conn) error {
	var version int
	var replica, fsync bool
	err := conn.QueryRow(ctx, "SELECT current_setting('server_version_num')::int, pg_is_in_recovery(), current_setting('fsync')::bool").Scan(&version, &replica, &fsync)
	switch {
	case err != nil:
		return err
	case replica:
		return errReplica
	case version < minServer:
		return fmt.Errorf("is PostgreSQL %d: this store needs %d or newer", version/10000, minServer/10000)
	case !fsync:
		s.opts.Logger().Warn("the server runs with fsync off: what it acknowledged does not survive a power cut", zap.String("store", s.name))
	}
	return nil
}

// closeTimeout is how long Close tries to give back what the node holds. If it fails,
// other nodes find later that the node is gone.
const closeTimeout = 3 * time.Second

// Close commits what is waiting and gives back what this node holds.
func (s *Store) Close() error {
	s.closing.Do(func() {
		close(s.stop)
		s.claims.Close(groupcommit.ErrClosed)
		s.working.Wait()
		s.requests.Close()
		s.commits.Close()
		s.jobs.Close()
		s.closeErr = s.leave()
		s.keeper.close()
		s.pool.Close()
	})
	return s.closeErr
}

// Interface guards.
var (
	_ store.Closer  = (*Store)(nil)
	_ store.Clocked = (*Store)(nil)
)

// closed returns an error once Close has begun.
func (s *Store) closed() error {
	select {
	case <-s.stop:
		return fmt.Errorf("%w: %w", store.ErrUnavailable, groupcommit.ErrClosed)
	default:
		return nil
	}
}

// read runs f with a connection, for a request that only reads.
func (s *Store) read(ctx context.Context, f func(context.Context, *pgx.Conn) error) error {
	if err := s.closed(); err != nil {
		return err
	}
	if err := s.health.down.Load(); err != nil {
		return *err
	}
	within, cancel := context.WithTimeout(ctx, groupTimeout)
	defer cancel()
	err := s.share(within, f)
	switch {
	case err == nil, ledger.IsRefusal(err):
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return fmt.Errorf("%w: reading %s: %w", store.ErrUnavailable, s.name, err)
}
