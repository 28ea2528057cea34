package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// maxConns bounds the connections of a node, beside the one that
	// listens: four that write in groups, the others for reads.
	maxConns = 10
	// connectTimeout bounds one connection's start, where the dsn does not.
	connectTimeout = 5 * time.Second
	// minServer is the oldest server version, as server_version_num.
	minServer = 120000
)

// parseDSN reads a dsn. The error does not repeat any of it: it may hold a
// password.
func parseDSN(dsn string) (*pgxpool.Config, error) {
	conf, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, errors.New("dsn can't be read: write it like postgres://user:password@host:5432/database, with special characters of the password percent-encoded, or like host=… dbname=… user=… password=…")
	}
	if conf.MaxConns < maxConns {
		conf.MaxConns = maxConns
	}
	conf.MaxConnIdleTime = 5 * time.Minute
	c := conf.ConnConfig
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = connectTimeout
	}
	if c.ValidateConnect == nil {
		// A replica refuses to be a store, and among several hosts the
		// primary is found.
		c.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	defaults := map[string]string{
		"application_name": "caddy-replicate-webhook",
		// What a node that vanished has locked is not locked for long.
		"idle_in_transaction_session_timeout": "30000",
		"timezone":                            "UTC",
	}
	for name, value := range defaults {
		if c.RuntimeParams[name] == "" {
			c.RuntimeParams[name] = value
		}
	}
	c.AfterConnect = func(ctx context.Context, conn *pgconn.PgConn) error {
		// A 2xx means that the commit is on disk. What asks for more than
		// that, such as remote_apply, stays.
		return conn.Exec(ctx, "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'").Close()
	}
	return conf, nil
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
			return fmt.Errorf("has no connection left: raise max_connections, a node takes up to %d: %w", maxConns+1, err)
		}
	case errors.As(err, &connect):
		if isReplica(err) {
			return errReplica
		}
		return fmt.Errorf("can't be reached: %w", err)
	}
	return err
}

var errReplica = errors.New("takes no writes, as a read replica does: name the primary in dsn, or all servers, separated by commas, so that the primary is found")

// isReplica tells that a server was reached and takes no writes.
func isReplica(err error) bool {
	for ; err != nil; err = errors.Unwrap(err) {
		if joined, ok := err.(interface{ Unwrap() []error }); ok {
			for _, e := range joined.Unwrap() {
				if isReplica(e) {
					return true
				}
			}
			return false
		}
		if err.Error() == "read only connection" {
			return true
		}
	}
	return false
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
