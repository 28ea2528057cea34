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
	// DefaultMaxConns is how many connections a node takes: one for its
	// heartbeats, one that listens, the others for transactions.
	DefaultMaxConns = 8
	// MinMaxConns is the fewest connections that a node can work with.
	MinMaxConns = 3
	// writers is how many of the connections are left to what commits: new
	// claims, ends of claims, predictions with their deliveries.
	writers = 3
	// connectTimeout bounds one connection's start, where the dsn does not.
	connectTimeout = 5 * time.Second
	// minServer is the oldest server version, as server_version_num.
	minServer = 120000
	// fullWait is how often a connection is asked for again at a server that
	// has none left.
	fullWait = 20 * time.Millisecond
	// connectTries is how often a connection is tried whose start the server
	// breaks off.
	connectTries = 5
)

// connector makes connections. Nothing is kept in their sessions, so that a
// pooler may give each transaction another one.
type connector struct {
	conf *pgx.ConnConfig
	// pooled is set once a connection was found to lead to a pooler. Named
	// statements are not used from then on.
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

// validate refuses a server that takes no writes, so that among several hosts
// the primary is found. It notices a pooler, which gives its clients numbers of
// its own in place of the server's process id.
func (c *connector) validate(ctx context.Context, conn *pgconn.PgConn) error {
	results, err := conn.Exec(ctx, "SELECT pg_backend_pid(), pg_is_in_recovery() OR current_setting('transaction_read_only')::bool").ReadAll()
	if err != nil {
		return err
	}
	if len(results) != 1 || len(results[0].Rows) != 1 {
		return errors.New("does not answer like PostgreSQL")
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

// errPooler asks for another connection, which uses no named statements.
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

// pool makes a pool of at most size connections. Those that commits need stay
// open: at a server that has none left they could not be had again.
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

// place names a database in messages: no part of it is secret.
func place(c *pgx.ConnConfig) string {
	return net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port))) + "/" + c.Database
}

// explain says what to do about an error of connecting or setting up.
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

// serverFull reports whether a connection was refused because the server, or the
// pooler before it, has none left.
func serverFull(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "53300"
}

// brokenOff reports whether err says that a connection was ended while it began,
// by a server that is there: an administrator ended it, or a pooler was restarted.
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

// acquire takes a connection from the pool. Where the server has no further one,
// it waits for one of those that the node has.
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

// with runs f with a connection. When the connection breaks, f runs again on
// another, so it must be safe to repeat: it may have been committed.
func (s *Store) with(ctx context.Context, f func(context.Context, *pgx.Conn) error) error {
	for try := 0; ; try++ {
		conn, err := s.acquire(ctx)
		if err != nil {
			return err
		}
		if try > 0 {
			// The others may have been broken by the same cause.
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

// use runs f with a connection, for what nobody waits for longer than the
// database may take. It leaves enough of the connections to what commits.
func (s *Store) use(f func(context.Context, *pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), groupTimeout)
	defer cancel()
	return s.share(ctx, f)
}

// share is with, for all that commits have precedence over.
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
	// faultStore: the database can't commit now.
	faultStore fault = iota
	// faultOp: what one of the group's ops brought is at fault.
	faultOp
	// faultRace: the same group may well succeed when it is tried again.
	faultRace
)

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
