package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// DefaultMaxConns is how many connections a node has: one for heartbeats, one
	// that listens, the others for transactions.
	DefaultMaxConns = 8
	// MinMaxConns is the fewest connections that a node can work with.
	MinMaxConns = 3
	// writers is how many of the connections are reserved for commits: new
	// claims, ends of claims, predictions with their deliveries.
	writers = 3
	// connectTimeout is how long connecting may take, unless the dsn says so.
	connectTimeout = 5 * time.Second
	// minServer is the oldest server version, as server_version_num.
	minServer = 120000
	// fullWait is the delay before a server that had no connection left is tried
	// again.
	fullWait = 20 * time.Millisecond
	// connectTries is how often connecting is tried if the server breaks it off.
	connectTries = 5
)

// connector makes connections. No state is kept in their sessions, so that a pooler
// may run each transaction in another session.
type connector struct {
	conf *pgx.ConnConfig
	// pooled is set when a connection leads to a pooler. Named statements are not
	// used after that.
	pooled atomic.Bool
}

func newConnector(dsn string) (*connector, error) {
	conf, err := parseDSN(dsn)
	if err != nil {
		return nil, err
	}
	if conf.ConnectTimeout == 0 {
		conf.ConnectTimeout = connectTimeout
	}
	if conf.RuntimeParams["application_name"] == "" {
		conf.RuntimeParams["application_name"] = "caddy-replicate-webhook"
	}
	c := &connector{conf: conf}
	conf.ValidateConnect = c.validate
	return c, nil
}

// validate returns an error for a server that takes no writes, so that among several
// hosts the primary is found. It detects a pooler, which gives its clients numbers of
// its own in place of the server's process id.
func (c *connector) validate(ctx context.Context, conn *pgconn.PgConn) error {
	results, err := conn.Exec(ctx, "SELECT pg_backend_pid(), pg_is_in_recovery() OR current_setting('transaction_read_only')::bool").ReadAll()
	if err != nil {
		return err
	}
	if len(results) != 1 || len(results[0].Rows) != 1 {
		return errors.New("does not respond like PostgreSQL")
	}
	row := results[0].Rows[0]
	if string(row[1]) == "t" {
		return errReplica
	}
	if pid, err := strconv.ParseUint(string(row[0]), 10, 32); err != nil || uint32(pid) != conn.PID() {
		c.pooled.Store(true)
	}
	return nil
}

// errPooler means that another connection is needed, without named statements.
var errPooler = errors.New("the connection leads to a pooler")

// prepare is called before each connection.
func (c *connector) prepare(_ context.Context, conf *pgx.ConnConfig) error {
	if c.pooled.Load() {
		conf.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	}
	return nil
}

// check is called with each new connection.
func (c *connector) check(_ context.Context, conn *pgx.Conn) error {
	if c.pooled.Load() && conn.Config().DefaultQueryExecMode == pgx.QueryExecModeCacheStatement {
		return errPooler
	}
	return nil
}

// connect makes a connection outside the pool.
func (c *connector) connect(ctx context.Context) (*pgx.Conn, error) {
	for try := 1; ; try++ {
		conf := c.conf.Copy()
		_ = c.prepare(ctx, conf)
		conn, err := pgx.ConnectConfig(ctx, conf)
		if brokenOff(err) && try < connectTries {
			continue
		}
		if err != nil {
			return nil, err
		}
		if c.check(ctx, conn) == nil {
			return conn, nil
		}
		disconnect(conn)
	}
}

// disconnect ends a connection without waiting for long.
func disconnect(conn *pgx.Conn) {
	within, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_ = conn.Close(within)
}

// pool returns a pool of at most size connections. Those that commits need stay open:
// a server that has none left would not give them again.
func (c *connector) pool(ctx context.Context, size int) (*pgxpool.Pool, error) {
	conf, err := pgxpool.ParseConfig("")
	if err != nil {
		return nil, errors.New("one of the environment variables whose names begin with PG can't be used")
	}
	conf.ConnConfig = c.conf
	conf.MaxConns, conf.MinConns = int32(size), int32(min(size, writers))
	conf.MaxConnIdleTime, conf.MaxConnLifetime = 5*time.Minute, math.MaxInt64/4
	conf.BeforeConnect, conf.AfterConnect = c.prepare, c.check
	return pgxpool.NewWithConfig(ctx, conf)
}

// place returns the name of a database for messages. No part of it is secret.
func place(c *pgx.ConnConfig) string {
	return net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port))) + "/" + c.Database
}

// explain adds to an error of connecting or setting up what to do about it.
func explain(err error) error {
	var connect *pgconn.ConnectError
	var pg *pgconn.PgError
	switch {
	case errors.Is(err, errReplica):
		return errReplica
	case errors.As(err, &pg):
		switch pg.Code {
		case "28P01", "28000":
			return fmt.Errorf("refuses the user: check user and password in dsn, and the server's pg_hba.conf: %w", err)
		case "3D000":
			return fmt.Errorf("is not there: create the database, or name another in dsn: %w", err)
		case "42501":
			return fmt.Errorf("is not the user's to set up: grant CREATE and USAGE on the schema to it, or let its owner start Caddy once: %w", err)
		case "25006":
			return errReplica
		case "53300":
			return fmt.Errorf("has no connection left: raise max_connections of the server or lower max_conns of store postgres, of which each node takes so many: %w", err)
		case "08P01":
			return fmt.Errorf("is a pooler that refuses a parameter of the dsn: leave it out and set it for the role, such as ALTER ROLE … SET search_path = …: %w", err)
		}
	case errors.As(err, &connect):
		return fmt.Errorf("can't be reached: %w", err)
	}
	return err
}

var errReplica = errors.New("takes no writes, as a read replica does: name the primary in dsn, or all servers, separated by commas, so that the primary is found")

// serverFull reports whether connecting failed because the server, or a pooler in
// front of it, has no connection left.
func serverFull(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "53300"
}

// brokenOff reports whether a server that is available broke off a connection while it
// was made: an administrator ended it, or a pooler was restarted.
func brokenOff(err error) bool {
	var connect *pgconn.ConnectError
	if !errors.As(err, &connect) {
		return false
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code == "57P01"
	}
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)
}

// acquire acquires a connection from the pool. If the server has none left, it waits
// for one that the node has already.
func (s *Store) acquire(ctx context.Context) (*pgxpool.Conn, error) {
	for try := 1; ; try++ {
		conn, err := s.pool.Acquire(ctx)
		switch {
		case err == nil, ctx.Err() != nil:
			return conn, err
		case errors.Is(err, errPooler):
		case brokenOff(err) && try < connectTries:
		case serverFull(err) && s.pool.Stat().TotalConns() > 0:
			select {
			case <-time.After(fullWait):
			case <-ctx.Done():
				return nil, err
			}
		default:
			return nil, err
		}
	}
}

// with runs f with a connection. If the connection breaks, f runs again with another
// one. It must be safe to repeat, since what it did may have been committed.
func (s *Store) with(ctx context.Context, f func(context.Context, *pgx.Conn) error) error {
	for try := 0; ; try++ {
		conn, err := s.acquire(ctx)
		if err != nil {
			return err
		}
		if try > 0 {
			// The same cause may have broken the others.
			err = conn.Ping(ctx)
		}
		if err == nil {
			err = f(ctx, conn.Conn())
		}
		broken := conn.Conn().IsClosed()
		conn.Release()
		if err == nil || !broken || ctx.Err() != nil || try > s.opts.MaxConns {
			return err
		}
	}
}

// use runs f with a connection, at most for groupTimeout. Like share, it leaves enough
// connections for commits.
func (s *Store) use(f func(context.Context, *pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), groupTimeout)
	defer cancel()
	return s.share(ctx, f)
}

// share is like with, for work that commits have precedence over.
func (s *Store) share(ctx context.Context, f func(context.Context, *pgx.Conn) error) error {
	select {
	case s.shared <- struct{}{}:
		defer func() { <-s.shared }()
	case <-ctx.Done():
		return ctx.Err()
	}
	return s.with(ctx, f)
}

// fault is what an error of a group means.
type fault int

const (
	// faultStore means that the database can't commit now.
	faultStore fault = iota
	// faultOp means that the values of one of the group's jobs are at fault.
	faultOp
	// faultRace means that the same group is likely to succeed when it is tried
	// again.
	faultRace
)

// faultOf returns what an error of a group means.
func faultOf(err error) fault {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return faultStore
	}
	switch pg.Code[:2] {
	case "22":
		return faultOp
	case "23", "40":
		return faultRace
	}
	return faultStore
}
