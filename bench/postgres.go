package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/pgtest"
)

// database is a PostgreSQL of the bench's own.
type database struct {
	dsn        string
	statements bool // they are counted
}

// statementsLibrary counts statements. It comes with Debian's server package.
const statementsLibrary = "pg_stat_statements"

// startPostgres starts a server. Where it can't be had, the reason is told.
func (l *lab) startPostgres(ctx context.Context) (*database, string) {
	if l.options.dir != "" {
		// The server's user may not enter a directory of this one's.
		if err := os.Setenv("TMPDIR", l.options.dir); err != nil {
			return nil, err.Error()
		}
	}
	d := new(database)
	reason := spared(func() {
		d.dsn = pgtest.Start(stand{l}, "shared_preload_libraries="+statementsLibrary).DSN("public")
		d.statements = true
	})
	if reason != "" {
		// Without the library, perhaps.
		reason = spared(func() { d.dsn = pgtest.Start(stand{l}).DSN("public") })
	}
	if reason != "" {
		return nil, "left out: " + firstLine(reason)
	}
	if d.statements {
		if err := d.exec(ctx, "CREATE EXTENSION "+statementsLibrary); err != nil {
			return nil, "left out: " + firstLine(err.Error())
		}
	}
	return d, ""
}

func (d *database) exec(ctx context.Context, statement string) error {
	conn, err := pgx.Connect(ctx, d.dsn)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, statement)
	return errors.Join(err, conn.Close(ctx))
}

// work is what a database has done so far: transactions that wrote something,
// and statements of all kinds.
type work struct{ commits, statements int64 }

func (w work) minus(o work) work { return work{w.commits - o.commits, w.statements - o.statements} }

func (d *database) work(ctx context.Context) (w work, err error) {
	conn, err := pgx.Connect(ctx, d.dsn)
	if err != nil {
		return w, err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	// Transactions get a number when they write.
	if err := conn.QueryRow(ctx, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint").Scan(&w.commits); err != nil {
		return w, err
	}
	if !d.statements {
		return w, nil
	}
	return w, conn.QueryRow(ctx, "SELECT sum(calls)::bigint FROM "+statementsLibrary).Scan(&w.statements)
}

// stand is the bench where pgtest wants a test: what would end that ends spared.
type stand struct{ l *lab }

type ended string

func (s stand) Helper()                   {}
func (s stand) Name() string              { return "bench" }
func (s stand) Cleanup(f func())          { s.l.onClose(f) }
func (s stand) Skip(args ...any)          { panic(ended(fmt.Sprint(args...))) }
func (s stand) Fatal(args ...any)         { panic(ended(fmt.Sprint(args...))) }
func (s stand) Fatalf(f string, a ...any) { panic(ended(fmt.Sprintf(f, a...))) }
func (s stand) Errorf(f string, a ...any) { fmt.Fprintf(os.Stderr, "bench: "+f+"\n", a...) }

// spared runs f and gives the reason if it was ended.
func spared(f func()) (reason string) {
	defer func() {
		if v := recover(); v != nil {
			e, ok := v.(ended)
			if !ok {
				panic(v)
			}
			reason = string(e)
		}
	}()
	f()
	return ""
}

// Interface guard.
var _ pgtest.TB = stand{}
